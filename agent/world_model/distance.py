"""Distance to a goal in steps: learned from pairs of one episode, or as a quasimetric that joins episodes together."""

import copy
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from .encoders import mlp
from .fused import FusedMLP, LayerWeights, layers_of, supports, unless_gradients
from .stacked import StackedMLP


def cautious(steps: Tensor, dim: int) -> Tensor:
    """What heads `M` along `dim` say, as one number: their mean plus standard deviation; what they doubt is far."""
    if steps.shape[dim] == 2:
        return torch.maximum(*steps.unbind(dim))  # the same number, in a tenth of the time
    return steps.mean(dim=dim) + steps.std(dim=dim, unbiased=False)


class PairwiseDistance(nn.Module):
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
        self._fused: FusedMLP | None = None

    def freeze(self, fused: torch.dtype) -> None:
        """Promise that the weights will not change: they are evaluated in one call, see `FusedMLP`."""
        weight = torch.cat([self.from_state.weight, self.from_goal.weight], dim=1).T
        first = LayerWeights(weight, self.from_goal.bias, self.norm.weight, self.norm.bias)
        self._fused = FusedMLP([[first, *layers_of(self.body)]], fused)

    @override
    def forward(self, z: Tensor, point: Tensor, goal: Tensor) -> Tensor:
        """Steps to the goal, at least 0.

        Args:
            z: latents `[..., Z]`.
            point: the same states in goal space `[..., G]` (z itself where goals are whole observations).
            goal: goal embeddings, broadcastable to `[..., G]`.
        """
        fused = unless_gradients(self._fused, z, point, goal)
        if fused is not None:
            x = torch.cat([z, (point - goal).abs(), goal.expand_as(point)], dim=-1)
            out = fused(x.reshape(1, -1, x.shape[-1])).reshape(x.shape[:-1])
            return F.softplus(out.to(z.dtype)) * self.SCALE
        dtype = self.from_goal.weight.dtype  # differences are taken before anything is rounded to half precision
        features = torch.cat([z, (point - goal).abs()], dim=-1).to(dtype)
        x = self.from_state(features) + self.from_goal(goal.to(dtype))
        steps: Tensor = F.softplus(self.body(self.norm(x)).to(z.dtype)).squeeze(-1) * self.SCALE
        return steps


