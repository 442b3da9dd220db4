"""What the encoder is shown in training instead of what was seen: pictures a little aside, measurements missing.

Losses keep the truth as their target; only the input of the encoder changes.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def shift_images(frames: Tensor, shift: Tensor) -> Tensor:
    """Move pictures by whole pixels and repeat their borders (DrQ; Kostrikov, Yarats & Fergus, "Image augmentation is
    all you need", 2021).

    NumPy's slices, one window at a time: on a CPU six times as fast as PyTorch's, twenty times as fast as gathering
    pixels. From another device, frames come here and go back.

    Args:
        frames: `[B, T, H, W, C]`, all frames of a window moved alike.
        shift: pixels down and right `[B, 2]`, each of less magnitude than height and width.

    Returns:
        the moved copies, `[B, T, H, W, C]`.
    """
    pictures = frames.cpu().numpy()
    moved, (height, width) = np.empty_like(pictures), pictures.shape[2:4]
    for before, after, (down, right) in zip(pictures, moved, shift.tolist(), strict=True):
        top, bottom = max(down, 0), height + min(down, 0)
        left, end = max(right, 0), width + min(right, 0)
        after[:, top:bottom, left:end] = before[:, top - down : bottom - down, left - right : end - right]
        after[:, top:bottom, :left] = after[:, top:bottom, left : left + 1]
        after[:, top:bottom, end:] = after[:, top:bottom, end - 1 : end]
        after[:, :top] = after[:, top : top + 1]
        after[:, bottom:] = after[:, bottom - 1 : bottom]
    return torch.from_numpy(moved).to(frames.device)


def drop_vectors(obs: Mapping[str, Tensor], unknown: Mapping[str, Tensor], dropped: Tensor) -> dict[str, Tensor]:
    """Replace the vector observations of some windows by what stands for "unknown".

    Args:
        obs: `{key: [B, T, ...]}`.
        unknown: `{key: [...]}` for every vector; see `Normalizer.unknown`.
        dropped: which windows, bool `[B]`.
    """
    replaced = dict(obs)
    for key, value in unknown.items():
        chosen = dropped.view(-1, *[1] * (obs[key].ndim - 1))
        replaced[key] = torch.where(chosen, value.to(obs[key].dtype), obs[key])
    return replaced
