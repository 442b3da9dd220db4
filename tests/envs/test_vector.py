"""Both vector backends against the single environment, and against each other."""

import gymnasium
import numpy as np
import pytest

from forethought import UnknownNameError
from forethought.envs import rendering
from forethought.envs.registry import make_env
from forethought.envs.spec import EnvError, EnvOptions
from forethought.envs.tasks import TASK_IDS
from forethought.envs.tasks.cartpole import Cartpole
from forethought.envs.tasks.push import Push
from forethought.envs.vector import MujocoVector, SyncVector, make_vector

REACHER = "forethought/Reacher-v0"


@pytest.fixture(params=["sync", "mujoco"])
def backend(request):
    return request.param


@pytest.fixture
def reacher(backend):
    env = make_vector(REACHER, 3, backend=backend)
    yield env
    env.close()


def assert_rows(batch, index, single):
    assert batch.keys() == single.keys()
    for key in batch:
        assert batch[key].dtype == single[key].dtype
        np.testing.assert_array_equal(batch[key][index], single[key], err_msg=key)


def actions_for(env, rng):
    """Some of them out of bounds, which every backend clips."""
    low, high = np.array(env.env_spec.action_low), np.array(env.env_spec.action_high)
    return rng.uniform(1.2 * low, 1.2 * high, (env.num_envs, low.size)).astype(np.float32)


@pytest.mark.parametrize(("repeat", "limit"), [(1, None), (3, None), (2, 7)])
@pytest.mark.parametrize("env_id", TASK_IDS)
def test_episodes_are_those_of_the_single_environment_bit_by_bit(backend, env_id, repeat, limit):
    options = EnvOptions(action_repeat=repeat, max_episode_steps=limit)
    env, single = make_vector(env_id, 70, options, backend), make_env(env_id, options)
    assert env.env_spec == single.env_spec
    seeds = range(1000, 1070)
    obs, goal = env.reset(seeds)
    rng = np.random.default_rng(0)
    plan = [actions_for(env, rng) for _ in range(env.env_spec.max_episode_steps)]
    steps = [env.step(actions) for actions in plan]
    for index in (0, 33, 69):
        single_obs, info = single.reset(seed=seeds[index])
        assert_rows(obs, index, single_obs)
        assert_rows(goal, index, info["goal"])
        for actions, step in zip(plan, steps, strict=True):
            single_obs, reward, terminated, truncated, info = single.step(actions[index])
            assert_rows(step.obs, index, single_obs)
            assert (step.reward[index], step.terminated[index]) == (reward, terminated)
            assert (step.truncated[index], step.success[index]) == (truncated, info["success"])
        assert truncated
    env.close()
    single.close()


