"""What was seen, in cells of like size: so that what is rare can be drawn as often as what is common."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

Array = NDArray[Any]


def places(obs: Array) -> NDArray[np.float32]:
    """One observation key `[T, *shape]` as few numbers that say where it was, `[T, D]`.

    Of pictures, the colours of sixteen fields of the newest frame.
    """
    if obs.ndim != 4:
        return obs.reshape(len(obs), -1).astype(np.float32)
    newest = torch.from_numpy(np.ascontiguousarray(obs[..., -3:])).movedim(-1, 1)
    fields = [F.adaptive_avg_pool2d(part.float() / 255, 4).flatten(1) for part in torch.split(newest, 512)]
    return torch.cat(fields).numpy()


def cells(points: NDArray[np.float32], count: int, rng: np.random.Generator, among: int = 20000) -> NDArray[np.int64]:
    """Which of `count` cells of like size each point `[N, D]` is in, `[N]`.

    Centres are points, each the farthest from those before (Gonzalez, "Clustering to minimize the maximum intercluster
    distance", 1985), after dividing every number by its spread.

    Args:
        points: what to divide, at least one.
        count: cells at most.
        rng: draws the points `among` which the centres are, where there are more.
        among: points that can be centres.
    """
    spread = points.std(axis=0)
    scaled = torch.from_numpy(points / np.where(spread > 0, spread, 1).astype(np.float32))
    chosen = scaled if len(points) <= among else scaled[torch.from_numpy(rng.choice(len(points), among, replace=False))]
    centres, gap = [0], torch.full((len(chosen),), torch.inf)
    while len(centres) < count:
        gap = torch.minimum(gap, (chosen - chosen[centres[-1]]).square().sum(dim=-1))
        farthest = int(gap.argmax())
        if gap[farthest] == 0:
            break
        centres.append(farthest)
    nearest = [torch.cdist(part, chosen[centres]).argmin(dim=1) for part in torch.split(scaled, 1 << 16)]
    return torch.cat(nearest).numpy()
