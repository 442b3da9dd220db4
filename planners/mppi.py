"""Model predictive path integral control."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from .base import require
from .gaussian import GaussianOptions, GaussianPlanner
from .sampling import SearchState

SCALES = ("std", "range", "absolute")


@dataclass
class MPPIOptions(GaussianOptions):
    """Options of model predictive path integral control."""

    temperature: float = 0.5
    """Softness of the weights `exp(-cost / temperature)`, in units of `temperature_scale`; low is greedy."""
    temperature_scale: str = "std"
    """Unit of the temperature: `std` or `range` of the (finite) costs that are weighed, or `absolute`."""
    num_elites: int | None = 32
    """Weigh only this many candidates of lowest cost; None weighs all (the original), which outliers can drown."""
    adapt_std: bool = True
    """Refit the standard deviation as well as the mean (TD-MPC); without, it stays at `init_std` (the original)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, "temperature must be above 0", self.temperature)
        require(
            self.temperature_scale in SCALES,
            f"temperature_scale must be one of {', '.join(SCALES)}",
            self.temperature_scale,
        )
        require(
            self.num_elites is None or 2 <= self.num_elites <= self.num_samples,
            f"num_elites must be between 2 and num_samples={self.num_samples}",
            self.num_elites,
        )


class MPPI(GaussianPlanner):
    """Path integral control: every candidate moves the mean, with a weight exponential in its cost.

    Williams, Wagener, Goldfain, Drews, Rehg, Boots and Theodorou, "Information theoretic MPC for model-based
    reinforcement learning" (2017), without the control cost that belongs to the cost function here; adaptation of the
    standard deviation and elites as in Hansen, Wang and Su, "Temporal difference learning for model predictive
    control" (2022). The original executes the mean; that is the option `return_mean`, off because the mean of two ways
    round an obstacle leads into it.
    """

    options: MPPIOptions

    def __init__(self, action_low: Tensor, action_high: Tensor, options: MPPIOptions) -> None:
        super().__init__(action_low, action_high, options)

    @override
    def tell(self, state: SearchState, candidates: Tensor, costs: Tensor, gradients: Tensor | None) -> SearchState:
        if self.options.num_elites is not None:
            costs, index = costs.topk(self.options.num_elites, dim=1, largest=False)
            candidates = candidates.take_along_dim(index[..., None, None], dim=1)
        told = self.refit(state, candidates, self.weights(costs))
        return told if self.options.adapt_std else replace(told, std=state.std)

    def weights(self, costs: Tensor) -> Tensor:
        """Weights `[B, M]` of costs `[B, M]`: they sum to 1, or are all 0 where no cost is finite."""
        valid = costs.isfinite()
        above = torch.where(valid, costs - costs.amin(dim=1, keepdim=True), 0.0)
        temperature = self.options.temperature * self._spread(above, valid)
        weights = torch.where(valid, torch.exp(-above / temperature), 0.0)
        return weights / weights.sum(dim=1, keepdim=True).clamp_(min=1.0)  # the best one weighs 1, if there is one

    def _spread(self, above: Tensor, valid: Tensor) -> Tensor:
        """The unit `[B, 1]` of the temperature, for costs above the lowest `[B, M]` (0 where not valid)."""
        if self.options.temperature_scale == "absolute":
            return torch.ones_like(above[:, :1])
        if self.options.temperature_scale == "range":
            spread = above.amax(dim=1, keepdim=True)
        else:
            count = valid.sum(dim=1, keepdim=True).clamp_(min=1)
            mean = above.sum(dim=1, keepdim=True) / count
            deviations = torch.where(valid, above - mean, 0.0)
            spread = (deviations.square_().sum(dim=1, keepdim=True) / count).sqrt_()
        return spread.clamp_(min=torch.finfo(above.dtype).tiny)
