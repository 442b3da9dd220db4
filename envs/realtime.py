"""Wall-clock time: an environment whose decisions come at a control rate, as a robot's do."""

import math
import time
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from .gymnasium_adapter import AnyEnv, Obs
from .link import Link
from .spec import EnvError, EnvSpec
from .wrappers import ForethoughtEnv


class Clock(Protocol):
    """A clock that never goes back."""

    def now(self) -> float:
        """Seconds since some moment."""
        ...

    def sleep_until(self, moment_s: float) -> None:
        """Return at that moment of this clock or soon after; at once if it has passed."""
        ...


class WallClock(Clock):
    """The clock of the machine."""

    @override
    def now(self) -> float:
        return time.perf_counter()

    @override
    def sleep_until(self, moment_s: float) -> None:
        left = moment_s - self.now()
        if left > 0:
            time.sleep(left)


class RealTime(gymnasium.Wrapper[Obs, NDArray[np.float32], Any, Any]):
    """Steps an environment at its control rate: `step` sends the action at once and returns when the period is over.

    A period begins when its observation is returned. An action that comes when it is over is an overrun: it is sent at
    once, the robot has meanwhile held its last command, and the next period begins right after it, so that two periods
    never crowd. A simulated robot over a link is told how long each decision took and goes on for as long.

    Args:
        env: one robot, in Forethought's conventions.
        period_s: seconds per decision; None for the environment's own `control_dt`. A simulation may go faster or
            slower than its own time.
        clock: injected by tests.

    Raises:
        EnvError: the period is not positive, or the environment does not say one.
    """

    def __init__(self, env: ForethoughtEnv, period_s: float | None = None, clock: Clock | None = None) -> None:
        super().__init__(env)
        self.env_spec: EnvSpec = env.env_spec
        self.period_s = env.env_spec.control_dt if period_s is None else period_s
        if not 0 < self.period_s < math.inf:
            raise EnvError(
                f"period_s must be positive, as seconds per decision or as dt of the environment, got {self.period_s}"
            )
        self._clock = clock or WallClock()
        self._link = find_link(env)
        self._made = self._began = self._clock.now()
        self.overruns = 0

    @property
    def time_s(self) -> float:
        """Seconds since this was made."""
        return self._clock.now() - self._made

    @property
    def elapsed_s(self) -> float:
        """Seconds since the running period began."""
        return self._clock.now() - self._began

    @property
    def latency_s(self) -> float:
        """Seconds that a command takes over a simulated link and what comes of it back; 0 without one."""
        return 0.0 if self._link is None else self._link.latency_s * self.period_s / self._link.period_s

    @override
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Start an episode, however long that takes; its first period begins when it is done."""
        result = self.env.reset(seed=seed, options=options)
        self._began = self._clock.now()
        return result

    @override
    def step(self, action: NDArray[np.float32]) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Send an action `[A]` and wait for the end of the period.

        Adds to `info` whether the action came too late (`overrun`), and by how many seconds the environment itself took
        longer than what was left of the period (`behind_s`).
        """
        thought_s = self.elapsed_s
        overrun = thought_s > self.period_s
        self.overruns += overrun
        if self._link is not None:
            # In the time of the simulation, which may not be that of the clock.
            self._link.decided_after(thought_s * self._link.period_s / self.period_s)
        obs, reward, terminated, truncated, info = self.env.step(action)
        end = self._began + self.period_s
        if overrun:
            self._began = self._clock.now()
        else:
            self._clock.sleep_until(end)
            self._began = end
        behind_s = 0.0 if overrun else max(0.0, self._clock.now() - end)
        return obs, float(reward), terminated, truncated, {**info, "overrun": overrun, "behind_s": behind_s}


def find_link(env: AnyEnv) -> Link | None:
    """The link among the wrappers of an environment; None if there is none."""
    inner: Any = env
    while isinstance(inner, gymnasium.Wrapper):
        if isinstance(inner, Link):
            return inner
        inner = inner.env
    return None
