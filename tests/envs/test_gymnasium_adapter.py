import math

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec as RegisteredEnv
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from forethought.envs.gymnasium_adapter import ActionAdapter, ObservationAdapter, control_timestep, make_gymnasium
from forethought.envs.spec import ArraySpec, EnvError

FLOATS = st.floats(-1e6, 1e6, width=32)


@st.composite
def boxes(draw):
    dtype = draw(st.sampled_from([np.float32, np.float64, np.int8, np.int64, np.uint8]))
    shape = draw(st_numpy.array_shapes(min_dims=0, max_dims=3, max_side=3))
    bounds = (0, 200) if dtype is np.uint8 else (-100, 100)
    number = st.integers(*bounds) if np.issubdtype(dtype, np.integer) else st.floats(*bounds, width=16)
    low = draw(st_numpy.arrays(dtype, shape, elements=number))
    width = draw(st_numpy.arrays(np.int64, shape, elements=st.integers(1, 27)))
    return spaces.Box(low, (low + width).astype(dtype), dtype=dtype)


@given(space=boxes(), data=st.data())
def test_every_action_lands_in_the_space(space, data):
    adapter = ActionAdapter(space)
    size = len(adapter.low)
    action = data.draw(st_numpy.arrays(np.float32, (size,), elements=FLOATS))
    native = adapter(action)
    assert space.contains(native)
    inside = np.clip(action, adapter.low, adapter.high)
    half = 0.5 if np.issubdtype(space.dtype, np.integer) else 0
    np.testing.assert_allclose(native.ravel(), inside, atol=half + 1e-3)


@given(space=boxes())
def test_actions_of_the_space_pass_unchanged(space):
    action = space.sample()
    np.testing.assert_allclose(ActionAdapter(space)(action.ravel().astype(np.float32)), action, rtol=1e-6)


def test_asymmetric_bounds_of_several_dimensions():
    space = spaces.Box(np.array([[-1.0, 0.1], [2.0, -4.0]]), np.array([[0.0, 0.5], [3.0, -3.0]]), dtype=np.float64)
    adapter = ActionAdapter(space)
    assert adapter.low == (-1.0, 0.1, 2.0, -4.0)
    assert adapter.high == (0.0, 0.5, 3.0, -3.0)
    assert adapter.space == spaces.Box(np.float32(adapter.low), np.float32(adapter.high), dtype=np.float32)
    # 0.1 in float32 is larger than 0.1, 0.5 is exact.
    np.testing.assert_array_equal(
        adapter(np.float32([9, 0.1, -9, -3.5])), [[0.0, np.float64(np.float32(0.1))], [2, -3.5]]
    )
    np.testing.assert_array_equal(adapter(np.float32([9, -9, -9, 9])), [[0.0, 0.1], [2, -3]])


def test_integer_actions_are_rounded():
    native = ActionAdapter(spaces.Box(-3, 5, (4,), np.int32))(np.float32([-0.6, 2.4, 2.6, 99]))
    assert native.dtype == np.int32
    assert native.tolist() == [-1, 2, 3, 5]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Discrete(4), r"must be a Box .* got Discrete\(4\); wrap it.*TransformAction"),
        (spaces.MultiDiscrete([2, 3]), "must be a Box"),
        (spaces.Dict(a=spaces.Box(-1, 1)), "must be a Box"),
        (spaces.Box(-np.inf, np.inf, (2,)), r"bounded, got \[-inf, inf\] in dimension 0;.*TransformAction"),
        (spaces.Box(np.float32([0, 0]), np.float32([1, np.inf])), r"bounded, got \[0.0, inf\] in dimension 1"),
        (spaces.Box(np.float32([0, 1]), np.float32([1, 1])), r"low < high, got \[1.0, 1.0\] in dimension 1"),
        (spaces.Box(0, 1, (0,)), "at least one dimension"),
    ],
)
def test_unsupported_action_spaces(space, message):
    with pytest.raises(EnvError, match=message):
        ActionAdapter(space)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(3), r"shape \(2,\), got \(3,\)"),
        (np.zeros((1, 2)), r"shape \(2,\), got \(1, 2\)"),
        (np.array([0, np.nan]), "finite"),
    ],
)
def test_bad_actions(action, message):
    with pytest.raises(EnvError, match=message):
        ActionAdapter(spaces.Box(-1, 1, (2,)))(action)


