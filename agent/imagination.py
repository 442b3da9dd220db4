"""Imagination: candidate action sequences to latent trajectories, for every ensemble member."""

from dataclasses import dataclass

from torch import Tensor

from .world_model.model import Dynamics


@dataclass(frozen=True)
class Trajectory:
    """What the world model expects of a set of candidates.

    Args:
        start: `[B, Z]`, the present latents.
        latents: `[E, B, N, H, Z]`, the latents after each action.
        actions: `[B, N, H, A]` in real units.
    """

    start: Tensor
    latents: Tensor
    actions: Tensor


def imagine(model: Dynamics, z: Tensor, actions: Tensor, members: int, correction: Tensor | None = None) -> Trajectory:
    """Roll the world model forward, open loop.

    Args:
        model: the dynamics.
        z: present latents `[B, Z]`.
        actions: candidates `[B, N, H, A]` in real units.
        members: ensemble members to roll out, `E`.
        correction: of the model, one for each problem `[B, A, Z]`, see `Dynamics.rollout`.
    """
    batch, samples, horizon, _ = actions.shape
    state = z.unsqueeze(1).expand(-1, samples, -1).reshape(1, batch * samples, -1).expand(members, -1, -1)
    latents = model.rollout(state, actions.reshape(batch * samples, horizon, -1), correction)
    return Trajectory(z, latents.reshape(members, batch, samples, horizon, -1), actions)
