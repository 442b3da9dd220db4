"""Driving a robot in wall-clock time: a decision in every control period, and a safe one where it cannot be trusted."""

import gc
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import ForethoughtError, UnknownNameError
from ..envs.spec import EnvSpec
from .agent import Agent, Carry
from .limits import ActionLimits, Motion
from .memory.store import Episode
from .training.probing import latents_of

Array = NDArray[Any]
Obs = Mapping[str, Array]

FALLBACKS = ("brake", "hold")
REASONS = ("error", "not_finite", "late", "surprise")
"""Why a decision was replaced: the agent raised; its action or the cost of its plan is not finite; the period was over;
the world does not do what is predicted."""


class DriveError(ForethoughtError):
    """Options of driving that are out of range."""


class Robot(Protocol):
    """What driving needs of an environment in wall-clock time (`envs.realtime.RealTime` is one)."""

    period_s: float

    @property
    def env_spec(self) -> EnvSpec:
        """The environment."""
        ...

    @property
    def time_s(self) -> float:
        """Seconds since some moment before the drive."""
        ...

    @property
    def elapsed_s(self) -> float:
        """Seconds since the running period began."""
        ...

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; its first period begins when this returns."""
        ...

    def step(self, action: Array) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Send an action `[A]` now; returns at the end of the period, with `overrun` and `behind_s` in `info`."""
        ...


@dataclass
class DriveOptions:
    """How a robot is driven."""

    steps: int = 1000
    """Decisions to drive for, over as many episodes as that takes."""
    deadline_share: float = 0.6
    """Share of the control period by which a plan has to be there; the best found until then is used."""
    fallback: str = "brake"
    """What is sent where a decision cannot be trusted: `brake` goes to rest (the action nearest to zero) as fast as the
    limits of the spec allow, `hold` sends the last command again."""
    surprise: float = 0.0
    """Error of prediction, in units of its 99 % quantile in the memory of the run, that counts as surprise; 0 never."""
    surprise_ticks: int = 3
    """Decisions in a row that must be surprised before the robot falls back, until one is not."""
    priority: int = 0
    """Real-time priority, 1 to 99, to ask the operating system for, so that other programs do not come in between
    (SCHED_FIFO of Linux, which has to permit it); 0 for none."""
    seed: int = 0
    """Of the episodes and of the planner's random draws."""

    def __post_init__(self) -> None:
        for name in ("steps", "surprise_ticks"):
            if getattr(self, name) < 1:
                raise DriveError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.deadline_share <= 1:
            raise DriveError(f"deadline_share must be above 0 and at most 1, got {self.deadline_share}")
        if self.fallback not in FALLBACKS:
            raise UnknownNameError("fallback", self.fallback, FALLBACKS)
        if not self.surprise >= 0:
            raise DriveError(f"surprise must be at least 0, got {self.surprise}")
        if not 0 <= self.priority <= 99:
            raise DriveError(f"priority must be between 0 and 99, got {self.priority}")
        if self.seed < 0:
            raise DriveError(f"seed must be at least 0, got {self.seed}")


@dataclass
class Tick:
    """One decision, as it is logged.

    Args:
        tick: number of the decision, from 0.
        time_s: when it began, seconds by the clock of the robot.
        episode: number of the episode, from 0.
        obs: what was seen.
        asked: the action that the agent wanted `[A]`; None where it had none.
        command: what was sent `[A]`.
        fallback: why it is not the agent's, one of `REASONS`; None if it is.
        decision_s: seconds from the observation to the command.
        iterations: of the plan; None without one.
        cost: of the plan.
        surprise: error of the last prediction, in units of its 99 % quantile in memory, or of the latents where that is
            unknown; None at the start of an episode.
        reward: what the step gave.
        success: whether the task was solved after it.
        overrun: whether the command came when the period was over.
        behind_s: seconds by which the environment was late for the next period.
        observation_age: seconds, where the robot is reached over a simulated link.
    """

    tick: int
    time_s: float
    episode: int
    obs: Obs
    asked: Array | None
    command: Array
    fallback: str | None
    decision_s: float
    iterations: int | None
    cost: float | None
    surprise: float | None
    reward: float = 0.0
    success: bool = False
    overrun: bool = False
    behind_s: float = 0.0
    observation_age: float | None = None


