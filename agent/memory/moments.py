"""Moments of episodes as a world model sees them, and what tells one model's view from another's."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...envs.spec import EnvSpec
from ..world_model.model import WorldModel

Array = NDArray[Any]


@torch.no_grad()
def moments_of(
    model: WorldModel, obs: Mapping[str, Array], actions: Array, stride: int = 1
) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
    """Every `stride`-th moment of an episode as a model sees it.

    Args:
        model: made for goals.
        obs: observations `{key: [T+1, ...]}`.
        actions: between them, `[T, A]`.
        stride: moments from one that is looked at to the next.

    Returns:
        latents `[n, Z]`, the same moments as goal embeddings `[n, G]`, and when they are, `[n]`.
    """
    device, at = next(model.parameters()).device, np.arange(0, len(actions) + 1, stride)
    chosen = {k: torch.as_tensor(np.array(obs[k][at])).to(device) for k in model.spec.obs}
    if model.recurrence is None:
        latents = model.encode(chosen)
    else:  # a belief depends on all that was before
        whole = {k: torch.as_tensor(np.array(obs[k])).to(device).unsqueeze(0) for k in model.spec.obs}
        done = torch.as_tensor(np.array(actions)).to(device).unsqueeze(0)
        latents = model.encode_sequence(whole, done)[0, torch.from_numpy(at).to(device)]
    return latents, model.embed_reached(chosen), at


def note_name(prefix: str, spec: EnvSpec) -> str:
    """Where a store notes what was made of the episodes of an environment, `EpisodeStore.ids(spec=spec)`.

    One id is several environments: with pictures or without, with something hidden, with other times of decisions.
    """
    told = {**spec.to_json(), "max_episode_steps": None}
    return f"{prefix}{spec.env_id}/{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]}"


def encoder_key(model: WorldModel, stride: int) -> bytes:
    """A hash of all that latents of memory come from: architecture and weights of the encoder, and the stride."""
    options = dataclasses.asdict(model.options)
    digest = hashlib.sha256(json.dumps([options["encoder"], options["latent_norm"], stride]).encode())
    parts = {"encoder": model.encoder, "norm": model.norm, "normalizer": model.normalizer, "gru": model.recurrence}
    for part, module in parts.items():
        for name, weights in sorted(module.state_dict().items()) if module is not None else ():
            digest.update(f"{part}.{name} {weights.dtype} {list(weights.shape)};".encode())
            digest.update(weights.detach().cpu().contiguous().numpy().tobytes())
    return digest.digest()
