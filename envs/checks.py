"""Guards around an environment: what it raises, how long it takes and what it returns.

A planning agent runs unattended for hours. An environment that hangs, returns NaN or an array of another shape must
stop it right there, with a message that says which environment, which call and which step: not as a strange loss later.
"""

import math
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn, ParamSpec, TypeVar

import numpy as np

from .. import UnknownNameError
from .spec import EnvError, EnvOptions, LinkOptions, ShiftOptions

P = ParamSpec("P")
T = TypeVar("T")

_OBSERVATIONS = ("state", "pixels", "both")
_FLOAT32_MAX = np.finfo(np.float32).max


class EnvTimeoutError(EnvError):
    """A reset or step of an environment took longer than `EnvOptions.step_timeout_s`."""


class _Alarm(BaseException):
    """Raised inside the hanging call; no `Exception`, so that an `except Exception` in there cannot swallow it."""


def check_options(options: EnvOptions) -> None:
    """Check values and types of options.

    Raises:
        EnvError: a value is out of its range or of another type; argument, rule and value are named.
        UnknownNameError: `observation` is not one of `state`, `pixels`, `both`.
    """
    for name in ("action_repeat", "image_size", "frame_stack"):
        _at_least_one(name, getattr(options, name))
    for name in ("max_episode_steps", "goal_ahead"):
        if getattr(options, name) is not None:
            _at_least_one(name, getattr(options, name))
    if options.observation not in _OBSERVATIONS:
        raise UnknownNameError("observation", str(options.observation), _OBSERVATIONS)
    if not isinstance(options.hide, list) or not all(isinstance(name, str) for name in options.hide):
        raise EnvError(f"hide must be a list of names of observations, got {options.hide!r}")
    if options.hide and options.observation == "pixels":
        raise EnvError(f"hide must be empty with observation='pixels', which shows pictures alone, got {options.hide}")
    timeout = options.step_timeout_s
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 <= timeout < math.inf:
        raise EnvError(f"step_timeout_s must be a finite number of seconds of at least 0, got {timeout!r}")
    if options.skill is not None and not isinstance(options.skill, str):
        raise EnvError(f"skill must be the folder of a run, got {options.skill!r}")
    if not isinstance(options.shift, ShiftOptions):
        raise EnvError(f"shift must be ShiftOptions, got {options.shift!r}")
    if not isinstance(options.link, LinkOptions):
        raise EnvError(f"link must be LinkOptions, got {options.link!r}")
    if options.observation != "state" and (options.link.observation_latency or options.link.observation_loss):
        raise EnvError(
            "link.observation_latency and link.observation_loss must be 0 where pictures are drawn, got "
            f"observation={options.observation!r}"
        )
    for name in ("action_rate", "action_acceleration"):
        check_limit(name, getattr(options, name))
    if not isinstance(options.kwargs, dict) or not all(isinstance(key, str) for key in options.kwargs):
        raise EnvError(f"kwargs must be a dict with names as keys, got {options.kwargs!r}")


def check_limit(name: str, value: object) -> None:
    """Check a limit of the actions: a list of positive finite numbers, which may be empty.

    Raises:
        EnvError: it is anything else.
    """
    numbers = isinstance(value, list) and all(isinstance(x, int | float) and not isinstance(x, bool) for x in value)
    if not isinstance(value, list) or not numbers or not all(0 < x < math.inf for x in value):
        raise EnvError(f"{name} must be a list of positive finite numbers, got {value!r}")


