"""Cost functions that may be compiled as one with a planner's iterations."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from forethought.planners import PLANNERS, make_planner
from forethought.planners.base import FusingCostFn, Plan, StepT

LOW, HIGH = torch.tensor([-1.0, 0.0]), torch.tensor([2.0, 0.5])


def quadratic(actions: Tensor) -> Tensor:
    costs = (actions - 0.3).square().sum(dim=(2, 3))
    return torch.where(costs > 8, torch.nan, costs)  # some of them invalid


STEPS = {"random_shooting": 1, "cem": 6, "icem": 1, "mppi": 6, "gradient": 0, "sample_gradient": 1}
"""Iterations without gradients that score as many candidates as the first; iCEM's become fewer."""


class Fusing:
    """Notes what it is asked to fuse, and fuses by doing nothing about it."""

    def __init__(self) -> None:
        self.samples: list[int] = []
        self.steps = 0

    def __call__(self, actions: Tensor) -> Tensor:
        return quadratic(actions)

    def fuse(self, step: StepT, samples: int) -> StepT | None:
        self.samples.append(samples)

        def fused(*args: Any) -> Any:
            self.steps += 1
            return step(*args)

        return cast(StepT, fused)


def plan(name: str, cost_fn: Callable[[Tensor], Tensor], **options: Any) -> tuple[Plan, Any]:
    planner = make_planner(name, LOW, HIGH, horizon=4, num_samples=32, **options)
    state = planner.advance(planner.init(2), 1)
    return planner.plan(cost_fn, state, torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", PLANNERS)
def test_a_fused_plan_is_the_same_plan(name: str) -> None:
    cost_fn, few = Fusing(), {"num_elites": 4} if name in ("icem", "sample_gradient") else {}
    assert isinstance(cost_fn, FusingCostFn)
    (fused, after), (plain, state) = plan(name, cost_fn, **few), plan(name, quadratic, **few)
    assert cost_fn.samples == ([] if name == "gradient" else [32])
    assert cost_fn.steps == (name != "gradient"), "all iterations without gradients together"
    same(fused, plain)
    assert all(torch.equal(getattr(after, f.name), getattr(state, f.name)) for f in dataclasses.fields(state))


@pytest.mark.parametrize("name", PLANNERS)
def test_one_by_one_where_a_plan_may_end_early(name: str) -> None:
    cost_fn, few = Fusing(), {"num_elites": 4} if name in ("icem", "sample_gradient") else {}
    (fused, _), (plain, _) = (plan(name, cost, early_stop_tolerance=0.0, **few) for cost in (cost_fn, quadratic))
    assert cost_fn.steps == min(STEPS[name], int(fused.iterations_run))
    same(fused, plain)


def same(fused: Plan, plain: Plan) -> None:
    for field in dataclasses.fields(Plan):
        one, two = getattr(fused, field.name), getattr(plain, field.name)
        assert field.name == "elapsed_s" or torch.equal(torch.as_tensor(one), torch.as_tensor(two)), field.name


def test_chunks_are_not_fused() -> None:
    cost_fn = Fusing()
    plan("cem", cost_fn, max_candidates_per_call=10)
    assert cost_fn.steps == 0
