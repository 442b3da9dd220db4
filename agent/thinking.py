"""Who decides for which control period, and when it is thought about: at once, or ahead of the period."""

import gc
import math
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from .. import ForethoughtError
from ..envs.spec import EnvSpec
from .agent import Agent

Array = NDArray[Any]
Obs = Mapping[str, Array]

REASONS = ("error", "not_finite", "late", "surprise", "overrun")
"""Why a decision was replaced: the agent raised; its action or the cost of its plan is not finite; it was not there in
time; the world does not do what is predicted; the command before has only just been sent."""


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

    @property
    def latency_s(self) -> float:
        """Seconds that a command takes to the robot and what comes of it back, as far as is known."""
        ...

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; its first period begins when this returns."""
        ...

    def step(self, action: Array) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Send an action `[A]` now; returns at the end of the period, with `overrun` and `behind_s` in `info`."""
        ...


@dataclass(frozen=True, eq=False)
class Decision:
    """What the agent decided for one period.

    Args:
        number: of the period, counted over the whole drive.
        actions: what it wants `[n, A]`: the action of that period, and those that its plan goes on with; None where it
            failed.
        fallback: why it is not to be followed, one of `REASONS`; None if it is.
        late: whether it was not there when it was needed.
        error: what the agent raised.
        decision_s: seconds from the observation until it was there.
        iterations: of the plan; None without one.
        cost: of the plan.
        surprise: see `Tick`.
    """

    number: int
    actions: Array | None = None
    fallback: str | None = None
    late: bool = False
    error: str | None = None
    decision_s: float = 0.0
    iterations: int | None = None
    cost: float | None = None
    surprise: float | None = None


class Mind:
    """An agent in the course of an episode; when it fails, it starts anew.

    Args:
        agent: decides.
        usual: error of prediction that is usual, see `usual_error`.
        limit: decisions after which an episode ends; None where nothing limits them.
    """

    def __init__(self, agent: Agent, usual: float = 1.0, limit: int | None = None) -> None:
        self._agent, self._usual, self._limit = agent, usual, limit
        self.begin(None)

    def begin(self, goal: Obs | None, first: int = 0) -> None:
        """Start an episode with period `first`, and with a goal as the environment states it; None without one."""
        self._carry, self._first = self._agent.init(1), first
        self._heard: Tensor | None = None
        self._goal: Tensor | None = None
        if goal is not None and self._agent.model.purpose == "goal":
            self._goal = self._agent.embed_goal({k: v[None] for k, v in goal.items()})

    def hear(self, action: Array) -> None:
        """The action `[A]` that led to what is seen next: what was done, whatever was planned."""
        done = torch.as_tensor(action, dtype=torch.float32, device=self._agent.device).unsqueeze(0)
        self._carry, self._heard = replace(self._carry, action=done, before=self._heard), done

    def see(self, obs: Obs) -> None:
        """Go on by a period without a decision."""
        agent, carry = self._agent, self._carry
        try:
            self._carry = replace(agent.perceive(_batched(obs), carry), age=carry.age + (carry.plan is not None))
        except Exception:
            self._carry = agent.init(1)

    def decide(self, number: int, obs: Obs, left_s: float, committed: Array | None = None) -> Decision:
        """What to do in period `number`.

        Args:
            number: see `Decision`.
            obs: what is seen.
            left_s: seconds to plan for.
            committed: commands `[D, A]` that are done before, see `Agent.act`.
        """
        agent, carry, surprise = self._agent, self._carry, None
        try:
            before = None if committed is None else torch.as_tensor(committed, device=agent.device).float()[None]
            action, after, plan = agent.act(
                _batched(obs), carry, self._goal, max(left_s, 1e-6), self._left(number), before
            )
            if carry.latent is not None and carry.action is not None and after.latent is not None:
                _, error = agent.adapt(carry.correction, carry.latent, carry.action, after.latent)
                surprise = float(torch.linalg.vector_norm(error.float())) / self._usual
        except Exception as error:
            # Whatever it was: a robot that moves must get a command, and nothing of what may have caused it goes on.
            self._carry = agent.init(1)
            return Decision(number, fallback="error", error=f"{type(error).__name__}: {error}")
        iterations, cost = (None, None) if plan is None else (plan.iterations_run, float(plan.cost[0]))
        actions = action if after.plan is None else torch.cat([action, after.plan[0, after.age : after.horizon]])
        if not bool(actions.isfinite().all()) or (cost is not None and not math.isfinite(cost)):
            self._carry = agent.init(1)
            return Decision(number, None, "not_finite", iterations=iterations, cost=cost, surprise=surprise)
        self._carry = after
        wanted = actions.double().cpu().numpy()
        return Decision(number, wanted, iterations=iterations, cost=cost, surprise=surprise)

    def _left(self, number: int) -> Tensor | None:
        """Decisions left in the episode `[1]`, that for period `number` included."""
        if self._limit is None:
            return None
        return torch.tensor([max(1, self._limit - (number - self._first))], device=self._agent.device)


