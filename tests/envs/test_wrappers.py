import math

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from forethought.envs.spec import ArraySpec, EnvError, EnvOptions, EnvSpec, GoalSpec
from forethought.envs.wrappers import ForethoughtEnv

ACTION = np.float32([1, 1, 1, 1])


class Counter(gymnasium.Env):
    """Counts its steps; the reward is the count, so that sums show which steps were taken."""

    observation_space = spaces.Box(-9, 9, (2,), np.float64)
    action_space = spaces.Box(-2, 5, (2, 2), np.int64)
    dt = 0.1

    def __init__(self, ends_at=None, truncates_at=None, succeeds_at=None, goals=None):
        self.ends_at, self.truncates_at, self.succeeds_at = ends_at, truncates_at, succeeds_at
        self.goals = goals or {}
        self.actions = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        self.start = self.np_random.uniform(-1, 1, 2)
        return self.start, self.info()

    def step(self, action):
        assert self.action_space.contains(action)
        self.actions.append(action)
        self.count += 1
        end, cut = self.count == self.ends_at, self.count == self.truncates_at
        return (
            self.start + self.count,
            self.count,
            end,
            cut,
            {**self.info(), "is_success": self.count == self.succeeds_at},
        )

    def info(self):
        return {"goal": self.goals[self.count]} if self.count in self.goals else {}


def make(native_limit=None, options=None, **kwargs):
    env = ForethoughtEnv(Counter(**kwargs), "Counter-v0", EnvOptions(**(options or {})), native_limit)
    env.reset(seed=0)
    return env


def play(env):
    """Lengths and ends of the rest of the episode."""
    steps = []
    while not steps or not (steps[-1][2] or steps[-1][3]):
        steps.append(env.step(ACTION))
    return steps


def test_spec_and_spaces():
    env = make()
    assert env.env_spec == EnvSpec(
        env_id="Counter-v0",
        obs={"observation": ArraySpec((2,), "float32")},
        action_low=(-2,) * 4,
        action_high=(5,) * 4,
        control_dt=0.1,
        max_episode_steps=1000,
    )
    assert EnvSpec.from_json(env.env_spec.to_json()) == env.env_spec
    assert env.action_space == spaces.Box(-2, 5, (4,), np.float32)
    assert env.observation_space == spaces.Dict(observation=spaces.Box(-np.inf, np.inf, (2,), np.float32))


def test_actions_reach_the_environment_in_its_own_form():
    env = make()
    env.step(np.float32([0.4, 0.6, 99, -99]))
    np.testing.assert_array_equal(env.unwrapped.actions, [[[0, 1], [5, -2]]])
    assert env.unwrapped.actions[0].dtype == np.int64


def test_step_returns_plain_numbers_and_always_says_success():
    env = make(succeeds_at=2)
    obs, reward, terminated, truncated, info = env.step(ACTION)
    assert obs["observation"].dtype == np.float32
    assert (type(reward), terminated, truncated) == (float, False, False)
    assert info["success"] is False
    assert env.step(ACTION)[4]["success"] is True
    assert env.reset()[1]["success"] is False


def test_action_repeat_sums_rewards_and_keeps_any_success():
    env = make(options={"action_repeat": 3}, succeeds_at=2)
    obs, reward, _, _, info = env.step(ACTION)
    assert (reward, info["success"], info["frames"]) == (1 + 2 + 3, True, 3)
    np.testing.assert_allclose(obs["observation"], env.unwrapped.start + 3, rtol=1e-6)
    assert env.env_spec.control_dt == pytest.approx(0.3)
    _, reward, _, _, info = env.step(ACTION)
    assert (reward, info["success"]) == (4 + 5 + 6, False)


@pytest.mark.parametrize(("end", "flags"), [("ends_at", (True, False)), ("truncates_at", (False, True))])
def test_action_repeat_stops_at_the_end_of_the_episode(end, flags):
    env = make(options={"action_repeat": 4}, **{end: 6})
    env.step(ACTION)
    _, reward, terminated, truncated, info = env.step(ACTION)
    assert (reward, info["frames"], env.unwrapped.count) == (5 + 6, 2, 6)
    assert (terminated, truncated) == flags


