"""Planners of others behind our seam: a search that brings its own loop says how it searches, the rest is done here."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import CostFn, Plan, require, require_bounds
from .parametrisation import Parametrisation
from .sampling import Stopwatch, costs_of, finite_or_inf


@dataclass
class HostedOptions:
    """Options of every hosted planner."""

    horizon: int = 10
    """Number of actions in a plan, H."""
    num_samples: int = 256
    """Candidates that the search scores per iteration and problem, N."""
    iterations: int = 6
    """Rounds of candidates, I."""
    init_std: float = 0.5
    """Standard deviation at the start of every plan, in half-ranges of the actions."""

    def __post_init__(self) -> None:
        require(self.horizon >= 1, "horizon must be at least 1", self.horizon)
        require(self.num_samples >= 2, "num_samples must be at least 2", self.num_samples)
        require(self.iterations >= 1, "iterations must be at least 1", self.iterations)
        require(self.init_std > 0, "init_std must be above 0", self.init_std)


@dataclass(frozen=True, eq=False)
class WarmStart:
    """The state of every hosted planner.

    Args:
        mean: `[B, H, A]`, where the next search starts, in `[-1, 1]`.
    """

    mean: Tensor


class Trial:
    """One plan under way, for a search that asks its cost through it and so cannot break the contract of planners.

    Candidates `[B, n, H, A]` are in `[-1, 1]`, the unit being half the range of each action, and clamped to that. All
    `B` problems are scored in one call of the cost function, so a search that knows one problem at a time goes on with
    all of them in step.

    Args:
        cost_fn: scores actions in real units.
        box: from the unit box to real units.
        iterations: how many there may be.
        mean: `[B, H, A]`, the warm start.
        seeds: `[B, S, H, A]` in real units, or None.
        deadline_s: seconds after which no iteration is begun, or None.
    """

    def __init__(
        self,
        cost_fn: CostFn,
        box: Parametrisation,
        iterations: int,
        mean: Tensor,
        seeds: Tensor | None,
        deadline_s: float | None,
    ) -> None:
        self._watch = Stopwatch(deadline_s)
        self._cost_fn, self._box, self._iterations = cost_fn, box, iterations
        self._num_invalid = torch.zeros(len(mean), dtype=torch.long, device=mean.device)
        self._best, self._cost = mean, mean.new_full((len(mean),), torch.inf)
        self._curve, self._begun, self._lap_s, self._lap_began_s = list[Tensor](), 0, 0.0, 0.0
        self._spread = torch.zeros_like(self._cost)
        first = mean[:, None]
        if seeds is not None:
            due = (len(mean), *mean.shape[1:])
            fits = seeds.ndim == 4 and (seeds.shape[0], *seeds.shape[2:]) == due
            require(fits, f"seeds must have shape [B={due[0]}, S, H={due[1]}, A={due[2]}]", list(seeds.shape))
            given = seeds.detach().to(mean)
            absent = given.isnan().flatten(2).any(dim=2)
            self._num_invalid += absent.sum(dim=1)
            first = torch.cat((first, torch.where(absent[..., None, None], first, box.encode(given))), dim=1)
        self.score(first)

    @property
    def start(self) -> Tensor:
        """The best so far of the warm start, the seeds and all candidates, `[B, H, A]`."""
        return self._best

    def goes_on(self) -> bool:
        """Begin an iteration, unless there were enough or it would likely end after the deadline."""
        now_s = self._watch.elapsed_s
        if self._begun:
            self._curve.append(self._cost)
            self._lap_s = now_s - self._lap_began_s
        if self._begun == self._iterations or not self._watch.has_time_for(self._lap_s):
            return False
        self._begun, self._lap_began_s = self._begun + 1, now_s
        return True

    def score(self, candidates: Tensor) -> Tensor:
        """Costs `[B, n]` of candidates `[B, n, H, A]`: inf where invalid; all 0 where a problem has none that is valid.

        (A search that weighs or ranks can go on with these, and prefers nothing where there is nothing to prefer.)

        Raises:
            PlannerError: the cost function returns another shape.
        """
        with (
            torch.inference_mode(False),
            torch.no_grad(),
        ):  # other packages search in inference mode; the model need not know
            knots = candidates.clone().to(self._best).clamp_(-1, 1)
            costs, invalid = finite_or_inf(costs_of(self._cost_fn, self._box.decode(knots)))
            self._num_invalid = self._num_invalid + invalid
            cost, index = costs.min(dim=1)
            better = cost < self._cost
            found = knots.take_along_dim(index[:, None, None, None], dim=1)[:, 0]
            self._best = torch.where(better[:, None, None], found, self._best)
            self._cost = torch.minimum(cost, self._cost)
            if knots.shape[1] > 1:
                self._spread = knots.std(dim=1).mean(dim=(1, 2))
            return torch.where(costs.isinf().all(dim=1, keepdim=True), 0.0, costs)

    def plan(self) -> Plan:
        """What was found: the best of all that was scored."""
        curve = self._curve[: self._begun - 1] + [self._cost] * (self._iterations - max(self._begun - 1, 0))
        return Plan(
            actions=self._box.decode(self._best),
            cost=self._cost,
            best_costs=torch.stack(curve, dim=1),
            num_invalid=self._num_invalid,
            std=self._spread,
            iterations_run=max(self._begun, 1),
            elapsed_s=self._watch.elapsed_s,
        )


class HostedPlanner(ABC):
    """A `Planner` around a search with a loop of its own; a subclass is how it searches.

    The warm start and the seeds are scored first, in a call of their own, and the search starts from the best of them.
    The plan is the best of all that was scored, and the next warm start.

    Args:
        action_low: lower bounds `[A]`, finite; dtype and device of everything follow it.
        action_high: upper bounds `[A]`, above the lower ones.
        options: options of the planner.

    Raises:
        PlannerError: bounds that are not two finite vectors, the lower below the higher.
    """

    options: HostedOptions

    def __init__(self, action_low: Tensor, action_high: Tensor, options: HostedOptions) -> None:
        action_high = action_high.to(action_low)
        require_bounds(action_low, action_high)
        self.options = options
        self.box = Parametrisation(action_low, action_high, options.horizon, None, "hold")

    @abstractmethod
    def search(self, trial: Trial, generator: torch.Generator) -> None:
        """Search from `trial.start [B, H, A]` with `trial.score`, an iteration for each time that `trial.goes_on()`."""

    @property
    def horizon(self) -> int:
        """Number of actions in a plan, `H`."""
        return self.options.horizon

    def init(self, batch_size: int) -> WarmStart:
        """The state before the first plan; the search starts from the middle of the bounds."""
        require(batch_size >= 1, "batch_size must be at least 1", batch_size)
        return WarmStart(self.box.low.new_zeros(batch_size, self.horizon, self.box.dim))

    def advance(self, state: WarmStart, steps: int) -> WarmStart:
        """Shift the warm start by `steps` actions and repeat the last one."""
        require(steps >= 0, "steps must be 0 or more", steps)
        return WarmStart(self.box.shift(state.mean, steps, repeat_last=True))

    def plan(
        self,
        cost_fn: CostFn,
        state: WarmStart,
        generator: torch.Generator,
        seeds: Tensor | None = None,
        deadline_s: float | None = None,
    ) -> tuple[Plan, WarmStart]:
        """Search; see `Planner.plan`."""
        with torch.no_grad():
            trial = Trial(cost_fn, self.box, self.options.iterations, state.mean, seeds, deadline_s)
            self.search(trial, generator)
        return trial.plan(), WarmStart(trial.start)


def seeds_for(batch_size: int, generator: torch.Generator) -> list[int]:
    """A seed per problem for generators of other packages, so that no problem draws from what another left."""
    return torch.randint(2**31 - 1, (batch_size,), generator=generator, device=generator.device).tolist()
