"""Read-outs for control by reward: reward, a value ensemble with its target, policy prior and termination.

After Hansen, Su and Wang, "TD-MPC2: scalable, robust world models for continuous control" (2024).
"""

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from .stacked import StackedMLP

MIN_LOG_STD, MAX_LOG_STD = -5.0, 1.0


def symlog(x: Tensor) -> Tensor:
    """Sign-preserving logarithm, `sign(x) log(1 + |x|)`."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """Inverse of `symlog`."""
    return x.sign() * x.abs().expm1()


class TwoHot(nn.Module):
    """Numbers as distributions over bins that are evenly spaced on a symlog axis.

    Regression as classification keeps gradients of one size whatever the scale of rewards (Hafner et al.,
    "DreamerV3", 2023; Imani and White, 2018).

    Args:
        bins: how many.
        limit: symlog of the largest number; e^10 is far beyond the returns of control tasks.
    """

    def __init__(self, bins: int, limit: float = 10.0) -> None:
        super().__init__()
        self.limit, self.width = limit, 2 * limit / (bins - 1)
        # Whole numbers, exact in half precision too.
        self.register_buffer("index", torch.arange(bins, dtype=torch.float32), persistent=False)

    def mean(self, logits: Tensor) -> Tensor:
        """Expected numbers `[...]`, in single precision, of logits `[..., bins]`."""
        index = self.get_buffer("index").float()
        return symexp(F.softmax(logits.float(), dim=-1) @ index * self.width - self.limit)

    def loss(self, logits: Tensor, numbers: Tensor) -> Tensor:
        """Cross-entropy `[...]` of logits `[..., bins]` against numbers broadcastable to `[...]`."""
        bins = logits.shape[-1]
        position = (symlog(numbers.expand(logits.shape[:-1])) + self.limit) / self.width
        position = position.clamp(0, bins - 1)
        low = position.floor().clamp(max=bins - 2)
        upper = (position - low).unsqueeze(-1)
        index = low.long().unsqueeze(-1)
        log_p = F.log_softmax(logits.float(), dim=-1)
        gain = log_p.gather(-1, index) * (1 - upper) + log_p.gather(-1, index + 1) * upper
        return -gain.squeeze(-1)


class Choice(NamedTuple):
    """What the policy prior would do: normalised actions.

    Args:
        action: a draw, `[..., A]`.
        mean: the middle of the distribution it comes from, `[..., A]`.
        raw: the same before it is squashed, `[..., A]`.
        log_p: log-probability of the draw, `[...]`.
    """

    action: Tensor
    mean: Tensor
    raw: Tensor
    log_p: Tensor


class ControlHeads(nn.Module):
    """What control by reward reads from latents; actions are normalised to [-1, 1] here.

    Args:
        latent_dim: size of z.
        action_dim: size of the action.
        hidden: width of the two hidden layers of each head.
        bins: of the distributions of reward and value.
        members: value functions that are trained side by side, `K`.
        discount: worth of the next decision's reward.
    """

    def __init__(self, latent_dim: int, action_dim: int, hidden: int, bins: int, members: int, discount: float) -> None:
        super().__init__()
        self.discount, self.action_dim = discount, action_dim
        sizes = [latent_dim + action_dim, hidden, hidden, bins]
        self.twohot = TwoHot(bins)
        # All start out certain of nothing: zero logits.
        self.reward = StackedMLP(1, sizes, last_scale=0.0, actions=action_dim)
        self.value = StackedMLP(members, sizes, last_scale=0.0, actions=action_dim)
        self._names = [name for name, _ in self.value.named_parameters()]
        self.target = copy.deepcopy(self.value).requires_grad_(requires_grad=False)
        self.policy = StackedMLP(1, [latent_dim, hidden, hidden, 2 * action_dim], last_scale=1.0)
        self.termination = StackedMLP(1, [latent_dim, hidden, 1], last_scale=1.0)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("has_terminated", torch.zeros((), dtype=torch.bool))
        self._terminates: bool | None = None

    @property
    def terminates(self) -> bool:
        """Whether any episode so far ended by itself; until then nothing is spent on foreseeing it."""
        return bool(self.get_buffer("has_terminated")) if self._terminates is None else self._terminates

    def freeze(self) -> None:
        """Promise that nothing will change: to read a buffer would interrupt compiled code."""
        self._terminates = self.terminates

    def expected(self, logits: Tensor) -> Tensor:
        """Expected numbers `[...]` of logits `[..., bins]`."""
        return self.twohot.mean(logits)

    def reward_logits(self, taken: Tensor) -> Tensor:
        """Reward of actions where they are taken, `[..., Z + A]`: logits `[..., bins]`."""
        return _read(self.reward, taken).squeeze(0)

    def value_logits(self, taken: Tensor, *, which: str = "value") -> Tensor:
        """Discounted return of an action and of the policy thereafter.

        Args:
            taken: latents and actions `[..., Z + A]`.
            which: `value`; `target`, its slow average; or `frozen`, `value` with gradients to its input only.

        Returns:
            logits `[K, ..., bins]`.
        """
        if which == "frozen":
            return _read(self.value, taken, {name: self.value.get_parameter(name).detach() for name in self._names})
        return _read(self.value if which == "value" else self.target, taken)

    def rewards(self, z: Tensor, actions: Tensor) -> Tensor:
        """Expected rewards `[...]` of actions `[..., A]` taken in latents `z [..., Z]`."""
        return self._worth(self.reward, z, actions).squeeze(0)

    def values(self, z: Tensor, actions: Tensor) -> Tensor:
        """Expected discounted returns `[K, ...]` of actions `[..., A]` in latents `z [..., Z]`."""
        return self._worth(self.value, z, actions)

    def _worth(self, net: StackedMLP, z: Tensor, actions: Tensor) -> Tensor:
        fused = net.fused(z, actions)
        if fused is None:
            return self.expected(_read(net, torch.cat([z, actions], dim=-1)))
        out = fused.expect(z.reshape(-1, z.shape[-1]), actions.reshape(-1, self.action_dim), self.twohot.limit)
        return out.reshape(net.members, *z.shape[:-1])

    def alive(self, z: Tensor) -> Tensor:
        """Probability `[...]` that the episode has not ended in `z [..., Z]`."""
        return torch.sigmoid(-_read(self.termination, z).float())[0, ..., 0]

    def act(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """Normalised actions `[..., A]` of the policy prior in latents `z [..., Z]`.

        Args:
            z: latents.
            noise: standard normal `[..., A]`; None takes the mean.
        """
        raw, spread = self._policy(z)
        return torch.tanh(raw if noise is None else torch.addcmul(raw, noise, _log_std(spread).exp()))

    def choose(self, z: Tensor, noise: Tensor) -> Choice:
        """All that is known of the actions that `act` returns."""
        raw, spread = self._policy(z)
        log_std = _log_std(spread)
        drawn = torch.addcmul(raw, noise, log_std.exp())
        # log(1 - tanh(x)^2), in a form that does not round to log 0
        squashed = 2 * (math.log(2) - drawn - F.softplus(-2 * drawn))
        log_p = (-0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi) - squashed).sum(dim=-1)
        return Choice(torch.tanh(drawn), torch.tanh(raw), raw, log_p)

    def _policy(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What the policy network says, `[..., A]` each: mean before tanh, and spread, see `_log_std`.

        A squashed Gaussian, as of Haarnoja et al., "Soft actor-critic" (2018).
        """
        out = _read(self.policy, z)[0].float()
        return out[..., : self.action_dim], out[..., self.action_dim :]

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the target a step of `1 - decay` toward the value functions."""
        torch._foreach_lerp_(list(self.target.parameters()), list(self.value.parameters()), 1 - decay)


def _log_std(spread: Tensor) -> Tensor:
    return MIN_LOG_STD + (MAX_LOG_STD - MIN_LOG_STD) * (torch.tanh(spread) + 1) / 2


def _read(net: StackedMLP, x: Tensor, weights: dict[str, Tensor] | None = None) -> Tensor:
    """All members of a stacked network on `x [..., in]`: `[K, ..., out]`."""
    flat = x.reshape(1, -1, x.shape[-1]).to(net.dtype).expand(net.members, -1, -1)
    out: Tensor = net(flat) if weights is None else functional_call(net, weights, (flat,))
    return out.reshape(net.members, *x.shape[:-1], out.shape[-1])


def episode_discount(steps: int) -> float:
    """Discount whose horizon is a fifth of an episode, within [0.95, 0.995] (TD-MPC2)."""
    horizon = max(steps / 5, 1.0)
    return min(max((horizon - 1) / horizon, 0.95), 0.995)