@pytest.mark.parametrize("repeat", [1, 2])
def test_success_is_held_as_in_the_single_environment(backend, monkeypatch, repeat):
    # Leaning just too far and tipping upright: within the tolerance after one step, out again after eight or so.
    monkeypatch.setattr(
        Cartpole,
        "sample_start",
        lambda self, rng: (np.array([rng.uniform(), 0.205]), np.array([0, rng.uniform(-0.49, -0.45)])),
    )
    monkeypatch.setattr(Cartpole, "hold_steps", 5)
    options = EnvOptions(action_repeat=repeat)
    env = make_vector("forethought/Cartpole-v0", 8, options, backend)
    single = make_env("forethought/Cartpole-v0", options)
    zeros = np.zeros((8, 1), np.float32)
    env.reset(range(8))
    for _ in range(4 // repeat):
        env.step(zeros)
    env.reset(range(8))  # what was held before does not count
    steps = [env.step(zeros) for _ in range(24 // repeat)]
    successes = 0
    for index in range(8):
        single.reset(seed=index)
        for step in steps:
            _, reward, _, _, info = single.step(zeros[index])
            assert (step.success[index], step.reward[index]) == (info["success"], reward)
            successes += info["success"]
    assert 0 < successes < 8 * len(steps) / 2


def test_the_same_seed_is_the_same_episode_at_every_index(reacher):
    obs, goal = reacher.reset([5, 6, 5])
    again, again_goal = reacher.reset([5], indices=[1])
    for batch in (obs, goal):
        for value in batch.values():
            np.testing.assert_array_equal(value[0], value[2])
            assert (value[0] != value[1]).any() or not value.any()
    for before, after in ((obs, again), (goal, again_goal)):
        for key in before:
            np.testing.assert_array_equal(after[key][1], before[key][0])


def test_a_partial_reset_leaves_the_others_alone(reacher):
    rng = np.random.default_rng(0)
    reacher.reset([0, 1, 2])
    for _ in range(4):
        step = reacher.step(actions_for(reacher, rng))
    states = reacher.simulator_states()
    obs, _ = reacher.reset([9], indices=[1])
    fresh, _ = make_env(REACHER).reset(seed=9)
    assert_rows(obs, 1, fresh)
    for index in (0, 2):
        assert_rows(obs, index, {key: value[index] for key, value in step.obs.items()})
        np.testing.assert_array_equal(reacher.simulator_states()[index], states[index])
    unused = make_vector(REACHER, 1)
    unused.reset([9])
    np.testing.assert_array_equal(reacher.simulator_states()[1], unused.simulator_states()[0])


def test_the_time_limit_counts_each_episode(backend):
    env = make_vector(REACHER, 2, EnvOptions(max_episode_steps=4), backend)
    zeros = np.zeros((2, 2), np.float32)
    env.reset([0, 1])
    env.step(zeros)
    env.step(zeros)
    env.reset([2], indices=[1])
    flags = [env.step(zeros).truncated.tolist(), env.step(zeros).truncated.tolist()]
    assert flags == [[False, False], [True, False]]


def test_inactive_environments_stand_still(reacher):
    rng = np.random.default_rng(0)
    reacher.reset([0, 1, 2])
    before, states = reacher.step(actions_for(reacher, rng)), reacher.simulator_states()
    actions = actions_for(reacher, rng)
    actions[1] = np.nan  # never looked at
    step = reacher.step(actions, active=np.array([True, False, True]))
    assert_rows(step.obs, 1, {key: value[1] for key, value in before.obs.items()})
    assert step.reward.tolist() == [-1, 0, -1]
    assert not any(flags[1] for flags in (step.terminated, step.truncated, step.success))
    np.testing.assert_array_equal(reacher.simulator_states()[1], states[1])
    assert (reacher.simulator_states()[[0, 2]] != states[[0, 2]]).any(axis=1).all()


def test_nobody_active(reacher):
    obs, _ = reacher.reset([0, 1, 2])
    step = reacher.step(np.zeros((3, 2), np.float32), active=np.zeros(3, bool))
    for key in obs:
        np.testing.assert_array_equal(step.obs[key], obs[key])
    assert not step.reward.any()


def test_arrays_belong_to_the_caller(reacher):
    obs, goal = reacher.reset([0, 1, 2])
    zeros = np.zeros((3, 2), np.float32)
    states = reacher.simulator_states()
    first = reacher.step(zeros)
    kept = {key: value.copy() for key, value in first.obs.items()}
    for array in (*obs.values(), *goal.values(), *reacher.goal.values(), states, reacher.simulator_states()):
        array[:] = 77
    reacher.step(zeros)
    other = make_vector(REACHER, 3)
    _, other_goal = other.reset([0, 1, 2])
    for _ in range(2):
        other.step(zeros)
    np.testing.assert_array_equal(reacher.simulator_states(), other.simulator_states())
    for key, value in kept.items():
        np.testing.assert_array_equal(first.obs[key], value)
        np.testing.assert_array_equal(reacher.goal[key], other_goal[key])


@pytest.mark.parametrize("env_id", TASK_IDS)
def test_backends_have_the_same_simulator_states(env_id):
    native, sync = make_vector(env_id, 2, backend="mujoco"), make_vector(env_id, 2, backend="sync")
    rng = np.random.default_rng(0)
    for env in (native, sync):
        env.reset([3, 4])
    for _ in range(5):
        actions = actions_for(native, rng)
        native.step(actions)
        sync.step(actions)
    np.testing.assert_array_equal(native.simulator_states(), sync.simulator_states())
    for key, goal in native.simulator_goals().items():
        np.testing.assert_array_equal(goal, sync.simulator_goals()[key])


@pytest.mark.parametrize("env_id", TASK_IDS)
def test_goals_change_as_in_the_single_environment(backend, env_id):
    env, single = make_vector(env_id, 3, backend=backend), make_env(env_id)
    _, first = env.reset([5, 6, 7])
    single.reset(seed=7)
    rng = np.random.default_rng(0)
    for number in range(3):
        for _ in range(4):
            actions = actions_for(env, rng)
            env.step(actions)
            single.step(actions[2])
        goal = env.change_goals([11 + number, 12 + number], [0, 2])
        assert_rows(goal, 2, single.change_goal(12 + number))
        assert_rows(goal, 1, {key: value[1] for key, value in first.items()})  # which nobody changed
        assert all((env.goal[key] == goal[key]).all() for key in goal)
    actions = actions_for(env, rng)
    step = env.step(actions)
    obs, *_, info = single.step(actions[2])
    assert_rows(step.obs, 2, obs)
    assert_rows(env.goal, 2, info["goal"])
    assert_rows({key: value[2:] for key, value in env.simulator_goals().items()}, 0, info["goal"])
    env.close()


def test_a_changed_goal_must_be_held_anew(backend, monkeypatch):
    env = make_vector("forethought/Cartpole-v0", 2, backend=backend)
    env.reset([0, 1])
    still = np.zeros((2, 1), np.float32)
    with monkeypatch.context() as patch:
        patch.setattr(Cartpole, "reached", lambda self, obs, goal: np.ones(obs["position"].shape[:-1], bool))
        assert [env.step(still).success.tolist() for _ in range(25)][-1] == [True, True]
    env.change_goals([3], [0])
    with monkeypatch.context() as patch:
        patch.setattr(Cartpole, "reached", lambda self, obs, goal: np.ones(obs["position"].shape[:-1], bool))
        assert env.step(still).success.tolist() == [False, True]
    env.close()


def test_goals_that_cannot_change(reacher):
    reacher.reset([0, 1], [0, 1])
    with pytest.raises(EnvError, match="seeds must be as many as the goals that change, 1, got 2"):
        reacher.change_goals([0, 1], [0])
    with pytest.raises(EnvError, match=r"goals can change in running episodes only, got \[0, 2\]"):
        reacher.change_goals([0, 1], [0, 2])
    other = make_vector("Pendulum-v1", 1)
    other.reset([0])
    with pytest.raises(EnvError, match=r"Pendulum-v1 cannot change its goal within an episode: it has no method chang"):
        other.change_goals([0], [0])
    other.close()


def test_auto_takes_the_native_backend_where_it_can():
    assert isinstance(make_vector(REACHER, 1), MujocoVector)
    assert isinstance(make_vector("Pendulum-v1", 1), SyncVector)


def test_environment_without_goals_or_mujoco():
    env = make_vector("Pendulum-v1", 2)
    obs, goal = env.reset([0, 1])
    assert obs["observation"].shape == (2, 3)
    assert goal is None
    assert env.goal is None
    assert env.simulator_states() is None
    step = env.step(np.zeros((2, 1), np.float32))
    assert (step.reward < 0).all()
    assert not step.success.any()
    env.close()


def test_terminated_episodes_are_over():
    env = make_vector("InvertedPendulum-v5", 2)
    env.reset([0, 1])
    active = np.ones(2, bool)
    ended = np.zeros(2, bool)
    for _ in range(200):
        step = env.step(np.array([[3.0], [0.0]], np.float32), active)
        ended |= step.terminated
        active &= ~(step.terminated | step.truncated)
        if ended.any():
            break
    assert ended.tolist() == [True, False]
    with pytest.raises(EnvError, match=r"reset \[0\] first"):
        env.step(np.zeros((2, 1), np.float32))
    env.reset([0], indices=[0])
    env.step(np.zeros((2, 1), np.float32))
    env.close()


def test_goal_environments_state_a_desired_goal():
    pytest.importorskip("gymnasium_robotics")
    env = make_vector("FetchReach-v4", 2)
    obs, goal = env.reset([0, 1])
    assert goal["desired_goal"].shape == (2, 3)
    assert "achieved_goal" in obs
    assert env.simulator_states().shape[0] == 2
    env.close()


def test_rows_that_were_never_reset_are_zero(reacher):
    obs, goal = reacher.reset([0], indices=[2])
    for batch in (obs, goal):
        for value in batch.values():
            assert not value[:2].any()
    assert obs["position"][2].any()


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((2, 2)), r"actions must have shape \[num_envs, action_dim\] = \(3, 2\), got \(2, 2\)"),
        (np.zeros((3, 1)), r"= \(3, 2\), got \(3, 1\)"),
        (np.zeros(6), r"got \(6,\)"),
        (np.array([[0, 0], [0, np.nan], [0, 0]]), "actions must be finite, got .* for environment 1"),
        (np.full((3, 2), np.inf), "actions must be finite"),
    ],
)
def test_bad_actions(reacher, actions, message):
    reacher.reset([0, 1, 2])
    with pytest.raises(EnvError, match=message):
        reacher.step(actions)


