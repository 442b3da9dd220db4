"""Gradient descent through the cost function, from random starts or from the elites of iCEM."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from .base import PlannerOptions, require
from .icem import ICEM, ICEMOptions
from .sampling import SamplingPlanner, SearchState

# Of Adam's moments; the second is faster than usual because a plan takes tens of steps, not thousands.
_DECAY = (0.9, 0.99)


@dataclass
class GradientOptions(PlannerOptions):
    """Options of gradient descent."""

    num_samples: int = 16
    """Sequences that descend side by side, seeds and the warm start included, N."""
    iterations: int = 30
    """Gradient steps, I (the first iteration scores the starts)."""
    init_std: float = 0.5
    """Standard deviation of the starts around the warm start, in half-ranges of the actions."""
    learning_rate: float = 0.1
    """Length of a step per action, in half-ranges, at the first iteration, which takes none; falls linearly to zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.init_std > 0, "init_std must be above 0", self.init_std)
        require(self.learning_rate > 0, "learning_rate must be above 0", self.learning_rate)


@dataclass
class SampleGradientOptions(ICEMOptions):
    """Options of iCEM with gradient refinement; `iterations` are those of iCEM."""

    refine_iterations: int = 10
    """Gradient steps on the elites after the last iteration of iCEM."""
    learning_rate: float = 0.05
    """Length of the first step per action, in half-ranges; falls linearly to zero over the refinement."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.refine_iterations >= 1, "refine_iterations must be at least 1", self.refine_iterations)
        require(self.learning_rate > 0, "learning_rate must be above 0", self.learning_rate)


class Gradient(SamplingPlanner):
    """Adam (Kingma and Ba, 2015) on the actions, from several starts; the best candidate ever scored is the plan.

    Each gradient is first scaled to unit size, so that neither the scale of the cost nor gradients that explode over
    the horizon matter, and steps are projected into the bounds. Needs a differentiable cost function.
    """

    options: GradientOptions

    def __init__(self, action_low: Tensor, action_high: Tensor, options: GradientOptions) -> None:
        super().__init__(action_low, action_high, options)

    @property
    @override
    def initial_std(self) -> float:
        return self.options.init_std

    @property
    @override
    def num_elites(self) -> int:
        return self.options.num_samples

    @override
    def uses_gradients(self, iteration: int) -> bool:
        return True

    @override
    def num_drawn(self, iteration: int) -> int:
        return 0 if iteration else self.options.num_samples

    @override
    def ask(self, state: SearchState, iteration: int, noise: Tensor) -> Tensor:
        if iteration == 0:
            return self.sample(state, noise)
        return descend(state, iteration, self.options.learning_rate * (1 - iteration / self.options.iterations))

    @override
    def tell(self, state: SearchState, candidates: Tensor, costs: Tensor, gradients: Tensor | None) -> SearchState:
        assert gradients is not None
        return replace(accumulate(state, candidates, costs, gradients), std=candidates.std(dim=1, correction=0))

    @override
    def finish(self, state: SearchState, best: Tensor) -> SearchState:
        return replace(state, mean=best)


class SampleGradient(ICEM):
    """iCEM to find the valley, then gradient descent of its elites to find the bottom.

    Bharadhwaj, Xie and Shkurti, "Model-predictive control via cross-entropy and gradient-based optimization" (2020),
    in its simplest form: one after the other. The mean is refined, too, in place of the worst elite. Needs a
    differentiable cost function.
    """

    options: SampleGradientOptions

    def __init__(self, action_low: Tensor, action_high: Tensor, options: SampleGradientOptions) -> None:
        super().__init__(action_low, action_high, options)

    @property
    @override
    def num_iterations(self) -> int:
        # One more than there are steps: the elites' gradients have to be known before the first.
        return self.options.iterations + 1 + self.options.refine_iterations

    @override
    def uses_gradients(self, iteration: int) -> bool:
        return iteration >= self.options.iterations

    @override
    def converged(self, state: SearchState, best_costs: list[Tensor]) -> bool:
        # Neither that iCEM has converged nor the iteration that finds the first gradients says that they are of no use.
        return len(best_costs) > self.options.iterations + 1 and super().converged(state, best_costs)

    @override
    def num_drawn(self, iteration: int) -> int:
        return super().num_drawn(iteration) if iteration < self.options.iterations else 0

    @override
    def ask(self, state: SearchState, iteration: int, noise: Tensor) -> Tensor:
        options = self.options
        step = iteration - options.iterations
        if step < 0:
            return super().ask(state, iteration, noise)
        if step == 0:
            candidates = torch.where(state.elite_valid[..., None, None], state.elites, state.mean[:, None])
            candidates[:, -1] = state.mean
            return candidates
        return descend(state, step, options.learning_rate * (1 - (step - 1) / options.refine_iterations))

    @override
    def tell(self, state: SearchState, candidates: Tensor, costs: Tensor, gradients: Tensor | None) -> SearchState:
        if gradients is None:
            return super().tell(state, candidates, costs, None)
        return replace(accumulate(state, candidates, costs, gradients), mean=candidates[:, -1])

    @override
    def finish(self, state: SearchState, best: Tensor) -> SearchState:
        state = super().finish(state, best)
        elites = torch.cat((best[:, None], state.elites[:, :-1]), dim=1)
        valid = torch.cat((torch.ones_like(state.elite_valid[:, :1]), state.elite_valid[:, :-1]), dim=1)
        return replace(state, elites=elites, elite_valid=valid)


def accumulate(state: SearchState, candidates: Tensor, costs: Tensor, gradients: Tensor) -> SearchState:
    """Take candidates `[B, E, K, A]` as the elites and their gradients into Adam's moments."""
    gradients = gradients.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    largest = gradients.abs().amax(dim=(2, 3), keepdim=True)
    gradients = gradients / largest.clamp_(min=torch.finfo(gradients.dtype).tiny)
    observed = torch.stack((gradients, gradients.square()), dim=1)
    decay = state.moments.new_tensor(_DECAY)[:, None, None, None]
    moments = torch.lerp(observed, state.moments, decay)
    return replace(state, elites=candidates, elite_valid=costs.isfinite(), moments=moments)


def descend(state: SearchState, step: int, learning_rate: float) -> Tensor:
    """The elites after Adam's `step`-th step (from 1), inside the unit box."""
    first = state.moments[:, 0] / (1 - _DECAY[0] ** step)
    second = state.moments[:, 1] / (1 - _DECAY[1] ** step)
    return (state.elites - learning_rate * first / (second.sqrt() + 1e-8)).clamp_(-1, 1)
