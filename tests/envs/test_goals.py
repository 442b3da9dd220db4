import numpy as np
import pytest
from gymnasium import spaces

from forethought.envs.goals import make_goal_reader, success
from forethought.envs.spec import ArraySpec, EnvError, GoalSpec

VECTOR = spaces.Box(-9, 9, (2,), np.float64)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({}, False),
        ({"success": 1.0}, True),
        ({"is_success": np.float32(1)}, True),
        ({"is_success": np.float32(0)}, False),
        ({"success": np.False_, "is_success": True}, False),
    ],
)
def test_success(info, expected):
    assert success(info) is expected


def test_no_goal():
    reader = make_goal_reader(VECTOR)
    assert reader.spec(np.zeros(2), {}) is None
    assert reader.read_goal(np.zeros(2), {}) is None


@pytest.mark.parametrize("goal", [np.array([1.0, 2.0]), [1.0, 2.0], {"observation": np.array([1.0, 2.0])}])
def test_full_observation_as_goal(goal):
    reader = make_goal_reader(VECTOR)
    assert reader.spec(np.zeros(2), {"goal": goal}) == GoalSpec("observation")
    read = reader.read_goal(np.zeros(2), {"goal": goal})
    assert list(read) == ["observation"]
    assert read["observation"].dtype == np.float32
    assert read["observation"].tolist() == [1, 2]


def test_goal_of_a_dict_observation():
    reader = make_goal_reader(spaces.Dict(b=VECTOR, a=spaces.Dict(c=VECTOR)))
    read = reader.read_goal(None, {"goal": {"a": {"c": np.ones(2)}, "b": np.zeros(2), "more": 3}})
    assert {key: value.tolist() for key, value in read.items()} == {"a/c": [1, 1], "b": [0, 0]}


@pytest.mark.parametrize("goal", [np.zeros(3), {"b": np.zeros(2)}, np.full(2, np.nan), "home"])
def test_goals_that_are_no_observation(goal):
    with pytest.raises(EnvError, match=r'info\["goal"\] must be an observation'):
        make_goal_reader(VECTOR).read_goal(np.zeros(2), {"goal": goal})


def test_goal_env():
    reader = make_goal_reader(spaces.Dict(observation=VECTOR, achieved_goal=VECTOR, desired_goal=VECTOR))
    raw = {"observation": np.zeros(2), "achieved_goal": np.array([1.0, 2]), "desired_goal": np.array([3.0, 4])}
    assert reader.spec(raw, {}) == GoalSpec("achieved", "achieved_goal", 2)
    assert reader.obs_specs == {"achieved_goal": ArraySpec((2,), "float32"), "observation": ArraySpec((2,), "float32")}
    obs, goal = reader.read_obs(raw), reader.read_goal(raw, {})
    assert list(obs) == ["achieved_goal", "observation"]
    assert obs["achieved_goal"].tolist() == [1, 2]
    assert {key: value.tolist() for key, value in goal.items()} == {"desired_goal": [3, 4]}


def test_nested_goals_become_vectors_in_the_same_order():
    part = spaces.Dict(z=VECTOR, a=spaces.Box(-9, 9, (1,)))
    reader = make_goal_reader(spaces.Dict(achieved_goal=part, desired_goal=part))
    raw = {
        "achieved_goal": {"z": np.array([1.0, 2]), "a": np.array([0.0])},
        "desired_goal": {"a": np.array([5.0]), "z": np.array([6.0, 7])},
    }
    assert reader.read_obs(raw)["achieved_goal"].tolist() == [0, 1, 2]
    assert reader.read_goal(raw, {})["desired_goal"].tolist() == [5, 6, 7]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Dict(observation=VECTOR, desired_goal=VECTOR), "must also have achieved_goal"),
        (spaces.Dict(achieved_goal=spaces.Box(0, 1, (3,)), desired_goal=VECTOR), "as many numbers.*got 2 and 3"),
    ],
)
def test_goal_envs_that_cannot_be_compared(space, message):
    with pytest.raises(EnvError, match=message):
        make_goal_reader(space)


def test_goal_env_without_its_goal():
    reader = make_goal_reader(spaces.Dict(achieved_goal=VECTOR, desired_goal=VECTOR))
    with pytest.raises(EnvError, match="must have the key 'desired_goal'"):
        reader.read_goal({"achieved_goal": np.zeros(2)}, {})
