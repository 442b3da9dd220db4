"""The predictor: an ensemble of residual MLPs `z' = z + f(z, a)` evaluated as one batched product."""

import torch
from torch import Tensor, nn
from typing_extensions import override

from .stacked import StackedMLP


class EnsembleDynamics(nn.Module):
    """Residual MLP predictors, one per ensemble member (Chua et al., "PETS", 2018; Hansen et al., 2024).

    Args:
        latent_dim: size of z.
        action_dim: size of the (normalised) action.
        hidden: width.
        layers: hidden layers.
        members: ensemble size, `E`.
    """

    def __init__(self, latent_dim: int, action_dim: int, hidden: int, layers: int, members: int) -> None:
        super().__init__()
        # Start close to "nothing changes", the best guess before any data.
        sizes = [latent_dim + action_dim, *[hidden] * layers, latent_dim]
        self.net = StackedMLP(members, sizes, last_scale=0.1, actions=action_dim)

    @override
    def forward(self, z: Tensor, action: Tensor) -> Tensor:
        """`z [e, n, Z]`, `action [n, A]` -> next latents `[e, n, Z]` by the first `e` members."""
        x = torch.cat([z, action.expand(len(z), -1, -1)], dim=-1)
        # The sum has the precision of z: in half precision, slow motions would be rounded away at every step.
        ahead: Tensor = z + self.net(x.to(self.net.dtype))
        return ahead

    def roll_out(self, z: Tensor, actions: Tensor) -> Tensor | None:
        """Latents `[e, n, H, Z]` after each of `actions [n, H, A]` from `z [e, n, Z]`; None unless frozen for it."""
        fused = self.net.fused(z, actions)
        return None if fused is None else fused.roll_out(z, actions)
