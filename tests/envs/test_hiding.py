"""Observations and goals through a veil: what is hidden, what is left, and what it must not disturb."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from forethought import UnknownNameError
from forethought.envs.hiding import Veil
from forethought.envs.registry import make_env
from forethought.envs.simulator import make_simulator
from forethought.envs.spec import ArraySpec, EnvError, EnvOptions, GoalSpec
from forethought.envs.tasks.pointmass import PointMass
from forethought.envs.vector import make_vector
from forethought.envs.wrappers import ForethoughtEnv

SPECS = {
    "grid": ArraySpec((2, 3), "float32"),
    "picture": ArraySpec((4, 4, 3), "uint8"),
    "speed": ArraySpec((2,), "float32"),
}
CARTPOLE = "forethought/Cartpole-v0"


def arrays(lead=()):
    rng = np.random.default_rng(0)
    return {key: rng.uniform(0, 255, (*lead, *spec.shape)).astype(spec.dtype) for key, spec in SPECS.items()}


@pytest.mark.parametrize(
    ("hide", "left"),
    [
        ([], SPECS),
        (["speed"], {"grid": SPECS["grid"], "picture": SPECS["picture"]}),
        (["speed[0]"], {**SPECS, "speed": ArraySpec((1,), "float32")}),
        (["grid[1:5]"], {**SPECS, "grid": ArraySpec((2,), "float32")}),
        (["grid[4:]", "grid[0]"], {**SPECS, "grid": ArraySpec((3,), "float32")}),
        (["speed[0]", "speed[1]", "picture"], {"grid": SPECS["grid"]}),
    ],
)
def test_what_is_left(hide, left):
    veil = Veil(SPECS, hide)
    assert veil.specs == left
    shown = veil(arrays((5, 2)))
    assert {key: ArraySpec(value.shape[2:], value.dtype.name) for key, value in shown.items()} == left


@given(hidden=st.sets(st.integers(0, 5), max_size=5), lead=st.lists(st.integers(1, 3), max_size=2))
def test_what_is_left_is_what_was_not_named(hidden, lead):
    whole = arrays(lead)
    shown = Veil(SPECS, [f"grid[{index}]" for index in hidden])(whole)["grid"]
    rest = [index for index in range(6) if index not in hidden]
    np.testing.assert_array_equal(shown.reshape(*lead, -1), whole["grid"].reshape(*lead, -1)[..., rest])


def test_a_name_with_brackets_is_a_name_first():
    assert list(Veil({"a[0]": SPECS["speed"], "b": SPECS["speed"]}, ["a[0]"]).specs) == ["b"]


@pytest.mark.parametrize(
    ("hide", "message"),
    [
        (["speed[2]"], r"hide must name some of the 2 numbers of 'speed', got 'speed\[2\]'"),
        (["speed[1:1]"], "hide must name some of the 2 numbers"),
        (["speed[0:3]"], "hide must name some of the 2 numbers"),
        (["picture[0]"], "hide takes pictures as a whole, 'picture'"),
        (["grid", "picture", "speed"], r"hide must leave something to be seen of \['grid', 'picture', 'speed'\]"),
    ],
)
def test_what_cannot_be_hidden(hide, message):
    with pytest.raises(EnvError, match=message):
        Veil(SPECS, hide)


@pytest.mark.parametrize("name", ["sped", "sped[0]", "speed[-1]", "speed[", ""])
def test_unknown_names(name):
    with pytest.raises(UnknownNameError, match="unknown observation to hide"):
        Veil(SPECS, [name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hide": "velocity"}, "hide must be a list of names of observations, got 'velocity'"),
        ({"hide": [1]}, r"hide must be a list of names of observations, got \[1\]"),
        ({"hide": ["velocity"], "observation": "pixels"}, "hide must be empty with observation='pixels'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(EnvError, match=message):
        make_env(CARTPOLE, EnvOptions(**options))


@pytest.mark.parametrize("backend", ["sync", "mujoco"])
def test_an_episode_is_the_same_and_less_of_it_is_seen(backend):
    options = EnvOptions(hide=["velocity", "position[0]"], max_episode_steps=30)
    hidden = make_vector(CARTPOLE, 3, options, backend)
    whole = make_vector(CARTPOLE, 3, EnvOptions(max_episode_steps=30), backend)
    assert hidden.env_spec.obs == {"position": ArraySpec((2,), "float32")}
    assert hidden.env_spec.goal == GoalSpec("observation")

    def compare(seen, complete):
        assert list(seen) == ["position"]
        np.testing.assert_array_equal(seen["position"], complete["position"][:, 1:])

    for a, b in zip(hidden.reset([1, 2, 3]), whole.reset([1, 2, 3]), strict=True):
        compare(a, b)
    rng = np.random.default_rng(0)
    for _ in range(30):
        actions = rng.uniform(-1, 1, (3, 1)).astype(np.float32)
        a, b = hidden.step(actions), whole.step(actions)
        compare(a.obs, b.obs)
        np.testing.assert_array_equal(a.reward, b.reward)
        np.testing.assert_array_equal(a.truncated, b.truncated)
    whole.reset([4], [1])
    hidden.reset([4], [1])
    compare(hidden.change_goals([9], [1]), whole.change_goals([9], [1]))
    for key, value in hidden.simulator_goals().items():
        np.testing.assert_array_equal(value, whole.goal[key])  # the true dynamics need no veil


@pytest.mark.parametrize(("slow_enough", "succeeds"), [(0.1, True), (0.0, False)])
@pytest.mark.parametrize("backend", ["sync", "mujoco"])
def test_success_is_that_of_the_whole_state(backend, slow_enough, succeeds, monkeypatch):
    monkeypatch.setattr(PointMass, "MAX_SPEED", slow_enough)
    options = EnvOptions(hide=["velocity"])
    env = make_vector("forethought/PointMass-v0", 4, options, backend)
    obs, goal = env.reset(range(4))
    simulator = make_simulator("forethought/PointMass-v0", options)
    assert simulator.costs(env.simulator_states(), np.zeros((4, 1, 2, 2)), env.simulator_goals()).shape == (4, 1)
    before, there, solved = obs["position"], np.zeros(4, bool), np.zeros(4, bool)
    for _ in range(50):
        velocity = (obs["position"] - before) / 0.2
        before = obs["position"]
        step = env.step(np.clip(6 * (goal["position"] - obs["position"]) - 2 * velocity, -1, 1))
        obs = step.obs
        there |= np.linalg.norm(obs["position"] - goal["position"], axis=-1) < 0.02
        solved |= step.success
    assert there.all()
    assert solved.all() == solved.any() == succeeds


class Reaching(gymnasium.Env):
    """Goals to be achieved."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)
    box = spaces.Box(-9, 9, (2,), np.float32)
    observation_space = spaces.Dict(observation=box, achieved_goal=box, desired_goal=box)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {key: np.full(2, i, np.float32) for i, key in enumerate(self.observation_space)}, {}


def test_goals_to_be_achieved_are_left_alone():
    env = ForethoughtEnv(Reaching(), "Reaching-v0", EnvOptions(hide=["observation[0]"]))
    obs, info = env.reset()
    assert {key: value.tolist() for key, value in obs.items()} == {"achieved_goal": [1, 1], "observation": [0]}
    assert info["goal"]["desired_goal"].tolist() == [2, 2]
    for hide in ("achieved_goal", "achieved_goal[1]"):
        with pytest.raises(EnvError, match="hide must leave 'achieved_goal' alone, which goals are compared with"):
            ForethoughtEnv(Reaching(), "Reaching-v0", EnvOptions(hide=[hide]))
