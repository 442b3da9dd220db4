"""Networks side by side: members of an ensemble with weights of their own, evaluated as batched products."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from .fused import FusedMLP, LayerWeights, unless_gradients


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
        return torch.addcmul(self.bias[: len(x)], F.layer_norm(x, x.shape[-1:]), self.gain[: len(x)])


class StackedMLP(nn.Module):
    """`members` MLPs side by side, with layer normalisation and SiLU between their layers: `[e, n, in] -> [e, n, out]`.

    Args:
        members: networks side by side; an input `[e, n, in]` goes through the first `e` of them.
        sizes: of the layers.
        last_scale: factor on the first weights of the last layer, whose biases start at zero.
        actions: how many of the numbers that go in are actions, the last of them; see `FusedMLP`.
    """

    def __init__(self, members: int, sizes: Sequence[int], last_scale: float, actions: int = 0) -> None:
        super().__init__()
        self.members, self.actions = members, actions
        self.layers = nn.ModuleList([StackedLinear(members, *pair) for pair in pairwise(sizes)])
        self.norms = nn.ModuleList([StackedNorm(members, size) for size in sizes[1:-1]])
        last = cast(StackedLinear, self.layers[-1])
        with torch.no_grad():
            last.weight.mul_(last_scale)
            last.bias.zero_()
        self._linear: list[tuple[Tensor, Tensor]] = []
        self._norm: list[tuple[tuple[int], Tensor, Tensor]] = []
        self._fused: FusedMLP | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return cast(StackedLinear, self.layers[0]).weight.dtype

    def freeze(self, fused: torch.dtype | None = None) -> None:
        """Promise that the weights will not change: from now on they are evaluated without detours.

        On small networks most of the time would otherwise go into calls of modules and into slicing weights.

        Args:
            fused: dtype of products of a fused network, where this machine has them; None for none.
        """
        if fused is not None:
            self._fused = FusedMLP([self._weights(member) for member in range(self.members)], fused, self.actions)
        elif self.members == 1:
            layers = [cast(StackedLinear, layer) for layer in self.layers]
            norms = [cast(StackedNorm, norm) for norm in self.norms]
            self._linear = [(layer.bias[0].detach(), layer.weight[0].detach()) for layer in layers]
            self._norm = [((norm.gain.numel(),), norm.gain[0, 0].detach(), norm.bias[0, 0].detach()) for norm in norms]

    def _weights(self, member: int) -> list[LayerWeights]:
        layers = [cast(StackedLinear, layer) for layer in self.layers]
        norms = [cast(StackedNorm, norm) for norm in self.norms]
        hidden = [
            LayerWeights(layer.weight[member], layer.bias[member, 0], norm.gain[member, 0], norm.bias[member, 0])
            for layer, norm in zip(layers, norms, strict=False)
        ]
        return [*hidden, LayerWeights(layers[-1].weight[member], layers[-1].bias[member, 0])]

    def fused(self, *inputs: Tensor) -> FusedMLP | None:
        """The frozen network in one call; None without it, or where gradients of these inputs may be asked for."""
        return unless_gradients(self._fused, *inputs)

    @override
    def forward(self, x: Tensor) -> Tensor:
        fused = self.fused(x)
        if fused is not None:
            return fused(x)
        inplace = not x.requires_grad and not torch.is_grad_enabled()
        if self._linear:
            x = x[0]
            for (bias, weight), norm in zip(self._linear, self._norm, strict=False):
                x = torch.layer_norm(torch.addmm(bias, x, weight), *norm)
                x = F.silu(x, inplace=inplace)
            return torch.addmm(self._linear[-1][0], x, self._linear[-1][1]).unsqueeze(0)
        for layer, normalize in zip(self.layers, self.norms, strict=False):
            x = F.silu(normalize(layer(x)), inplace=inplace)
        out: Tensor = self.layers[-1](x)
        return out
