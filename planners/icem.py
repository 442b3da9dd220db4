"""The improved cross-entropy method, made for planning in real time."""

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from .base import require
from .cem import CEM, CEMOptions
from .sampling import SearchState


@dataclass
class ICEMOptions(CEMOptions):
    """Options of the improved cross-entropy method."""

    from_best: bool = False  # kept elites do the same
    noise_beta: float = 2.0
    """Colour of the sampling noise along the horizon (power 1/f^beta): 0 white, 2 red; more is smoother."""
    keep_elites: float = 0.3
    """Fraction of the elites that are candidates again, in the next iteration and (shifted) in the next plan."""
    shrink: float = 1.25
    """Factor by which candidates become fewer from one iteration to the next, down to two per elite; 1 keeps all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.keep_elites <= 1, "keep_elites must be between 0 and 1", self.keep_elites)
        require(self.shrink >= 1, "shrink must be at least 1", self.shrink)


class ICEM(CEM):
    """CEM with coloured noise, elites kept within and between plans, ever fewer candidates, and the mean as a last try.

    Pinneri, Sawant, Blaes, Achterhold, Stueckler, Rolinek and Martius, "Sample-efficient cross-entropy method for
    real-time planning" (2020). Kept elites count as samples here, so that every iteration scores what it says.
    """

    options: ICEMOptions

    def __init__(self, action_low: Tensor, action_high: Tensor, options: ICEMOptions) -> None:
        super().__init__(action_low, action_high, options)

    @override
    def num_drawn(self, iteration: int) -> int:
        options = self.options
        shrunk = max(round(options.num_samples / options.shrink**iteration), 2 * options.num_elites)
        return min(shrunk, options.num_samples)

    @override
    def ask(self, state: SearchState, iteration: int, noise: Tensor) -> Tensor:
        options, candidates = self.options, self.sample(state, noise)
        kept = round(options.keep_elites * options.num_elites)
        if kept:
            valid = state.elite_valid[:, :kept, None, None]
            candidates[:, -kept:] = torch.where(valid, state.elites[:, :kept], candidates[:, -kept:])
        if iteration == options.iterations - 1:
            candidates[:, 0] = state.mean
        return candidates
