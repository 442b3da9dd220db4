"""Where planners are compared: closed-loop control, in which every plan starts from the true state."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from ... import ForethoughtError
from ...planners.base import CostFn, Plan, Planner

StateT = TypeVar("StateT")
Frame = NDArray[np.uint8]

GRADIENT_EVALUATIONS = 3
"""Evaluations that one candidate with its gradient counts as: one forward, and a backward pass that costs two."""


class BenchError(ForethoughtError):
    """A comparison that cannot be made as asked."""


@dataclass(frozen=True)
class Episode:
    """One episode of closed-loop control.

    Args:
        seed: that start and goal follow from.
        rewards: of every decision; an episode that ended early is filled up with zeros.
        solved: whether it was left in a state that is wanted; None where the task has no such state.
        milliseconds: that each plan took.
        evaluations: of each plan.
        actions: `[T][A]`, from which the episode can be played again.
    """

    seed: int
    rewards: list[float]
    solved: bool | None
    milliseconds: list[float]
    evaluations: list[int]
    actions: list[list[float]]

    @property
    def score(self) -> float:
        """Mean reward of a decision."""
        return float(np.mean(self.rewards))


class Arena(Protocol):
    """Something that planners are compared on."""

    name: str
    summary: str
    source: str
    differentiable: bool
    """Whether costs have gradients by the actions."""
    horizon: int
    decisions: int
    control_dt: float
    """Seconds per decision; NaN where time has no unit."""
    optimum: float | None
    """The best score there is, where it is known."""
    action_low: Tensor
    action_high: Tensor

    def play(self, planner: Planner[Any], seed: int, generator: torch.Generator, settings: "Settings") -> Episode:
        """Play one episode."""
        ...

    def play_random(self, seed: int) -> Episode:
        """Play one episode with uniform random actions."""
        ...

    def frames(self, episode: Episode, size: int) -> Iterator[Frame]:
        """Pictures of an episode, one per decision and one of the start; nothing where there are none."""
        ...


@dataclass(frozen=True)
class Settings:
    """How an episode is played.

    Args:
        replan_every: decisions per plan.
        deadline_s: of each plan; None lets it end.
        budget: evaluations that a plan must not exceed; None for no limit.
        decisions: of the episode at most; None plays it to its end.
    """

    replan_every: int = 1
    deadline_s: float | None = None
    budget: int | None = None
    decisions: int | None = None


class Meter(Planner[StateT]):
    """A planner whose plans are timed and whose evaluations are counted, and refused beyond the budget."""

    def __init__(self, planner: Planner[StateT], budget: int | None = None) -> None:
        self.planner, self.budget = planner, budget
        self.milliseconds: list[float] = []
        self.evaluations: list[int] = []
        self.used_gradients = False

    @property
    @override
    def horizon(self) -> int:
        return self.planner.horizon

    @override
    def init(self, batch_size: int) -> StateT:
        return self.planner.init(batch_size)

    @override
    def advance(self, state: StateT, steps: int) -> StateT:
        return self.planner.advance(state, steps)

    @override
    def plan(
        self,
        cost_fn: CostFn,
        state: StateT,
        generator: torch.Generator,
        seeds: Tensor | None = None,
        deadline_s: float | None = None,
    ) -> tuple[Plan, StateT]:
        self.evaluations.append(0)

        def metered(actions: Tensor) -> Tensor:
            self.used_gradients |= actions.requires_grad
            self.evaluations[-1] += actions.shape[1] * (GRADIENT_EVALUATIONS if actions.requires_grad else 1)
            if self.budget is not None and self.evaluations[-1] > self.budget:
                raise BenchError(
                    f"{type(self.planner).__name__} must spend at most budget={self.budget} evaluations on a plan, "
                    f"got {self.evaluations[-1]}"
                )
            return cost_fn(actions)

        began = perf_counter()
        result = self.planner.plan(metered, state, generator, seeds, deadline_s)
        self.milliseconds.append(1e3 * (perf_counter() - began))
        return result


class Outcome(NamedTuple, Generic[StateT]):
    """What one action leads to."""

    state: StateT
    reward: float
    ended: bool
    solved: bool | None


class World(Protocol[StateT]):
    """True dynamics, as a function of a state that everything follows from."""

    name: str
    summary: str
    source: str
    differentiable: bool
    horizon: int
    decisions: int
    control_dt: float
    optimum: float | None
    action_low: Tensor
    action_high: Tensor

    def reset(self, seed: int) -> StateT:
        """The state that the episode with a seed starts from."""
        ...

    def rewards(self, state: StateT, actions: Tensor) -> Tensor:
        """Rewards `[N, H]` of action sequences `[N, H, A]` from one state; NaN where the dynamics fail."""
        ...

    def step(self, state: StateT, action: Tensor) -> Outcome[StateT]:
        """What an action `[A]` leads to."""
        ...

    def frames(self, states: Sequence[StateT], size: int) -> Iterator[Frame]:
        """Pictures of states; nothing where there are none."""
        ...


class TrueDynamics(Arena, Generic[StateT]):
    """Planning in the very dynamics that the episode is played in: what is measured is the search alone.

    The cost of a candidate is minus the sum of its rewards over the horizon.
    """

    def __init__(self, world: World[StateT], horizon: int | None = None) -> None:
        self.world = world
        self.name, self.summary, self.source = world.name, world.summary, world.source
        self.differentiable, self.optimum = world.differentiable, world.optimum
        self.horizon, self.decisions, self.control_dt = horizon or world.horizon, world.decisions, world.control_dt
        self.action_low, self.action_high = world.action_low, world.action_high

    @override
    def play(self, planner: Planner[Any], seed: int, generator: torch.Generator, settings: Settings) -> Episode:
        meter = Meter(planner, settings.budget)
        carried = meter.init(1)
        plan: Plan | None = None

        def decide(state: StateT, age: int) -> Tensor:
            nonlocal carried, plan
            due = age % min(settings.replan_every, self.horizon)
            if plan is None or due == 0:
                if plan is not None:
                    carried = meter.advance(carried, min(settings.replan_every, self.horizon))
                cost_fn = self._cost_fn(state)
                plan, carried = meter.plan(cost_fn, carried, generator, deadline_s=settings.deadline_s)
            return plan.actions[0, due]

        rewards, solved, actions = self._run(seed, decide, settings.decisions or self.decisions)
        return Episode(seed, rewards, solved, meter.milliseconds, meter.evaluations, actions)

    @override
    def play_random(self, seed: int) -> Episode:
        rng = np.random.default_rng([seed, 0xAC7])
        low, high = self.action_low.numpy(), self.action_high.numpy()
        rewards, solved, actions = self._run(
            seed, lambda state, age: torch.from_numpy(rng.uniform(low, high)), self.decisions
        )
        return Episode(seed, rewards, solved, [], [], actions)

    @override
    def frames(self, episode: Episode, size: int) -> Iterator[Frame]:
        states = [self.world.reset(episode.seed)]
        for action in episode.actions:
            states.append(self.world.step(states[-1], torch.tensor(action, dtype=torch.float64)).state)
        return self.world.frames(states, size)

    def _cost_fn(self, state: StateT) -> CostFn:
        def cost_fn(actions: Tensor) -> Tensor:
            return -self.world.rewards(state, actions[0]).sum(dim=-1, keepdim=True).T

        return cost_fn

    def _run(
        self, seed: int, decide: Callable[[StateT, int], Tensor], decisions: int
    ) -> tuple[list[float], bool | None, list[list[float]]]:
        state = self.world.reset(seed)
        rewards, actions, outcome = list[float](), list[list[float]](), None
        for age in range(decisions):
            action = decide(state, age)
            outcome = self.world.step(state, action)
            state = outcome.state
            rewards.append(outcome.reward)
            actions.append(action.tolist())
            if outcome.ended:
                break
        assert outcome is not None
        solved = None if outcome.solved is None else outcome.solved and not outcome.ended
        return rewards + [0.0] * (decisions - len(rewards)), solved, actions


class Physics(Protocol):
    """A task of `envs.planning`: numpy in, numpy out."""

    @property
    def name(self) -> str:
        """See `World`, as the next four."""
        ...

    @property
    def summary(self) -> str: ...  # noqa: D102

    @property
    def source(self) -> str: ...  # noqa: D102

    @property
    def horizon(self) -> int: ...  # noqa: D102

    @property
    def decisions(self) -> int: ...  # noqa: D102

    control_dt: float
    action_low: NDArray[np.float64]
    action_high: NDArray[np.float64]

    def reset(self, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Physics state and goal."""
        ...

    def rollout(self, state: NDArray[np.float64], goal: NDArray[np.float64], actions: NDArray[np.float64]) -> Any:
        """Rewards, states, and whether they ended the episode or solved the task."""
        ...

    def frames(self, states: Any, goal: NDArray[np.float64], size: int) -> Iterator[Frame]:
        """Pictures of physics states."""
        ...


