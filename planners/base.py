"""The contract of planners: cost functions, plans, the protocol, and the options that all built-in ones share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from .. import ForethoughtError
from .parametrisation import INTERPOLATIONS

CostFn = Callable[[Tensor], Tensor]
"""Actions `[B, N, H, A]` in real units -> costs `[B, N]`; lower is better, and candidates do not see each other."""

StateT = TypeVar("StateT")
StepT = TypeVar("StepT", bound=Callable[..., object])


@runtime_checkable
class FusingCostFn(Protocol):
    """A `CostFn` that may be compiled as one with what a planner does around it."""

    def __call__(self, actions: Tensor) -> Tensor:
        """See `CostFn`."""
        ...

    def fuse(self, step: StepT, samples: int) -> StepT | None:
        """A fast form of `step`, or None if there is no point in one.

        Args:
            step: a function of tensors, without side effects, that calls this cost function.
            samples: how many candidates of each problem it scores.
        """
        ...


class PlannerError(ForethoughtError):
    """Planner options out of range, or arguments that do not fit the planner."""


def require(condition: bool, rule: str, value: object) -> None:
    """Raise a `PlannerError` that states the rule and the value, unless the condition holds."""
    if not condition:
        raise PlannerError(f"{rule}, got {value!r}")


def require_bounds(action_low: Tensor, action_high: Tensor) -> None:
    """Raise a `PlannerError` unless the bounds are two finite vectors `[A]`, the lower below the higher."""
    require(
        action_low.ndim == 1 and action_low.shape == action_high.shape and action_low.numel() > 0,
        "action_low and action_high must both have shape [A]",
        (list(action_low.shape), list(action_high.shape)),
    )
    require(action_low.is_floating_point(), "action_low must have a floating dtype", action_low.dtype)
    ordered = (action_low < action_high) & action_low.isfinite() & action_high.isfinite()
    require(
        bool(ordered.all()),
        "action_low must be finite and below a finite action_high",
        (action_low.tolist(), action_high.tolist()),
    )


@dataclass(frozen=True, eq=False)
class Plan:
    """What a planner found, for each of the `B` problems.

    Args:
        actions: `[B, H, A]`, in real units and inside the bounds.
        cost: `[B]`, the cost of exactly these actions, or the best candidate's where a planner returns a mean that it
            does not score; inf where no candidate had a finite cost.
        best_costs: `[B, I]`, the lowest cost up to each iteration; iterations not run repeat the last value.
        num_invalid: `[B]`, how many candidates had a cost (or were seeds) that is not finite.
        std: `[B]`, mean standard deviation of the final search distribution, in half-ranges of the actions.
        iterations_run: iterations begun, at least 1.
        elapsed_s: seconds spent.
    """

    actions: Tensor
    cost: Tensor
    best_costs: Tensor
    num_invalid: Tensor
    std: Tensor
    iterations_run: int
    elapsed_s: float


class Planner(Protocol[StateT]):
    """Searches action sequences of low cost, for `B` independent problems at once.

    A planner holds no state and no randomness of its own: the same state, generator state and cost function give the
    same plan. States are dataclasses whose tensors have the batch dimension first, so that problems can be selected.
    """

    @property
    def horizon(self) -> int:
        """Number of actions in a plan, `H`."""
        ...

    def init(self, batch_size: int) -> StateT:
        """The state before the first plan of `batch_size` problems (the start of their episodes)."""
        ...

    def plan(
        self,
        cost_fn: CostFn,
        state: StateT,
        generator: torch.Generator,
        seeds: Tensor | None = None,
        deadline_s: float | None = None,
    ) -> tuple[Plan, StateT]:
        """Search.

        Args:
            cost_fn: scores candidates `[B, n, H, A]` by costs `[B, n]`; costs that are not finite never win.
            state: from `init`, `plan` or `advance`.
            generator: source of the random numbers, on the device of the planner.
            seeds: `[B, S, H, A]`, sequences to try in the first iteration (a policy's, a memory's); clamped to the
                bounds, and counted as invalid where NaN.
            deadline_s: seconds after which the best plan so far is returned. Something is always scored, however
                short the time.

        Returns:
            the plan, and the state from which `advance` leads to the next one.

        Raises:
            PlannerError: seeds or costs of the wrong shape, or costs without gradient where one is needed.
        """
        ...

    def advance(self, state: StateT, steps: int) -> StateT:
        """The state `steps` actions later (0 or more): the warm start of the next plan."""
        ...


@dataclass
class PlannerOptions:
    """Options of every built-in planner."""

    horizon: int = 10
    """Number of actions in a plan, H."""
    num_samples: int = 256
    """Candidates scored per iteration and problem, seeds and the warm start included, N."""
    iterations: int = 6
    """Rounds of candidates, each drawn from what the last one taught, I."""
    noise_beta: float = 0.0
    """Colour of the sampling noise along the horizon (power 1/f^beta): 0 white, 2 red; more is smoother."""
    num_knots: int | None = None
    """Search this many knots instead of every single action; None searches the actions themselves."""
    interpolation: str = "hold"
    """Actions between knots: `hold` (blocks of equal actions), `linear` or `cubic`."""
    warm_start: bool = True
    """Whether the next plan starts from this one, shifted by the steps taken, or afresh."""
    tail: str = "repeat"
    """Actions at the end of a shifted plan: `repeat` the last one, or `middle` of the bounds."""
    early_stop_tolerance: float | None = None
    """Stop once an iteration improves every problem's best cost by no more than this fraction of it; None never."""
    max_candidates_per_call: int | None = None
    """Most candidates (problems x samples) in one call of the cost function, to limit memory; None for no limit."""

    def __post_init__(self) -> None:
        require(self.horizon >= 1, "horizon must be at least 1", self.horizon)
        require(self.num_samples >= 2, "num_samples must be at least 2", self.num_samples)
        require(self.iterations >= 1, "iterations must be at least 1", self.iterations)
        require(0 <= self.noise_beta <= 10, "noise_beta must be between 0 and 10", self.noise_beta)
        require(
            self.num_knots is None or 1 <= self.num_knots <= self.horizon,
            f"num_knots must be between 1 and horizon={self.horizon}",
            self.num_knots,
        )
        require(
            self.interpolation in INTERPOLATIONS,
            f"interpolation must be one of {', '.join(INTERPOLATIONS)}",
            self.interpolation,
        )
        require(self.tail in ("repeat", "middle"), "tail must be one of repeat, middle", self.tail)
        tolerance, limit = self.early_stop_tolerance, self.max_candidates_per_call
        require(tolerance is None or tolerance >= 0, "early_stop_tolerance must be 0 or more", tolerance)
        require(limit is None or limit >= 1, "max_candidates_per_call must be at least 1", limit)