def _at_least_one(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise EnvError(f"{name} must be an integer of at least 1, got {value!r}")


class Guard:
    """Runs the calls of one environment; whatever goes wrong leaves as an `EnvError` that says where.

    The time limit uses the interval timer of Unix, which costs a few microseconds and can interrupt any Python code and
    any blocking system call in the main thread. Elsewhere (another thread, Windows) and inside compiled code that never
    returns to the interpreter there is no limit. An alarm that is due earlier, of an outer guard or of the program, is
    left in force; a later one is put back with the time it has left.

    Args:
        env_id: named in every message.
        timeout_s: seconds per call; 0 waits for ever.
    """

    def __init__(self, env_id: str, timeout_s: float) -> None:
        self.env_id = env_id
        self._timeout_s = timeout_s if hasattr(signal, "setitimer") else 0.0
        self._decision = 0

    def call(self, name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function`, which is known to the user as `name` (`reset` or `step`).

        Raises:
            EnvTimeoutError: it took too long.
            EnvError: it raised anything else; the original error is chained.
        """
        self._decision = 0 if name == "reset" else self._decision + 1
        try:
            if self._timeout_s and threading.current_thread() is threading.main_thread():
                return self._timed(function, *args, **kwargs)
            return function(*args, **kwargs)
        except _Alarm as alarm:
            raise EnvTimeoutError(
                f"{self._where(name)} took longer than step_timeout_s={self._timeout_s:g} seconds"
            ) from alarm
        except EnvError as error:
            raise EnvError(f"{self._where(name)}: {error}") from error
        except Exception as error:
            raise EnvError(f"{self._where(name)} raised {type(error).__name__}: {error}") from error

    def _where(self, name: str) -> str:
        return f"{self.env_id}: {name}()" + (f" at decision {self._decision} of the episode" if self._decision else "")

    def _timed(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        due, interval = signal.getitimer(signal.ITIMER_REAL)
        if 0 < due <= self._timeout_s:
            return function(*args, **kwargs)
        handler = signal.signal(signal.SIGALRM, _raise_alarm)
        started = time.monotonic() if due else 0.0
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, self._timeout_s)
                return function(*args, **kwargs)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.signal(signal.SIGALRM, handler)
            if due:
                left = max(due - (time.monotonic() - started), 1e-6)
                signal.setitimer(signal.ITIMER_REAL, left, interval)


def _raise_alarm(signum: int, frame: FrameType | None) -> NoReturn:
    raise _Alarm


def check_reset_result(result: object) -> tuple[Any, dict[str, Any]]:
    """The `(obs, info)` of a reset.

    Raises:
        EnvError: it is anything else.
    """
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        raise EnvError(f"must return (obs, info) with a dict as info, got {_describe(result)}")
    return result


def check_step_result(result: object) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """The `(obs, reward, terminated, truncated, info)` of a step, with plain Python numbers.

    Raises:
        EnvError: it is anything else, or the reward is not one finite number.
    """
    if not isinstance(result, tuple) or len(result) != 5:
        old = " (the Gym API before 0.26)" if isinstance(result, tuple) and len(result) == 4 else ""
        raise EnvError(f"must return (obs, reward, terminated, truncated, info), got {_describe(result)}{old}")
    obs, reward, terminated, truncated, info = result
    if not isinstance(reward, int | float | np.number | np.bool_) and np.shape(reward) != ():
        raise EnvError(f"the reward must be one number, got {_describe(reward)}")
    try:
        number = float(reward)
    except (TypeError, ValueError) as error:
        raise EnvError(f"the reward must be one number, got {_describe(reward)}") from error
    if not math.isfinite(number):
        raise EnvError(f"the reward must be finite, got {number}")
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(flag, bool | np.bool_):
            raise EnvError(f"{name} must be a bool, got {_describe(flag)}")
    if not isinstance(info, dict):
        raise EnvError(f"info must be a dict, got {_describe(info)}")
    return obs, number, bool(terminated), bool(truncated), info


def check_array(key: str, value: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """`value` as an array, checked against what the space says.

    Raises:
        EnvError: shape or dtype differ, or a number is NaN, infinite or beyond float32; key and index are named.
    """
    array = check_form(key, value, shape, dtype)
    # NaN compares as False with everything.
    if array.dtype.kind == "f" and not (np.abs(array) <= _FLOAT32_MAX).all():
        index = tuple(int(i) for i in np.argwhere(~(np.abs(array) <= _FLOAT32_MAX))[0])
        raise EnvError(f"observation {key!r} must be finite in float32, got {array[index]} at index {list(index)}")
    return array


def check_form(key: str, value: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """`value` as an array whose shape and dtype are checked against what the space says.

    A dtype may differ where numpy casts within a kind (`same_kind`): float64 for float32, bool or integers for floats;
    never floats for integers, and nothing but uint8 for images.

    Raises:
        EnvError: shape or dtype differ; the key is named.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:  # ragged lists
        raise EnvError(f"observation {key!r} must be an array: {error}") from error
    if array.shape != shape:
        raise EnvError(f"observation {key!r} must have shape {shape} as its space says, got {array.shape}")
    if array.dtype != dtype:
        image = dtype == np.uint8 and len(shape) == 3
        if image or not np.can_cast(array.dtype, dtype, casting="same_kind"):
            raise EnvError(f"observation {key!r} must have dtype {dtype} as its space says, got {array.dtype}")
    return array


def _describe(value: object) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}: ({', '.join(type(item).__name__ for item in value)})"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    return f"{value!r} of type {type(value).__name__}"