class PhysicsState(NamedTuple):
    """State and goal of a simulation."""

    physics: NDArray[np.float64]
    goal: NDArray[np.float64]


class Simulation(World[PhysicsState]):
    """True dynamics of MuJoCo, without gradients."""

    differentiable = False
    optimum = None

    def __init__(self, physics: Physics) -> None:
        self.physics = physics
        self.name, self.summary, self.source = physics.name, physics.summary, physics.source
        self.horizon, self.decisions, self.control_dt = physics.horizon, physics.decisions, physics.control_dt
        self.action_low, self.action_high = (torch.from_numpy(b) for b in (physics.action_low, physics.action_high))

    @override
    def reset(self, seed: int) -> PhysicsState:
        return PhysicsState(*self.physics.reset(seed))

    @override
    def rewards(self, state: PhysicsState, actions: Tensor) -> Tensor:
        rollout = self.physics.rollout(state.physics, state.goal, actions.detach().numpy())
        return torch.from_numpy(rollout.rewards)

    @override
    def step(self, state: PhysicsState, action: Tensor) -> Outcome[PhysicsState]:
        rollout = self.physics.rollout(state.physics, state.goal, action.numpy()[None, None])
        reward = float(rollout.rewards[0, 0])
        if not np.isfinite(reward):
            raise BenchError(f"the simulation of {self.name} diverged under the action {action.tolist()}")
        solved = None if rollout.solved is None else bool(rollout.solved[0])
        return Outcome(PhysicsState(rollout.states[0], state.goal), reward, bool(rollout.ended[0]), solved)

    @override
    def frames(self, states: Sequence[PhysicsState], size: int) -> Iterator[Frame]:
        return self.physics.frames((state.physics for state in states), states[0].goal, size)
