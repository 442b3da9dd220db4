"""Driving: a command in every period, and a safe one where the agent cannot be trusted. The clock is turned by hand."""

import gc
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from forethought import UnknownNameError
from forethought.agent.agent import Agent, AgentOptions, Carry
from forethought.agent.limits import ActionLimits
from forethought.agent.objectives import GoalObjective, GoalOptions
from forethought.agent.realtime import (
    Drive,
    DriveError,
    DriveOptions,
    Driver,
    Tick,
    prioritised,
    undisturbed,
    usual_error,
)
from forethought.envs.realtime import RealTime
from forethought.envs.spec import EnvError, EnvOptions
from forethought.envs.wrappers import ForethoughtEnv
from forethought.planners import make_planner

NAN = float("nan")


@dataclass
class Clock:
    """Goes on when it is told to."""

    time: float = 50.0

    def now(self) -> float:
        return self.time

    def sleep_until(self, moment_s: float) -> None:
        self.time = max(self.time, moment_s)


class Arm(gymnasium.Env):
    """Keeps its commands; its place is their sum. Decision `solved` is a success, `breaks` raises."""

    dt = 0.1
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(np.float32([-1]), np.float32([2]))

    def __init__(self, solved: int | None = None, breaks: int | None = None) -> None:
        self.solved, self.breaks = solved, breaks
        self.commands: list[list[float]] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.commands.append([])
        self.place = np.zeros(1, np.float32)
        return self.place, {}

    def step(self, action: Any) -> Any:
        self.commands[-1].append(float(action[0]))
        number = len(self.commands[-1])
        if number == self.breaks:
            raise RuntimeError("a cable came off")
        self.place = self.place + action
        return self.place, -1.0, False, False, {"success": number == self.solved}


@dataclass
class Script:
    """An agent that says what it is told to, one entry per decision; it expects the place to stay as it is.

    An entry is an action, an exception to raise, or how long it thinks beside an action.
    """

    entries: list[Any]
    clock: Clock
    thinks_s: float = 0.02
    heard: list[Carry] = field(default_factory=list)
    deadlines: list[float | None] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    model: Any = field(default_factory=lambda: SimpleNamespace(purpose="reward"))
    device = torch.device("cpu")

    def init(self, batch_size: int) -> Carry:
        return Carry(planner="fresh")

    def act(
        self,
        obs: Any,
        carry: Carry,
        goal: Any,
        deadline_s: float | None = None,
        left: Any = None,
        committed: Any = None,
    ) -> Any:
        entry = self.entries[len(self.heard) % len(self.entries)]
        self.heard.append(carry)
        self.deadlines.append(deadline_s)
        self.left.append(int(left))
        value, thinks_s, cost = (*entry, 0.0)[:3] if isinstance(entry, tuple) else (entry, self.thinks_s, 0.0)
        self.clock.time += thinks_s
        if isinstance(value, Exception):
            raise value
        action = torch.tensor([[value]])
        plan = SimpleNamespace(iterations_run=2, cost=torch.tensor([cost]))
        return action, Carry(planner="used", latent=torch.as_tensor(obs["observation"]), action=action), plan

    def adapt(self, correction: Any, z: Tensor, action: Tensor, ahead: Tensor) -> Any:
        return None, ahead - z


def drive(
    entries: list[Any],
    *,
    options: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
    usual: float | None = None,
    arm: Arm | None = None,
    episode: int = 50,
) -> tuple[Drive, list[Tick], Arm, Script]:
    clock, arm = Clock(), arm or Arm()
    env = ForethoughtEnv(arm, "Arm-v0", EnvOptions(max_episode_steps=episode, **(limits or {})))
    arm.commands.clear()
    agent, ticks = Script(entries, clock), list[Tick]()
    driver = Driver(agent, RealTime(env, clock=clock), DriveOptions(**{"steps": 10, **(options or {})}), usual)  # type: ignore[arg-type]
    return driver.run(ticks.append), ticks, arm, agent


