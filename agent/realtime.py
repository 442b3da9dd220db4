"""Driving a robot in wall-clock time: a decision in every control period, and a safe one where it cannot be trusted."""

import gc
import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from .. import UnknownNameError
from .agent import Agent
from .limits import ActionLimits, Motion
from .memory.store import Episode
from .thinking import (
    REASONS,
    Array,
    AtOnce,
    Decision,
    DriveError,
    Mind,
    Obs,
    Pace,
    Robot,
    ThinkAhead,
    Thinker,
    ThinkingThread,
    prioritised,
    undisturbed,
)
from .training.probing import latents_of

FALLBACKS = ("brake", "hold")


@dataclass
class DriveOptions:
    """How a robot is driven."""

    steps: int = 1000
    """Decisions to drive for, over as many episodes as that takes."""
    ahead: bool = False
    """Think ahead: what is sent at the very start of a period is decided during the one before, for where the robot is
    expected to be by then. Otherwise a command is sent as soon as it is decided."""
    coast: int = 3
    """With `ahead`, periods in a row for which the last plan is followed while no decision is there in time, before the
    robot falls back."""
    latency_s: float | None = None
    """With `ahead`, seconds that a command takes to the robot and what comes of it back, together; None for what a
    simulated link says, and none elsewhere."""
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
        if self.coast < 0:
            raise DriveError(f"coast must be at least 0, got {self.coast}")
        if self.latency_s is not None and not 0 <= self.latency_s < math.inf:
            raise DriveError(f"latency_s must be a finite number of at least 0, got {self.latency_s}")
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
        decision_s: seconds from the observation to the decision; None where there was none.
        sent_s: seconds from the start of the period to the command.
        late: whether the decision was not there when it was needed.
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
    decision_s: float | None
    iterations: int | None
    cost: float | None
    surprise: float | None
    sent_s: float = 0.0
    late: bool = False
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
    steps: int = 0
    decision_s: list[float] = field(default_factory=list)
    sent_s: list[float] = field(default_factory=list)
    behind_s: list[float] = field(default_factory=list)
    surprise: list[float] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)
    fallbacks: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    overruns: int = 0
    late: int = 0
    limited: int = 0
    lengths: list[int] = field(default_factory=list)
    successes: list[bool] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)

    def hear(self, decision: Decision) -> None:
        """Count one decision, followed or not."""
        self.decision_s.append(decision.decision_s)
        if decision.error is not None:
            self.errors[decision.error] += 1
        if decision.surprise is not None:
            self.surprise.append(decision.surprise)
        if decision.iterations is not None:
            self.iterations.append(decision.iterations)

    def add(self, tick: Tick, limited: bool) -> None:
        """Count one command."""
        self.steps += 1
        self.sent_s.append(tick.sent_s)
        self.behind_s.append(tick.behind_s)
        self.overruns += tick.overrun
        self.late += tick.late
        self.limited += limited
        if tick.fallback is not None:
            self.fallbacks[tick.fallback] += 1

    def summary(self) -> dict[str, Any]:
        """Everything as plain JSON values; times in milliseconds."""
        return {
            "steps": self.steps,
            "period_ms": 1e3 * self.period_s,
            "deadline_ms": 1e3 * self.deadline_s,
            "decision_ms": _quantiles(1e3 * np.asarray(self.decision_s)),
            "late": self.late,
            "sent_ms": _quantiles(1e3 * np.asarray(self.sent_s)),
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


def _command(motion: Motion) -> Array:
    """What is sent `[A]`, float32."""
    return motion.action.float().numpy()


class Driver:
    """Drives one robot with an agent, a command per control period.

    Whatever the agent says, a command is sent: inside its bounds, within the limits of the spec, and the fallback where
    the decision failed, came late, or was made by an agent that the world surprises.

    Args:
        agent: decides; its own limits should be those of the robot, so that it plans with them.
        robot: in wall-clock time.
        options: steps, deadline, fallback.
        usual: error of prediction that is usual, see `usual_error`; None without `options.surprise`.
        thinker: thinks ahead, with `options.ahead`; None for a thread.

    Raises:
        DriveError: surprise is to be told without knowing what is usual.
    """

    def __init__(
        self,
        agent: Agent,
        robot: Robot,
        options: DriveOptions,
        usual: float | None = None,
        thinker: Callable[[Mind], Thinker] | None = None,
    ) -> None:
        if options.surprise and not usual:
            raise DriveError(f"surprise needs the usual error of prediction, from episodes in memory, got {usual}")
        self.robot, self.options = robot, options
        self._mind = Mind(agent, usual or 1.0, robot.env_spec.max_episode_steps)
        self._make_thinker = thinker
        self._deadline_s = options.deadline_share * robot.period_s
        spec = robot.env_spec
        unlimited = replace(spec, action_rate=(math.inf,) * spec.action_dim, action_acceleration=None)
        limits = ActionLimits.of(spec, robot.period_s) or ActionLimits.of(unlimited, robot.period_s)
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

        Raises:
            DriveError: what thinks ahead has come to an end.
        """
        drive = Drive(self.robot.period_s, self._deadline_s)
        with prioritised(self.options.priority):
            pass  # if it is not allowed, that is said before anything else begins
        with closing(self._pace()) as pace, undisturbed(), prioritised(self.options.priority):
            while drive.steps < self.options.steps:
                self._episode(drive, pace, on_tick)
                gc.collect()
                if on_episode is not None:
                    on_episode(drive)
        return drive

    def _pace(self) -> Pace:
        options, robot = self.options, self.robot
        if not options.ahead:
            return AtOnce(self._mind, robot, self._deadline_s)
        make = self._make_thinker or (lambda mind: ThinkingThread(mind, robot, self._deadline_s, options.priority))
        latency_s = robot.latency_s if options.latency_s is None else options.latency_s
        rest = _command(self._limits.rest())
        return ThinkAhead(make(self._mind), robot, rest, round(latency_s / robot.period_s), options.coast)

    def _episode(self, drive: Drive, pace: Pace, on_tick: Callable[[Tick], None] | None) -> None:
        number = len(drive.lengths)
        obs, info = self.robot.reset(seed=self.options.seed + number)
        motion, surprised, crowded = self._limits.rest(), 0, False
        length, total, over, success = 0, 0.0, False, False
        try:
            pace.begin(drive.steps, info.get("goal"))
            while not over and not success and drive.steps < self.options.steps:
                tick = Tick(
                    drive.steps, self.robot.time_s, number, obs, None, np.zeros(0), None, None, None, None, None
                )
                decision, made = pace.decision(tick.tick, obs)
                for each in made:
                    drive.hear(each)
                    surprised = surprised + 1 if self._is_surprised(each) else 0
                reason = decision.fallback
                if reason is None and surprised >= self.options.surprise_ticks:
                    reason = "surprise"
                if crowded:
                    # Whatever is ready: the command before, which came late, is to be in force for a period.
                    reason = "overrun"
                asked = None if decision.actions is None else decision.actions[0]
                motion, limited = self._next(asked, reason, motion)
                tick.asked, tick.fallback, tick.command, tick.late = asked, reason, _command(motion), decision.late
                tick.iterations, tick.cost, tick.surprise = decision.iterations, decision.cost, decision.surprise
                tick.decision_s = decision.decision_s if decision in made else None
                pace.commit(tick.tick, obs, tick.command)
                tick.sent_s = self.robot.elapsed_s
                obs, reward, terminated, truncated, info = self.robot.step(tick.command)
                over, success = terminated or truncated, bool(info["success"])
                tick.reward, tick.success = reward, success
                tick.overrun, tick.behind_s = bool(info["overrun"]), float(info["behind_s"])
                crowded = tick.overrun and self.options.ahead
                tick.observation_age = info.get("observation_age")
                length, total = length + 1, total + reward
                drive.add(tick, limited)
                if on_tick is not None:
                    on_tick(tick)
        except BaseException:
            with suppress(Exception):  # it may have come in the middle of a step
                self._stop(motion)
            raise
        if not over:
            self._stop(motion)
        if over or success:
            drive.lengths.append(length)
            drive.successes.append(success)
            drive.returns.append(total)

    def _next(self, asked: Array | None, reason: str | None, motion: Motion) -> tuple[Motion, bool]:
        """How commands go on, and whether limits held back what was asked for."""
        if reason is None:
            wanted = torch.as_tensor(asked)
            motion = self._limits.nearest(wanted, motion)
            return motion, bool(((motion.action - wanted).abs() > self._tolerance).any())
        hold = reason == "overrun" or self.options.fallback == "hold"
        wanted = motion.action if hold else self._limits.rest().action
        return self._limits.toward(wanted, motion), False

    def _is_surprised(self, decision: Decision) -> bool:
        if not self.options.surprise:
            return False
        return decision.surprise is not None and not decision.surprise <= self.options.surprise

    def _stop(self, motion: Motion) -> None:
        """Bring the robot to rest as fast as the limits allow."""
        rest = self._limits.rest().action
        while True:
            before, motion = motion, self._limits.toward(rest, motion)
            left = torch.maximum((motion.action - rest).abs(), (before.action - rest).abs())
            if bool((left <= self._tolerance).all()):  # and would stay there
                return
            _, _, terminated, truncated, _ = self.robot.step(_command(motion))
            if terminated or truncated:
                return