@pytest.mark.parametrize(
    ("native", "options", "decisions"),
    [
        (7, {}, 7),
        (7, {"action_repeat": 2}, 4),
        (None, {}, 1000),
        (None, {"action_repeat": 4}, 1000),
        (7, {"max_episode_steps": 3}, 3),
        (7, {"max_episode_steps": 12, "action_repeat": 2}, 12),
    ],
)
def test_time_limit_counts_decisions_and_truncates(native, options, decisions):
    env = make(native, options)
    assert env.env_spec.max_episode_steps == decisions
    for _ in range(2):
        env.reset()
        steps = play(env)
        assert len(steps) == decisions
        assert steps[-1][2:4] == (False, True)


def test_termination_at_the_limit_is_no_truncation():
    steps = play(make(options={"max_episode_steps": 3}, ends_at=3))
    assert [step[2:4] for step in steps] == [(False, False), (False, False), (True, False)]


def test_step_needs_a_running_episode():
    env = ForethoughtEnv(Counter(ends_at=1), "Counter-v0")
    with pytest.raises(EnvError, match=r"Counter-v0: step\(\) needs a running episode; call reset\(\) first"):
        env.step(ACTION)
    env.reset()
    env.step(ACTION)
    with pytest.raises(EnvError, match="running episode"):
        env.step(ACTION)
    env.reset()
    env.step(ACTION)


def test_goal_is_kept_until_the_environment_changes_it():
    env = make(goals={0: np.zeros(2), 3: np.ones(2)})
    assert env.env_spec.goal == GoalSpec("observation")
    goals = [env.reset()[1]["goal"], *(env.step(ACTION)[4]["goal"] for _ in range(4))]
    assert [goal["observation"].tolist() for goal in goals] == [[0, 0]] * 3 + [[1, 1]] * 2
    assert env.reset()[1]["goal"]["observation"].tolist() == [0, 0]


def test_goal_that_is_missing_after_a_later_reset():
    env = make(goals={0: np.zeros(2)})
    env.unwrapped.goals = {}
    with pytest.raises(EnvError, match=r'info\["goal"\] must be there after every reset'):
        env.reset()


def test_info_of_the_environment_is_passed_on_unchanged():
    env = Counter()
    mine = {"battery": 0.5}
    env.info = lambda: mine
    info = ForethoughtEnv(env, "Counter-v0").reset()[1]
    assert info == {"battery": 0.5, "success": False, "frames": 0}
    assert mine == {"battery": 0.5}


def test_seeds_repeat_and_the_trial_reset_does_not_fix_them():
    starts = [ForethoughtEnv(Counter(), "Counter-v0").reset(seed=3)[0]["observation"].tolist() for _ in range(2)]
    assert starts[0] == starts[1]
    free = [ForethoughtEnv(Counter(), "Counter-v0").reset()[0]["observation"].tolist() for _ in range(2)]
    assert free[0] != free[1]


def test_unknown_control_timestep_is_nan_also_with_repeats():
    env = Counter()
    env.dt = None
    assert math.isnan(ForethoughtEnv(env, "Counter-v0", EnvOptions(action_repeat=2)).env_spec.control_dt)


@pytest.mark.parametrize(
    ("attribute", "space", "message"),
    [
        ("action_space", spaces.Discrete(3), "Counter-v0: the action space must be a Box"),
        ("action_space", spaces.Box(-np.inf, np.inf, (3,)), "Counter-v0: the action space must be bounded"),
        ("observation_space", spaces.Text(3), "Counter-v0: the observation space must be built of Box"),
    ],
)
def test_unsupported_spaces_name_the_environment(attribute, space, message):
    env = Counter()
    setattr(env, attribute, space)
    with pytest.raises(EnvError, match=message):
        ForethoughtEnv(env, "Counter-v0")


def test_bad_actions_name_the_environment():
    with pytest.raises(EnvError, match=r"Counter-v0: step\(\) at decision 1 .*shape \(4,\), got \(2, 2\)"):
        make().step(np.zeros((2, 2), np.float32))


