"""Running mean and standard deviation of vector observations, computed from the store."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from ... import ForethoughtError
from ...envs.spec import ArraySpec
from .store import EpisodeStore


class NormalizerError(ForethoughtError):
    """An option that cannot be."""


class Normalizer(nn.Module):
    """Shifts and scales vector observations to mean 0 and standard deviation 1, per dimension.

    Statistics are sums in float64, merged episode by episode (Chan, Golub & LeVeque 1983, "Algorithms for Computing
    the Sample Variance"), and part of `state_dict`. They follow the module to a device but never change precision.
    Before the first update nothing is changed.

    Args:
        obs: the observations by key; images, and keys that are not here, pass through untouched.
        clip: bound on the magnitude of what comes out; None for none.
        min_std: a dimension that varied less counts as constant and is only shifted, so that noise is not blown up.

    Raises:
        NormalizerError: an option is not positive.
    """

    def __init__(self, obs: Mapping[str, ArraySpec], clip: float | None = 10.0, min_std: float = 1e-6) -> None:
        super().__init__()
        if clip is not None and not clip > 0:
            raise NormalizerError(f"clip must be positive or None, got {clip}")
        if not min_std > 0:
            raise NormalizerError(f"min_std must be positive, got {min_std}")
        self.clip, self.min_std = clip, min_std
        self._shapes = {key: array.shape for key, array in sorted(obs.items()) if not array.is_image}
        sizes = {key: array.size for key, array in sorted(obs.items()) if not array.is_image}
        ends = torch.tensor([0, *sizes.values()]).cumsum(0).tolist()
        self._slices = {key: slice(ends[i], ends[i + 1]) for i, key in enumerate(sizes)}
        self.count: Tensor
        self.mean: Tensor
        self.squares: Tensor  # sum of squared distances from the mean
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(ends[-1], dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(ends[-1], dtype=torch.float64))

    def update_from(self, store: EpisodeStore, ids: Iterable[int]) -> None:
        """Take in all observations of these episodes; an episode given twice counts twice.

        Raises:
            StoreError: there is no such episode.
            UnknownNameError: an episode lacks one of the keys.
        """
        if not self._slices:
            return
        for episode_id in ids:
            with store.reading() as reader:
                arrays = [reader.array(episode_id, f"obs/{key}") for key in self._slices]
                rows = [torch.tensor(array, dtype=torch.float64).reshape(len(array), -1) for array in arrays]
            self._merge(torch.cat(rows, dim=1).to(self.mean.device))

    def _merge(self, rows: Tensor) -> None:
        """Take in observations `[N, D]`."""
        total = self.count + len(rows)
        mean = rows.mean(dim=0)
        delta = mean - self.mean
        self.squares += (rows - mean).square().sum(dim=0) + delta.square() * self.count * len(rows) / total
        self.mean += delta * len(rows) / total
        self.count.copy_(total)

    @property
    def std(self) -> Tensor:
        """Standard deviation `[D]` of all dimensions in the order of the sorted keys; 1 where constant or unknown."""
        std = (self.squares / self.count.clamp(min=1)).sqrt()
        return torch.where(std < self.min_std, torch.ones_like(std), std)

    def unknown(self) -> dict[str, Tensor]:
        """What stands for a vector that is not known, `{key: shape}`: the mean, which is 0 once it is normalised."""
        return {key: self.mean[self._slices[key]].view(shape).float() for key, shape in self._shapes.items()}

    def normalize(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Observations `{key: [..., *shape]}` to the same shapes, mean 0 and standard deviation 1."""
        std = self.std
        out = dict(obs)
        for key in obs.keys() & self._slices.keys():
            value = (obs[key] - self._like(self.mean, key, obs[key])) / self._like(std, key, obs[key])
            out[key] = value if self.clip is None else value.clamp(-self.clip, self.clip)
        return out

    def denormalize(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `normalize`, apart from clipping."""
        std = self.std
        out = dict(obs)
        for key in obs.keys() & self._slices.keys():
            out[key] = obs[key] * self._like(std, key, obs[key]) + self._like(self.mean, key, obs[key])
        return out

    def _like(self, statistic: Tensor, key: str, value: Tensor) -> Tensor:
        return statistic[self._slices[key]].view(self._shapes[key]).to(value.dtype)

    @override
    def _apply(self, fn: Any, recurse: bool = True) -> "Normalizer":
        """Move the statistics where `fn` moves tensors, but keep their precision."""
        device = fn(torch.empty(0, device=self.mean.device)).device
        for name, buffer in self._buffers.items():
            self._buffers[name] = None if buffer is None else buffer.to(device)
        return self
