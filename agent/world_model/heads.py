"""Read-outs of the latents: inverse dynamics, time to goal, achieved goal, and probes that never teach the encoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from .encoders import mlp


class InverseDynamicsHead(nn.Module):
    """The normalised action that led from one latent to the next; keeps in z what actions control.

    Pathak et al., "Curiosity-driven exploration by self-supervised prediction" (2017).
    """

    def __init__(self, latent_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__()
        self.net = mlp([2 * latent_dim, hidden, action_dim])

    @override
    def forward(self, z: Tensor, z_next: Tensor) -> Tensor:
        """Latents `[..., Z]` and those one step later -> actions `[..., A]`, in [-1, 1] if they were taken."""
        action: Tensor = self.net(torch.cat([z, z_next], dim=-1))
        return action


class TimeToGoalHead(nn.Module):
    """Steps from a state to a goal, learned from pairs of one episode.

    Regression on hindsight pairs, as in semi-parametric topological memory (Savinov et al. 2018) and dynamical
    distances (Hartikainen et al. 2020). The features are `[z, |p - g|, g]` with `p` the state's point in goal space and
    `g` the goal, whose share of the first layer is computed once per goal, whatever the number of candidates.

    Args:
        latent_dim: size of z.
        goal_dim: size of a goal embedding.
        hidden: width of the two hidden layers.
    """

    SCALE = 10.0
    """Steps that correspond to an output of one."""

    def __init__(self, latent_dim: int, goal_dim: int, hidden: int) -> None:
        super().__init__()
        self.from_goal = nn.Linear(goal_dim, hidden)
        self.from_state = nn.Linear(latent_dim + goal_dim, hidden, bias=False)
        self.norm = nn.LayerNorm(hidden)
        self.body = nn.Sequential(nn.SiLU(), *mlp([hidden, hidden, 1]))

    @override
    def forward(self, z: Tensor, point: Tensor, goal: Tensor) -> Tensor:
        """Steps to the goal, at least 0.

        Args:
            z: latents `[..., Z]`.
            point: the same states in goal space `[..., G]` (z itself where goals are whole observations).
            goal: goal embeddings, broadcastable to `[..., G]`.
        """
        dtype = self.from_goal.weight.dtype  # differences are taken before anything is rounded to half precision
        features = torch.cat([z, (point - goal).abs()], dim=-1).to(dtype)
        x = self.from_state(features) + self.from_goal(goal.to(dtype))
        steps: Tensor = F.softplus(self.body(self.norm(x)).to(z.dtype)).squeeze(-1) * self.SCALE
        return steps


class Probe(nn.Module):
    """A small decoder from latents to normalised quantities; its input is detached, so it teaches the encoder nothing.

    Shows what the latents hold (Alain and Bengio, "Understanding intermediate layers using linear classifier probes",
    2016) and turns imagined latents into curves that a person can read.
    """

    def __init__(self, latent_dim: int, size: int, hidden: int) -> None:
        super().__init__()
        self.net = mlp([latent_dim, hidden, size])

    @override
    def forward(self, z: Tensor) -> Tensor:
        """Latents `[..., Z]` -> quantities `[..., size]`."""
        out: Tensor = self.net(z.detach())
        return out