def test_nested_observations_become_flat_and_sorted():
    space = spaces.Dict(
        {
            "wrist": spaces.Dict(force=spaces.Box(-1, 1, (2, 3), np.float64), touch=spaces.MultiBinary(2)),
            "camera": spaces.Box(0, 255, (8, 6, 3), np.uint8),
            "buttons": spaces.Box(0, 255, (4,), np.uint8),
            "height": spaces.Box(-1, 1, (), np.float64),
        }
    )
    adapter = ObservationAdapter(space)
    assert adapter.specs == {
        "buttons": ArraySpec((4,), "float32"),
        "camera": ArraySpec((8, 6, 3), "uint8"),
        "height": ArraySpec((1,), "float32"),
        "wrist/force": ArraySpec((2, 3), "float32"),
        "wrist/touch": ArraySpec((2,), "float32"),
    }
    sample = space.sample()
    obs = adapter(sample)
    assert list(obs) == list(adapter.specs) == sorted(obs)
    for key, spec in adapter.specs.items():
        assert (obs[key].shape, obs[key].dtype) == (spec.shape, spec.dtype)
    np.testing.assert_array_equal(obs["wrist/touch"], sample["wrist"]["touch"])
    np.testing.assert_array_equal(obs["camera"], sample["camera"])
    assert adapter.vector(sample).shape == (4 + 8 * 6 * 3 + 1 + 6 + 2,)


def test_observations_are_copies():
    buffer = np.zeros(3, np.float32)
    obs = ObservationAdapter(spaces.Box(-1, 1, (3,)))(buffer)
    buffer[:] = 1
    assert obs["observation"].sum() == 0


@pytest.mark.parametrize("obs", [{"a": np.zeros(1)}, np.zeros(2), None])
def test_missing_observation_keys(obs):
    adapter = ObservationAdapter(spaces.Dict(a=spaces.Box(-1, 1, (1,)), b=spaces.Box(-1, 1, (1,))))
    with pytest.raises(EnvError, match=r"must have the key '[ab]'"):
        adapter(obs)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Discrete(3), "FlattenObservation"),
        (spaces.Dict(a=spaces.Text(3)), r"for 'a'.*FlattenObservation"),
        (spaces.Dict(), "distinct names"),
        (spaces.Dict({"a": spaces.Dict(b=spaces.Box(0, 1)), "a/b": spaces.Box(0, 1)}), "distinct names"),
    ],
)
def test_unsupported_observation_spaces(space, message):
    with pytest.raises(EnvError, match=message):
        ObservationAdapter(space)


class Robot(gymnasium.Env):
    pass


@pytest.mark.parametrize(
    ("attribute", "value", "seconds"),
    [("dt", 0.05, 0.05), ("control_timestep", lambda: 0.02, 0.02), ("dt", "fast", math.nan), ("dt", -1.0, math.nan)],
)
def test_control_timestep(attribute, value, seconds):
    robot = Robot()
    assert math.isnan(control_timestep(robot))
    setattr(robot, attribute, value)
    np.testing.assert_equal(control_timestep(robot), seconds)


def test_make_reports_the_registered_limit_and_does_not_apply_it():
    env, limit = make_gymnasium(gymnasium.registry["Pendulum-v1"], {"g": 5.0})
    assert limit == 200
    assert env.unwrapped.g == 5.0
    layer = env
    while isinstance(layer, gymnasium.Wrapper):
        assert not isinstance(layer, gymnasium.wrappers.TimeLimit)
        layer = layer.env
    env.close()


@pytest.mark.parametrize(
    ("registered", "kwargs", "message"),
    [
        (RegisteredEnv("Pendulum-v1", gymnasium.registry["Pendulum-v1"].entry_point), {"gravity": 1}, "'gravity'"),
        (RegisteredEnv("Gone-v0", "no_such_module_anywhere:Env"), {}, "cannot make Gone-v0: ModuleNotFoundError"),
    ],
)
def test_make_errors(registered, kwargs, message):
    with pytest.raises(EnvError, match=message) as caught:
        make_gymnasium(registered, kwargs)
    assert caught.value.__cause__ is not None
