"""Risk: one cost per candidate out of the costs that the members of an ensemble of models predict."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import PlannerError

RISKS = ("mean", "mean_std", "cvar", "worst")


@dataclass
class RiskOptions:
    """How the costs of an ensemble become one cost."""

    kind: str = "mean"
    """`mean`, `mean_std` (mean + beta x std), `cvar` (mean of the worst fraction alpha) or `worst`."""
    beta: float = 1.0
    """Weight of the std in `mean_std`; above 0 avoids what the models disagree about, below 0 seeks it."""
    alpha: float = 0.25
    """Fraction of the members, the worst ones, that `cvar` averages; 1 is the mean."""

    def __post_init__(self) -> None:
        if self.kind not in RISKS:
            raise PlannerError(f"kind must be one of {', '.join(RISKS)}, got {self.kind!r}")
        if not math.isfinite(self.beta):
            raise PlannerError(f"beta must be finite, got {self.beta}")
        if not 0 < self.alpha <= 1:
            raise PlannerError(f"alpha must be above 0 and at most 1, got {self.alpha}")


def aggregate(costs: Tensor, options: RiskOptions) -> Tensor:
    """Aggregate costs over an ensemble; differentiable.

    `mean_std` of costs is the usual `mean - beta * std` of values. `cvar` is the conditional value at risk of
    Rockafellar and Uryasev (2000) of the empirical distribution; a fraction `alpha` that ends within a member counts
    that member in part. A candidate that one member scores NaN comes out as NaN, which planners never choose.

    Args:
        costs: `[E, B, N]`; lower is better.
        options: the measure.

    Returns:
        costs `[B, N]`.

    Raises:
        PlannerError: `costs` does not have three dimensions, or no member.
    """
    if costs.ndim != 3 or costs.shape[0] == 0:
        raise PlannerError(f"costs must have shape [E, B, N] with E at least 1, got {list(costs.shape)}")
    if options.kind == "worst":
        return costs.amax(dim=0)
    if options.kind == "mean_std":
        return costs.mean(dim=0) + options.beta * costs.std(dim=0, correction=0)
    if options.kind == "cvar":
        mass = options.alpha * costs.shape[0]
        worst = costs.topk(math.ceil(mass), dim=0).values
        rank = torch.arange(worst.shape[0], dtype=costs.dtype, device=costs.device)
        return torch.einsum("e,ebn->bn", (mass - rank).clamp(max=1) / mass, worst)
    return costs.mean(dim=0)