def _batched(obs: Obs) -> dict[str, Array]:
    return {k: v[None] for k, v in obs.items()}


class Pace(Protocol):
    """When is thought about what: where the decision for a period comes from."""

    def begin(self, number: int, goal: Obs | None) -> None:
        """An episode starts with period `number`."""
        ...

    def decision(self, number: int, obs: Obs) -> tuple[Decision, Sequence[Decision]]:
        """The decision for the period that begins with `obs`, and all that were made since this was last asked."""
        ...

    def commit(self, number: int, obs: Obs, command: Array) -> None:
        """The command `[A]` of that period is certain, and about to be sent."""
        ...

    def close(self) -> None:
        """The drive is over."""
        ...


class AtOnce(Pace):
    """Thinks when it is asked, while the robot waits.

    Args:
        mind: decides.
        robot: whose clock it goes by.
        deadline_s: seconds after the start of a period at which a plan has to be there.
    """

    def __init__(self, mind: Mind, robot: Robot, deadline_s: float) -> None:
        self._mind, self._robot, self._deadline_s = mind, robot, deadline_s

    @override
    def begin(self, number: int, goal: Obs | None) -> None:
        self._mind.begin(goal, number)

    @override
    def decision(self, number: int, obs: Obs) -> tuple[Decision, Sequence[Decision]]:
        began_s = self._robot.elapsed_s
        decision = self._mind.decide(number, obs, self._deadline_s - began_s)
        over_s = self._robot.elapsed_s
        late = over_s > self._robot.period_s
        fallback = "late" if late and decision.fallback is None else decision.fallback
        decision = replace(decision, fallback=fallback, late=late, decision_s=over_s - began_s)
        return decision, [decision]

    @override
    def commit(self, number: int, obs: Obs, command: Array) -> None:
        self._mind.hear(command)

    @override
    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Start:
    """An episode starts with period `first`, toward a goal as the environment states it."""

    goal: Obs | None
    first: int


@dataclass(frozen=True)
class Question:
    """What to do in a period to come.

    Args:
        number: of that period, see `Decision`.
        obs: newest.
        done: the command `[A]` that led to it.
        committed: those `[D, A]` that are done between it and that period.
        began_s: when it was seen, by the clock of the robot.
    """

    number: int
    obs: Obs
    done: Array
    committed: Array
    began_s: float


class Thinker(Protocol):
    """Thinks about the next command while the one before is under way."""

    def tell(self, message: Start | Question) -> None:
        """Returns at once."""
        ...

    def decisions(self) -> list[Decision]:
        """Those that have come since the last time, in their order; returns at once.

        Raises:
            DriveError: there will be none any more.
        """
        ...

    def close(self) -> None:
        """Think no more."""
        ...


