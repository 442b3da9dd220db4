"""The environments of stable-worldmodel; without the package, only what is said about that."""

import importlib.util
import math
import sys

import numpy as np
import pytest

from forethought.envs import rendering
from forethought.envs.registry import list_envs, make_env
from forethought.envs.spec import EnvError, EnvOptions, GoalSpec
from forethought.envs.worldmodel_adapter import GOAL_WORLDS

# What the package warns about when it is imported and when its models are compiled anew.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
installed = pytest.mark.skipif(
    importlib.util.find_spec("stable_worldmodel") is None, reason="needs the extra worldmodel"
)
drawn = pytest.mark.skipif(rendering.available() is None, reason="no OpenGL here")

SIZES = {
    "swm/TwoRoom-v1": {"state": 2},
    "swm/PushT-v1": {"state": 7},
    "swm/ReacherDMControl-v0": {"qpos": 2, "qvel": 2},
}
STARTS = [(env_id, ahead) for env_id in SIZES for ahead in (None, 25)]


def act(env, rng):
    return rng.uniform(env.env_spec.action_low, env.env_spec.action_high).astype(np.float32)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_worldmodel", None)
    with pytest.raises(EnvError, match=r"swm/Absent-v1 needs stable-worldmodel.* 'forethought\[worldmodel\]'"):
        make_env("swm/Absent-v1")


def test_an_import_that_fails_is_named_with_its_reason(tmp_path, monkeypatch):
    (tmp_path / "stable_worldmodel.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stable_worldmodel", raising=False)
    with pytest.raises(EnvError, match=r"forethought\[worldmodel\].*RuntimeError: operator torchvision::nms") as error:
        make_env("swm/Absent-v1")
    assert isinstance(error.value.__cause__, RuntimeError)
    list_envs()  # of all others


@installed
def test_list():
    ids = list_envs()["worldmodel"]
    assert set(SIZES) == set(GOAL_WORLDS) <= set(ids)
    assert "swm/PushT-Discrete-v1" not in ids


@installed
@pytest.mark.parametrize("env_id", SIZES)
def test_spec(env_id):
    env = make_env(env_id)
    spec = env.env_spec
    assert {key: array.size for key, array in spec.obs.items()} == SIZES[env_id]
    assert spec.goal == GoalSpec("observation")
    assert (spec.action_low, spec.action_high, spec.max_episode_steps) == ((-1, -1), (1, 1), 100)
    assert spec.control_dt == pytest.approx(0.04 if "Reacher" in env_id else 0.1)
    env.close()


@installed
@pytest.mark.parametrize(("env_id", "ahead"), STARTS)
def test_success_is_what_ends_an_episode_and_never_there_at_its_start(env_id, ahead):
    env = make_env(env_id, EnvOptions(goal_ahead=ahead))
    world, robot = GOAL_WORLDS[env_id], env.unwrapped
    rng, ends = np.random.default_rng(0), set()
    for seed in range(15):
        info = env.reset(seed=seed)[1]
        over = info["success"]
        assert over is world.reached(robot) is False
        while not over:
            _, _, terminated, truncated, info = env.step(act(env, rng))
            assert info["success"] is terminated is world.reached(robot)
            over = terminated or truncated
        ends.add(terminated)
    assert ends == {True, False} if env_id == "swm/TwoRoom-v1" else False in ends
    env.close()


@installed
@pytest.mark.parametrize("env_id", SIZES)
def test_being_at_the_goal_is_success(env_id):
    env = make_env(env_id, EnvOptions(goal_ahead=25))
    world, robot = GOAL_WORLDS[env_id], env.unwrapped
    for seed in range(5):
        env.reset(seed=seed)
        goal = env.env.env._goal.state
        robot.set_state(*np.split(goal, 2)) if "Reacher" in env_id else robot._set_state(goal)
        assert world.reached(robot)
    env.close()


@installed
@pytest.mark.parametrize(("env_id", "ahead"), STARTS)
def test_the_seed_decides_the_episode(env_id, ahead):
    options = EnvOptions(goal_ahead=ahead)
    env, fresh = make_env(env_id, options), make_env(env_id, options)
    traces = []
    for made, seed in ((env, 5), (env, 6), (env, 5), (fresh, 5)):
        rng, (obs, info) = np.random.default_rng(0), made.reset(seed=seed)
        trace = [obs, info["goal"]]
        for _ in range(20):
            obs, _, terminated, _, _ = made.step(act(made, rng))
            trace.append(obs)
            if terminated:
                break
        traces.append([np.concatenate(list(one.values())).tolist() for one in trace])
        for one in trace:
            assert {(value.dtype.name, value.shape) for value in one.values()} <= {("float32", (n,)) for n in (2, 7)}
    first, other, again, elsewhere = traces
    assert first == again == elsewhere
    assert first[0] != other[0]
    assert first[1] != other[1]
    unseeded, another = (np.concatenate(list(env.reset()[0].values())) for _ in range(2))
    assert (unseeded != another).any()
    env.close()
    fresh.close()


