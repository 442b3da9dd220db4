"""What CEM, iCEM and MPPI share: a Gaussian over knots, refitted to weighted candidates."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from .base import PlannerOptions, require
from .sampling import SamplingPlanner, SearchState


@dataclass
class GaussianOptions(PlannerOptions):
    """Options of planners that search with a Gaussian; standard deviations are in half-ranges of the actions."""

    init_std: float = 0.5
    """Standard deviation at the start of every plan."""
    min_std: float = 0.05
    """Floor of the standard deviation."""
    max_std: float = 1.0
    """Ceiling of the standard deviation."""
    momentum: float = 0.1
    """Part of the old mean and standard deviation that survives an iteration; 0 forgets them."""
    return_mean: bool = False
    """Return the mean of the final distribution, which is smoother than the best candidate."""
    score_mean: bool = True
    """Score the mean before it is returned, and refuse it where its cost is not finite. Without, an evaluation is saved
    and `Plan.cost` is the best candidate's."""
    from_best: bool = False
    """The next plan goes on from the best candidate, where that is returned, and not from the mean, which may have lost
    it."""
    early_stop_std: float | None = None
    """Stop once the standard deviation, averaged over the plan, is at most this for every problem; None never."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.min_std >= 0, "min_std must be 0 or more", self.min_std)
        require(self.min_std <= self.max_std, f"max_std must be at least min_std={self.min_std}", self.max_std)
        require(
            self.init_std > 0 and self.min_std <= self.init_std <= self.max_std,
            f"init_std must be above 0 and between min_std={self.min_std} and max_std={self.max_std}",
            self.init_std,
        )
        require(0 <= self.momentum < 1, "momentum must be at least 0 and below 1", self.momentum)
        threshold = self.early_stop_std
        require(threshold is None or threshold >= 0, "early_stop_std must be 0 or more", threshold)


class GaussianPlanner(SamplingPlanner):
    """A planner that draws candidates from a Gaussian and refits it; a subclass weighs the candidates in `tell`."""

    options: GaussianOptions

    @property
    @override
    def initial_std(self) -> float:
        return self.options.init_std

    @property
    @override
    def returns_mean(self) -> bool:
        return self.options.return_mean

    @property
    @override
    def scores_mean(self) -> bool:
        return self.options.score_mean

    @override
    def ask(self, state: SearchState, iteration: int, noise: Tensor) -> Tensor:
        return self.sample(state, noise)

    @override
    def finish(self, state: SearchState, best: Tensor) -> SearchState:
        return replace(state, mean=best) if self.options.from_best and not self.returns_mean else state

    @property
    @override
    def may_stop_early(self) -> bool:
        return self.options.early_stop_std is not None or super().may_stop_early

    @override
    def converged(self, state: SearchState, best_costs: list[Tensor]) -> bool:
        threshold = self.options.early_stop_std
        if threshold is not None and bool((state.std.mean(dim=(1, 2)) <= threshold).all()):
            return True
        return super().converged(state, best_costs)

    def refit(self, state: SearchState, candidates: Tensor, weights: Tensor) -> SearchState:
        """Move mean and std to those of candidates `[B, M, K, A]` with weights `[B, M]`, which sum to 1 or are all 0.

        A problem without weights keeps its mean and std; one with a single weight keeps its std, of which a single
        candidate tells nothing.
        """
        options, support = self.options, (weights > 0).sum(dim=1)[:, None, None]
        mean = torch.einsum("bm,bmka->bka", weights, candidates)
        variance = torch.einsum("bm,bmka->bka", weights, (candidates - mean[:, None]).square_())
        std = variance.sqrt_().lerp_(state.std, options.momentum).clamp_(options.min_std, options.max_std)
        return replace(
            state,
            mean=torch.where(support > 0, mean.lerp_(state.mean, options.momentum), state.mean),
            std=torch.where(support > 1, std, state.std),
        )
