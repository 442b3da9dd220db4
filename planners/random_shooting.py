"""Random shooting: the baseline that every planner must beat."""

import math
from dataclasses import dataclass, replace

from torch import Tensor
from typing_extensions import override

from .base import PlannerOptions
from .sampling import SamplingPlanner, SearchState


@dataclass
class RandomShootingOptions(PlannerOptions):
    """Options of random shooting."""

    num_samples: int = 1024
    """Candidates scored per iteration and problem, seeds and the warm start included, N."""
    iterations: int = 1
    """Rounds of candidates, I; rounds do not learn from each other but let a deadline come between them."""


class RandomShooting(SamplingPlanner):
    """Uniformly distributed candidates, the best of which is the plan.

    With coloured noise, single actions stay uniformly distributed and their sequence becomes smooth (a Gaussian
    copula): white uniform noise hardly moves a system with inertia. The planner of Nagabandi, Kahn, Fearing and Levine,
    "Neural network dynamics for model-based deep reinforcement learning with model-free fine-tuning" (2018).
    """

    options: RandomShootingOptions

    def __init__(self, action_low: Tensor, action_high: Tensor, options: RandomShootingOptions) -> None:
        super().__init__(action_low, action_high, options)

    @property
    @override
    def initial_std(self) -> float:
        return math.sqrt(1 / 3)  # of the uniform distribution over [-1, 1]

    @override
    def ask(self, state: SearchState, iteration: int, noise: Tensor) -> Tensor:
        return (noise * math.sqrt(0.5)).erf_()  # the Gaussian's distribution function, from [0, 1] to [-1, 1]

    @override
    def tell(self, state: SearchState, candidates: Tensor, costs: Tensor, gradients: Tensor | None) -> SearchState:
        return state

    @override
    def finish(self, state: SearchState, best: Tensor) -> SearchState:
        return replace(state, mean=best)