class Quasimetric(nn.Module):
    """Steps from a state to a goal as a quasimetric: at least 0, 0 from a state to itself, and by no detour shorter.

    The triangle inequality is what joins episodes: a way seen in two halves bounds the whole. Distances are those of
    metric residual networks (Liu, Feng, Liu and Stone 2023): over groups of features, the mean of an asymmetric part,
    `max relu(x - y)`, and a Euclidean one. They are learned as in quasimetric reinforcement learning (Wang, Torralba,
    Isola and Zhang 2023): as large as can be between any two states, while no step that was taken is longer than 1.

    Members of an ensemble, trained side by side, disagree where there is little to learn from.

    No distance is shorter than its `floor`: what the fastest moves that were seen would take without anything in
    between. The learned part is too small where little was seen, the floor nowhere; and the larger of two quasimetrics
    is one.

    Args:
        latent_dim: size of z.
        goal_dim: size of a goal embedding; None where goals are latents.
        hidden: width of the two hidden layers.
        members: of the ensemble, `M`.
    """

    GROUPS, SIZE = 8, 8
    """Groups of features in either part, and features in each of them."""

    def __init__(self, latent_dim: int, goal_dim: int | None, hidden: int, members: int) -> None:
        super().__init__()
        self.members, out = members, 2 * self.GROUPS * self.SIZE
        self.state = StackedMLP(members, [latent_dim, hidden, hidden, out], last_scale=1.0)
        self.goal = None if goal_dim is None else StackedMLP(members, [goal_dim, hidden, hidden, out], last_scale=1.0)
        self.register_buffer("price", torch.ones(()))
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("pace", torch.zeros(latent_dim if goal_dim is None else goal_dim))
        self._least: Tensor | None = None

    @override
    def forward(self, z: Tensor, goal: Tensor) -> Tensor:
        """Learned steps `[M, ...]` from latents `[..., Z]` to goal embeddings `[..., G]`, which are broadcast."""
        lead = (1,) * (z.ndim - goal.ndim)  # or else members would meet what is before the shape of the goals
        return self.between(self.embed(z), self.embed_goal(goal.reshape(*lead, *goal.shape))) / self.get_buffer("unit")

    def embed(self, z: Tensor) -> Tensor:
        """Latents `[..., Z]` to features `[M, ..., 2, GROUPS, SIZE]`."""
        return self._features(self.state, z)

    def embed_goal(self, goal: Tensor) -> Tensor:
        """Goal embeddings `[..., G]` to features, as of `embed`."""
        return self._features(self.state if self.goal is None else self.goal, goal)

    def _features(self, net: StackedMLP, x: Tensor) -> Tensor:
        flat = x.to(net.dtype).reshape(1, -1, x.shape[-1]).expand(self.members, -1, -1)
        out: Tensor = net(flat)
        return out.reshape(self.members, *x.shape[:-1], 2, self.GROUPS, self.SIZE)

    def frozen(self, *, fused: bool) -> Self:
        """A copy for measuring, whose weights never change again, in single precision: hundreds of steps may differ by
        less than one.

        Args:
            fused: evaluate networks by one call each where this machine has that, see `fused.supports`.
        """
        copied = copy.deepcopy(self).float().requires_grad_(requires_grad=False)
        able = fused and copied.get_buffer("unit").device.type == "cpu" and supports(torch.float32)
        for net in (copied.state, copied.goal):
            if net is not None:
                net.freeze(torch.float32 if able else None)
        copied._least = copied._steps_per_unit()
        return copied

    def floor(self, point: Tensor, goal: Tensor) -> Tensor:
        """Steps `[...]` that it takes at least from states at `point [..., G]` of goal space to goals `[..., G]`.

        As far as no number of goal space moves faster than `pace`; those that never move say nothing.
        """
        least = self._least if self._least is not None else self._steps_per_unit()
        return ((point - goal).abs() * least.to(point.dtype)).amax(dim=-1)

    def _steps_per_unit(self) -> Tensor:
        pace = self.get_buffer("pace")
        return torch.where(pace > 0, 1 / pace, 0.0)

    @torch.no_grad()
    def keep_pace(self, points: Tensor) -> None:
        """Take in how far single steps went, in windows `[B, L+1, G]` of points in goal space."""
        pace, fastest = self.get_buffer("pace"), points.diff(dim=1).abs().amax(dim=(0, 1)).float()
        pace.copy_(torch.where(pace > 0, torch.lerp(pace, fastest, 0.01), fastest))

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        """Learned distances `[M, ...]` between features as of `embed`, which are broadcast; a step is one `unit`."""
        return self._length(x - y, dim=-1)

    def between_columns(self, x: Tensor, y: Tensor) -> Tensor:
        """The same `[M, n]` between features `[M, 2, GROUPS, SIZE, n]`: of thousands in a tenth of the time."""
        return self._length(x - y, dim=-2)

    @staticmethod
    def _length(difference: Tensor, dim: int) -> Tensor:
        """Of differences of features whose groups are along `dim`."""
        one_way, both_ways = difference.unbind(dim=dim - 2)
        # The square root has no gradient at 0.
        both_ways = (both_ways.square().sum(dim=dim) + 1e-6).sqrt()
        return (F.relu(one_way.amax(dim=dim)) + both_ways).mean(dim=dim)

    def loss(self, states: Tensor, ahead: Tensor, same: Tensor | None, goals: Tensor, far: float) -> Tensor:
        """How near unrelated states and goals are, plus the price of steps that are longer than 1.

        The price, a Lagrange multiplier, begins low and rises slowly while too many steps are too long. What is dear
        from the start never unfolds: places on two sides of a wall stay as near as they look. Steps are too long for
        as long as the price rises, all alike; a step's length, as nine of ten are, is the `unit` of distances.

        Args:
            states: features `[M, n, ...]`, as of `embed`.
            ahead: those of the states one step later.
            same: pairs of features that belong to one state and its own goal, `[2, M, n, ...]`; None where goals are
                latents.
            goals: those of goals that have nothing to do with the states.
            far: steps beyond which it hardly matters how much farther a goal is.

        Returns:
            the loss, in units of `far`.
        """
        walked = self.between(states, ahead)
        excess = F.relu(walked - 1).square().mean()
        if same is not None:
            excess = excess + self.between(same[0], same[1]).square().mean()
        near = F.softplus(far - self.between(states, goals), beta=5 / far).mean()
        price = self.get_buffer("price")
        loss = (near + price.clone() * excess) / far
        with torch.no_grad():
            price.add_(self.RATE * (excess / self.TOLERANCE - 1).clamp(-1, 1)).clamp_(min=self.RATE)
            self.get_buffer("unit").lerp_(torch.quantile(walked.flatten(), 0.9).clamp(min=1e-3), 0.01)
        return loss

    TOLERANCE = 0.25**2
    """Mean squared excess of a step over 1 at which the price rests; this and the rate are those of Wang et al."""
    RATE = 0.01
    """Largest change of the price in an update."""
