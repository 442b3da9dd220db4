import math
import signal
import threading
import time

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from forethought import UnknownNameError
from forethought.envs.checks import EnvTimeoutError, Guard, check_array, check_options
from forethought.envs.spec import EnvError, EnvOptions
from forethought.envs.wrappers import ForethoughtEnv

GOOD_RESET = (np.zeros(3, np.float32), {})
GOOD_STEP = (np.zeros(3, np.float32), 0.0, False, False, {})


class Scripted(gymnasium.Env):
    """Returns what it is told to, or does it if that is a function."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, step=GOOD_STEP, reset=GOOD_RESET):
        self.script = {"step": step, "reset": reset}

    def reset(self, *, seed=None, options=None):
        return self._play("reset")

    def step(self, action):
        return self._play("step")

    def _play(self, name):
        return self.script[name]() if callable(self.script[name]) else self.script[name]


def started(step, **options):
    env = ForethoughtEnv(Scripted(step), "Fake-v0", EnvOptions(**options))
    env.reset()
    return env


def with_obs(obs):
    return (obs, *GOOD_STEP[1:])


def with_reward(reward):
    return (GOOD_STEP[0], reward, *GOOD_STEP[2:])


def fail():
    raise ZeroDivisionError("motor driver lost")


def hang_quietly():
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            time.sleep(0.01)
        except Exception:  # what a careless driver loop does
            continue
    return GOOD_STEP


BAD_STEPS = {
    "raises": (fail, r"at decision 1 of the episode raised ZeroDivisionError: motor driver lost"),
    "nan obs": (with_obs(np.array([0, np.nan, 0], np.float32)), r"'observation' must be finite.*nan at index \[1\]"),
    "inf obs": (with_obs(np.array([0, 0, -np.inf], np.float32)), r"finite.*-inf at index \[2\]"),
    "beyond float32": (with_obs(np.array([1e300, 0, 0])), r"finite in float32, got 1e\+300 at index \[0\]"),
    "obs shape": (with_obs(np.zeros((3, 1), np.float32)), r"shape \(3,\).*got \(3, 1\)"),
    "obs dtype": (with_obs(np.zeros(3, complex)), "dtype float32 as its space says, got complex128"),
    "obs of objects": (with_obs(None), r"shape \(3,\)"),
    "obs ragged": (with_obs([[1], [1, 2], 3]), "must be an array"),
    "nan reward": (with_reward(math.nan), "reward must be finite, got nan"),
    "reward array": (with_reward(np.zeros(1)), r"reward must be one number, got an array of shape \(1,\)"),
    "reward text": (with_reward("much"), "reward must be one number, got 'much'"),
    "reward None": (with_reward(None), "reward must be one number, got None"),
    "4-tuple": ((np.zeros(3), 0.0, False, {}), r"got a tuple of 4: .*before 0\.26"),
    "no tuple": (np.zeros(3), "must return .obs, reward, terminated, truncated, info., got an array"),
    "terminated": ((np.zeros(3), 0.0, 0.5, False, {}), "terminated must be a bool, got 0.5"),
    "truncated": ((np.zeros(3), 0.0, False, None, {}), "truncated must be a bool, got None"),
    "info": ((np.zeros(3), 0.0, False, False, None), "info must be a dict, got None"),
}


@pytest.mark.parametrize(("step", "message"), BAD_STEPS.values(), ids=BAD_STEPS.keys())
def test_a_bad_step_is_named_and_ends_the_episode(step, message):
    env = started(step)
    with pytest.raises(EnvError, match=f"^Fake-v0: step.*{message}"):
        env.step(np.zeros(2, np.float32))
    with pytest.raises(EnvError, match="needs a running episode"):
        env.step(np.zeros(2, np.float32))


@pytest.mark.parametrize("reset", [np.zeros(3), (np.zeros(3),), (np.zeros(3), None), (np.zeros(2), {}), fail])
def test_a_bad_reset_is_found_when_the_environment_is_made(reset):
    with pytest.raises(EnvError, match=r"^Fake-v0: reset\(\)"):
        ForethoughtEnv(Scripted(reset=reset), "Fake-v0")


def test_the_original_error_is_chained_and_the_decision_counted():
    steps = iter([GOOD_STEP, GOOD_STEP])
    env = started(lambda: next(steps))
    for _ in range(2):
        env.step(np.zeros(2, np.float32))
    with pytest.raises(EnvError, match="at decision 3") as caught:
        env.step(np.zeros(2, np.float32))
    assert isinstance(caught.value.__cause__, StopIteration)


@pytest.mark.parametrize(
    "obs", [np.zeros(3), [0, 1, 0], np.zeros(3, bool), np.zeros(3, np.int8), np.zeros(3, np.float16)]
)
def test_harmless_differences_of_dtype_are_accepted(obs):
    obs, *_ = started(with_obs(obs)).step(np.zeros(2, np.float32))
    assert obs["observation"].dtype == np.float32


def test_images_must_be_uint8_exactly():
    with pytest.raises(EnvError, match="dtype uint8"):
        check_array("camera", np.zeros((4, 4, 3), np.uint16), (4, 4, 3), np.dtype(np.uint8))
    with pytest.raises(EnvError, match="dtype int8"):
        check_array("switch", np.zeros(2), (2,), np.dtype(np.int8))


def test_keyboard_interrupt_is_not_an_environment_error():
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        started(interrupt).step(np.zeros(2, np.float32))


unix = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="interval timers are Unix")


@unix
def test_a_hanging_step_times_out_even_if_it_catches_every_exception():
    env = started(hang_quietly, step_timeout_s=0.1)
    with pytest.raises(EnvTimeoutError, match=r"Fake-v0: step\(\) at decision 1 .* longer than step_timeout_s=0.1 sec"):
        env.step(np.zeros(2, np.float32))
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@unix
def test_alarms_of_the_program_survive():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    try:
        mine = signal.getsignal(signal.SIGALRM)
        signal.setitimer(signal.ITIMER_REAL, 50.0)
        with pytest.raises(EnvTimeoutError):
            Guard("Fake-v0", 0.05).call("step", time.sleep, 10)
        assert signal.getsignal(signal.SIGALRM) is mine
        assert 40 < signal.getitimer(signal.ITIMER_REAL)[0] < 49.97
        # One that is due earlier is left alone, and rings during the call.
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        Guard("Fake-v0", 30).call("step", time.sleep, 0.1)
        assert rung == [1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@unix
def test_no_alarm_is_set_where_none_is_wanted_or_possible():
    def alarm():
        return signal.getitimer(signal.ITIMER_REAL)[0]

    assert Guard("Fake-v0", 30).call("step", alarm) > 0
    assert Guard("Fake-v0", 0).call("step", alarm) == 0
    seen = []
    thread = threading.Thread(target=lambda: seen.append(Guard("Fake-v0", 30).call("step", alarm)))
    thread.start()
    thread.join()
    assert seen == [0]


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("action_repeat", 0, "action_repeat must be an integer of at least 1, got 0"),
        ("action_repeat", 2.0, "action_repeat must be an integer of at least 1, got 2.0"),
        ("action_repeat", True, "action_repeat must be an integer"),
        ("max_episode_steps", 0, "max_episode_steps must be an integer of at least 1, got 0"),
        ("image_size", -64, "image_size must be an integer of at least 1, got -64"),
        ("frame_stack", 0, "frame_stack must be an integer of at least 1, got 0"),
        ("step_timeout_s", -1.0, "step_timeout_s must be a finite number .* got -1.0"),
        ("step_timeout_s", math.nan, "step_timeout_s must be a finite number .* got nan"),
        ("step_timeout_s", math.inf, "step_timeout_s must be a finite number .* got inf"),
        ("step_timeout_s", "1", "step_timeout_s must be a finite number .* got '1'"),
        ("kwargs", ["a"], "kwargs must be a dict"),
        ("kwargs", {1: 2}, "kwargs must be a dict with names as keys"),
    ],
)
def test_bad_options(name, value, rule):
    with pytest.raises(EnvError, match=rule):
        check_options(EnvOptions(**{name: value}))


def test_bad_observation_option_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown observation 'pixel': did you mean pixels"):
        check_options(EnvOptions(observation="pixel"))
