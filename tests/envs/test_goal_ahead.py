"""Goals along an episode of the environment's own, on tasks of ours."""

import itertools

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.envs import rendering
from forethought.envs.goal_ahead import MAX_HOLD, GoalAhead
from forethought.envs.registry import make_env
from forethought.envs.simulator import make_simulator
from forethought.envs.spec import EnvError, EnvOptions, GoalSpec
from forethought.envs.tasks.cartpole import Cartpole
from forethought.envs.tasks.maze import Rooms
from forethought.envs.tasks.pointmass import PointMass
from forethought.envs.vector import MujocoVector, SyncVector, make_vector

OWN = ["forethought/PointMass-v0", "forethought/Rooms-v0"]


class Recorded(gymnasium.Wrapper):
    """Keeps what the behaviour did last, and how long each reset was played on."""

    def __init__(self, env):
        super().__init__(env)
        self.actions, self.lengths = [], []

    def reset(self, *, seed=None, options=None):
        self.lengths.append(0)
        return self.env.reset(seed=seed, options=options)

    def step(self, action):
        self.lengths[-1] += 1
        return self.env.step(action)

    def behaviour(self, seed):
        rng, self.actions = np.random.default_rng(seed), []

        def behave():
            self.actions.append(rng.uniform(-1, 1, 2).astype(np.float32))
            return self.actions[-1]

        return behave


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), steps=st.integers(20, 45), kind=st.sampled_from([PointMass, Rooms]))
def test_the_behaviours_own_actions_lead_from_the_start_to_the_goal(seed, steps, kind):
    env = GoalAhead(recorded := Recorded(kind()), steps, episode_steps=50)
    obs, info = env.reset(seed=seed)
    assert info["success"] is False
    assert steps <= len(recorded.actions) <= 50
    assert recorded.lengths[-2:] == [len(recorded.actions), len(recorded.actions) - steps]
    for action in recorded.actions[-steps:]:
        obs, *_, info = env.step(action)
    assert_same(obs, info["goal"])


def test_every_start_is_possible_and_the_last_goal_ends_the_episode():
    env = GoalAhead(recorded := Recorded(PointMass()), 8, episode_steps=10)
    starts = set()
    for seed in range(40):
        env.reset(seed=seed)
        starts.add(len(recorded.actions) - 8)
    assert starts == {0, 1, 2}


@pytest.mark.parametrize("env_id", OWN)
def test_the_seed_decides_the_episode(env_id):
    options = EnvOptions(goal_ahead=25)
    env, fresh = make_env(env_id, options), make_env(env_id, options)
    (obs, info), (other, other_info) = env.reset(seed=3), env.reset(seed=4)
    assert any((obs[key] != other[key]).any() for key in obs)
    assert any((info["goal"][key] != other_info["goal"][key]).any() for key in obs)
    for again, again_info in (env.reset(seed=3), fresh.reset(seed=3)):
        assert_same(again, obs)
        assert_same(again_info["goal"], info["goal"])
    after = env.reset()[0], env.reset()[0]
    assert any((after[0][key] != after[1][key]).any() for key in obs)


def test_without_a_behaviour_actions_are_held(monkeypatch):
    taken = []
    step = PointMass.step
    monkeypatch.setattr(PointMass, "step", lambda self, action: taken.append(tuple(action)) or step(self, action))
    GoalAhead(PointMass(), 40, episode_steps=40).reset(seed=0)  # the only start is the first moment
    changes = np.flatnonzero([a != b for a, b in itertools.pairwise(taken)])
    holds = np.diff(changes)
    assert len(taken) % 40 == 0
    assert 1 <= holds.min() < holds.max() <= MAX_HOLD


def test_success_is_the_environments_own():
    env = make_env("forethought/Rooms-v0", EnvOptions(goal_ahead=10))
    task = env.unwrapped
    env.reset(seed=0)
    goal = task._goal_state[0]
    task.data.qpos[:], task.data.qvel[:] = goal, 0
    assert env.step(np.zeros(2, np.float32))[4]["success"]
    task.data.qpos[:] = goal + 0.3
    assert not env.step(np.zeros(2, np.float32))[4]["success"]


def test_starts_at_the_goal_are_redrawn(monkeypatch):
    monkeypatch.setattr(PointMass, "MAX_SPEED", 1e9)
    monkeypatch.setattr(PointMass, "TOLERANCE", 0.05)
    env = GoalAhead(recorded := Recorded(PointMass()), 15, episode_steps=50)
    for seed in range(10):
        obs, info = env.reset(seed=seed)
        assert np.linalg.norm(obs["position"] - info["goal"]["position"]) >= 0.05
    assert len(recorded.lengths) > 20  # two resets each would have been all


class AlwaysThere(PointMass):
    def aim(self, goal):
        return super().aim(goal) | {"success": True}


def test_goals_that_are_never_away_are_refused():
    env = GoalAhead(AlwaysThere(), 2, episode_steps=2)
    with pytest.raises(EnvError, match="no start was found with goal_ahead=2 in 200 episodes"):
        env.reset(seed=0)


def test_goals_at_which_there_is_no_success_are_redrawn(monkeypatch):
    monkeypatch.setattr(Rooms, "MAX_SPEED", 0.15)
    env = GoalAhead(Rooms(), 25, episode_steps=100)
    for seed in range(10):
        assert np.linalg.norm(env.reset(seed=seed)[1]["goal"]["velocity"]) < 0.15
    # Success there is an upright pole, which random actions never see.
    with pytest.raises(EnvError, match="end where being there is no success"):
        GoalAhead(Cartpole(), 25, episode_steps=30).reset(seed=0)


