"""Rewards and dynamics are those of the published environments."""

from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

from forethought.envs.planning import PLANNING_TASKS
from forethought.envs.planning.base import Floats, PlanningTask
from forethought.envs.simulator import make_simulator
from forethought.envs.tasks.push import Push

PUBLISHED = {
    "gym_hopper": "Hopper-v5",
    "gym_ant": "Ant-v5",
    "double_pendulum": "InvertedDoublePendulum-v5",
    "gym_pusher": "Pusher-v5",
}


def published_reward(name: str, env: Any, action: Floats, before: Floats) -> float:
    """The published formula, read at the state arrived at."""
    mujoco.mj_forward(env.model, env.data)
    match name:
        case "double_pendulum":
            x, _, y = env.data.site_xpos[0]
            return float(env._get_rew(x, y, bool(y <= 1))[0]) / 10
        case "gym_pusher":
            return float(env._get_rew(action)[0])
    speed = (env.data.qpos[0] - before[0]) / env.dt
    reward, parts = env._get_rew(speed, action)
    return float(reward - parts.get("reward_contact", 0.0))


@pytest.mark.parametrize("name", PUBLISHED)
def test_rewards_are_those_of_gymnasium(name: str) -> None:
    task: PlanningTask = PLANNING_TASKS[name]()
    env: Any = gymnasium.make(PUBLISHED[name], frame_skip=task.frame_skip).unwrapped
    env.reset(seed=0)
    state, goal = task.reset(2)
    env.set_state(state[1 : 1 + task.model.nq], state[1 + task.model.nq :][: task.model.nv])
    rng, earned, expected = np.random.default_rng(0), [], []
    for _ in range(6):
        action = rng.uniform(task.action_low, task.action_high)
        before = env.data.qpos.copy()
        terminated = env.step(action)[2]
        expected.append(published_reward(name, env, action, before))
        rollout = task.rollout(state, goal, action[None, None])
        state = rollout.states[0]
        earned.append(rollout.rewards[0, 0])
        assert bool(rollout.ended[0]) == terminated
    np.testing.assert_allclose(earned, expected, rtol=1e-3, atol=1e-5)
    env.close()


def test_pushing_costs_what_it_costs_in_the_simulator_of_our_own_task() -> None:
    task, simulator, own = PLANNING_TASKS["push"](), make_simulator("forethought/Push-v0"), Push()
    state, goal = task.reset(0)
    actions = np.random.default_rng(0).uniform(-0.5, 0.5, (5, 6, 2))
    observed = {key: value[None] for key, value in own.observe(goal, np.zeros(5)).items()}
    costs = simulator.costs(state[None], actions[None], observed)[0]
    np.testing.assert_allclose(-task.rollout(state, goal, actions).rewards.sum(axis=1), costs, rtol=1e-5)
    simulator.close()