def test_what_the_agent_says_is_done() -> None:
    said = [0.1 * n for n in range(10)]
    done, ticks, arm, agent = drive(said)
    assert arm.commands[0][:10] == pytest.approx(said)
    assert [t.command[0] for t in ticks] == pytest.approx(said)
    assert {t.fallback for t in ticks} == {None}
    assert [t.decision_s for t in ticks] == pytest.approx([0.02] * 10)
    assert [t.time_s for t in ticks] == pytest.approx([0.1 * n for n in range(10)])
    assert done.summary() | {"surprise": None, "decision_ms": None} == {
        "steps": 10, "period_ms": 100.0, "deadline_ms": 60.0, "decision_ms": None, "late": 0, "overruns": 0,
        "sent_ms": pytest.approx({"p50": 20.0, "p99": 20.0, "p99.9": 20.0, "max": 20.0}),
        "behind_ms": {"p50": 0.0, "p99": 0.0, "p99.9": 0.0, "max": 0.0},
        "fallbacks": {"error": 0, "not_finite": 0, "late": 0, "surprise": 0, "overrun": 0}, "errors": {}, "limited": 0,
        "iterations": 2.0, "surprise": None, "episodes": 0, "successes": 0, "success_rate": None, "return_mean": None,
        "steps_to_goal": None,
    }  # fmt: skip
    # The belief hears what was done.
    assert [float(c.action) for c in agent.heard[1:]] == pytest.approx(said[:-1])  # type: ignore[arg-type]


def test_the_deadline_is_a_share_of_what_is_left_of_the_period() -> None:
    _, _, _, agent = drive([0.0], options={"deadline_share": 0.5, "steps": 2})
    assert agent.deadlines == pytest.approx([0.05, 0.05])


def test_the_agent_is_told_how_many_decisions_are_left() -> None:
    _, _, _, agent = drive([0.0], options={"steps": 5}, episode=3)
    assert agent.left == [3, 2, 1, 3, 2]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (ValueError("no way"), "error"),
        (NAN, "not_finite"),
        (float("inf"), "not_finite"),
        ((0.5, 0.02, float("inf")), "not_finite"),  # no candidate had a finite cost
        ((0.5, 0.11), "late"),
    ],
)
@pytest.mark.parametrize(("fallback", "command"), [("brake", 0.0), ("hold", 0.7)])
def test_a_decision_that_cannot_be_trusted_is_replaced(entry: Any, reason: str, fallback: str, command: float) -> None:
    done, ticks, arm, agent = drive([0.7, entry, 0.3], options={"fallback": fallback, "steps": 3})
    assert [t.fallback for t in ticks] == [None, reason, None]
    assert arm.commands[0][:3] == pytest.approx([0.7, command, 0.3])
    assert done.fallbacks == {reason: 1}
    assert done.overruns == (reason == "late")
    assert float(agent.heard[2].action) == pytest.approx(command)  # type: ignore[arg-type]
    if reason in ("error", "not_finite"):
        assert agent.heard[2].planner == "fresh"  # nothing of the failure goes on


def test_errors_are_told() -> None:
    done, _, _, _ = drive([ValueError("no way"), 0.1])
    assert done.errors == {"ValueError: no way": 5}


def test_overruns_are_counted() -> None:
    done, ticks, _, _ = drive([0.1, (0.1, 0.25)])
    assert done.overruns == 5
    assert [t.overrun for t in ticks] == [False, True] * 5
    assert done.summary()["decision_ms"]["max"] == pytest.approx(250.0)


def test_surprise_must_last_before_the_robot_falls_back() -> None:
    """The place moves by what is commanded, and the agent expects none of it."""
    said = [0.0, 0.5, 0.0, 0.5, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0]
    done, ticks, arm, _ = drive(said, options={"surprise": 2.0, "surprise_ticks": 2}, usual=0.1)
    # Surprised (0.5 is five times what is usual) one decision after each 0.5; the second in a row counts.
    assert [t.surprise for t in ticks[1:4]] == pytest.approx([0.0, 5.0, 0.0])
    assert [t.fallback for t in ticks] == [None] * 5 + ["surprise"] + [None] * 4
    assert arm.commands[0][:7] == pytest.approx([0.0, 0.5, 0.0, 0.5, 0.5, 0.0, 0.5])
    assert done.fallbacks == {"surprise": 1}
    assert drive(said, options={"surprise": 6.0, "surprise_ticks": 2}, usual=0.1)[0].fallbacks == {}
    assert drive(said, options={"surprise": 2.0, "surprise_ticks": 1}, usual=0.1)[0].fallbacks["surprise"] > 1
    assert drive(said)[0].fallbacks == {}


def test_surprise_needs_to_know_what_is_usual() -> None:
    with pytest.raises(DriveError, match="surprise needs the usual error of prediction"):
        drive([0.0], options={"surprise": 2.0})


LIMITS = {"action_rate": [3.0], "action_acceleration": [20.0]}