class Ends(PointMass):
    """Ends after two steps in two thirds of the episodes, one way or the other."""

    def reset(self, *, seed=None, options=None):
        self.kind, self.steps = seed % 3, 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        self.steps += 1
        over = self.steps == 2
        return obs, reward, over and self.kind == 0, over and self.kind == 1, info


def test_episodes_that_end_before_the_goal_are_redrawn():
    env = GoalAhead(Ends(), 25, episode_steps=30)
    for seed in range(10):
        env.reset(seed=seed)
        assert env.unwrapped.kind == 2


class Forgetful(PointMass):
    def reset(self, *, seed=None, options=None):
        return super().reset(options=options)


def test_environments_that_do_not_repeat_their_episodes_are_refused():
    with pytest.raises(EnvError, match="repeats an episode from its seed and its actions"):
        GoalAhead(Forgetful(), 5, episode_steps=20).reset(seed=0)


class Nested(gymnasium.Env):
    """Observations in a nested dict, and a constructor's worth of everything else."""

    observation_space = spaces.Dict(a=spaces.Dict(b=spaces.Box(-9, 9, (1,))))
    action_space = spaces.Box(-1, 1, (1,))
    goal = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1, 1, 1)
        return self.observe(), {}

    def observe(self):
        return {"a": {"b": self.x.astype(np.float32)}}

    def step(self, action):
        self.x = self.x + action
        return self.observe(), 0.0, False, False, self.aim(self.goal)

    def here(self):
        return self.observe()

    def aim(self, goal):
        self.goal = goal
        return {"goal": goal, "success": goal is not None and bool(abs(goal["a"]["b"] - self.x) < 0.01)}


@pytest.fixture
def nested():
    gymnasium.register("tests/Nested-v0", entry_point=Nested, max_episode_steps=30)
    yield "tests/Nested-v0"
    del gymnasium.registry["tests/Nested-v0"]


def test_an_environment_of_ones_own(nested):
    env = make_env(nested, EnvOptions(goal_ahead=4))
    assert env.env_spec.goal == GoalSpec("observation")
    obs, info = env.reset(seed=0)
    for _ in range(4):
        obs, *_, info = env.step(np.clip(info["goal"]["a/b"] - obs["a/b"], -1, 1))
    assert info["success"]


@pytest.mark.parametrize(
    ("options", "decisions"),
    [
        ({}, 100),
        ({"goal_ahead": 25}, 50),
        ({"goal_ahead": 10}, 20),
        ({"goal_ahead": 25, "action_repeat": 5}, 10),
        ({"goal_ahead": 25, "max_episode_steps": 7}, 7),
    ],
)
def test_the_budget_is_twice_the_way(options, decisions):
    assert make_env("forethought/Rooms-v0", EnvOptions(**options)).env_spec.max_episode_steps == decisions


@pytest.mark.parametrize(
    ("env_id", "steps", "message"),
    [
        ("forethought/PointMass-v0", 0, "goal_ahead must be an integer of at least 1, got 0"),
        ("forethought/PointMass-v0", 2.5, "goal_ahead must be an integer of at least 1, got 2.5"),
        (
            "forethought/PointMass-v0",
            51,
            "PointMass-v0: goal_ahead must be at most .* episode, 50, got 51",
        ),
        (
            "Pendulum-v1",
            25,
            r"Pendulum-v1: goal_ahead needs .* here\(\) and aim\(goal\).*PendulumEnv has no here",
        ),
    ],
)
def test_refusals(env_id, steps, message):
    with pytest.raises(EnvError, match=message):
        make_env(env_id, EnvOptions(goal_ahead=steps))


def test_in_vectors_and_simulators():
    options = EnvOptions(goal_ahead=25)
    vector = make_vector("forethought/PointMass-v0", 2, options)
    assert isinstance(vector, SyncVector)
    assert isinstance(make_vector("forethought/PointMass-v0", 2), MujocoVector)
    obs, goal = vector.reset([7, 8])
    single, info = make_env("forethought/PointMass-v0", options).reset(seed=8)
    assert_same({key: value[1] for key, value in obs.items()}, single)
    assert_same({key: value[1] for key, value in goal.items()}, info["goal"])
    assert_same(vector.simulator_goals(), goal)
    simulator = make_simulator("forethought/PointMass-v0", options)
    idle = simulator.costs(vector.simulator_states(), np.zeros((2, 1, 1, 2)), goal)
    assert (idle > 0).all()
    with pytest.raises(EnvError, match=r"goal_ahead=None and no link, got .*goal_ahead=25"):
        make_vector("forethought/PointMass-v0", 2, options, backend="mujoco")


@pytest.mark.skipif(rendering.available() is None, reason="no OpenGL here")
def test_the_goals_picture_is_of_the_goal():
    env = make_env("forethought/Rooms-v0", EnvOptions(goal_ahead=25, observation="both", frame_stack=1))
    obs, info = env.reset(seed=1)
    task = env.unwrapped
    picture = task.picture(task._goal_state[0], size=64, preset="fast")
    np.testing.assert_array_equal(info["goal"]["pixels"], picture)
    np.testing.assert_array_equal(info["goal"]["position"], task._goal_state[0].astype(np.float32))
    assert (obs["pixels"] != picture).any()
    env.close()
