"""A world model of longer stride: one jump over many decisions, by a macro-action of a few numbers."""

import torch
from torch import Tensor, nn

from .encoders import mlp

MIN_LOG_STD, MAX_LOG_STD = -5.0, 1.0
MIN_VARIANCE = 1e-5
"""Of what a jump misses, in units of z: what is hit better than that is hit."""


class MacroModel(nn.Module):
    """Jumps `z[t] -> z[t+K]` by macro-actions: what `K` actions in a row come to, in a few numbers.

    Two levels of latent dynamics, the upper one driven by encoded stretches of actions, are those of "Hierarchical
    planning with latent world models" (Zhang, Terver, Zholus et al. 2026). Here the code is a conditional variational
    one (Sohn, Lee and Yan 2015): macro-actions of the stretches that were seen from a state are drawn toward a standard
    normal distribution, whatever the state, as skills are toward their prior (Pertsch, Lee and Lim 2020). So a
    macro-action is in units of what is usual there, and a search that keeps within two of them keeps within what was
    seen. The prior needs no network: what would shift and scale it by the state can as well be part of the jump.

    How close a jump has to come, against how much its macro-action may say, needs no weight: the decoder's variance is
    what it misses by, for each number of z (Rybkin, Daniilidis and Levine, "Simple and effective VAE training with
    calibrated decoders", 2021).

    Args:
        latent_dim: size of z.
        action_dim: size of the (normalised) action.
        hidden: width of the two hidden layers of either network.
        stride: actions that one macro-action stands for, `K`.
        macro_dim: numbers of a macro-action, `M`.
        norm: what bounds z, without weights.
    """

    def __init__(
        self, latent_dim: int, action_dim: int, hidden: int, stride: int, macro_dim: int, norm: nn.Module
    ) -> None:
        super().__init__()
        self.stride, self.macro_dim, self.norm = stride, macro_dim, norm
        self.encoder = mlp([latent_dim + stride * action_dim, hidden, hidden, 2 * macro_dim])
        self.predictor = mlp([latent_dim + macro_dim, hidden, hidden, latent_dim])

    def encode(self, z: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The macro-actions of stretches of normalised actions `[..., K, A]` from `z [..., Z]`.

        Returns:
            mean and logarithm of the standard deviation, `[..., M]` each.
        """
        mean, log_std = self.encoder(torch.cat([z, actions.flatten(-2)], dim=-1)).chunk(2, dim=-1)
        return mean, log_std.clamp(MIN_LOG_STD, MAX_LOG_STD)

    def jump(self, z: Tensor, macro: Tensor) -> Tensor:
        """Latents `[..., Z]` that macro-actions `[..., M]` lead to from latents `[..., Z]`."""
        ahead: Tensor = self.norm(z + self.predictor(torch.cat([z, macro], dim=-1)))
        return ahead

    def loss(self, z: Tensor, actions: Tensor, noise: Tensor) -> Tensor:
        """How badly jumps fit and how much macro-actions tell, per number of z, on all stretches of some windows.

        Args:
            z: latents `[B, L+1, Z]`.
            actions: normalised, `[B, L, A]`.
            noise: standard normal, `[B, L-K+1, M]`.
        """
        begin, end = z[:, : -self.stride], z[:, self.stride :]
        mean, log_std = self.encode(begin, actions.unfold(1, self.stride, 1).transpose(-1, -2))
        missed = (self.jump(begin, torch.addcmul(mean, noise, log_std.exp())) - end).square().mean(dim=(0, 1))
        divergence = 0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std
        fit = 0.5 * missed.clamp(min=MIN_VARIANCE).log().sum()
        return (fit + self.PRICE * divergence.sum(dim=-1).mean()) / z.shape[-1]

    PRICE = 0.5
    """Of what a macro-action tells, against what it saves the fit, both in nats. At 1 a latent of which nothing is
    redundant is not worth telling: each nat costs as much as it saves."""
