"""Imagination: candidate action sequences to latent trajectories, for every ensemble member."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .world_model.model import Dynamics


@dataclass(frozen=True)
class Trajectory:
    """What the world model expects of a set of candidates.

    Args:
        latents: `[E, B, N, H, Z]`, the latents after each action; the present is not among them.
        actions: `[B, N, H, A]` in real units.
    """

    latents: Tensor
    actions: Tensor


def imagine(model: Dynamics, z: Tensor, actions: Tensor, members: int) -> Trajectory:
    """Roll the world model forward, open loop.

    Args:
        model: the dynamics.
        z: present latents `[B, Z]`.
        actions: candidates `[B, N, H, A]` in real units.
        members: ensemble members to roll out, `E`.
    """
    batch, samples, horizon, _ = actions.shape
    state = z.unsqueeze(1).expand(-1, samples, -1).reshape(1, batch * samples, -1).expand(members, -1, -1)
    flat = actions.reshape(batch * samples, horizon, -1)
    latents = []
    for t in range(horizon):
        state = model.step(state, flat[:, t])
        latents.append(state)
    stacked = torch.stack(latents, dim=2)  # [E, B*N, H, Z]
    return Trajectory(stacked.reshape(members, batch, samples, *stacked.shape[2:]), actions)
