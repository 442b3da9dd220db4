"""What latents know: linear probes from z to the true state (Alain & Bengio, "Understanding intermediate layers using
linear classifier probes", 2016)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..agent import Agent
from ..memory.store import Episode

RIDGE = 1e-3
"""Penalty on squared weights, per state and in units of standardised latents."""
CONSTANT_STD = 1e-6
"""A quantity that varies less, relative to its size where that is above 1, counts as constant."""

Floats = NDArray[np.float64]


def ridge_r2(
    fitted: tuple[Floats, Floats], held_out: tuple[Floats, Floats], ridge: float = RIDGE
) -> NDArray[np.float64]:
    """Share of variance that a ridge regression explains where it was not fitted, for each target.

    R^2 = 1 - squared error / squared distance from the mean of the held-out targets: 1 is perfect, 0 as good as that
    mean, and less than 0 is worse than it.

    Args:
        fitted: inputs `[n, Z]` and targets `[n, D]` that the regression is fitted to.
        held_out: inputs `[m, Z]` and targets `[m, D]` that it is judged by.
        ridge: penalty on squared weights, per row, in units of standardised inputs and targets.

    Returns:
        `[D]`; NaN for a target that is constant in either part, of which there is nothing to know.
    """
    (x, y), (x_out, y_out) = fitted, held_out
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale[_constant(x)] = np.inf  # says nothing, and divided by nearly nothing it would say it loudly
    mean, spread = y.mean(axis=0), y.std(axis=0)
    known = ~(_constant(y) | _constant(y_out))
    spread[~known] = 1.0
    penalty = np.sqrt(ridge * len(x)) * np.eye(x.shape[1])
    inputs = np.concatenate([(x - centre) / scale, penalty])
    targets = np.concatenate([(y - mean) / spread, np.zeros((x.shape[1], y.shape[1]))])
    weights = np.linalg.lstsq(inputs, targets, rcond=None)[0]
    read = (x_out - centre) / scale @ weights * spread + mean
    error = np.square(y_out - read).sum(axis=0)
    total = np.square(y_out - y_out.mean(axis=0)).sum(axis=0)
    return np.where(known, 1 - error / np.where(known, total, 1.0), np.nan)


def _constant(values: Floats) -> NDArray[np.bool_]:
    size = np.maximum(np.abs(values).max(axis=0), 1.0)
    return np.asarray(values.std(axis=0) <= CONSTANT_STD * size)


@torch.no_grad()
def linear_probe(agent: Agent, episodes: Sequence[Episode]) -> dict[str, Any]:
    """How much of the true state can be read from the latents of episodes by a linear map.

    It is fitted to every other episode and judged by the rest. True are all vector observations of the episodes, also
    those that the model does not see.

    Args:
        agent: whose model is looked at.
        episodes: held out, at least two, with the observations that the model sees and vectors beside them.

    Returns:
        `names` of the quantities, `r2` of each from the whole of z, `r2_learned` from the learned features alone (None
        where z has no measured part beside them), None in place of a number for each of `constant`, whose value did
        not vary; `episodes` and `states` that the probe was fitted to; and `reason`, why there is no probe (else None).
    """
    keys = sorted(k for k, array in episodes[0].obs.items() if array.dtype != np.uint8) if episodes else []
    if not keys or len(episodes) < 2:
        reason = "the environment shows nothing but pictures" if len(episodes) > 1 else "it needs two episodes or more"
        return {"names": [], "r2": [], "r2_learned": None, "constant": [], "episodes": 0, "states": 0, "reason": reason}
    latents = [latents_of(agent, episode).cpu().numpy().astype(np.float64) for episode in episodes]
    states = [_states(episode, keys) for episode in episodes]
    fitted, held_out = (
        (np.concatenate(latents[half::2]), np.concatenate(states[half::2])) for half in (0, 1)
    )  # fmt: skip
    measured = agent.model.measured_dim
    r2 = ridge_r2(fitted, held_out)
    learned = None
    if measured and measured < agent.model.latent_dim:
        learned = ridge_r2((fitted[0][:, measured:], fitted[1]), (held_out[0][:, measured:], held_out[1]))
    names = [name for key in keys for name in _names(key, episodes[0].obs[key][0].size)]
    return {
        "names": names,
        "r2": _numbers(r2),
        "r2_learned": None if learned is None else _numbers(learned),
        "constant": [name for name, value in zip(names, r2, strict=True) if np.isnan(value)],
        "episodes": len(episodes[::2]),
        "states": len(fitted[0]),
        "reason": None,
    }


def latents_of(agent: Agent, episode: Episode) -> Tensor:
    """Latents `[T+1, Z]` of all states of an episode, of which the model sees its own observations alone."""
    obs = {k: v.unsqueeze(0) for k, v in agent.tensors(episode.obs).items()}
    actions: Tensor = torch.as_tensor(episode.actions, device=agent.device).unsqueeze(0)
    return agent.model.encode_sequence(obs, actions)[0]


def _states(episode: Episode, keys: Sequence[str]) -> Floats:
    length = len(episode.actions) + 1
    return np.concatenate([episode.obs[key].reshape(length, -1) for key in keys], axis=1).astype(np.float64)


def _names(key: str, size: int) -> list[str]:
    return [key] if size == 1 else [f"{key}[{i}]" for i in range(size)]


def _numbers(values: Floats) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