@dataclass
class Drive:
    """What became of a drive so far; an episode that was not over when the drive ended is in no list of episodes."""

    period_s: float
    deadline_s: float
    decision_s: list[float] = field(default_factory=list)
    behind_s: list[float] = field(default_factory=list)
    surprise: list[float] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)
    fallbacks: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    overruns: int = 0
    limited: int = 0
    lengths: list[int] = field(default_factory=list)
    successes: list[bool] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)

    def add(self, tick: Tick, limited: bool) -> None:
        """Count one decision."""
        self.decision_s.append(tick.decision_s)
        self.behind_s.append(tick.behind_s)
        self.overruns += tick.overrun
        self.limited += limited
        if tick.fallback is not None:
            self.fallbacks[tick.fallback] += 1
        if tick.surprise is not None:
            self.surprise.append(tick.surprise)
        if tick.iterations is not None:
            self.iterations.append(tick.iterations)

    def summary(self) -> dict[str, Any]:
        """Everything as plain JSON values; times in milliseconds."""
        return {
            "steps": len(self.decision_s),
            "period_ms": 1e3 * self.period_s,
            "deadline_ms": 1e3 * self.deadline_s,
            "decision_ms": _quantiles(1e3 * np.asarray(self.decision_s)),
            "overruns": self.overruns,
            "behind_ms": _quantiles(1e3 * np.asarray(self.behind_s)),
            "fallbacks": {reason: self.fallbacks[reason] for reason in REASONS},
            "errors": dict(self.errors),
            "limited": self.limited,
            "iterations": float(np.mean(self.iterations)) if self.iterations else None,
            "surprise": _quantiles(np.asarray(self.surprise)),
            "episodes": len(self.lengths),
            "successes": sum(self.successes),
            "success_rate": float(np.mean(self.successes)) if self.successes else None,
            "return_mean": float(np.mean(self.returns)) if self.returns else None,
            "steps_to_goal": _median([n for n, s in zip(self.lengths, self.successes, strict=True) if s]),
        }


def _quantiles(values: Array) -> dict[str, float] | None:
    if not len(values):
        return None
    p50, p99, p999 = np.quantile(values, (0.5, 0.99, 0.999)).tolist()
    return {"p50": p50, "p99": p99, "p99.9": p999, "max": float(values.max())}


def _median(values: Sequence[int]) -> float | None:
    return float(np.median(values)) if values else None


@torch.no_grad()
def usual_error(agent: Agent, episodes: Sequence[Episode], quantile: float = 0.99) -> float:
    """The quantile of the agent's errors of prediction, by their length in latent space, over episodes of its past."""
    lengths = []
    for episode in episodes:
        z = latents_of(agent, episode)
        _, error = agent.adapt(None, z[:-1], torch.as_tensor(episode.actions, device=agent.device), z[1:])
        lengths.append(torch.linalg.vector_norm(error.float(), dim=-1))
    return float(torch.cat(lengths).quantile(quantile))


