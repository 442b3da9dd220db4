"""Thinking ahead: commands go out when their period begins, whoever thinks and however long. Time is turned by hand."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
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

from forethought.agent.agent import Agent, AgentOptions, Carry
from forethought.agent.limits import ActionLimits
from forethought.agent.objectives import GoalObjective, GoalOptions
from forethought.agent.realtime import Drive, DriveError, DriveOptions, Driver, Tick
from forethought.agent.thinking import (
    Decision,
    Mind,
    Question,
    Start,
    Thinker,
    ThinkingProcess,
    ThinkingThread,
    lower,
    think,
)
from forethought.envs.link import Link
from forethought.envs.realtime import RealTime
from forethought.envs.spec import EnvOptions, LinkOptions
from forethought.envs.wrappers import ForethoughtEnv
from forethought.planners import make_planner

NAN = float("nan")


@dataclass
class Clock:
    """Goes on when it is told to, and oversleeps by the next of `lags`."""

    time: float = 50.0
    lags: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def sleep_until(self, moment_s: float) -> None:
        self.time = max(self.time, moment_s) + (self.lags.pop(0) if self.lags else 0.0)


class Arm(gymnasium.Env):
    """Keeps its commands; its place is their sum."""

    dt = 0.1
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(np.float32([-1]), np.float32([2]))

    def __init__(self, solved: int | None = None) -> None:
        self.solved = solved
        self.commands: list[list[float]] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.commands.append([])
        self.place = np.zeros(1, np.float32)
        return self.place, {}

    def step(self, action: Any) -> Any:
        self.commands[-1].append(float(action[0]))
        self.place = self.place + action
        return self.place, -1.0, False, False, {"success": len(self.commands[-1]) == self.solved}


@dataclass
class Script:
    """Plans what it is told to: per decision a plan (or an exception to raise), or that and how long it thinks."""

    entries: list[Any]
    thinks_s: float = 0.02
    heard: list[Any] = field(default_factory=list)
    clock: Any = field(default_factory=lambda: SimpleNamespace(time=0.0))
    device = torch.device("cpu")

    def __post_init__(self) -> None:
        self.model = SimpleNamespace(purpose="reward")

    def init(self, batch_size: int) -> Carry:
        return Carry(planner="fresh")

    def perceive(self, obs: Any, carry: Carry) -> Carry:
        return replace(carry, latent=torch.as_tensor(obs["observation"]))

    def act(self, obs: Any, carry: Carry, goal: Any, deadline_s: float, left: Any, committed: Tensor) -> Any:
        entry = self.entries[len(self.heard) % len(self.entries)]
        seen = {"obs": obs["observation"].item(), "left": None if left is None else left.item()}
        self.heard.append(SimpleNamespace(**seen, carry=carry, deadline_s=deadline_s, committed=committed))
        plan, thinks_s = entry if isinstance(entry, tuple) else (entry, self.thinks_s)
        self.clock.time += thinks_s
        if isinstance(plan, BaseException):
            raise plan
        actions = torch.tensor(plan)[None, :, None]
        after = Carry("used", torch.as_tensor(obs["observation"]), actions[:, 0], actions, 1, horizon=actions.shape[1])
        return actions[:, 0], after, SimpleNamespace(iterations_run=2, cost=torch.zeros(1))

    def adapt(self, correction: Any, z: Tensor, action: Tensor, ahead: Tensor) -> Any:
        return None, ahead - z


class Beside(Thinker):
    """Thinks beside the robot on a time line of its own, as a thread would."""

    def __init__(self, mind: Mind, agent: Script, clock: Clock, robot: Any, deadline_s: float = 0.06) -> None:
        self.mind, self.clock, self.robot, self.deadline_s = mind, clock, robot, deadline_s
        self.line = agent.clock = SimpleNamespace(time=0.0)
        self.queue: list[tuple[float, Any]] = []
        self.made: list[tuple[float, Decision]] = []
        self.told: list[Any] = []
        self.closed = False

    def tell(self, message: Start | Question) -> None:
        self.queue.append((self.robot.time_s, message))
        self.told.append(message)

    def receive(self) -> Any:
        if not self.queue or max(self.line.time, self.queue[0][0]) >= self.robot.time_s:
            return None  # goes on with the next call
        arrived_s, message = self.queue.pop(0)
        self.line.time = max(self.line.time, arrived_s)
        return message

    def waiting(self) -> bool:
        return bool(self.queue) and self.queue[0][0] <= self.line.time

    def decisions(self) -> list[Decision]:
        def send(decision: Decision) -> None:
            self.made.append((self.line.time, decision))

        think(self.mind, self.deadline_s, lambda: self.line.time, self.receive, self.waiting, send)
        found = [d for at, d in self.made if at <= self.robot.time_s + 1e-9]
        self.made = [m for m in self.made if m[0] > self.robot.time_s + 1e-9]
        return found

    def close(self) -> None:
        self.closed = True


@dataclass
class Made:
    drive: Drive
    ticks: list[Tick]
    arm: Arm
    agent: Script
    thinker: Beside


def drive(
    entries: list[Any],
    *,
    limits: dict[str, Any] | None = None,
    arm: Arm | None = None,
    lags: list[float] | None = None,
    usual: float | None = None,
    on_tick: Callable[[Tick], None] | None = None,
    made: list[Made] | None = None,
    episode: int = 50,
    **options: Any,
) -> Made:
    clock, arm, agent = Clock(lags=list(lags or [])), arm or Arm(), Script(entries)
    robot = RealTime(
        ForethoughtEnv(arm, "Arm-v0", EnvOptions(max_episode_steps=episode, **(limits or {}))), clock=clock
    )
    arm.commands.clear()
    thinkers, ticks = list[Beside](), list[Tick]()

    def thinker(mind: Mind) -> Beside:
        thinkers.append(Beside(mind, agent, clock, robot))
        return thinkers[0]

    def tick(each: Tick) -> None:
        ticks.append(each)
        if on_tick is not None:
            on_tick(each)

    driver = Driver(agent, robot, DriveOptions(**{"steps": 8, "ahead": True, **options}), usual, thinker)  # type: ignore[arg-type]
    try:
        return Made(driver.run(tick), ticks, arm, agent, thinkers[0])
    finally:
        assert thinkers[0].closed
        if made is not None:
            made.append(Made(None, ticks, arm, agent, thinkers[0]))  # type: ignore[arg-type]


def plans(count: int) -> list[list[float]]:
    """The plan of decision n is n + 1 tenths, and 0.01, 0.02, ... more after that."""
    return [[0.1 * (n + 1) + 0.01 * h for h in range(4)] for n in range(count)]


def commands(made: Made) -> list[float]:
    return [round(float(t.command[0]), 4) for t in made.ticks]


def test_commands_go_out_when_their_period_begins() -> None:
    made = drive(plans(8))
    # Nothing is known of the first period before it begins.
    assert commands(made) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert [t.sent_s for t in made.ticks] == pytest.approx([0.0] * 8, abs=1e-9)
    assert [t.decision_s for t in made.ticks] == [None, *[pytest.approx(0.02)] * 7]
    summary = made.drive.summary()
    assert (summary["late"], summary["overruns"], sum(summary["fallbacks"].values())) == (0, 0, 0)
    assert summary["sent_ms"]["max"] == pytest.approx(0.0, abs=1e-6)
    assert summary["decision_ms"]["max"] == pytest.approx(20.0)
    assert summary["iterations"] == 2.0


def test_the_agent_is_asked_about_what_it_cannot_see_yet() -> None:
    made = drive(plans(8))
    # The decision of period n was made on what was seen at the start of n - 1, and knows its command.
    assert [h.obs for h in made.agent.heard[:4]] == pytest.approx([0.0, 0.0, 0.1, 0.3])
    assert [h.committed.flatten().tolist() for h in made.agent.heard[:4]] == [
        pytest.approx(x) for x in ([0.0], [0.1], [0.2], [0.3])
    ]
    # The first decision is for the second period of an episode of 50.
    assert [h.left for h in made.agent.heard[:4]] == [49, 48, 47, 46]
    # The belief hears what led to what is seen.
    assert [float(h.carry.action) for h in made.agent.heard[:4]] == pytest.approx([0.0, 0.0, 0.1, 0.2])
    assert [h.deadline_s for h in made.agent.heard[:4]] == pytest.approx([0.06] * 4)


def test_a_late_decision_is_stood_in_for_by_the_plan_before_and_then_by_the_fallback() -> None:
    said = plans(12)
    said[2] = (said[2], 0.52)  # type: ignore[call-overload]
    made = drive(said, steps=12, coast=2)
    late = [t.late for t in made.ticks]
    assert commands(made)[:6] == [0.0, 0.1, 0.2, 0.21, 0.22, 0.0]
    assert [t.fallback for t in made.ticks][:8] == [None] * 5 + ["late"] * 3
    # Then it answers the newest question; those in between were overtaken.
    assert late == [False] * 3 + [True] * 5 + [False] * 4
    assert commands(made)[8:] == [0.4, 0.5, 0.6, 0.7]
    assert made.drive.late == 5
    assert made.drive.fallbacks == {"late": 3}
    assert made.drive.overruns == 0
    assert [t.sent_s for t in made.ticks] == pytest.approx([0.0] * 12, abs=1e-9)
    assert made.drive.summary()["decision_ms"]["max"] == pytest.approx(520.0)
    after = made.agent.heard[3]
    assert after.carry.age == 8 - 3  # the plan that the search goes on from is that much older
    assert float(after.carry.latent) == pytest.approx(0.0 + 0.1 + 0.2 + 0.21 + 0.22)


def test_a_plan_that_is_late_is_followed_from_where_it_would_be() -> None:
    said = plans(8)
    said[2] = (said[2], 0.11)  # type: ignore[call-overload]
    assert commands(drive(said))[:6] == [0.0, 0.1, 0.2, 0.21, 0.4, 0.5]
    said[3] = (said[3], 0.11)  # type: ignore[call-overload]
    # The third plan was there for the second of its periods.
    assert commands(drive(said))[:6] == [0.0, 0.1, 0.2, 0.21, 0.31, 0.5]


@pytest.mark.parametrize(("coast", "fallbacks"), [(0, 5), (1, 4), (2, 3), (3, 2), (9, 2)])
def test_plans_are_followed_no_longer_than_they_are(coast: int, fallbacks: int) -> None:
    said = plans(12)
    said[2] = (said[2], 0.52)  # type: ignore[call-overload]
    assert drive(said, steps=12, coast=coast).drive.fallbacks["late"] == fallbacks


@pytest.mark.parametrize(("fallback", "command"), [("brake", 0.0), ("hold", 0.2)])
@pytest.mark.parametrize(("entry", "reason"), [(ValueError("no way"), "error"), ([NAN, 0.0], "not_finite")])
def test_failures_are_replaced(entry: Any, reason: str, fallback: str, command: float) -> None:
    said: list[Any] = plans(8)
    said[2] = entry
    made = drive(said, fallback=fallback)
    assert [t.fallback for t in made.ticks] == [None] * 3 + [reason] + [None] * 4
    assert commands(made)[:5] == [0.0, 0.1, 0.2, command, 0.4]
    assert made.agent.heard[3].carry.planner == "fresh"
    assert made.drive.errors == ({"ValueError: no way": 1} if reason == "error" else {})


def test_surprise_brakes() -> None:
    """The place moves by what is commanded, and the agent expects none of it."""
    said = [[0.0], [0.5], [0.5], [0.5], [0.0], [0.0], [0.0], [0.0]]
    options = {"surprise": 2.0, "surprise_ticks": 2, "usual": 0.1}
    assert drive(said).drive.fallbacks == {}
    made = drive(said, **options)  # type: ignore[arg-type]
    # The first 0.5 goes out in period 2 and is seen at the start of 3; the second in a row brakes, one period later.
    assert [t.fallback for t in made.ticks][:6] == [None] * 5 + ["surprise"]


def test_a_command_that_is_sent_after_its_period_is_an_overrun() -> None:
    made = drive(plans(8), lags=[0.0, 0.0, 0.13, 0.0, 0.005])
    assert [t.overrun for t in made.ticks] == [False] * 3 + [True] + [False] * 4
    assert made.drive.overruns == 1
    assert [t.sent_s for t in made.ticks] == pytest.approx([0.0, 0.0, 0.0, 0.13, 0.0, 0.0, 0.005, 0.0], abs=1e-9)
    # It is in force for a whole period before the next goes out.
    assert commands(made) == [0.0, 0.1, 0.2, 0.3, 0.3, 0.4, 0.5, 0.6]
    assert made.drive.fallbacks == {"overrun": 1}


def test_nothing_goes_from_one_episode_to_the_next() -> None:
    said = plans(12)
    said[3] = (said[3], 0.05)  # type: ignore[call-overload]  # is not asked for any more
    made = drive(said, arm=Arm(solved=4), steps=8)
    assert made.drive.lengths == [4, 4]
    assert commands(made)[:5] == [0.0, 0.1, 0.2, 0.3, 0.0]
    first = made.agent.heard[4]
    assert (first.carry.planner, first.obs, first.committed.tolist()) == ("fresh", 0.0, [[[0.0]]])
    assert [c[-1] for c in made.arm.commands] == [0.0, 0.0]


def test_an_interrupted_drive_brakes() -> None:
    def interrupt(tick: Tick) -> None:
        if tick.tick == 3:
            raise KeyboardInterrupt

    kept: list[Made] = []
    with pytest.raises(KeyboardInterrupt):
        drive([[1.0]], limits={"action_rate": [5.0]}, on_tick=interrupt, made=kept)
    assert kept[0].arm.commands == [pytest.approx([0.0, 0.5, 1.0, 1.0, 0.5, 0.0])]


@settings(deadline=None, max_examples=15)
@given(
    entries=st.lists(
        st.tuples(
            st.one_of(st.lists(st.floats(-5, 5), min_size=1, max_size=5), st.just([NAN]), st.just(ValueError("x"))),
            st.floats(0, 0.4),
        ),
        min_size=1,
        max_size=12,
    ),
    lags=st.lists(st.floats(0, 0.15), max_size=10),
    fallback=st.sampled_from(["brake", "hold"]),
)
def test_no_command_breaks_a_limit_whatever_happens(entries: list[Any], lags: list[float], fallback: str) -> None:
    limits = {"action_rate": [3.0], "action_acceleration": [20.0]}
    made = drive(
        entries, limits=limits, lags=lags, steps=30, fallback=fallback, episode=20, surprise=2.0, surprise_ticks=2,
        usual=0.3,
    )  # fmt: skip
    assert [len(made.ticks), len(made.arm.commands)] == [30, 2]
    for path in (np.array([0.0, 0.0, *c]) for c in made.arm.commands):
        assert (path >= -1).all()
        assert (path <= 2).all()
        rate = np.diff(path) / 0.1
        assert np.abs(rate).max() <= 3.0 + 1e-4
        assert np.abs(np.diff(rate)).max() / 0.1 <= 20.0 + 1e-3


# -- where it will be --------------------------------------------------------------------------------------------------


@pytest.fixture
def planner_on_the_plane(plane_model: Callable[..., Any]) -> Callable[..., Agent]:
    """An agent whose model is exact."""

    def make(limits: bool = False) -> Agent:
        model = plane_model()
        low, high = torch.tensor(model.spec.action_low), torch.tensor(model.spec.action_high)
        planner = make_planner("icem", low, high, horizon=4, num_samples=64, iterations=3, num_elites=8)
        kept = ActionLimits(low, high, torch.full((2,), 4.0), torch.full((2,), 60.0), 0.1) if limits else None
        agent = Agent(
            model, planner, GoalObjective(GoalOptions()), AgentOptions(plan_dtype="float32"),
            torch.Generator().manual_seed(0), limits=kept,
        )  # fmt: skip
        agent.imagined.rollout = model.rollout  # type: ignore[method-assign]
        return agent

    return make


@pytest.mark.parametrize("limits", [False, True])
@pytest.mark.parametrize("under_way", [1, 2, 3])
def test_with_an_exact_model_a_delay_changes_nothing(
    planner_on_the_plane: Callable[..., Agent], under_way: int, limits: bool
) -> None:
    ahead, there = planner_on_the_plane(limits), planner_on_the_plane(limits)
    place, committed = torch.tensor([[0.2, -0.1]]), torch.tensor([[[0.1, 0.3], [0.2, 0.1], [0.3, -0.1]]])[:, :under_way]
    goal = torch.tensor([[1.5, -0.7]])
    decided, carry, plan = ahead.act({"position": place}, ahead.init(1), goal, committed=committed)
    last = Carry(there.planner.init(1), action=committed[:, -1], before=committed[:, -2] if under_way > 1 else None)
    expected, _, now = there.act({"position": place + committed.sum(dim=1)}, last, goal)
    torch.testing.assert_close(decided, expected)
    torch.testing.assert_close(plan.actions, now.actions)  # type: ignore[union-attr]
    # What is carried on is what was seen.
    torch.testing.assert_close(carry.latent, ahead.model.encode({"position": place}))
    other, _, _ = planner_on_the_plane(limits).act({"position": place}, ahead.init(1), goal)
    assert not torch.allclose(decided, other)


class Plane(gymnasium.Env):
    """A point that goes where it is told to, and what it has been told."""

    dt = 0.1
    observation_space = spaces.Dict({"position": spaces.Box(-np.inf, np.inf, (2,), np.float32)})
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = np.zeros(2, np.float32)
        return {"position": self.place}, {}

    def step(self, action: Any) -> Any:
        self.place = self.place + action
        return {"position": self.place}, 0.0, False, False, {"success": False}


def overshoot(
    planner_on_the_plane: Callable[..., Agent],
    monkeypatch: pytest.MonkeyPatch,
    link: LinkOptions | None = None,
    **options: Any,
) -> float:
    """How far the point is from its goal, on average over the decisions after it should be there."""
    clock, agent = Clock(), planner_on_the_plane()
    env: Any = Plane() if link is None else Link(Plane(), link)
    robot = RealTime(ForethoughtEnv(env, "Plane-v0", EnvOptions(max_episode_steps=60)), clock=clock)
    goal = {"position": np.float32([2.3, -1.4])}
    reset = robot.reset
    monkeypatch.setattr(robot, "reset", lambda seed: (lambda r: (r[0], {**r[1], "goal": goal}))(reset(seed=seed)))
    gaps: list[float] = []

    def tick(each: Tick) -> None:
        if each.tick >= 12:
            gaps.append(float(np.abs(each.obs["position"] - goal["position"]).sum()))

    script = SimpleNamespace()
    driver = Driver(
        agent, robot, DriveOptions(**{"steps": 30, "ahead": True, **options}),
        thinker=lambda mind: Beside(mind, script, clock, robot),  # type: ignore[arg-type]
    )  # fmt: skip
    driver.run(tick)
    return float(np.mean(gaps))


def test_a_drive_that_thinks_ahead_comes_to_rest_at_the_goal(
    planner_on_the_plane: Callable[..., Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without prediction it would run past it and back, again and again."""
    ahead = overshoot(planner_on_the_plane, monkeypatch)
    assert ahead == pytest.approx(overshoot(planner_on_the_plane, monkeypatch, ahead=False), abs=0.05)
    monkeypatch.setattr(Agent, "expected", lambda self, z, actions, correction=None: z)
    assert overshoot(planner_on_the_plane, monkeypatch) > 5 * ahead


