"""Read-outs of the latents: inverse dynamics, and probes that never teach the encoder."""

import torch
from torch import Tensor, nn
from typing_extensions import override

from .encoders import mlp


class InverseDynamicsHead(nn.Module):
    """The normalised action that led from one latent to the next; keeps in z what actions control.

    Pathak et al., "Curiosity-driven exploration by self-supervised prediction" (2017).
    """

    def __init__(self, latent_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__()
        self.net = mlp([2 * latent_dim, hidden, action_dim])

    @override
    def forward(self, z: Tensor, z_next: Tensor) -> Tensor:
        """Latents `[..., Z]` and those one step later -> actions `[..., A]`, in [-1, 1] if they were taken."""
        action: Tensor = self.net(torch.cat([z, z_next], dim=-1))
        return action


class Probe(nn.Module):
    """A small decoder from latents to normalised quantities; its input is detached, so it teaches the encoder nothing.

    Shows what the latents hold (Alain and Bengio, "Understanding intermediate layers using linear classifier probes",
    2016) and turns imagined latents into curves that a person can read.
    """

    def __init__(self, latent_dim: int, size: int, hidden: int) -> None:
        super().__init__()
        self.net = mlp([latent_dim, hidden, size])

    @override
    def forward(self, z: Tensor) -> Tensor:
        """Latents `[..., Z]` -> quantities `[..., size]`."""
        out: Tensor = self.net(z.detach())
        return out