class Driver:
    """Drives one robot with an agent, a decision per control period.

    Whatever the agent says, a command is sent: inside its bounds, within the limits of the spec, and the fallback where
    the decision failed, came late, or was made by an agent that the world surprises.

    Args:
        agent: decides; its own limits should be those of the robot, so that it plans with them.
        robot: in wall-clock time.
        options: steps, deadline, fallback.
        usual: error of prediction that is usual, see `usual_error`; None without `options.surprise`.

    Raises:
        DriveError: surprise is to be told without knowing what is usual.
    """

    def __init__(self, agent: Agent, robot: Robot, options: DriveOptions, usual: float | None = None) -> None:
        if options.surprise and not usual:
            raise DriveError(f"surprise needs the usual error of prediction, from episodes in memory, got {usual}")
        self.agent, self.robot, self.options = agent, robot, options
        self._usual = usual or 1.0
        spec = robot.env_spec
        # Of the robot's own time, where that is known: a simulation may be driven faster or slower.
        period_s = spec.control_dt if math.isfinite(spec.control_dt) else robot.period_s
        unlimited = replace(spec, action_rate=(math.inf,) * spec.action_dim, action_acceleration=None)
        limits = ActionLimits.of(spec, period_s) or ActionLimits.of(unlimited, period_s)
        assert limits is not None
        self._limits = limits
        # Changes that single precision cannot tell from none are not counted.
        self._tolerance = 1e-6 * (limits.high - limits.low)

    def run(
        self,
        on_tick: Callable[[Tick], None] | None = None,
        on_episode: Callable[[Drive], None] | None = None,
    ) -> Drive:
        """Drive for `options.steps` decisions; episodes end as the environment says, or at success.

        Where an episode ends without the environment's doing, also by Ctrl-C, the robot is brought to rest.

        Args:
            on_tick: is told every decision; should be quick.
            on_episode: called between episodes, where time does not matter.
        """
        drive = Drive(self.robot.period_s, self.options.deadline_share * self.robot.period_s)
        with undisturbed(), prioritised(self.options.priority):
            while len(drive.decision_s) < self.options.steps:
                self._episode(drive, on_tick)
                gc.collect()
                if on_episode is not None:
                    on_episode(drive)
        return drive

    def _episode(self, drive: Drive, on_tick: Callable[[Tick], None] | None) -> None:
        number = len(drive.lengths)
        obs, info = self.robot.reset(seed=self.options.seed + number)
        goal = self._goal(info)
        carry, motion, surprised = self.agent.init(1), self._limits.rest(), 0
        length, total, over, success = 0, 0.0, False, False
        limit = self.robot.env_spec.max_episode_steps
        try:
            while not over and not success and len(drive.decision_s) < self.options.steps:
                began_s, before = self.robot.elapsed_s, carry
                asked, carry, tick = self._decide(obs, carry, goal, drive, began_s, limit - length)
                surprised = surprised + 1 if self._is_surprised(tick) else 0
                if tick.fallback is None and surprised >= self.options.surprise_ticks:
                    tick.fallback = "surprise"
                if tick.fallback is None and self.robot.elapsed_s > self.robot.period_s:
                    tick.fallback = "late"
                if tick.fallback is None:
                    motion = self._limits.nearest(asked, motion)
                    limited = bool(((motion.action - asked).abs() > self._tolerance).any())
                else:
                    wanted = motion.action if self.options.fallback == "hold" else self._limits.rest().action
                    motion, limited = self._limits.toward(wanted, motion), False
                tick.command = motion.action.float().numpy()
                tick.episode, tick.decision_s = number, self.robot.elapsed_s - began_s
                obs, reward, terminated, truncated, info = self.robot.step(tick.command)
                # The belief must hear what was done, not what was planned.
                done = motion.action.float().unsqueeze(0).to(self.agent.device)
                carry = replace(carry, action=done, before=before.action)
                over, success = terminated or truncated, bool(info["success"])
                tick.reward, tick.success = reward, success
                tick.overrun, tick.behind_s = bool(info["overrun"]), float(info["behind_s"])
                tick.observation_age = info.get("observation_age")
                length, total = length + 1, total + reward
                drive.add(tick, limited)
                if on_tick is not None:
                    on_tick(tick)
        except KeyboardInterrupt:
            with suppress(Exception):  # it may have come in the middle of a step
                self._stop(motion)
            raise
        if not over:
            self._stop(motion)
        if over or success:
            drive.lengths.append(length)
            drive.successes.append(success)
            drive.returns.append(total)

    def _goal(self, info: Mapping[str, Any]) -> Tensor | None:
        if self.agent.model.purpose != "goal":
            return None
        return self.agent.embed_goal({k: v[None] for k, v in info["goal"].items()})

    def _decide(
        self, obs: Obs, carry: Carry, goal: Tensor | None, drive: Drive, elapsed_s: float, left: int
    ) -> tuple[Tensor, Carry, Tick]:
        """What the agent wants `[A]`, what it carries on, and the tick that says how it went."""
        tick = Tick(len(drive.decision_s), self.robot.time_s, 0, obs, None, np.zeros(0), None, 0.0, None, None, None)
        try:
            left_s = max(drive.deadline_s - elapsed_s, 1e-6)
            batch, time = {k: v[None] for k, v in obs.items()}, torch.tensor([left], device=self.agent.device)
            action, after, plan = self.agent.act(batch, carry, goal, left_s, time)
            if carry.latent is not None and carry.action is not None and after.latent is not None:
                _, error = self.agent.adapt(carry.correction, carry.latent, carry.action, after.latent)
                tick.surprise = float(torch.linalg.vector_norm(error.float())) / self._usual
        except Exception as error:
            # Whatever it was: a robot that moves must get a command.
            drive.errors[f"{type(error).__name__}: {error}"] += 1
            tick.fallback = "error"
            return self._limits.low, self._anew(carry), tick
        if plan is not None:
            tick.iterations, tick.cost = plan.iterations_run, float(plan.cost[0])
        if not bool(action.isfinite().all()) or (tick.cost is not None and not np.isfinite(tick.cost)):
            tick.fallback = "not_finite"
            return self._limits.low, self._anew(carry), tick
        asked = action[0].double().cpu()
        tick.asked = asked.numpy()
        return asked, after, tick

    def _anew(self, carry: Carry) -> Carry:
        """A fresh carry after a failure: nothing of what may have caused it goes on, but for what was done."""
        return replace(self.agent.init(1), action=carry.action, before=carry.before)

    def _is_surprised(self, tick: Tick) -> bool:
        if not self.options.surprise:
            return False
        return tick.surprise is not None and not tick.surprise <= self.options.surprise

    def _stop(self, motion: Motion) -> None:
        """Bring the robot to rest as fast as the limits allow."""
        rest = self._limits.rest().action
        while True:
            before, motion = motion, self._limits.toward(rest, motion)
            left = torch.maximum((motion.action - rest).abs(), (before.action - rest).abs())
            if bool((left <= self._tolerance).all()):  # and would stay there
                return
            _, _, terminated, truncated, _ = self.robot.step(motion.action.float().numpy())
            if terminated or truncated:
                return


@contextmanager
def undisturbed() -> Iterator[None]:
    """Without pauses of the garbage collector, which would otherwise look through all of PyTorch now and then."""
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


@contextmanager
def prioritised(priority: int) -> Iterator[None]:
    """Run with real-time priority; threads that are started meanwhile have it, too.

    Raises:
        DriveError: the operating system has no such thing or does not allow it.
    """
    if not priority:
        yield
        return
    if sys.platform != "linux":
        raise DriveError(f"priority needs Linux, got {priority} on {sys.platform}")
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        raise DriveError(
            f"priority={priority} is not allowed here ({error.strerror}): run as root, or raise rtprio in "
            "/etc/security/limits.conf"
        ) from error
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)