@pytest.mark.parametrize("active", [np.ones(2, bool), np.ones(3, int), np.array(True)])
def test_bad_active(reacher, active):
    reacher.reset([0, 1, 2])
    with pytest.raises(EnvError, match=r"active must be a bool array of shape \(3,\)"):
        reacher.step(np.zeros((3, 2), np.float32), active)


@pytest.mark.parametrize(
    ("seeds", "indices", "message"),
    [
        ([0, 1], None, "seeds must be as many as the environments that are reset, 3, got 2"),
        ([0], [0, 1], "seeds must be as many"),
        ([0, 1], [1, 1], "indices must be different and between 0 and 2"),
        ([0], [3], "indices must be different and between 0 and 2"),
        ([0], [-1], "indices must be different and between 0 and 2"),
    ],
)
def test_bad_reset(reacher, seeds, indices, message):
    with pytest.raises(EnvError, match=message):
        reacher.reset(seeds, indices)


def test_a_step_needs_a_running_episode(backend):
    env = make_vector(REACHER, 2, EnvOptions(max_episode_steps=1), backend)
    env.reset([0], indices=[1])
    with pytest.raises(EnvError, match=r"reset \[0\] first, or leave them inactive"):
        env.step(np.zeros((2, 2), np.float32))
    env.step(np.zeros((2, 2), np.float32), active=np.array([False, True]))
    with pytest.raises(EnvError, match=r"reset \[1\] first"):
        env.step(np.zeros((2, 2), np.float32), active=np.array([False, True]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((REACHER, 0), "num_envs must be at least 1, got 0"),
        ((REACHER, 1, None, "ray"), "backend must be 'auto', 'sync' or 'mujoco', got 'ray'"),
        (("HalfCheetah-v5", 1, None, "mujoco"), r"backend='mujoco' needs one of forethought/Reacher-v0"),
        (
            (REACHER, 1, EnvOptions(observation="pixels"), "mujoco"),
            "got 'forethought/Reacher-v0' with observation='pixels'",
        ),
        ((REACHER, 1, EnvOptions(action_repeat=0)), "action_repeat must be"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(EnvError, match=message):
        make_vector(*arguments)


def test_unknown_id(backend):
    with pytest.raises((UnknownNameError, EnvError), match=r"Reacher-v7|backend='mujoco' needs"):
        make_vector("forethought/Reacher-v7", 1, backend=backend)


def test_a_failure_closes_what_was_made(monkeypatch):
    made = []

    def make(env_id, options):
        if len(made) == 4:
            raise EnvError("no more")
        made.append(gymnasium.make(REACHER))
        made[-1].env_spec = make_env(REACHER).env_spec
        made[-1].close = lambda env=made[-1]: setattr(env, "closed", True)
        return made[-1]

    monkeypatch.setattr("forethought.envs.vector.make_env", make)
    with pytest.raises(EnvError, match="no more"):
        make_vector(REACHER, 4, backend="sync")
    assert all(env.closed for env in made)


def test_closing_twice(reacher):
    reacher.close()
    reacher.close()


needs_opengl = pytest.mark.skipif(rendering.available() is None, reason="no OpenGL backend works here")


@needs_opengl
def test_pictures_show_the_goal_and_are_the_same_in_both_backends():
    native, sync = make_vector(REACHER, 2, backend="mujoco"), make_vector(REACHER, 2, backend="sync")
    for env in (native, sync):
        env.reset([0, 1])
    np.testing.assert_array_equal(native.render(1), sync.render(1))
    picture = native.render(1)
    native.reset([0], indices=[0])
    assert picture.shape == (480, 480, 3)
    assert (native.render(0) != picture).any()
    native.close()
    sync.close()


@needs_opengl
def test_a_picture_can_leave_the_goal_out(backend):
    env = make_vector(REACHER, 1, backend=backend)
    env.reset([0])
    with_goal, without = env.render(0), env.render(0, goal=False)
    assert (with_goal != without).any()
    env.change_goals([3], [0])
    assert (env.render(0) != with_goal).any()
    np.testing.assert_array_equal(env.render(0, goal=False), without)
    env.close()


@needs_opengl
def test_pictures_of_other_environments():
    env = make_vector("InvertedPendulum-v5", 1)
    env.reset([0])
    picture = env.render(0)
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert picture.std() > 0
    env.close()


def test_an_environment_that_cannot_be_drawn(monkeypatch):
    env = make_vector(REACHER, 1, backend="sync")
    env.reset([0])
    monkeypatch.setattr("forethought.envs.vector.require", lambda: "egl")
    monkeypatch.setattr("forethought.envs.tasks.base.MujocoGoalTask.render", lambda self: None)
    with pytest.raises(EnvError, match="cannot be drawn"):
        env.render(0)


@needs_opengl
def test_pixel_observations():
    env = make_vector("forethought/Push-v0", 2, EnvOptions(observation="pixels", image_size=32, frame_stack=1))
    obs, goal = env.reset([0, 1])
    assert isinstance(env, SyncVector)
    assert obs["pixels"].shape == goal["pixels"].shape == (2, 32, 32, 3)
    task = Push()
    task.reset(seed=1)
    np.testing.assert_array_equal(obs["pixels"][1], task.render_pixels(32))
    np.testing.assert_array_equal(goal["pixels"][1], task.render_goal_pixels(32))
    assert (obs["pixels"] != goal["pixels"]).any()
    state = make_vector("forethought/Push-v0", 2)
    _, expected = state.reset([0, 1])
    for key, value in env.simulator_goals().items():  # the simulator compares states, whatever the agent is shown
        np.testing.assert_array_equal(value, expected[key])
    task.close()
    env.close()


def test_the_policy_that_an_environment_brings_is_seeded_and_each_rows_own(monkeypatch):
    from forethought.envs.tasks.reacher import Reacher

    env = make_vector(REACHER, 2, backend="sync")
    assert env.behaviour(0, 0) is None
    assert make_vector(REACHER, 2, backend="mujoco").behaviour(0, 0) is None

    def behaviour(self, seed):
        return lambda: (seed, self.data.qpos.copy())

    monkeypatch.setattr(Reacher, "behaviour", behaviour, raising=False)
    env.reset([1, 2])
    (seed, one), (_, two) = env.behaviour(0, 7)(), env.behaviour(1, 8)()
    assert seed == 7
    assert (one != two).all()
    env.close()
