"""No option does nothing: changing any option of any planner changes what it does."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from forethought.planners import PLANNERS, PlannerError, make_planner

LOW, HIGH = torch.tensor([-1.0, 0.0]), torch.tensor([2.0, 0.5])
B, H = 2, 6

# field -> (a value that is not the default, options under which it matters)
CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "horizon": (5, {}),
    "num_samples": (48, {}),
    "iterations": (3, {}),
    "noise_beta": (0.5, {}),
    "num_knots": (2, {}),
    "interpolation": ("linear", {"num_knots": 3}),
    "warm_start": (False, {}),
    "tail": ("middle", {}),
    "early_stop_tolerance": (1e6, {"iterations": 6}),
    "max_candidates_per_call": (10, {}),
    "init_std": (0.7, {}),
    "min_std": (0.3, {}),
    "max_std": (0.5, {"init_std": 0.5, "noise_beta": 0.0, "iterations": 2}),
    "momentum": (0.6, {}),
    "return_mean": (True, {}),
    "score_mean": (False, {"return_mean": True}),
    "from_best": (True, {}),
    "early_stop_std": (0.9, {}),
    "num_elites": (6, {}),
    "keep_elites": (0.9, {}),
    "shrink": (1.6, {"num_elites": 6}),
    "temperature": (5.0, {}),
    "temperature_scale": ("absolute", {}),
    "adapt_std": (False, {}),
    "learning_rate": (0.3, {}),
    "refine_iterations": (3, {}),
}


def run(name: str, **options: Any) -> list[Tensor]:
    """All that can be seen of two plans in a row."""
    planner = make_planner(name, LOW, HIGH, **{"horizon": H, "num_samples": 40, **options})
    calls, firsts = [], []

    def cost_fn(actions: Tensor) -> Tensor:
        calls.append(actions.shape[1])
        firsts.append(actions[:, 0].detach())  # the warm start, at the beginning of a plan
        target = torch.linspace(-2, 1.5, actions.shape[2])[:, None]  # partly out of bounds
        return 30 * ((actions - target) ** 2).sum(dim=(2, 3)) + torch.sin(9 * actions).sum(dim=(2, 3))

    generator = torch.Generator().manual_seed(0)
    state, seen = planner.init(B), []
    for _ in range(2):
        plan, state = planner.plan(cost_fn, state, generator)
        seen += [plan.actions, plan.cost, plan.best_costs, plan.std, torch.tensor(plan.iterations_run)]
        state = planner.advance(state, 2)
    return [*seen, torch.tensor(calls), torch.stack(firsts)]


def differ(one: list[Tensor], two: list[Tensor]) -> bool:
    return any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, field.name) for name, entry in PLANNERS.items() for field in dataclasses.fields(entry.options)],
)
def test_every_option_changes_the_result(name: str, option: str) -> None:
    assert option in CHANGES, f"add {option} to CHANGES, with a value that changes the result"
    value, context = CHANGES[option]
    default = getattr(PLANNERS[name].options(), option)
    value = not default if isinstance(default, bool) else value
    context = {key: value for key, value in context.items() if hasattr(PLANNERS[name].options, key)}
    base = run(name, **context)
    assert not differ(base, run(name, **context)), "the comparison must be deterministic"
    assert differ(base, run(name, **{**context, option: value}))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cem", {"horizon": 0}, "horizon must be at least 1, got 0"),
        ("cem", {"num_samples": 1}, "num_samples must be at least 2, got 1"),
        ("cem", {"iterations": 0}, "iterations must be at least 1, got 0"),
        ("cem", {"noise_beta": -0.1}, "noise_beta must be between 0 and 10, got -0.1"),
        ("cem", {"num_knots": 0}, "num_knots must be between 1 and horizon=10, got 0"),
        ("cem", {"num_knots": 11}, "num_knots must be between 1 and horizon=10, got 11"),
        ("cem", {"interpolation": "spline"}, "interpolation must be one of hold, linear, cubic, got 'spline'"),
        ("cem", {"tail": "zero"}, "tail must be one of repeat, middle, got 'zero'"),
        ("cem", {"early_stop_tolerance": -1.0}, "early_stop_tolerance must be 0 or more, got -1.0"),
        ("cem", {"max_candidates_per_call": 0}, "max_candidates_per_call must be at least 1, got 0"),
        ("cem", {"min_std": -0.1}, "min_std must be 0 or more, got -0.1"),
        ("cem", {"max_std": 0.01}, "max_std must be at least min_std=0.05, got 0.01"),
        ("cem", {"init_std": 2.0}, "init_std must be above 0 and between min_std=0.05 and max_std=1.0, got 2.0"),
        (
            "cem",
            {"init_std": float("nan")},
            "init_std must be above 0 and between min_std=0.05 and max_std=1.0, got nan",
        ),
        ("cem", {"momentum": 1.0}, "momentum must be at least 0 and below 1, got 1.0"),
        ("cem", {"early_stop_std": -1.0}, "early_stop_std must be 0 or more, got -1.0"),
        ("cem", {"num_elites": 1}, "num_elites must be between 2 and num_samples=256, got 1"),
        ("cem", {"num_elites": 257}, "num_elites must be between 2 and num_samples=256, got 257"),
        ("icem", {"keep_elites": 1.1}, "keep_elites must be between 0 and 1, got 1.1"),
        ("icem", {"shrink": 0.9}, "shrink must be at least 1, got 0.9"),
        ("mppi", {"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ("mppi", {"temperature_scale": "max"}, "temperature_scale must be one of std, range, absolute, got 'max'"),
        ("mppi", {"num_elites": 1}, "num_elites must be between 2 and num_samples=256, got 1"),
        ("gradient", {"init_std": 0.0}, "init_std must be above 0, got 0.0"),
        ("gradient", {"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ("sample_gradient", {"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ("sample_gradient", {"refine_iterations": 0}, "refine_iterations must be at least 1, got 0"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlannerError) as error:
        PLANNERS[name].options(**options)
    assert str(error.value) == message


@pytest.mark.parametrize("name", PLANNERS)
def test_early_stops_stop(name: str) -> None:
    options: dict[str, Any] = {"iterations": 40, "num_samples": 40}
    if name in ("cem", "icem", "mppi", "sample_gradient"):
        options |= {"early_stop_std": 0.1, "min_std": 0.01}
    else:
        options |= {"early_stop_tolerance": 0.2}
    planner = make_planner(name, LOW, HIGH, **options)
    calls = []

    def cost_fn(actions: Tensor) -> Tensor:
        calls.append(actions.shape)
        return 1 + (actions**2).sum(dim=(2, 3))

    plan, state = planner.plan(cost_fn, planner.init(1), torch.Generator().manual_seed(0))
    if name == "sample_gradient":
        assert plan.iterations_run == 40 + 2  # gradients are found, and tried once
    else:
        assert 1 < plan.iterations_run < 40
    assert (plan.best_costs[:, plan.iterations_run :] == plan.best_costs[:, plan.iterations_run - 1]).all()
    if "early_stop_std" in options:
        assert plan.std.item() <= 0.1
        assert torch.allclose(plan.std, state.std.mean(dim=(1, 2)))


@pytest.mark.parametrize("options", [{"early_stop_tolerance": 1e-3}, {"early_stop_std": 0.3}])
def test_where_sampling_has_converged_gradients_are_tried_all_the_same(options: dict[str, float]) -> None:
    def cost_fn(actions: Tensor) -> Tensor:
        return (actions - torch.tensor([0.3, -0.2])).square().sum(dim=(2, 3))

    planner = make_planner("sample_gradient", LOW, HIGH, iterations=2, num_samples=16, num_elites=4, **options)
    plan, _ = planner.plan(cost_fn, planner.init(1), torch.Generator().manual_seed(0))
    assert float(plan.cost) < float(plan.best_costs[0, 1])  # after the sampling


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (torch.zeros(2), torch.ones(3), r"must both have shape \[A\], got \(\[2\], \[3\]\)"),
        (torch.zeros(2, 1), torch.ones(2, 1), r"must both have shape \[A\], got \(\[2, 1\], \[2, 1\]\)"),
        (torch.zeros(0), torch.ones(0), r"must both have shape \[A\]"),
        (torch.zeros(2, dtype=torch.long), torch.ones(2), "floating dtype, got torch.int64"),
        (torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]), "finite and below a finite action_high"),
        (torch.tensor([-torch.inf]), torch.tensor([1.0]), "finite and below a finite action_high"),
        (torch.tensor([0.0]), torch.tensor([torch.nan]), "finite and below a finite action_high"),
    ],
)
@pytest.mark.parametrize("name", PLANNERS)
def test_bad_bounds_are_refused(name: str, low: Tensor, high: Tensor, message: str) -> None:
    with pytest.raises(PlannerError, match=message):
        make_planner(name, low, high)