def test_commands_under_way_over_a_link_are_counted_in(
    planner_on_the_plane: Callable[..., Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    link = LinkOptions(command_latency=0.1, observation_latency=0.1)
    known = overshoot(planner_on_the_plane, monkeypatch, link)
    assert known < 0.1
    assert overshoot(planner_on_the_plane, monkeypatch, link, latency_s=0.2) == known
    assert overshoot(planner_on_the_plane, monkeypatch, link, latency_s=0.0) > 3 * known


# -- the thread --------------------------------------------------------------------------------------------------------


def made_by(thread: Thinker, count: int) -> list[Decision]:
    found = list[Decision]()
    while len(found) < count:
        found += thread.decisions()
        time.sleep(1e-3)
    return found


def test_a_thread_thinks() -> None:
    agent = Script([[0.5, 0.6], ValueError("no way"), [0.7]])
    thread = ThinkingThread(Mind(agent), SimpleNamespace(time_s=3.0), 0.05)  # type: ignore[arg-type]
    thread.tell(Start(None, 4))
    found = []
    for number in (4, 5, 6):
        question = Question(number, {"observation": np.float32([1.0])}, np.zeros(1), np.ones((1, 1)), began_s=2.99)
        thread.tell(question)
        found += made_by(thread, 1)
    thread.close()
    assert [d.number for d in found] == [4, 5, 6]
    assert [d.fallback for d in found] == [None, "error", None]
    assert found[0].actions is not None
    assert found[0].actions[:, 0] == pytest.approx([0.5, 0.6])
    assert [d.decision_s for d in found] == pytest.approx([0.01] * 3)
    assert [h.deadline_s for h in agent.heard] == pytest.approx([0.04] * 3)


def test_a_thread_that_ends_says_why() -> None:
    thread = ThinkingThread(Mind(Script([SystemExit("out of memory")])), SimpleNamespace(time_s=0.0), 0.05)  # type: ignore[arg-type]
    thread.tell(Question(1, {"observation": np.float32([1.0])}, np.zeros(1), np.ones((1, 1)), began_s=0.0))
    with pytest.raises(DriveError, match="thinking ended with SystemExit: out of memory"):
        made_by(thread, 1)
    thread.close()


def scripted(entries: list[Any]) -> Mind:
    """What is made in the other process."""
    return Mind(Script(entries))  # type: ignore[arg-type]


@pytest.fixture
def findable(monkeypatch: pytest.MonkeyPatch) -> None:
    """This module can be imported in another process by the name that it has here."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[__name__.count(".")]))


def apart(entries: list[Any]) -> ThinkingProcess:
    return ThinkingProcess(partial(scripted, entries), SimpleNamespace(time_s=3.0), 0.5)  # type: ignore[arg-type]


@pytest.mark.usefixtures("findable")
def test_a_process_thinks_and_ends_with_who_asks_it() -> None:
    process = apart([[0.5, 0.6], ValueError("no way"), [0.7]])
    process.tell(Start(None, 4))
    found = []
    for number in (4, 5, 6):
        seen = {"observation": np.float32([1.0])}
        process.tell(Question(number, seen, np.zeros(1), np.ones((1, 1)), began_s=3.0))
        found += made_by(process, 1)
    assert [d.number for d in found] == [4, 5, 6]
    assert [d.error for d in found] == [None, "ValueError: no way", None]
    assert found[0].actions is not None
    assert found[0].actions[:, 0] == pytest.approx([0.5, 0.6])
    assert found[0].decision_s > 0  # by the clock that both have
    process._link.close()  # as when its parent is killed
    process._process.join()
    assert process._process.exitcode == 0
    process.close()


@pytest.mark.usefixtures("findable")
def test_a_process_that_dies_is_told() -> None:
    process = apart([SystemExit(3)])
    process.tell(Question(1, {"observation": np.float32([1.0])}, np.zeros(1), np.ones((1, 1)), began_s=3.0))
    with pytest.raises(DriveError, match="the process that thinks has ended with exit code 3"):
        made_by(process, 1)
    process.close()
    with pytest.raises(DriveError, match="the process that thinks has ended with exit code 1"):
        ThinkingProcess(partial(int, "not a mind"), SimpleNamespace(time_s=3.0), 0.5)  # type: ignore[arg-type]


def test_priorities_go_down_by_one() -> None:
    assert [lower(p) for p in (0, 1, 2, 50)] == [0, 1, 1, 49]


def test_the_robot_is_at_rest_when_thinking_has_ended() -> None:
    kept: list[Made] = []
    decide = Mind.decide

    def dies(self: Mind, number: int, *rest: Any) -> Decision:
        if number == 4:
            raise DriveError("thinking ended")
        return decide(self, number, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mind, "decide", dies)
        with pytest.raises(DriveError, match="thinking ended"):
            drive([[1.0]], limits={"action_rate": [5.0]}, made=kept)
    assert kept[0].arm.commands == [pytest.approx([0.0, 0.5, 1.0, 1.0, 0.5, 0.0])]


def test_a_drive_with_a_thread_of_its_own() -> None:
    """The robot waits for every decision, so that nothing depends on how fast this machine is."""
    clock, arm, agent = Clock(), Arm(), Script(plans(8))
    robot = RealTime(ForethoughtEnv(arm, "Arm-v0", EnvOptions(max_episode_steps=50)), clock=clock)
    arm.commands.clear()
    step, ticks = robot.step, list[Tick]()

    def patient(action: Any) -> Any:
        result = step(action)
        while len(agent.heard) < len(arm.commands[-1]) and len(ticks) < 7:
            time.sleep(1e-3)
        time.sleep(0.05)
        return result

    robot.step = patient  # type: ignore[method-assign]
    driver = Driver(agent, robot, DriveOptions(steps=8, ahead=True, coast=0))  # type: ignore[arg-type]
    driver.run(ticks.append)
    assert [round(float(t.command[0]), 4) for t in ticks] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
