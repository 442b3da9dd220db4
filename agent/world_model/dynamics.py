"""The predictor: an ensemble of residual MLPs `z' = z + f(z, a)` evaluated as one batched product."""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


class StackedLinear(nn.Module):
    """`members` linear layers side by side: `[e, n, in] -> [e, n, out]` through the first `e` of them."""

    def __init__(self, members: int, fan_in: int, fan_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in)
        self.weight = nn.Parameter(torch.empty(members, fan_in, fan_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, fan_out).uniform_(-bound, bound))

    @override
    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:  # one plain product is faster than a batch of one
            return torch.addmm(self.bias[0], x[0], self.weight[0]).unsqueeze(0)
        return torch.baddbmm(self.bias[: len(x)], x, self.weight[: len(x)])


class StackedNorm(nn.Module):
    """Layer normalisation with a gain and bias for each member of a stack, over `[e, n, width]`."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(members, 1, width))
        self.bias = nn.Parameter(torch.zeros(members, 1, width))

    @override
    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            return F.layer_norm(x, x.shape[-1:], self.gain[0, 0], self.bias[0, 0])
        return F.layer_norm(x, x.shape[-1:]) * self.gain[: len(x)] + self.bias[: len(x)]


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
        blocks: list[nn.Module] = []
        fan_in = latent_dim + action_dim
        for _ in range(layers):
            blocks += [StackedLinear(members, fan_in, hidden), StackedNorm(members, hidden), nn.SiLU()]
            fan_in = hidden
        last = StackedLinear(members, fan_in, latent_dim)
        with torch.no_grad():  # start close to "nothing changes", the best guess before any data
            last.weight.mul_(0.1)
            last.bias.zero_()
        self.net = nn.Sequential(*blocks, last)

    @override
    def forward(self, z: Tensor, action: Tensor) -> Tensor:
        """`z [e, n, Z]`, `action [n, A]` -> next latents `[e, n, Z]` by the first `e` members."""
        action = action.expand(len(z), *action.shape[-2:])
        dtype = cast(StackedLinear, self.net[0]).weight.dtype
        delta: Tensor = self.net(torch.cat([z, action], dim=-1).to(dtype))
        # The sum has the precision of z: in half precision, slow motions would be rounded away at every step.
        return z + delta.to(z.dtype)