@settings(deadline=None, max_examples=40)
@given(
    entries=st.lists(
        st.one_of(
            st.floats(-5, 5), st.just(NAN), st.just(ValueError("x")), st.tuples(st.floats(-5, 5), st.floats(0, 0.3))
        ),
        min_size=1,
        max_size=12,
    ),
    fallback=st.sampled_from(["brake", "hold"]),
)
def test_no_command_breaks_a_limit_whatever_the_agent_says(entries: list[Any], fallback: str) -> None:
    options = {"steps": 40, "fallback": fallback, "surprise": 2.0, "surprise_ticks": 2}
    _, ticks, arm, _ = drive(entries, options=options, limits=LIMITS, usual=0.3, episode=25)
    assert [len(ticks), len(arm.commands)] == [40, 2]
    for commands in arm.commands:  # with those that brought it to rest at the end
        path = np.array([0.0, 0.0, *commands])
        assert (path >= -1).all()
        assert (path <= 2).all()
        rate = np.diff(path) / 0.1
        assert np.abs(rate).max() <= 3.0 + 1e-4
        assert np.abs(np.diff(rate)).max() / 0.1 <= 20.0 + 1e-3


def test_commands_that_limits_hold_back_are_counted() -> None:
    done, _, arm, _ = drive([1.0], limits={"action_rate": [3.0]})
    assert done.limited == 3
    assert arm.commands[0][:5] == pytest.approx([0.3, 0.6, 0.9, 1.0, 1.0])
    done, _, arm, _ = drive([5.0, 1.0])
    assert done.limited == 5  # out of bounds


def test_episodes_end_by_success_and_the_robot_is_brought_to_rest() -> None:
    done, ticks, arm, agent = drive([1.0], limits={"action_rate": [5.0]}, arm=Arm(solved=4), options={"steps": 9})
    assert done.lengths == [4, 4]
    assert done.successes == [True, True]
    assert done.returns == [-4.0, -4.0]
    assert [t.episode for t in ticks] == [0] * 4 + [1] * 4 + [2]
    assert arm.commands == [pytest.approx([0.5, 1.0, 1.0, 1.0, 0.5, 0.0])] * 2 + [pytest.approx([0.5, 0.0])]
    assert [c.planner for c in agent.heard[:6]] == ["fresh", *["used"] * 3, "fresh", "used"]
    assert done.summary()["steps_to_goal"] == 4.0
    assert done.summary()["success_rate"] == 1.0


def test_episodes_end_by_their_time_limit() -> None:
    done, _, arm, _ = drive([1.0], episode=5)
    assert done.successes == [False, False]
    assert [len(c) for c in arm.commands] == [5, 5]


def test_a_robot_that_fails_ends_the_drive() -> None:
    with pytest.raises(EnvError, match="a cable came off"):
        drive([1.0], arm=Arm(breaks=3))


@pytest.mark.parametrize("cause", [KeyboardInterrupt, SystemExit, OSError])
def test_an_interrupted_drive_brakes(cause: type[BaseException]) -> None:
    def interrupt(tick: Tick) -> None:
        if tick.tick == 2:
            raise cause

    clock, arm = Clock(), Arm()
    env = ForethoughtEnv(arm, "Arm-v0", EnvOptions(action_rate=[5.0]))
    arm.commands.clear()
    driver = Driver(Script([1.0], clock), RealTime(env, clock=clock), DriveOptions())  # type: ignore[arg-type]
    with pytest.raises(cause):
        driver.run(interrupt)
    assert arm.commands == [pytest.approx([0.5, 1.0, 1.0, 0.5, 0.0])]
    assert gc.isenabled()


def test_another_seed_starts_other_episodes() -> None:
    seeds: list[int | None] = []

    class Seeded(Arm):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            seeds.append(seed)
            return super().reset(seed=seed)

    drive([0.0], arm=Seeded(), options={"seed": 7}, episode=5)
    assert seeds[1:] == [7, 8]


@pytest.fixture
def agent(toy_spec: Callable[..., Any], toy_model: Callable[..., Any]) -> Callable[..., Agent]:
    def make(**limits: Any) -> Agent:
        spec = toy_spec()
        model = toy_model()
        low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
        planner = make_planner("icem", low, high, horizon=4, num_samples=16, iterations=2, num_elites=4)
        given = {k: torch.tensor(v) for k, v in limits.items()}
        kept = ActionLimits(low, high, **given, period_s=spec.control_dt) if given else None
        generator = torch.Generator().manual_seed(0)
        return Agent(
            model, planner, GoalObjective(GoalOptions()), AgentOptions(plan_dtype="float32"), generator, limits=kept
        )

    return make


