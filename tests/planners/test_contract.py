"""Every registered planner keeps the contract, and every check of it sees a planner that does not."""

import dataclasses
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typing_extensions import override

from forethought import UnknownNameError
from forethought.planners import CEM, PLANNERS, CEMOptions, Plan, PlannerError, SearchState, make_planner
from forethought.planners.contract import CHECKS, LOW, Finding, check_planner

OPTIONAL = {"counts", "curve", "warm_start", "exploration"}
KINDS: dict[str, dict[str, Any]] = {
    "actions": {},
    "hold": {"num_knots": 3},
    "linear": {"num_knots": 3, "interpolation": "linear"},
    "cubic": {"num_knots": 4, "interpolation": "cubic"},
}


def faults(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.text for finding in findings if finding.outcome == "failed"}


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_registered_planner_keeps_the_contract(name: str, kind: str) -> None:
    options = {"horizon": 6, "num_samples": 40, **KINDS[kind]}
    findings = list(check_planner(lambda low, high: make_planner(name, low, high, **options)))
    assert faults(findings) == {}
    assert [finding.check for finding in findings] == list(CHECKS)
    assert all(finding.outcome == "passed" and finding.text for finding in findings)
    assert {finding.check for finding in findings if not finding.required} == OPTIONAL


# -- planners with one fault each --------------------------------------------------------------------------------------


class Bent(CEM):
    """A sound planner, to be bent."""

    def __init__(self, low: Tensor, high: Tensor, options: CEMOptions | None = None) -> None:
        super().__init__(low, high, options or CEMOptions(horizon=4, num_samples=32, iterations=3, num_elites=6))


Result = tuple[Plan, SearchState]


class NoDataclass(Bent):
    @override
    def advance(self, state: SearchState, steps: int) -> Any:
        return vars(super().advance(state, steps))


class OneCostForAll(Bent):
    @override
    def plan(self, *args: Any, **kwargs: Any) -> Result:
        plan, state = super().plan(*args, **kwargs)
        return replace(plan, cost=plan.cost.mean()), state


class Unclamped(Bent):
    @override
    def plan(self, *args: Any, **kwargs: Any) -> Result:
        plan, state = super().plan(*args, **kwargs)
        return replace(plan, actions=plan.actions + 0.01), state


class Remembering(Bent):
    kept: SearchState | None = None

    @override
    def plan(self, cost_fn: Any, state: SearchState, *args: Any, **kwargs: Any) -> Result:
        same_size = self.kept is not None and len(self.kept.mean) == len(state.mean)
        plan, self.kept = super().plan(cost_fn, self.kept if same_size and self.kept else state, *args, **kwargs)
        return plan, self.kept


class GlobalTorch(Bent):
    @override
    def ask(self, state: SearchState, iteration: int, noise: Tensor) -> Tensor:
        torch.rand(1)
        return super().ask(state, iteration, noise)


class GlobalNumpy(Bent):
    @override
    def ask(self, state: SearchState, iteration: int, noise: Tensor) -> Tensor:
        np.random.rand()
        return super().ask(state, iteration, noise)


class GlobalPython(Bent):
    @override
    def ask(self, state: SearchState, iteration: int, noise: Tensor) -> Tensor:
        random.random()
        return super().ask(state, iteration, noise)


class CostOfTheMean(Bent):
    @override
    def finish(self, state: Any, best: Any) -> Any:
        return state

    @override
    def plan(self, *args: Any, **kwargs: Any) -> Result:
        plan, state = super().plan(*args, **kwargs)
        return replace(plan, actions=self.parametrisation.decode(state.mean)), state


class Maximising(Bent):
    @override
    def plan(self, cost_fn: Any, *args: Any, **kwargs: Any) -> Result:
        plan, state = super().plan(lambda actions: -cost_fn(actions), *args, **kwargs)
        return replace(plan, cost=-plan.cost, best_costs=-plan.best_costs), state


class TakesMinusInfinity(Bent):
    @override
    def plan(self, cost_fn: Any, *args: Any, **kwargs: Any) -> Result:
        return super().plan(lambda actions: cost_fn(actions).nan_to_num(nan=-1e3, neginf=-1e3), *args, **kwargs)


class OneEliteForAll(Bent):
    @override
    def tell(self, state: SearchState, candidates: Tensor, costs: Tensor, gradients: Tensor | None) -> SearchState:
        return super().tell(state, candidates, costs.mean(dim=0, keepdim=True).expand_as(costs), gradients)


class Unhurried(Bent):
    @override
    def plan(self, cost_fn: Any, state: Any, generator: Any, seeds: Any = None, deadline_s: Any = None) -> Result:
        return super().plan(cost_fn, state, generator, seeds)


class Float32(Bent):
    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__(low.float(), high.float())


