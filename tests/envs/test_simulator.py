"""Planning in the true dynamics: the simulator does what the environment does."""

import numpy as np
import pytest

from forethought import UnknownNameError
from forethought.envs.simulator import make_simulator
from forethought.envs.spec import EnvError, EnvOptions
from forethought.envs.tasks import TASK_IDS
from forethought.envs.tasks.base import MujocoGoalTask
from forethought.envs.vector import make_vector

REACHER = "forethought/Reacher-v0"


def random_actions(spec, shape, rng):
    return rng.uniform(spec.action_low, spec.action_high, (*shape, spec.action_dim)).astype(np.float32)


def started(env_id, num_envs, options=None, steps=3, backend="auto"):
    env = make_vector(env_id, num_envs, options, backend)
    env.reset(range(num_envs))
    rng = np.random.default_rng(0)
    for _ in range(steps):
        env.step(random_actions(env.env_spec, (num_envs,), rng))
    return env, rng


def distance_of(env_id, obs, goal):
    import gymnasium

    task = gymnasium.make(env_id).unwrapped
    assert isinstance(task, MujocoGoalTask)
    return task.distance(obs, goal)


@pytest.mark.parametrize("repeat", [1, 3])
@pytest.mark.parametrize("env_id", TASK_IDS)
def test_costs_are_those_of_the_real_steps_bit_by_bit(env_id, repeat):
    options = EnvOptions(action_repeat=repeat)
    env, rng = started(env_id, 3, options)
    simulator = make_simulator(env_id, options)
    actions = random_actions(env.env_spec, (3, 5, 6), rng)
    costs = simulator.costs(env.simulator_states(), actions, env.goal)
    assert costs.shape == (3, 5)
    assert costs.dtype == np.float64
    for candidate in (0, 4):
        real, _ = started(env_id, 3, options)
        expected = np.zeros(3)
        for step in range(6):
            obs = real.step(actions[:, candidate, step]).obs
            expected += distance_of(env_id, obs, real.goal)
        np.testing.assert_array_equal(costs[:, candidate], expected)
    simulator.close()


def test_states_survive_planning():
    env, rng = started(REACHER, 2)
    simulator = make_simulator(REACHER)
    states = env.simulator_states()
    kept = states.copy()
    first = simulator.costs(states, random_actions(env.env_spec, (2, 3, 4), rng), env.goal)
    np.testing.assert_array_equal(states, kept)
    np.testing.assert_array_equal(env.simulator_states(), kept)
    assert (first > 0).all()


def test_calls_of_different_sizes_do_not_disturb_each_other():
    env, rng = started(REACHER, 2)
    simulator = make_simulator(REACHER)
    actions = random_actions(env.env_spec, (2, 8, 4), rng)
    whole = simulator.costs(env.simulator_states(), actions, env.goal)
    order = rng.permutation(8)
    np.testing.assert_array_equal(simulator.costs(env.simulator_states(), actions[:, order], env.goal), whole[:, order])
    some = simulator.costs(env.simulator_states(), actions[:, :3], env.goal)
    np.testing.assert_array_equal(some, whole[:, :3])
    one = simulator.costs(env.simulator_states()[1:], actions[1:], {k: v[1:] for k, v in env.goal.items()})
    np.testing.assert_array_equal(one, whole[1:])


def test_actions_are_clipped_as_in_the_environment():
    env, rng = started(REACHER, 1)
    simulator = make_simulator(REACHER)
    wild = 5 * random_actions(env.env_spec, (1, 4, 3), rng)
    costs = simulator.costs(env.simulator_states(), wild, env.goal)
    np.testing.assert_array_equal(costs, simulator.costs(env.simulator_states(), wild.clip(-1, 1), env.goal))


def test_a_candidate_that_is_not_finite_costs_infinity():
    env, rng = started(REACHER, 1)
    simulator = make_simulator(REACHER)
    actions = random_actions(env.env_spec, (1, 3, 3), rng)
    expected = simulator.costs(env.simulator_states(), actions, env.goal)
    actions[0, 1, 2, 0] = np.nan
    costs = simulator.costs(env.simulator_states(), actions, env.goal)
    assert costs[0, 1] == np.inf
    np.testing.assert_array_equal(costs[0, [0, 2]], expected[0, [0, 2]])