@installed
@pytest.mark.parametrize("env_id", ["swm/TwoRoom-v1", "swm/PushT-v1"])
def test_the_behaviour_is_the_packages_own(env_id):
    env = make_env(env_id).env
    ways = []
    for seed in (0, 0, 1):
        env.reset(seed=0)
        behave = env.behaviour(seed)
        ways.append([env.step(behave())[0]["state"].tolist() for _ in range(3)])
    assert ways[0] == ways[1] != ways[2]
    env.close()
    assert make_env("swm/ReacherDMControl-v0").env.behaviour(0) is None


@installed
def test_two_rooms_behaviour_wanders_and_its_expert_does_not():
    env = make_env("swm/TwoRoom-v1").env
    steps = {}
    for noise in (True, False):
        steps[noise] = []
        for seed in range(10):
            env.reset(seed=seed)
            behave = env.behaviour(seed, noise=noise)
            steps[noise].append(next(step for step in range(1000) if env.step(behave())[2]))
    assert max(steps[False]) < 60 < max(steps[True])
    assert np.mean(steps[True]) > 2 * np.mean(steps[False])
    env.close()


@installed
@drawn
@pytest.mark.parametrize(("env_id", "ahead"), STARTS)
def test_pictures_of_here_and_of_the_goal(env_id, ahead):
    env = make_env(env_id, EnvOptions(observation="both", frame_stack=1, goal_ahead=ahead))
    obs, info = env.reset(seed=2)
    assert obs["pixels"].shape == info["goal"]["pixels"].shape == (64, 64, 3)
    assert obs["pixels"].std() > 5
    assert (obs["pixels"] != info["goal"]["pixels"]).any()
    robot, world = env.unwrapped, GOAL_WORLDS[env_id]
    adapter = env.env.env if ahead else env.env
    # Drawn at the goal, the scene is the goal's picture; so it shows no marker that moves with the goal.
    goal = adapter._goal
    if "Reacher" in env_id:
        robot.set_state(*np.split(goal.state, 2))
    else:
        robot._set_state(goal.state)
    np.testing.assert_allclose(world.state(robot)[:2], goal.state[:2], atol=3)
    assert np.abs(adapter.render().astype(int) - goal.picture).mean() < 2
    env.close()


@installed
def test_pusht_without_its_green_t():
    options = [EnvOptions(observation="pixels", kwargs={"with_target": on}) for on in (True, False)]
    shown, hidden = (make_env("swm/PushT-v1", option).reset(seed=0)[0]["pixels"] for option in options)
    assert (shown != hidden).any()


@installed
def test_another_task_of_the_reacher_has_no_goals():
    env = make_env("swm/ReacherDMControl-v0", EnvOptions(kwargs={"task": "hard"}))
    assert env.env_spec.goal is None
    assert {key: array.size for key, array in env.env_spec.obs.items()} == {"observation": 6}
    env.reset(seed=0)
    assert env.step(np.zeros(2, np.float32))[4]["success"] is False  # upstream says nan
    env.close()


@installed
def test_a_dmcontrol_episode_does_not_begin_anew_at_its_own_limit():
    env = make_env("swm/PendulumDMControl-v0", EnvOptions(max_episode_steps=520))
    assert make_env("swm/PendulumDMControl-v0").env_spec.max_episode_steps == 500
    for _ in range(2):  # also where a model was compiled before
        env.reset(seed=0)
        for _ in range(510):
            env.step(np.ones(1, np.float32))
        assert env.unwrapped.dmc_env.physics.time() == pytest.approx(510 * env.env_spec.control_dt)
    env.close()


@installed
def test_goal_worlds_do_not_vary_by_reset_options():
    env = make_env("swm/TwoRoom-v1")
    with pytest.raises(EnvError, match=r"options must be empty for a goal world, got .*kwargs.init_value"):
        env.reset(options={"variation": ["door.position"]})
    env.close()


@installed
def test_tensors_become_arrays():
    env = make_env("swm/Piecewise-v0")
    obs, _ = env.reset(seed=0)
    assert type(obs["observation"]) is np.ndarray
    assert math.isnan(env.env_spec.control_dt)
    env.close()