class WithGraph(Bent):
    @override
    def plan(self, cost_fn: Any, *args: Any, **kwargs: Any) -> Result:
        plan, state = super().plan(cost_fn, *args, **kwargs)
        return replace(plan, cost=cost_fn(plan.actions[:, None])[:, 0]), state


class InferenceTensors(Bent):
    @override
    def plan(self, *args: Any, **kwargs: Any) -> Result:
        with torch.inference_mode():
            return super().plan(*args, **kwargs)


class WritesInPlace(Bent):
    @override
    def plan(self, cost_fn: Any, state: SearchState, *args: Any, **kwargs: Any) -> Result:
        plan, after = super().plan(cost_fn, state, *args, **kwargs)
        state.mean.copy_(after.mean)
        return plan, after


class BatchLast(Bent):
    """Its state is a tensor with the batch last."""

    @override
    def init(self, batch_size: int) -> Any:
        return Flipped(super().init(batch_size).mean.movedim(0, -1))

    @override
    def plan(self, cost_fn: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        mean = state.mean.movedim(-1, 0)
        plan, after = super().plan(cost_fn, replace(super().init(len(mean)), mean=mean), *args, **kwargs)
        return plan, Flipped(after.mean.movedim(0, -1))

    @override
    def advance(self, state: Any, steps: int) -> Any:
        return state


@dataclass
class Flipped:
    mean: Tensor


class NoSeeds(Bent):
    @override
    def plan(self, cost_fn: Any, state: Any, generator: Any, seeds: Any = None, deadline_s: Any = None) -> Result:
        _, _ = self._first_candidates(state, seeds)  # which refuses those of a wrong shape
        return super().plan(cost_fn, state, generator, None, deadline_s)


class NeverBeyondTheEnd(Bent):
    @override
    def advance(self, state: SearchState, steps: int) -> SearchState:
        return replace(state, mean=torch.stack([state.mean[:, (k + steps)] for k in range(3)], dim=1))


class Broadcasting(Bent):
    @override
    def plan(self, cost_fn: Any, *args: Any, **kwargs: Any) -> Result:
        return super().plan(
            lambda actions: cost_fn(actions).reshape(*actions.shape[:2], -1).sum(dim=2), *args, **kwargs
        )


class Uncounted(Bent):
    @override
    def plan(self, *args: Any, **kwargs: Any) -> Result:
        plan, state = super().plan(*args, **kwargs)
        return replace(plan, num_invalid=torch.zeros_like(plan.num_invalid)), state


class RisingCurve(Bent):
    @override
    def plan(self, *args: Any, **kwargs: Any) -> Result:
        plan, state = super().plan(*args, **kwargs)
        return replace(plan, best_costs=plan.best_costs.flip(1)), state


class AlwaysCold(Bent):
    @override
    def advance(self, state: SearchState, steps: int) -> SearchState:
        super().advance(state, steps)
        return self.init(len(state.mean))


class OwnSeed(Bent):
    @override
    def plan(self, cost_fn: Any, state: Any, generator: Any, seeds: Any = None, deadline_s: Any = None) -> Result:
        return super().plan(cost_fn, state, torch.Generator().manual_seed(1234), seeds, deadline_s)


BROKEN: list[tuple[str, Callable[[Tensor, Tensor], Any], str]] = [
    ("protocol", NoDataclass, "the state from advance is dict, no dataclass"),
    ("shapes", OneCostForAll, r"Plan.cost is \[\] where \[3\] is due"),
    ("bounds", Unclamped, "actions of the plan are up to 0.01 outside the bounds"),
    ("determinism", Remembering, "two plans from equal generators differ"),
    ("global_random", GlobalTorch, "the global generator of torch has moved"),
    ("global_random", GlobalNumpy, "the global generator of numpy has moved"),
    ("global_random", GlobalPython, "the global generator of Python has moved"),
    ("cost", CostOfTheMean, r"Plan.cost is \[.*\] where its actions cost \["),
    ("search", Maximising, r"costs are \[.*\], those of the middle \["),
    ("invalid_costs", TakesMinusInfinity, "a candidate whose cost is nan was chosen"),
    ("problems", OneEliteForAll, "the plan of the first problem changes with the costs of the others"),
    ("deadline", Unhurried, "without time the cost function was asked 3 times, as often as with all of it"),
    ("dtype", Float32, "candidates are torch.float32 where the bounds are torch.float64"),
    ("gradients", WithGraph, "Plan.cost requires gradients"),
    ("gradients", InferenceTensors, "is a tensor of inference mode"),
    ("state", WritesInPlace, "mean of a state that was passed has changed"),
    ("selection", BatchLast, r"mean of the state is \[4, 3, 3\]|raised"),
    ("seeds", NoSeeds, r"a seed that costs \[.*\] lost to \["),
    ("advance", NeverBeyondTheEnd, r"raised \w+Error: .* fill its end"),
    ("refusals", Broadcasting, r"costs of shape \[B, n, H\] were taken"),
    ("counts", Uncounted, r"it is \[0, 0, 0\], due is \[\d+, \d+, \d+\]"),
    ("curve", RisingCurve, "it rises: "),
    ("warm_start", AlwaysCold, r"its first costs are \["),
    ("exploration", OwnSeed, "two generators give the same candidates"),
]


@pytest.mark.parametrize(("check", "planner", "seen"), BROKEN, ids=[planner.__name__ for _, planner, _ in BROKEN])
def test_a_broken_planner_is_seen(check: str, planner: Callable[[Tensor, Tensor], Any], seen: str) -> None:
    found = faults(list(check_planner(planner)))
    assert check in found
    assert re.search(seen, found[check]), found[check]
    assert found[check].endswith(CHECKS[check].advice)


def test_every_check_has_a_planner_that_fails_it() -> None:
    assert {check for check, _, _ in BROKEN} == set(CHECKS)
    assert faults(list(check_planner(Bent))) == {}, "what is bent must be sound"


# -- planners that only follow the protocol ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Best:
    """The state of the planner below."""

    actions: Tensor


class Uniform:
    """The protocol and nothing else: uniform candidates, no warm start, no counting."""

    horizon = 5

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.low, self.high = low, high

    def init(self, batch_size: int) -> Best:
        return Best(((self.low + self.high) / 2).expand(batch_size, self.horizon, -1).clone())

    def advance(self, state: Best, steps: int) -> Best:
        return Best(state.actions.roll(-steps, dims=1))

    def plan(
        self, cost_fn: Any, state: Best, generator: torch.Generator, seeds: Tensor | None = None, deadline_s: Any = None
    ) -> tuple[Plan, Best]:
        batch_size = len(state.actions)
        unit = torch.rand(batch_size, 50, self.horizon, len(self.low), generator=generator, dtype=self.low.dtype)
        candidates = torch.cat((state.actions[:, None], self.low + (self.high - self.low) * unit), dim=1)
        if seeds is not None:
            if seeds.ndim != 4 or (seeds.shape[0], *seeds.shape[2:]) != (batch_size, *candidates.shape[2:]):
                raise PlannerError(f"seeds must fit, got {list(seeds.shape)}")
            seeds = torch.where(seeds.isnan().flatten(2).any(2)[..., None, None], candidates[:, :1], seeds)
            candidates = torch.cat((candidates, seeds), dim=1)
        candidates = candidates.clamp(self.low, self.high)
        with torch.no_grad():
            costs = cost_fn(candidates).to(candidates)
        if costs.shape != candidates.shape[:2]:
            raise PlannerError(f"costs must be [B, n], got {list(costs.shape)}")
        cost, index = torch.where(costs.isfinite(), costs, torch.inf).min(dim=1)
        actions = candidates[torch.arange(batch_size), index]
        nothing = torch.zeros(batch_size, dtype=torch.long)
        return Plan(actions, cost, cost[:, None], nothing, cost.new_zeros(batch_size), 1, 0.0), self.init(batch_size)


def test_a_planner_of_another_kind_is_checked_and_may_lack_what_is_optional() -> None:
    assert set(faults(list(check_planner(Uniform)))) == {"counts", "warm_start"}
    findings = list(check_planner(Uniform, lacks=("counts", "warm_start")))
    assert faults(findings) == {}
    absent = {finding.check: finding.text for finding in findings if finding.outcome == "absent"}
    assert set(absent) == {"counts", "warm_start"}
    assert all(text.startswith("declared: ") for text in absent.values())


def test_what_is_required_cannot_be_declared_absent() -> None:
    with pytest.raises(PlannerError, match=r"lacks must name optional checks \(counts, .*\), got 'deadline'"):
        check_planner(Uniform, lacks=("deadline",))
    with pytest.raises(UnknownNameError, match="unknown planner check 'cuonts': did you mean counts"):
        check_planner(Uniform, lacks=("cuonts",))


def test_a_planner_that_cannot_be_made_fails_everything_with_the_reason() -> None:
    def make(low: Tensor, high: Tensor) -> Any:
        raise PlannerError("horizon must be at least 1, got 0")

    found = faults(list(check_planner(make)))
    assert set(found) == set(CHECKS)
    assert all("raised PlannerError: horizon must be at least 1, got 0" in text for text in found.values())


def test_checks_say_what_is_promised_and_what_to_do() -> None:
    for check in CHECKS.values():
        assert check.promise.endswith(".")
        assert not check.advice.endswith(".")
        assert dataclasses.is_dataclass(check)
    assert (LOW != 0).all()
