"""Rewards and dynamics are those of the published tasks."""

from typing import Any

import numpy as np
import pytest
from dm_control import suite

from forethought.envs.planning import PLANNING_TASKS
from forethought.envs.planning.base import Floats, PlanningTask

PUBLISHED = {
    "pendulum_sparse": ("pendulum", "swingup"),
    "cartpole_swingup": ("cartpole", "swingup"),
    "acrobot_swingup": ("acrobot", "swingup"),
    "reacher_hard": ("reacher", "hard"),
    "cup_catch": ("ball_in_cup", "catch"),
    "finger_turn": ("finger", "turn_hard"),
    "hopper_hop": ("hopper", "hop"),
    "walker_run": ("walker", "run"),
    "cheetah_run": ("cheetah", "run"),
    "humanoid_stand": ("humanoid", "stand"),
}


def aim(name: str, physics: Any, goal: Floats) -> None:
    if name == "reacher_hard":
        physics.named.model.geom_pos["target", ["x", "y"]] = goal
    if name == "finger_turn":
        x, z = physics.named.data.xanchor["hinge", ["x", "z"]]
        physics.named.model.site_pos["target", ["x", "z"]] = x + goal[0], z + goal[1]


@pytest.mark.filterwarnings("ignore:compiler attribute:UserWarning")
@pytest.mark.parametrize("name", PUBLISHED)
def test_rewards_are_those_of_dm_control(name: str) -> None:
    task: PlanningTask = PLANNING_TASKS[name]()
    environment = suite.load(*PUBLISHED[name], task_kwargs={"random": 0})
    physics, published = environment.physics, environment.task
    environment.reset()
    state, goal = task.reset(2)
    aim(name, physics, goal)
    with physics.reset_context():
        physics.data.qpos[:], physics.data.qvel[:] = (
            state[1 : 1 + task.model.nq],
            state[1 + task.model.nq :][: task.model.nv],
        )
    rng, earned, expected = np.random.default_rng(0), [], []
    for _ in range(12):
        action = rng.uniform(task.action_low, task.action_high)
        physics.set_control(action)
        physics.step(task.frame_skip)
        expected.append(published.get_reward(physics))
        rollout = task.rollout(state, goal, action[None, None])
        state = rollout.states[0]
        earned.append(rollout.rewards[0, 0])
    np.testing.assert_allclose(earned, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state[1 : 1 + task.model.nq], physics.data.qpos, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["reacher_hard", "finger_turn"])
def test_the_goal_that_is_drawn_is_the_goal_that_pays(name: str) -> None:
    task = PLANNING_TASKS[name]()
    _, goal = task.reset(1)
    model = task.model.__copy__()
    task.show_goal(model, goal)
    place = model.geom("target").pos[:2] if name == "reacher_hard" else model.site("target").pos[[0, 2]]
    hinge = np.zeros(2) if name == "reacher_hard" else model.body("spinner").pos[[0, 2]]
    np.testing.assert_allclose(place - hinge, goal)
    assert (task.model.geom("target").pos[:2] != goal).any() if name == "reacher_hard" else True
