"""Perception: observations to features.

`StateEncoder` reads vectors, `PixelEncoder` reads stacked frames, `ObsEncoder` joins whatever an `EnvSpec` lists.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from ...envs.spec import ArraySpec


def mlp(sizes: Sequence[int], *, norm: bool = True) -> nn.Sequential:
    """Linear layers `sizes[0] -> ... -> sizes[-1]` with LayerNorm and SiLU between them, none after the last."""
    layers: list[nn.Module] = []
    for index, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        layers.append(nn.Linear(fan_in, fan_out))
        if index < len(sizes) - 2:
            if norm:
                layers.append(nn.LayerNorm(fan_out))
            layers.append(nn.SiLU())
    return nn.Sequential(*layers)


class SimNorm(nn.Module):
    """Softmax over groups of `group` latents (Hansen et al., "TD-MPC2", 2024): bounded, sparse, hard to collapse."""

    def __init__(self, group: int = 8) -> None:
        super().__init__()
        self.group = group

    @override
    def forward(self, z: Tensor) -> Tensor:
        return F.softmax(z.unflatten(-1, (-1, self.group)), dim=-1).flatten(-2)


class PixelEncoder(nn.Module):
    """Four strided convolutions over `[..., H, W, C]` uint8 frames, then one linear layer to `features`."""

    def __init__(self, shape: tuple[int, ...], channels: Sequence[int], features: int) -> None:
        super().__init__()
        height, width, depth = shape
        layers: list[nn.Module] = []
        for out in channels:
            layers += [nn.Conv2d(depth, out, 4, stride=2, padding=1), nn.SiLU()]
            depth, height, width = out, height // 2, width // 2
        self.convolutions = nn.Sequential(*layers)
        self.project = nn.Linear(depth * height * width, features)

    @override
    def forward(self, frames: Tensor) -> Tensor:
        batch = frames.shape[:-3]
        x = frames.flatten(0, -4) if len(batch) else frames.unsqueeze(0)
        # Frames arrive channels-last; permuting without copying keeps the layout that convolutions on a CPU like best.
        x = x.permute(0, 3, 1, 2).to(self.project.weight.dtype) / 255.0 - 0.5
        out: Tensor = self.project(self.convolutions(x).flatten(1))
        return out.unflatten(0, batch) if len(batch) else out.squeeze(0)


class ObsEncoder(nn.Module):
    """All arrays of a flat observation dictionary to one feature vector.

    Vectors are concatenated in sorted key order and read by an MLP; each image has a `PixelEncoder`; several sources
    are joined by one more linear layer.

    Args:
        obs: array specs, `EnvSpec.obs`.
        hidden: width of the MLP.
        layers: hidden layers of the MLP.
        channels: channels of the convolutions.
        features: size of the output.
    """

    def __init__(
        self, obs: Mapping[str, ArraySpec], hidden: int, layers: int, channels: Sequence[int], features: int
    ) -> None:
        super().__init__()
        self.vectors = sorted(k for k, spec in obs.items() if not spec.is_image)
        self.images = sorted(k for k, spec in obs.items() if spec.is_image)
        sources = len(self.images) + bool(self.vectors)
        self.state: nn.Module | None = None
        if self.vectors:
            self.state = mlp([sum(obs[k].size for k in self.vectors), *[hidden] * layers, features])
        self.pixels = nn.ModuleDict({k: PixelEncoder(obs[k].shape, channels, features) for k in self.images})
        self.join = mlp([sources * features, hidden, features]) if sources > 1 else nn.Identity()

    @override
    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        parts = [self.pixels[k](obs[k]) for k in self.images]
        if self.state is not None:
            parts.append(self.state(flat_vectors(obs, self.vectors)))
        joined: Tensor = self.join(parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1))
        return joined


class IdentityEncoder(nn.Module):
    """The normalised state itself as latent: the ceiling for any learned representation of a state observation."""

    def __init__(self, obs: Mapping[str, ArraySpec]) -> None:
        super().__init__()
        self.vectors = sorted(obs)
        self.size = sum(spec.size for spec in obs.values())

    @override
    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        return flat_vectors(obs, self.vectors)


def flat_vectors(obs: Mapping[str, Tensor], keys: Sequence[str]) -> Tensor:
    """Concatenate vector observations `{key: [..., d]}` to `[..., sum d]`, in the order of `keys`."""
    if len(keys) == 1:
        return obs[keys[0]]
    return torch.cat([obs[k] for k in keys], dim=-1)
