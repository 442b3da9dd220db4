"""Perception: observations to features.

`StateEncoder` reads vectors, `PixelEncoder` reads stacked frames, `ObsEncoder` joins whatever an `EnvSpec` lists.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from ...envs.spec import ArraySpec


def mlp(sizes: Sequence[int], *, norm: bool = True) -> nn.Sequential:
    """Linear layers `sizes[0] -> ... -> sizes[-1]` with LayerNorm and SiLU between them, none after the last."""
    layers: list[nn.Module] = []
    for index, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(fan_in, fan_out))
        if index < len(sizes) - 2:
            if norm:
                layers.append(nn.LayerNorm(fan_out))
            layers.append(nn.SiLU())
    return nn.Sequential(*layers)


class SimNorm(nn.Module):
    """Softmax over groups of `group` latents (Hansen et al., "TD-MPC2", 2024): bounded, sparse, hard to collapse.

    Latents of a group are `Z / group` apart.
    """

    def __init__(self, group: int = 8) -> None:
        super().__init__()
        self.group = group

    @override
    def forward(self, z: Tensor) -> Tensor:
        # Groups are strided: a CPU takes a softmax over the dimension before the last twenty times faster than one over
        # eight numbers side by side.
        groups = z.reshape(*z.shape[:-1], self.group, z.shape[-1] // self.group)
        return F.softmax(groups, dim=-2).flatten(-2)


class SpatialSoftmax(nn.Module):
    """Where each channel of `[N, C, H, W]` responds most: `[N, 2 C]`, its place from -1 to 1 in x and in y.

    A place is the mean under a softmax of the responses (Finn et al., "Deep spatial autoencoders for visuomotor
    learning", 2016). What is recognised in one corner is recognised in all, without having been seen there.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        self.register_buffer("places", torch.stack([x.flatten(), y.flatten()], dim=1), persistent=False)
        self.sharpness = nn.Parameter(torch.ones(channels, 1))

    @override
    def forward(self, responses: Tensor) -> Tensor:
        weights = torch.softmax(responses.flatten(2) * self.sharpness, dim=-1)
        return (weights @ self.get_buffer("places")).flatten(1)


class PixelEncoder(nn.Module):
    """Convolutions over `[..., H, W, C]` uint8 frames, then an MLP to `features`.

    Frames are first freed of what never changes: without `calibrate`, all of them look alike to an untrained network
    and a joint embedding starts out collapsed.

    Args:
        shape: `(H, W, C)`.
        channels: of the convolutions; the first quarters height and width, each other halves them, or with
            `pooling="keypoints"` keeps them.
        hidden: width of the MLP.
        features: size of the output.
        pooling: what the MLP reads of the last convolution: `flatten`, all of it, or `keypoints`, the place of each of
            its channels, see `SpatialSoftmax`.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        channels: Sequence[int],
        hidden: int,
        features: int,
        pooling: str = "flatten",
    ) -> None:
        super().__init__()
        height, width, depth = shape
        self.register_buffer("background", torch.full(shape, 0.5))
        self.register_buffer("contrast", torch.ones(()))
        self.register_buffer("calibrated", torch.zeros((), dtype=torch.bool))
        keypoints = pooling == "keypoints"
        following = (3, 1, 1) if keypoints else (4, 2, 1)
        layers: list[nn.Module] = []
        for out in channels:
            # Quartering first, as Mnih et al. (2015) do, costs less than half of halving.
            size, stride, padding = following if layers else (8, 4, 2)
            layers += [nn.Conv2d(depth, out, size, stride=stride, padding=padding), nn.SiLU()]
            depth, height, width = out, height // stride, width // stride
        if keypoints:
            layers[-1] = SpatialSoftmax(depth, height, width)
        self.convolutions = nn.Sequential(*layers)
        self.project = mlp([depth * 2 if keypoints else depth * height * width, hidden, features])

    @staticmethod
    def least_side(channels: Sequence[int], pooling: str) -> int:
        """Pixels that a picture must be wide and high, for two places side by side, or flattened for one."""
        return 8 if pooling == "keypoints" else 2 ** (len(channels) + 1)

    def calibrate(self, frames: Tensor) -> None:
        """Take the mean picture as background and the spread around it as contrast. `frames [n, H, W, C]` uint8.

        Only the first call counts: every later change of the background would shift the latents.
        """
        if bool(self.get_buffer("calibrated")):
            return
        x = frames.to(torch.float32) / 255
        stack = stacked_frames(x.shape[-1])
        # One for all frames of the stack, so that a still picture differs from a moving one by its motion alone.
        background = x.mean(dim=0).reshape(*x.shape[1:-1], stack, -1).mean(dim=-2).repeat(1, 1, stack)
        self.get_buffer("background").copy_(background)
        self.get_buffer("contrast").copy_(1 / (x - background).std().clamp(min=1e-3))
        self.get_buffer("calibrated").fill_(True)

    @override
    def forward(self, frames: Tensor) -> Tensor:
        """Features `[..., features]` of frames `[..., H, W, C]`, or of still pictures `[..., H, W, 3]`.

        A still picture stands for a whole stack of itself: its weights are the sum of those of all frames.
        """
        batch = frames.shape[:-3]
        x = frames.flatten(0, -4) if len(batch) else frames.unsqueeze(0)
        background, contrast = self.get_buffer("background"), self.get_buffer("contrast")
        first = cast(nn.Conv2d, self.convolutions[0])
        # The scale goes into the first weights, which are few: passes over the frames cost more than convolutions.
        weight = first.weight * (contrast / 255)
        if (channels := frames.shape[-1]) < first.in_channels:
            stack = first.in_channels // channels
            weight = weight.reshape(len(weight), stack, channels, *weight.shape[2:]).sum(dim=1)
            background = background[..., -channels:]
        x = x.to(background.dtype).sub_(background * 255)
        # Frames arrive channels-last; permuting without copying keeps the layout that convolutions on a CPU like best.
        x = F.conv2d(x.permute(0, 3, 1, 2), weight, first.bias, first.stride, first.padding)
        out: Tensor = self.project(self.convolutions[1:](x).flatten(1))
        return out.reshape(*batch, out.shape[-1])


def newest_frame(images: Tensor) -> Tensor:
    """The last of the frames that are stacked in `[..., H, W, C]`, which `PixelEncoder` takes for a still picture."""
    return images[..., -(images.shape[-1] // stacked_frames(images.shape[-1])) :]


def stacked_frames(channels: int) -> int:
    """How many frames of three colours are stacked in so many channels; what is not in threes is one picture."""
    return 1 if channels % 3 else channels // 3


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
        pooling: of the convolutions, see `PixelEncoder`.
    """

    def __init__(
        self,
        obs: Mapping[str, ArraySpec],
        hidden: int,
        layers: int,
        channels: Sequence[int],
        features: int,
        pooling: str = "flatten",
    ) -> None:
        super().__init__()
        self.vectors = {k: spec for k, spec in sorted(obs.items()) if not spec.is_image}
        self.images = sorted(k for k, spec in obs.items() if spec.is_image)
        sources = len(self.images) + bool(self.vectors)
        self.state: nn.Module | None = None
        if self.vectors:
            self.state = mlp([sum(spec.size for spec in self.vectors.values()), *[hidden] * layers, features])
        pixels = {k: PixelEncoder(obs[k].shape, channels, hidden, features, pooling) for k in self.images}
        self.pixels = nn.ModuleDict(pixels)
        self.join = mlp([sources * features, hidden, features]) if sources > 1 else nn.Identity()

    @override
    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        parts = [self.pixels[k](obs[k]) for k in self.images]
        if self.state is not None:
            parts.append(self.state(flat_vectors(obs, self.vectors)))
        joined: Tensor = self.join(parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1))
        return joined


