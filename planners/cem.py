"""The cross-entropy method."""

from dataclasses import dataclass, replace

from torch import Tensor
from typing_extensions import override

from .base import require
from .gaussian import GaussianOptions, GaussianPlanner
from .sampling import SearchState


@dataclass
class CEMOptions(GaussianOptions):
    """Options of the cross-entropy method."""

    num_elites: int = 16
    """Candidates of lowest cost that the distribution is refitted to."""
    from_best: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            2 <= self.num_elites <= self.num_samples,
            f"num_elites must be between 2 and num_samples={self.num_samples}",
            self.num_elites,
        )


class CEM(GaussianPlanner):
    """Cross-entropy method: refit a Gaussian to the elites, with momentum ("smoothed updating").

    De Boer, Kroese, Mannor and Rubinstein, "A tutorial on the cross-entropy method" (2005).
    """

    options: CEMOptions

    def __init__(self, action_low: Tensor, action_high: Tensor, options: CEMOptions) -> None:
        super().__init__(action_low, action_high, options)

    @property
    @override
    def num_elites(self) -> int:
        return self.options.num_elites

    @override
    def tell(self, state: SearchState, candidates: Tensor, costs: Tensor, gradients: Tensor | None) -> SearchState:
        elite_costs, index = costs.topk(self.num_elites, dim=1, largest=False)
        elites = candidates.take_along_dim(index[..., None, None], dim=1)
        valid = elite_costs.isfinite()
        weights = valid / valid.sum(dim=1, keepdim=True).clamp_(min=1)
        return replace(self.refit(state, elites, weights.to(elites)), elites=elites, elite_valid=valid)