def think(
    mind: Mind,
    deadline_s: float,
    now: Callable[[], float],
    receive: Callable[[], Start | Question | None],
    waiting: Callable[[], bool],
    send: Callable[[Decision], None],
) -> None:
    """Answer questions until None comes instead; one that the next has overtaken is only heard.

    Args:
        mind: decides.
        deadline_s: seconds after an observation at which a plan has to be there.
        now: time by the clock of `Question.began_s`.
        receive: the next message; waits for it.
        waiting: whether there is one.
        send: takes a decision.
    """
    while (message := receive()) is not None:
        if isinstance(message, Start):
            mind.begin(message.goal, message.first)
            continue
        mind.hear(message.done)
        if waiting():
            mind.see(message.obs)
            continue
        left_s = message.began_s + deadline_s - now()
        decision = mind.decide(message.number, message.obs, left_s, message.committed)
        send(replace(decision, decision_s=now() - message.began_s))


class ThinkingThread(Thinker):
    """Thinks on a thread of its own.

    Args:
        mind: decides; used by that thread alone from now on.
        robot: whose clock it goes by.
        deadline_s: see `think`.
        priority: real-time priority of the thread that sends commands; this one has a lower one.
    """

    def __init__(self, mind: Mind, robot: Robot, deadline_s: float, priority: int = 0) -> None:
        self._mind, self._robot, self._deadline_s, self._priority = mind, robot, deadline_s, priority
        self._messages: SimpleQueue[Start | Question | None] = SimpleQueue()
        self._decisions: SimpleQueue[Decision] = SimpleQueue()
        self._failure: BaseException | None = None
        self._interval_s = sys.getswitchinterval()
        # Else a command would wait for up to 5 ms until Python lets the other thread go on.
        sys.setswitchinterval(_SWITCH_S)
        self._thread = Thread(target=self._run, name="forethought-thinker", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            torch.set_flush_denormal(True)  # a setting of each thread
            with prioritised(lower(self._priority)):
                think(
                    self._mind, self._deadline_s, lambda: self._robot.time_s, self._messages.get,
                    lambda: not self._messages.empty(), self._decisions.put,
                )  # fmt: skip
        except BaseException as error:
            self._failure = error

    @override
    def tell(self, message: Start | Question) -> None:
        self._messages.put(message)

    @override
    def decisions(self) -> list[Decision]:
        if self._failure is not None:
            raise DriveError(f"thinking ended with {type(self._failure).__name__}: {self._failure}") from self._failure
        found = []
        while not self._decisions.empty():
            found.append(self._decisions.get())
        return found

    @override
    def close(self) -> None:
        self._messages.put(None)
        self._thread.join()
        sys.setswitchinterval(self._interval_s)


_SWITCH_S = 2e-4
"""Seconds after which Python asks a thread that computes to let another go on."""


class ThinkingProcess(Thinker):
    """Thinks in a process of its own, which nothing but messages ties to the one that sends commands.

    A thread holds the interpreter while it thinks: where the processor is taken from it, the thread that sends waits
    for it, too. A process is loaded once, for seconds, and takes memory of its own. It ends when this one does.

    Args:
        make: makes what thinks, over there; must be picklable, as a function of a module with its arguments is.
        robot: whose clock it goes by.
        deadline_s: see `think`.
        priority: see `ThinkingThread`.

    Raises:
        DriveError: it ended before it could think.
    """

    def __init__(self, make: Callable[[], Mind], robot: Robot, deadline_s: float, priority: int = 0) -> None:
        context = multiprocessing.get_context("spawn")
        self._robot, self._priority = robot, priority
        self._link, theirs = context.Pipe()
        arguments = (make, deadline_s, lower(priority), theirs)
        self._process = context.Process(target=_think_apart, args=arguments, name="forethought-thinker", daemon=True)
        self._process.start()
        theirs.close()
        self._messages: SimpleQueue[Start | Question | None] = SimpleQueue()
        # A pipe that is full, as when nobody reads it, makes whoever sends wait.
        self._feeder = Thread(target=self._feed, name="forethought-feeder", daemon=True)
        try:
            self._link.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        self._feeder.start()

    def _feed(self) -> None:
        with suppress(OSError), prioritised(self._priority):
            while True:
                message = self._messages.get()
                self._link.send(message)
                if message is None:
                    return

    def _ended(self) -> DriveError:
        self._process.join(_PATIENCE_S)
        return DriveError(f"the process that thinks has ended with exit code {self._process.exitcode}")

    @override
    def tell(self, message: Start | Question) -> None:
        if isinstance(message, Question):
            # By a clock that both processes have.
            message = replace(message, began_s=perf_counter() - (self._robot.time_s - message.began_s))
        self._messages.put(message)

    @override
    def decisions(self) -> list[Decision]:
        found = list[Decision]()
        try:
            while self._link.poll():
                found.append(self._link.recv())
        except (EOFError, OSError):
            raise self._ended() from None
        return found

    @override
    def close(self) -> None:
        self._messages.put(None)
        self._process.join(_PATIENCE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._link.close()


_PATIENCE_S = 2.0
"""Seconds that a process has to end by itself."""


def _think_apart(make: Callable[[], Mind], deadline_s: float, priority: int, link: Connection) -> None:
    """What runs in the process of `ThinkingProcess`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who brings the robot to rest, and ends this, too
    mind = make()

    def receive() -> Start | Question | None:
        message: Start | Question | None = link.recv()
        return message

    with suppress(EOFError, OSError), undisturbed(), prioritised(priority):
        link.send(None)  # is ready
        think(mind, deadline_s, perf_counter, receive, link.poll, link.send)


def lower(priority: int) -> int:
    """A real-time priority below that one, where there is one."""
    return max(priority - 1, min(priority, 1))


class ThinkAhead(Pace):
    """Has the command of a period thought out during the one before, so that it can be sent when the period begins.

    The delay is made up for by prediction: the plan starts where the commands that are certain by then lead to (R.
    Findeisen and F. Allgöwer, "Computational delay in nonlinear model predictive control", 2004). Where a decision is
    late, the plan of the one before, which was made for this, too, is followed for some periods.

    Args:
        thinker: thinks.
        robot: whose clock it goes by.
        rest: command `[A]` of a robot at rest, as it is when an episode starts.
        under_way: commands that are on the way at any time, beside the one of the period.
        coast: periods for which a plan is followed beyond its own.
    """

    def __init__(self, thinker: Thinker, robot: Robot, rest: Array, under_way: int, coast: int) -> None:
        self._thinker, self._robot, self._rest, self._coast = thinker, robot, rest, coast
        self._sent: deque[Array] = deque(maxlen=under_way + 2)
        self._newest = Decision(-1)

    @override
    def begin(self, number: int, goal: Obs | None) -> None:
        self._thinker.tell(Start(goal, number))
        self._sent.extend([self._rest] * (self._sent.maxlen or 0))
        # Nothing can be decided before something was seen.
        self._newest = Decision(number, self._rest[None])

    @override
    def decision(self, number: int, obs: Obs) -> tuple[Decision, Sequence[Decision]]:
        # What was asked in the episode before may still come.
        made = [decision for decision in self._thinker.decisions() if decision.number > self._newest.number]
        self._newest = made[-1] if made else self._newest
        newest, age = self._newest, number - self._newest.number
        if age == 0:
            return newest, made
        if newest.actions is None or age > self._coast or age >= len(newest.actions):
            return Decision(number, fallback="late", late=True), made
        return Decision(number, newest.actions[age:], late=True), made

    @override
    def commit(self, number: int, obs: Obs, command: Array) -> None:
        self._sent.append(command)
        done, *committed = self._sent
        began_s = self._robot.time_s - self._robot.elapsed_s
        self._thinker.tell(Question(number + 1, obs, done, np.stack(committed), began_s))

    @override
    def close(self) -> None:
        self._thinker.close()


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
