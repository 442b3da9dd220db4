"""An environment in wall-clock time, on a clock that tests turn."""

import math

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from forethought.envs.link import Link
from forethought.envs.realtime import Clock, RealTime, WallClock, find_link
from forethought.envs.registry import make_env
from forethought.envs.spec import EnvError, EnvOptions, LinkOptions
from forethought.envs.wrappers import ForethoughtEnv

ACTION = np.float32([0.5])


class FakeClock(Clock):
    """Goes on when it is told to, and oversleeps by `lag`."""

    def __init__(self, lag=0.0):
        self.time, self.lag, self.slept = 100.0, lag, []

    def now(self):
        return self.time

    def sleep_until(self, moment_s):
        self.slept.append(moment_s - self.time)
        if moment_s > self.time:
            self.time = moment_s + self.lag


class Motor(gymnasium.Env):
    """Takes `work_s` of the clock for a step."""

    dt = 0.1
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, clock=None, work_s=0.0):
        self.clock, self.work_s = clock, work_s

    def reset(self, *, seed=None, options=None):
        if self.clock:
            self.clock.time += 5.0  # a robot goes to where it starts
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if self.clock:
            self.clock.time += self.work_s
        return action, 1.0, False, False, {"from": "motor"}


def make(clock, period_s=None, work_s=0.0):
    env = ForethoughtEnv(Motor(clock, work_s), "Motor-v0", EnvOptions(max_episode_steps=50))
    robot = RealTime(env, period_s, clock)
    robot.reset(seed=0)
    return robot


def test_steps_come_at_the_control_rate():
    clock = FakeClock()
    robot = make(clock)
    began = clock.time
    for number in range(1, 6):
        clock.time += 0.03  # thinking
        obs, reward, _, _, info = robot.step(ACTION)
        assert clock.time == pytest.approx(began + 0.1 * number)
    assert clock.slept == pytest.approx([0.07] * 5)
    assert (obs["observation"].tolist(), reward) == ([0.5], 1.0)
    assert (info["from"], info["overrun"], info["behind_s"]) == ("motor", False, pytest.approx(0.0))
    assert robot.overruns == 0


def test_oversleeping_does_not_add_up():
    clock = FakeClock(lag=0.002)
    robot = make(clock)
    began = clock.time
    for _ in range(5):
        _, _, _, _, info = robot.step(ACTION)
    assert clock.time == pytest.approx(began + 0.5 + 0.002)
    assert robot.elapsed_s == pytest.approx(0.002)  # is missing for the next decision
    assert info["behind_s"] == pytest.approx(0.002)


def test_overruns_are_counted_and_the_next_period_is_a_whole_one():
    clock = FakeClock()
    robot = make(clock)
    clock.time += 0.13
    _, _, _, _, info = robot.step(ACTION)
    assert (info["overrun"], robot.overruns) == (True, 1)
    assert robot.elapsed_s == 0.0
    late = clock.time
    _, _, _, _, info = robot.step(ACTION)
    assert (info["overrun"], robot.overruns) == (False, 1)
    assert clock.time == pytest.approx(late + 0.1)


def test_a_slow_environment_is_told_from_a_slow_agent():
    clock = FakeClock()
    robot = make(clock, work_s=0.12)
    _, _, _, _, info = robot.step(ACTION)
    assert (info["overrun"], info["behind_s"]) == (False, pytest.approx(0.02))
    assert robot.elapsed_s == pytest.approx(0.02)


def test_the_period_can_be_another_than_that_of_the_environment():
    clock = FakeClock()
    robot = make(clock, period_s=0.01)
    began = clock.time
    robot.step(ACTION)
    assert clock.time == pytest.approx(began + 0.01)


def test_a_reset_takes_as_long_as_it_takes():
    clock = FakeClock()
    robot = make(clock)
    assert robot.elapsed_s == 0.0
    assert robot.time_s == pytest.approx(5.0)


@pytest.mark.parametrize("period_s", [0.0, -1.0, math.nan, math.inf])
def test_a_period_must_be_positive(period_s):
    with pytest.raises(EnvError, match=r"period_s must be positive.* got"):
        make(FakeClock(), period_s)


def test_an_environment_without_dt_needs_a_period():
    env = make_env("MountainCarContinuous-v0")
    with pytest.raises(EnvError, match="period_s must be positive"):
        RealTime(env)
    assert RealTime(env, 0.5).period_s == 0.5


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_a_simulated_robot_goes_on_while_the_agent_thinks(speed):
    """With the clock and a time of its own that is `speed` times as fast."""
    clock = FakeClock()
    told = []

    class Fine(Motor):
        dt = 0.01

        def step(self, action):
            told.append(float(action[0]))
            return super().step(action)

    # Even a perfect link: it is where the robot's time is kept.
    link = Link(Fine(), LinkOptions(), frames=10)
    robot = RealTime(ForethoughtEnv(link, "Fine-v0", EnvOptions(action_repeat=10)), 0.1 / speed, clock)
    robot.reset(seed=0)
    for value in (0.25, 0.5):
        clock.time += 0.03 / speed
        robot.step(np.float32([value]))
    assert told == [0.0] * 3 + [0.25] * 10 + [0.5] * 7
    clock.time += 0.15 / speed
    robot.step(np.float32([0.75]))
    assert told[20:] == [0.5] * 15


def test_the_link_is_found_among_the_wrappers():
    env = make_env("forethought/Reacher-v0", EnvOptions(link=LinkOptions(jitter=0.1)))
    assert isinstance(find_link(env), Link)
    assert find_link(make_env("forethought/Reacher-v0")) is None


def test_the_clock_of_the_machine_never_goes_back():
    clock = WallClock()
    before = clock.now()
    clock.sleep_until(before - 1.0)
    clock.sleep_until(before + 1e-4)
    assert clock.now() >= before + 1e-4