class AugmentedEncoder(ObsEncoder):
    """The normalised state as it is, and learned features of everything beside it: `[..., D + features]`.

    A joint embedding keeps what is easy to predict, slow variables and functions of them, and loses the rest (Tang et
    al., "Understanding self-predictive learning for reinforcement learning", 2023). What is measured already needs no
    such risk; images have no such part. Arguments as for `ObsEncoder`.
    """

    @override
    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        learned = super().forward(obs)
        return torch.cat([flat_vectors(obs, self.vectors), learned], dim=-1) if self.vectors else learned


class IdentityEncoder(nn.Module):
    """The normalised state itself as latent: the ceiling for any learned representation of a state observation."""

    def __init__(self, obs: Mapping[str, ArraySpec]) -> None:
        super().__init__()
        self.vectors = dict(sorted(obs.items()))

    @override
    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        return flat_vectors(obs, self.vectors)


def flat_vectors(obs: Mapping[str, Tensor], specs: Mapping[str, ArraySpec]) -> Tensor:
    """Flatten and concatenate vector observations `{key: [..., *shape]}` to `[..., D]`, in the order of `specs`."""
    parts = []
    for key, spec in specs.items():
        lead = obs[key].shape[: obs[key].ndim - len(spec.shape)]
        parts.append(obs[key].reshape(*lead, spec.size))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
