"""Limits of how fast actions may change: the nearest command that keeps them, now and for ever after."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from .. import ForethoughtError
from ..envs.spec import EnvSpec
from ..planners.base import CostFn


class LimitError(ForethoughtError):
    """Limits that cannot be kept because nobody knows the control period."""


@dataclass(frozen=True)
class Motion:
    """How commands move: the last one, and how fast it changed.

    Args:
        action: `[..., A]`, float64, real units.
        rate: `[..., A]`, per second.
    """

    action: Tensor
    rate: Tensor


class ActionLimits:
    """Keeps commands inside their bounds and within limits of rate and acceleration.

    With a limit of acceleration a command near a bound must not run toward it faster than can be stopped before it. The
    rates from which it can are known in closed form, so that every command that is let through can be followed by
    another, whatever is asked for next.

    Args:
        low: lower bounds `[A]`.
        high: upper bounds `[A]`.
        rate: most change per second `[A]`; inf for no limit.
        acceleration: most change of the rate per second `[A]`; inf for no limit.
        period_s: seconds between commands.
    """

    def __init__(self, low: Tensor, high: Tensor, rate: Tensor, acceleration: Tensor, period_s: float) -> None:
        self.low, self.high, self.rate, self.acceleration = (x.double() for x in (low, high, rate, acceleration))
        self.period_s = period_s

    @classmethod
    def of(cls, spec: EnvSpec, period_s: float | None = None, device: torch.device | None = None) -> Self | None:
        """Those of a spec; None where it has none.

        Args:
            spec: of the environment.
            period_s: seconds between commands where the spec's `control_dt` is not known. Where it is, that is the
                robot's own time: a simulation may be driven faster or slower.
            device: where commands are computed.

        Raises:
            LimitError: there are limits, but no period.
        """
        if spec.action_rate is None and spec.action_acceleration is None:
            return None
        period_s = spec.control_dt if period_s is None or math.isfinite(spec.control_dt) else period_s
        if not 0 < period_s < math.inf:
            raise LimitError(f"control_dt of {spec.env_id} must be known for limits of its actions, got {period_s}")
        unlimited = (math.inf,) * spec.action_dim
        low, high, rate, acceleration = (
            torch.tensor(values, dtype=torch.float64, device=device)
            for values in (
                spec.action_low,
                spec.action_high,
                spec.action_rate or unlimited,
                spec.action_acceleration or unlimited,
            )
        )
        return cls(low, high, rate, acceleration, period_s)

    def rest(self, lead: tuple[int, ...] = ()) -> Motion:
        """A robot at rest: the action nearest to zero, unchanging, `[*lead, A]`."""
        action = torch.zeros_like(self.low).clamp(self.low, self.high).expand(*lead, -1)
        return Motion(action, torch.zeros_like(action))

    def nearest(self, target: Tensor, last: Motion) -> Motion:
        """The command nearest to `target [..., A]` that keeps the limits."""
        return self._move(self._way(target, last) / self.period_s, last)

    def toward(self, target: Tensor, last: Motion) -> Motion:
        """The command that goes to `target [..., A]` fast, but so that it can stop there: for one that stays."""
        way = self._way(target, last)
        return self._move(way.sign() * self._stoppable(way.abs()), last)

    def follow(self, targets: Tensor, last: Motion) -> Tensor:
        """Sequences of commands `[..., H, A]`, each the nearest to its target after the one before."""
        commands = []
        for target in targets.unbind(dim=-2):
            last = self.nearest(target, last)
            commands.append(last.action)
        return torch.stack(commands, dim=-2).to(targets)

    def _way(self, target: Tensor, last: Motion) -> Tensor:
        return target.double().clamp(self.low, self.high) - last.action

    def _move(self, rate: Tensor, last: Motion) -> Motion:
        step = self.acceleration * self.period_s
        fastest = torch.minimum(self.rate, self._stoppable(self.high - last.action))
        slowest = -torch.minimum(self.rate, self._stoppable(last.action - self.low))
        # Slowing down as fast as can be is always allowed, also where rounding says otherwise.
        slower = last.rate - torch.minimum(torch.maximum(last.rate, -step), step)
        fastest = torch.maximum(torch.minimum(fastest, last.rate + step), slower)
        slowest = torch.minimum(torch.maximum(slowest, last.rate - step), slower)
        rate = torch.minimum(torch.maximum(rate, slowest), fastest)
        action = (last.action + rate * self.period_s).clamp(self.low, self.high)
        return Motion(action, rate)

    def _stoppable(self, way: Tensor) -> Tensor:
        """The greatest rate of change now after which slowing down by every next step comes to rest within `way`.

        The steps r, r - c, r - 2c, ... with c the change of rate per period are summed in closed form.
        """
        steps = way.clamp(min=0) / self.period_s
        change = (self.acceleration * self.period_s).expand_as(steps)
        limited = change.isfinite()
        change = torch.where(limited, change, 1.0)
        whole = ((torch.sqrt(1 + 8 * steps / change) - 1) / 2).floor()
        return torch.where(limited, steps / (whole + 1) + change * whole / 2, steps)


class LimitedCost:
    """A cost function of what becomes of candidates under limits.

    Args:
        cost_fn: of actions as they are done.
        limits: that they keep.
        last: where each problem's commands are, `[B, A]`.
    """

    def __init__(self, cost_fn: CostFn, limits: ActionLimits, last: Motion) -> None:
        self._cost_fn, self._limits = cost_fn, limits
        self._last = Motion(last.action.unsqueeze(1), last.rate.unsqueeze(1))

    def __call__(self, actions: Tensor) -> Tensor:
        """Costs `[B, N]` of candidates `[B, N, H, A]`."""
        return self._cost_fn(self._limits.follow(actions, self._last))