# -- goals that change within an episode -------------------------------------------------------------------------------


class Changing(Counter):
    """States goals by either convention; the next one follows from its seed."""

    def __init__(self, achieved=False):
        super().__init__(goals={0: np.zeros(2)})
        self.achieved, self.goal = achieved, np.zeros(2)
        if achieved:
            box = spaces.Box(-9, 9, (2,), np.float64)
            self.observation_space = spaces.Dict({"achieved_goal": box, "desired_goal": box})

    def reset(self, *, seed=None, options=None):
        self.goal = np.zeros(2)
        obs, info = super().reset(seed=seed)
        return self.present(obs), info

    def step(self, action):
        obs, *rest = super().step(action)
        return self.present(obs), *rest

    def present(self, obs):
        return {"achieved_goal": obs, "desired_goal": self.goal} if self.achieved else obs

    def change_goal(self, seed):
        self.goal = np.full(2, seed / 10)
        return self.goal


@pytest.mark.parametrize("achieved", [False, True])
def test_a_goal_changes_by_either_convention(achieved):
    env = ForethoughtEnv(Changing(achieved), "Changing-v0")
    env.reset(seed=0)
    env.step(ACTION)
    key = "desired_goal" if achieved else "observation"
    np.testing.assert_array_equal(env.change_goal(3)[key], np.float32([0.3, 0.3]))
    np.testing.assert_array_equal(env.step(ACTION)[4]["goal"][key], np.float32([0.3, 0.3]))
    np.testing.assert_array_equal(env.reset(seed=0)[1]["goal"][key], [0, 0])


@pytest.mark.parametrize(
    ("returned", "message"), [(None, "must return the goal, got None"), (np.zeros(3), "must be an observation")]
)
def test_a_changed_goal_must_be_one(monkeypatch, returned, message):
    monkeypatch.setattr(Changing, "change_goal", lambda self, seed: returned)
    env = ForethoughtEnv(Changing(), "Changing-v0")
    env.reset(seed=0)
    with pytest.raises(EnvError, match=message):
        env.change_goal(3)


def test_a_goal_changes_in_a_running_episode_only_and_where_it_can():
    env = ForethoughtEnv(Changing(), "Changing-v0")
    with pytest.raises(EnvError, match="needs a running episode"):
        env.change_goal(0)
    env = make(goals={0: np.zeros(2)})
    with pytest.raises(EnvError, match=r"Counter-v0 cannot change its goal .* it has no method change_goal\(seed\)"):
        env.change_goal(0)


# -- limits of actions -------------------------------------------------------------------------------------------------


class Limited(Counter):
    action_rate = 3.0
    action_acceleration = np.float32([[1, 2], [3, 4]])


def test_limits_are_those_that_the_environment_states():
    spec = ForethoughtEnv(Limited(), "Limited-v0").env_spec
    assert spec.action_rate == (3.0,) * 4
    assert spec.action_acceleration == (1.0, 2.0, 3.0, 4.0)
    assert make().env_spec.action_rate is None


def test_options_go_before_what_the_environment_states():
    options = EnvOptions(action_rate=[5.0, 6.0, 7.0, 8.0], action_acceleration=[9.0])
    spec = ForethoughtEnv(Limited(), "Limited-v0", options).env_spec
    assert spec.action_rate == (5.0, 6.0, 7.0, 8.0)
    assert spec.action_acceleration == (9.0,) * 4


@pytest.mark.parametrize("name", ["action_rate", "action_acceleration"])
@pytest.mark.parametrize("value", [[0.0], [-1.0], [math.inf], [math.nan], [True], ["fast"], 3.0])
def test_bad_limits_are_refused(name, value):
    with pytest.raises(EnvError, match=f"{name} must be a list of positive finite numbers"):
        ForethoughtEnv(Counter(), "Counter-v0", EnvOptions(**{name: value}))


def test_limits_are_one_or_one_for_each_action():
    with pytest.raises(EnvError, match=r"action_rate must be one number or one for each of 4 actions, got"):
        ForethoughtEnv(Counter(), "Counter-v0", EnvOptions(action_rate=[1.0, 2.0]))
