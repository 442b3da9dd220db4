"""The loop that all built-in planners share: ask for candidates, score them, tell the costs."""

import itertools
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from .base import CostFn, FusingCostFn, Plan, PlannerError, PlannerOptions, require, require_bounds
from .noise import colour_matrix, sample_noise
from .parametrisation import Parametrisation


@dataclass(frozen=True, eq=False)
class SearchState:
    """The state of every built-in planner: a search distribution over knots in the unit box, and survivors.

    Args:
        mean: `[B, K, A]`, the warm start and centre of the search.
        std: `[B, K, A]`, its spread; set anew at the start of every plan.
        elites: `[B, E, K, A]`, candidates that outlive an iteration, best first; `E = 0` where none do.
        elite_valid: `[B, E]`, which of them are there.
        moments: `[B, 2, E, K, A]`, Adam's moments of the gradient of each elite; empty without gradients.
    """

    mean: Tensor
    std: Tensor
    elites: Tensor
    elite_valid: Tensor
    moments: Tensor


class SamplingPlanner(ABC):
    """The ask-score-tell loop; a planner is what it asks for and what it learns when told.

    Subclasses work on knots `[B, N, K, A]` inside `[-1, 1]` (`Parametrisation`) and never see bounds, units, invalid
    costs, deadlines or memory limits. A `Planner` with `SearchState`.

    Args:
        action_low: lower bounds `[A]`, finite; dtype and device of everything follow it.
        action_high: upper bounds `[A]`, above the lower ones.
        options: options of the planner.

    Raises:
        PlannerError: bounds that are not two finite vectors, the lower below the higher.
    """

    options: PlannerOptions

    def __init__(self, action_low: Tensor, action_high: Tensor, options: PlannerOptions) -> None:
        action_high = action_high.to(action_low)
        require_bounds(action_low, action_high)
        self.options = options
        self.parametrisation = Parametrisation(
            action_low, action_high, options.horizon, options.num_knots, options.interpolation
        )
        self._like = self.parametrisation.low
        self._colour: Tensor | None = None
        if options.noise_beta > 0:
            self._colour = colour_matrix(
                self.parametrisation.steps, options.noise_beta, dtype=self._like.dtype, device=self._like.device
            )

    @abstractmethod
    def ask(self, state: SearchState, iteration: int, noise: Tensor) -> Tensor:
        """New candidates `[B, N, K, A]` in `[-1, 1]`; the first few may be replaced by seeds at iteration 0.

        Args:
            state: of the search.
            iteration: from 0 on.
            noise: `[B, num_drawn(iteration), K, A]`, Gaussian and coloured, see `noise`; all that is random.
        """

    def num_drawn(self, iteration: int) -> int:
        """How many candidates noise is drawn for in an iteration."""
        return self.options.num_samples

    @abstractmethod
    def tell(self, state: SearchState, candidates: Tensor, costs: Tensor, gradients: Tensor | None) -> SearchState:
        """Learn from candidates `[B, N, K, A]`, their costs `[B, N]` (inf: invalid) and gradients, if asked for."""

    @property
    @abstractmethod
    def initial_std(self) -> float:
        """Standard deviation of the first candidates, in half-ranges."""

    def noise(self, batch_size: int, count: int, generator: torch.Generator) -> Tensor:
        """Gaussian noise `[B, count, K, A]` of unit variance and the colour `noise_beta`."""
        shape = (batch_size, count, self.parametrisation.steps, self.parametrisation.dim)
        return sample_noise(shape, self._colour, generator, self._like)

    def sample(self, state: SearchState, noise: Tensor) -> Tensor:
        """Candidates `[B, N, K, A]` around the mean of the state, by noise of that shape, in `[-1, 1]`."""
        return torch.addcmul(state.mean[:, None], noise, state.std[:, None]).clamp_(-1, 1)

    @property
    def horizon(self) -> int:
        """Number of actions in a plan, `H`."""
        return self.options.horizon

    @property
    def num_iterations(self) -> int:
        """Iterations of a plan that is neither stopped early nor late."""
        return self.options.iterations

    def uses_gradients(self, iteration: int) -> bool:
        """Whether `tell` needs the gradients of the candidates of this iteration."""
        return False

    @property
    def num_elites(self) -> int:
        """Candidates that the state carries from one iteration to the next, `E`."""
        return 0

    @property
    def returns_mean(self) -> bool:
        """Whether the plan is the mean of the final distribution rather than the best candidate."""
        return False

    @property
    def scores_mean(self) -> bool:
        """Whether that mean is scored, and refused where its cost is not finite."""
        return True

    def begin(self, state: SearchState) -> SearchState:
        """The state at the start of a plan: the warm start, and everything else afresh."""
        return replace(state, std=torch.full_like(state.std, self.initial_std), moments=torch.zeros_like(state.moments))

    def finish(self, state: SearchState, best: Tensor) -> SearchState:
        """The state that a plan leaves behind, given the best candidate `[B, K, A]`."""
        return state

    @property
    def may_stop_early(self) -> bool:
        """Whether `converged` may say so."""
        return self.options.early_stop_tolerance is not None

    def converged(self, state: SearchState, best_costs: list[Tensor]) -> bool:
        """Whether to stop, given the best cost `[B]` after each iteration run."""
        tolerance = self.options.early_stop_tolerance
        if tolerance is None or len(best_costs) < 2:
            return False
        return bool((best_costs[-2] - best_costs[-1] <= tolerance * best_costs[-1].abs()).all())

    def init(self, batch_size: int) -> SearchState:
        """The state before the first plan; the search starts from the middle of the bounds."""
        require(batch_size >= 1, "batch_size must be at least 1", batch_size)
        shape = (self.parametrisation.steps, self.parametrisation.dim)
        zeros, num_elites = self._like.new_zeros, self.num_elites
        return SearchState(
            mean=zeros(batch_size, *shape),
            std=torch.full_like(zeros(batch_size, *shape), self.initial_std),
            elites=zeros(batch_size, num_elites, *shape),
            elite_valid=torch.zeros(batch_size, num_elites, dtype=torch.bool, device=self._like.device),
            moments=zeros(batch_size, 2, num_elites if self.uses_gradients(self.num_iterations - 1) else 0, *shape),
        )

    def advance(self, state: SearchState, steps: int) -> SearchState:
        """Shift the warm start by `steps` actions; without `warm_start`, start afresh."""
        require(steps >= 0, "steps must be 0 or more", steps)
        if not self.options.warm_start:
            return self.init(state.mean.shape[0])
        if steps == 0:
            return state
        repeat = self.options.tail == "repeat"
        mean = self.parametrisation.shift(state.mean, steps, repeat_last=repeat)
        elites = self.parametrisation.shift(state.elites, steps, repeat_last=repeat)
        return replace(state, mean=mean, elites=elites)

    def plan(
        self,
        cost_fn: CostFn,
        state: SearchState,
        generator: torch.Generator,
        seeds: Tensor | None = None,
        deadline_s: float | None = None,
    ) -> tuple[Plan, SearchState]:
        """Search; see `Planner.plan`."""
        watch = Stopwatch(deadline_s)
        with torch.no_grad():
            state = self.begin(state)
            first, num_invalid = self._first_candidates(state, seeds)
            # Strides must be those of later iterations, or else fused code would be compiled twice.
            warm_start = first[:, 0].clone(memory_format=torch.contiguous_format)
            best = _Best(warm_start, first.new_full(first.shape[:1], torch.inf))
            drawn = (self.noise(len(first), self.num_drawn(i), generator) for i in range(self.num_iterations))
            best_costs: list[Tensor] = []
            iterate = None
            if isinstance(cost_fn, FusingCostFn) and self.options.max_candidates_per_call is None:
                fuse = partial(cost_fn.fuse, samples=self.options.num_samples)
                together = sum(not self.uses_gradients(i) for i in range(self.num_iterations))
                if deadline_s is not None or self.may_stop_early:
                    iterate = fuse(_iterate)
                elif together and (search := fuse(_search)) is not None:
                    noise = list(itertools.islice(drawn, together))
                    state, best, best_costs, invalid = search(self, cost_fn, state, best, first, noise)
                    num_invalid = num_invalid + invalid
            lap_s = 0.0
            for iteration in range(len(best_costs), self.num_iterations):
                started_s = watch.elapsed_s
                if iteration > 0 and not watch.has_time_for(lap_s):
                    break
                candidates = self._candidates(state, iteration, next(drawn), first)
                as_many = candidates.shape[1] == self.options.num_samples
                if iterate is not None and as_many and not self.uses_gradients(iteration):
                    state, best, invalid = iterate(self, cost_fn, state, best, candidates)
                else:
                    actions = self.parametrisation.decode(candidates)
                    costs, gradients, invalid = self._score(cost_fn, actions, watch, self.uses_gradients(iteration))
                    state, best = self.tell(state, candidates, costs, gradients), best.or_better(candidates, costs)
                num_invalid = num_invalid + invalid
                best_costs.append(best.cost)
                lap_s = watch.elapsed_s - started_s
                if self.converged(state, best_costs):
                    break
            iterations_run = len(best_costs)
            best_costs += best_costs[-1:] * (self.num_iterations - iterations_run)
            state = self.finish(state, best.candidate)
            if self.returns_mean and not self.scores_mean:
                best = _Best(state.mean, best.cost)
            elif self.returns_mean and watch.has_time_for(0.0):
                actions = self.parametrisation.decode(state.mean[:, None])
                costs, _, invalid = self._score(cost_fn, actions, watch, with_gradients=False)
                num_invalid = num_invalid + invalid
                best = best.unless_valid(state.mean, costs[:, 0])
        plan = Plan(
            actions=self.parametrisation.decode(best.candidate),
            cost=best.cost,
            best_costs=torch.stack(best_costs, dim=1),
            num_invalid=num_invalid,
            std=state.std.mean(dim=(1, 2)),
            iterations_run=iterations_run,
            elapsed_s=watch.elapsed_s,
        )
        return plan, state

    def _candidates(self, state: SearchState, iteration: int, noise: Tensor, first: Tensor) -> Tensor:
        """What `ask` returns, which begins with `first [B, M, K, A]` in the first iteration."""
        candidates = self.ask(state, iteration, noise)
        return torch.cat((first, candidates[:, first.shape[1] :]), dim=1) if iteration == 0 else candidates

    def _first_candidates(self, state: SearchState, seeds: Tensor | None) -> tuple[Tensor, Tensor]:
        """The warm start and the seeds `[B, 1 + S, K, A]`, and how many seeds `[B]` the warm start replaces (NaN)."""
        batch_size, mean = state.mean.shape[0], state.mean[:, None]
        if seeds is None:
            return mean, torch.zeros(batch_size, dtype=torch.long, device=mean.device)
        expected, most = (batch_size, self.horizon, self.parametrisation.dim), self.options.num_samples - 1
        if seeds.ndim != 4 or (seeds.shape[0], *seeds.shape[2:]) != expected or seeds.shape[1] > most:
            raise PlannerError(
                f"seeds must have shape [B={expected[0]}, S, H={expected[1]}, A={expected[2]}] with S at most "
                f"num_samples - 1 = {most}, got {list(seeds.shape)}"
            )
        knots = self.parametrisation.encode(seeds.detach().to(self._like))
        absent = seeds.isnan().flatten(2).any(dim=2)
        return torch.cat((mean, torch.where(absent[..., None, None], mean, knots)), dim=1), absent.sum(dim=1)

    def _score(
        self, cost_fn: CostFn, actions: Tensor, watch: "Stopwatch", with_gradients: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Costs `[B, N]`, gradients by knots `[B, N, K, A]`, and how many costs `[B]` are not finite.

        Candidates that time does not suffice for are inf, too, without being counted.
        """
        limit = self.options.max_candidates_per_call
        size = actions.shape[1] if limit is None else max(1, limit // actions.shape[0])
        parts: list[tuple[Tensor, Tensor | None]] = []
        for chunk in torch.split(actions, size, dim=1):
            if parts and not watch.has_time_for(0.0):
                break
            parts.append(_costs_and_gradients(cost_fn, chunk) if with_gradients else (costs_of(cost_fn, chunk), None))
        raw = parts[0][0] if len(parts) == 1 else torch.cat([costs for costs, _ in parts], dim=1)
        costs, invalid = finite_or_inf(raw)
        by_action = [gradient for _, gradient in parts if gradient is not None]
        gradients = self.parametrisation.pull_back(torch.cat(by_action, dim=1)) if by_action else None
        unscored = actions.shape[1] - costs.shape[1]
        if unscored:
            costs = torch.cat((costs, costs.new_full((costs.shape[0], unscored), torch.inf)), dim=1)
            if gradients is not None:
                none = gradients.new_zeros(gradients.shape[0], unscored, *gradients.shape[2:])
                gradients = torch.cat((gradients, none), dim=1)
        return costs, gradients, invalid


class Stopwatch:
    """Time since a plan was begun, against its deadline."""

    def __init__(self, deadline_s: float | None) -> None:
        self._started_s, self._deadline_s = time.perf_counter(), deadline_s

    @property
    def elapsed_s(self) -> float:
        """Seconds since."""
        return time.perf_counter() - self._started_s

    def has_time_for(self, duration_s: float) -> bool:
        """Whether so many seconds more would end before the deadline."""
        return self._deadline_s is None or self.elapsed_s + duration_s < self._deadline_s


@dataclass(frozen=True, eq=False)
class _Best:
    """The best candidate `[B, K, A]` of every problem and its cost `[B]`; the warm start until one is valid."""

    candidate: Tensor
    cost: Tensor

    def or_better(self, candidates: Tensor, costs: Tensor) -> "_Best":
        """The best of these `[B, N, K, A]` where it is better."""
        cost, index = costs.min(dim=1)
        better = (cost < self.cost)[:, None, None]
        found = candidates.take_along_dim(index[:, None, None, None], dim=1)[:, 0]
        return _Best(torch.where(better, found, self.candidate), torch.minimum(cost, self.cost))

    def unless_valid(self, candidate: Tensor, cost: Tensor) -> "_Best":
        """The one candidate `[B, K, A]` where its cost `[B]` is finite."""
        valid = cost.isfinite()
        return _Best(torch.where(valid[:, None, None], candidate, self.candidate), torch.where(valid, cost, self.cost))


def _iterate(
    planner: SamplingPlanner, cost_fn: CostFn, state: SearchState, best: _Best, candidates: Tensor
) -> tuple[SearchState, _Best, Tensor]:
    """What becomes of candidates `[B, N, K, A]`, without chunks, deadline and gradients: a piece to be compiled."""
    costs, invalid = finite_or_inf(costs_of(cost_fn, planner.parametrisation.decode(candidates)))
    return planner.tell(state, candidates, costs, None), best.or_better(candidates, costs), invalid


def _search(
    planner: SamplingPlanner, cost_fn: CostFn, state: SearchState, best: _Best, first: Tensor, noise: list[Tensor]
) -> tuple[SearchState, _Best, list[Tensor], Tensor]:
    """The first iterations, one for each noise, if nothing can come between them: a larger piece to be compiled."""
    best_costs: list[Tensor] = []
    invalid = torch.zeros(len(first), dtype=torch.long, device=first.device)
    for iteration, drawn in enumerate(noise):
        candidates = planner._candidates(state, iteration, drawn, first)
        state, best, count = _iterate(planner, cost_fn, state, best, candidates)
        best_costs.append(best.cost)
        invalid = invalid + count
    return state, best, best_costs, invalid


def finite_or_inf(costs: Tensor) -> tuple[Tensor, Tensor]:
    """Costs `[B, N]` with inf for those that are not finite, and how many `[B]` these are."""
    finite = costs.isfinite()
    return torch.where(finite, costs, torch.inf), (~finite).sum(dim=1)


def costs_of(cost_fn: CostFn, actions: Tensor) -> Tensor:
    """Costs `[B, n]` in the dtype of the actions, of the shape that was agreed."""
    costs = cost_fn(actions)
    if not isinstance(costs, Tensor) or costs.shape != actions.shape[:2]:
        got = list(costs.shape) if isinstance(costs, Tensor) else type(costs).__name__
        raise PlannerError(f"cost_fn must return costs of shape {list(actions.shape[:2])}, got {got}")
    return costs.to(actions)


def _costs_and_gradients(cost_fn: CostFn, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Costs `[B, n]` and their gradients by the actions `[B, n, H, A]`."""
    with torch.enable_grad():
        leaf = actions.detach().requires_grad_()
        costs = costs_of(cost_fn, leaf)
        gradient = torch.autograd.grad(costs.sum(), leaf, allow_unused=True)[0] if costs.requires_grad else None
    if gradient is None:
        raise PlannerError("cost_fn must be differentiable by the actions for this planner, got costs without gradient")
    return costs.detach(), gradient