def test_an_agent_plans_within_limits(agent: Callable[..., Agent], toy_obs: Callable[..., Any]) -> None:
    limited = agent(rate=[2.0, 1.0], acceleration=[30.0, 40.0])
    spec, carry = limited.model.spec, limited.init(3)
    goal = limited.embed_goal(toy_obs(spec, [3], seed=9))
    path = [torch.zeros(3, 2), torch.zeros(3, 2)]
    for step in range(8):
        action, carry, plan = limited.act(toy_obs(spec, [3], seed=step), carry, goal)
        assert plan is not None
        path.append(action)
    rate = torch.stack(path).double().diff(dim=0) / 0.1
    slack = torch.tensor([1e-4, 1e-4])
    assert (rate.abs() <= torch.tensor([2.0, 1.0]) + slack).all()
    assert (rate.diff(dim=0).abs() / 0.1 <= torch.tensor([30.0, 40.0]) + 10 * slack).all()
    free = agent()
    action, _, _ = free.act(toy_obs(spec, [3], seed=0), free.init(3), goal)
    assert not torch.allclose(action, path[2])


def test_the_deadline_of_a_decision_goes_before_that_of_the_options(
    agent: Callable[..., Agent], toy_obs: Callable[..., Any]
) -> None:
    made = agent()
    obs = toy_obs(made.model.spec, [1])
    _, _, plan = made.act(obs, made.init(1), made.embed_goal(obs), deadline_s=1e-9)
    assert plan is not None
    assert plan.iterations_run == 1


def test_the_usual_error_is_a_quantile(plane_model: Callable[..., Any], walk: Callable[..., Any]) -> None:
    """The model of the plane is exact, so that what a step is off by is its error."""
    model = plane_model()
    low, high = torch.tensor(model.spec.action_low), torch.tensor(model.spec.action_high)
    planner = make_planner("icem", low, high, horizon=4)
    made = Agent(model, planner, GoalObjective(GoalOptions()), AgentOptions(plan_dtype="float32"), torch.Generator())
    right = walk([[0.0, 0.0], [0.5, 0.0], [0.5, 0.5]])
    wrong = walk([[0.0, 0.0], [0.3, 0.4], [0.3, 0.4]])
    wrong.actions[0] = 0.0
    made.imagined.rollout = model.rollout  # type: ignore[method-assign]
    assert usual_error(made, [right]) == pytest.approx(0.0, abs=1e-6)
    scale = float(torch.linalg.vector_norm(made.model.encode({"position": torch.tensor([[0.3, 0.4]])})
                  - made.model.encode({"position": torch.zeros(1, 2)})))  # fmt: skip
    assert usual_error(made, [right, wrong], quantile=1.0) == pytest.approx(scale, rel=1e-4)
    assert usual_error(made, [right, wrong], quantile=0.5) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", 0, "steps must be at least 1, got 0"),
        ("coast", -1, "coast must be at least 0, got -1"),
        ("latency_s", -0.1, "latency_s must be a finite number of at least 0, got -0.1"),
        ("latency_s", NAN, "latency_s must be a finite number of at least 0, got nan"),
        ("surprise_ticks", 0, "surprise_ticks must be at least 1, got 0"),
        ("deadline_share", 0.0, "deadline_share must be above 0 and at most 1, got 0.0"),
        ("deadline_share", 1.5, "deadline_share must be above 0 and at most 1, got 1.5"),
        ("surprise", -1.0, "surprise must be at least 0, got -1.0"),
        ("priority", 100, "priority must be between 0 and 99, got 100"),
        ("seed", -1, "seed must be at least 0, got -1"),
    ],
)
def test_bad_options_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(DriveError, match=message):
        DriveOptions(**{name: value})


def test_an_unknown_fallback_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown fallback 'break': did you mean brake"):
        DriveOptions(fallback="break")


def test_every_option_has_a_test_of_what_it_changes() -> None:
    covered = {"steps", "deadline_share", "fallback", "surprise", "surprise_ticks", "priority", "seed"}
    covered |= {"ahead", "coast", "latency_s"}  # in test_thinking.py
    assert {f.name for f in fields(DriveOptions)} == covered


def test_the_collector_rests_while_driving() -> None:
    with undisturbed():
        assert not gc.isenabled()
    assert gc.isenabled()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's schedulers")
def test_priority_is_asked_for_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        os, "sched_setscheduler", lambda pid, policy, param: asked.append((policy, param.sched_priority))
    )
    before = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
    with prioritised(0):
        assert asked == []
    with prioritised(7):
        assert asked == [(os.SCHED_FIFO, 7)]
    assert asked == [(os.SCHED_FIFO, 7), before]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's schedulers")
def test_priority_that_is_not_allowed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with pytest.raises(DriveError, match=r"priority=7 is not allowed here \(Operation not permitted\)"), prioritised(7):
        pass
