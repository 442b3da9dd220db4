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
installed = pytest.mark.skipif(importlib.util.find_spec("stable_worldmodel") is None, reason="needs the extra worldmodel")
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
    with pytest.raises(EnvError, match=r"swm/Absent-v1 needs stable-worldmodel.*pip install 'forethought\[worldmodel\]'"):
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
        goal = env.get_wrapper_attr("_goal").state if hasattr(env, "_goal_state") else env.env._env_goal()
        robot.set_state(*np.split(goal, 2)) if "Reacher" in env_id else robot._set_state(goal)
        assert world.reached(robot)
    env.close()