@pytest.mark.parametrize(
    ("states", "actions", "rows", "message"),
    [
        ((2, None), (2, 3, 4, 1), 2, r"actions must be \[B, N, H, 2\]"),
        ((2, None), (2, 3, 2), 2, r"actions must be \[B, N, H, 2\]"),
        ((2, None), (2, 0, 4, 2), 2, "and not empty"),
        ((3, None), (2, 3, 4, 2), 2, r"states must be \[B, S\] = \(2, "),
        ((2, 5), (2, 3, 4, 2), 2, r"got \(2, 5\)"),
        ((2, None), (2, 3, 4, 2), 1, r"goal\['position'\] must have 2 rows"),
    ],
)
def test_bad_shapes(states, actions, rows, message):
    simulator = make_simulator(REACHER)
    goal = {"position": np.zeros((rows, 6)), "velocity": np.zeros((rows, 2))}
    with pytest.raises(EnvError, match=message):
        simulator.costs(np.zeros((states[0], states[1] or simulator.state_size)), np.zeros(actions), goal)


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("Pendulum-v1", "Pendulum-v1 has no simulator to plan in: no MuJoCo physics"),
        ("InvertedPendulum-v5", "no goals of the kind achieved_goal/desired_goal"),
    ],
)
def test_environments_without_a_simulator(env_id, message):
    with pytest.raises(EnvError, match=message):
        make_simulator(env_id)


def test_unknown_id():
    with pytest.raises(UnknownNameError):
        make_simulator("forethought/Reacher-v7")


@pytest.mark.parametrize("env_id", ["FetchReach-v4", "FetchPush-v4", "PointMaze_UMaze-v3"])
def test_goal_environments_are_stepped_themselves(env_id):
    pytest.importorskip("gymnasium_robotics")
    options = EnvOptions(action_repeat=2)
    env, rng = started(env_id, 2, options)
    simulator = make_simulator(env_id, options)
    actions = random_actions(env.env_spec, (2, 3, 4), rng)
    costs = simulator.costs(env.simulator_states(), actions, env.goal)
    again = simulator.costs(env.simulator_states(), actions[:, ::-1], env.goal)
    np.testing.assert_array_equal(costs, again[:, ::-1])
    expected = np.zeros(2)
    for step in range(4):
        obs, goal = env.step(actions[:, 1, step]).obs, env.goal
        expected += np.linalg.norm(obs["achieved_goal"] - goal["desired_goal"], axis=-1)
    np.testing.assert_allclose(costs[:, 1], expected, rtol=1e-4)
    with pytest.raises(EnvError, match="goal must be"):
        simulator.costs(env.simulator_states(), actions, {"position": np.zeros((2, 3))})
    simulator.close()
    env.close()


@pytest.mark.parametrize(("env_id", "decisions"), [("forethought/PointMass-v0", 50), (REACHER, 30)])
def test_random_shooting_in_the_simulator_reaches_goals(env_id, decisions):
    """Best of 64 shrinking perturbations of the last plan: enough, when the model is the truth."""
    env = make_vector(env_id, 6)
    env.reset(range(6))
    simulator = make_simulator(env_id)
    rng = np.random.default_rng(0)
    low, high = np.array(env.env_spec.action_low), np.array(env.env_spec.action_high)
    plan, solved = np.zeros((6, 9, low.size)), np.zeros(6, bool)
    for _ in range(decisions):
        scale = rng.choice([0.1, 0.3, 1.0], (6, 64, 1, 1)) * (high - low) / 2
        noise = np.repeat(rng.standard_normal((6, 64, 3, low.size)), 3, axis=2)
        candidates = np.clip(plan[:, None] + scale * noise, low, high)
        candidates[:, 0] = plan
        best = simulator.costs(env.simulator_states(), candidates, env.goal).argmin(axis=1)
        plan = candidates[np.arange(6), best]
        solved |= env.step(plan[:, 0].astype(np.float32)).success
        plan = np.concatenate([plan[:, 1:], plan[:, -1:]], axis=1)
    assert solved.sum() >= 5
