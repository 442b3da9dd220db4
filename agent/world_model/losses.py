"""Losses that keep a joint-embedding model predictive and its latents from collapsing."""

import torch
from torch import Tensor
from torch.nn import functional as F


def prediction_loss(predicted: Tensor, target: Tensor, rho: float) -> Tensor:
    """Mean squared error of multi-step latent prediction; step t weighs `rho^t`, normalised to one.

    Args:
        predicted: `[E, B, L, Z]`.
        target: `[B, L, Z]`; gradients are stopped here.
        rho: weight decay per step, 1 for equal weights.
    """
    error = (predicted - target.detach()).square().mean(dim=(0, 1, 3))
    weights = rho ** torch.arange(len(error), dtype=error.dtype, device=error.device)
    return (error * weights).sum() / weights.sum()


def variance_loss(z: Tensor, target_std: float = 1.0) -> Tensor:
    """Hinge on the per-dimension standard deviation (Bardes et al., "VICReg", 2022). `z [n, Z]`."""
    std = (z.var(dim=0) + 1e-4).sqrt()
    return F.relu(target_std - std).mean()


def covariance_loss(z: Tensor) -> Tensor:
    """Squared off-diagonal covariances, summed and divided by Z (Bardes et al., "VICReg", 2022). `z [n, Z]`."""
    centred = z - z.mean(dim=0)
    covariance = centred.T @ centred / (len(z) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / z.shape[1]


def sigreg_loss(z: Tensor, generator: torch.Generator, projections: int = 64, knots: int = 17) -> Tensor:
    """Sketched isotropic Gaussian regularisation (Balestriero and LeCun, "LeJEPA", 2025).

    The Epps-Pulley distance between the empirical characteristic function of random one-dimensional projections and
    that of a standard normal, integrated by the trapezoid rule over t in [0, 3] with a Gaussian weight.

    Args:
        z: `[n, Z]`.
        generator: draws the projections.
        projections: number of random directions.
        knots: integration points.
    """
    directions = torch.randn(z.shape[1], projections, generator=generator, device=generator.device).to(z)
    sketch = z @ (directions / directions.norm(dim=0))
    t = torch.linspace(0, 3, knots, dtype=z.dtype, device=z.device)
    normal = torch.exp(-0.5 * t.square())
    angles = sketch.unsqueeze(-1) * t  # [n, projections, knots]
    error = (angles.cos().mean(dim=0) - normal).square() + angles.sin().mean(dim=0).square()
    return 2 * torch.trapezoid(error * normal, t, dim=-1).mean()


def straightening_loss(z: Tensor) -> Tensor:
    """One minus the cosine between consecutive latent velocities (Henaff et al. 2019). `z [B, T, Z]`, T >= 3."""
    velocity = z.diff(dim=1)
    return 1 - F.cosine_similarity(velocity[:, 1:], velocity[:, :-1], dim=-1, eps=1e-6).mean()
