"""Searches with a loop of their own behind the seam: the trial keeps the contract for them."""

from typing import Any

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from forethought.planners import HostedOptions, HostedPlanner, Planner, PlannerError, Trial, seeds_for
from forethought.planners.contract import check_planner

LOW, HIGH = torch.tensor([-1.0, 0.0]), torch.tensor([2.0, 0.5])
SMALL: dict[str, Any] = {"horizon": 4, "num_samples": 24, "iterations": 3}


class LocalSearch(HostedPlanner):
    """Candidates around the best so far, as another package might draw them: unbounded, with a loop inside."""

    @override
    def search(self, trial: Trial, generator: torch.Generator) -> None:
        numbers = seeds_for(len(trial.start), generator)
        streams = [torch.Generator().manual_seed(number) for number in numbers]
        centre = trial.start
        while trial.goes_on():
            shape = (self.options.num_samples, *centre.shape[1:])
            noise = torch.stack([torch.randn(shape, generator=stream).to(centre) for stream in streams])
            candidates = centre[:, None] + self.options.init_std * noise
            costs = trial.score(candidates)
            assert not costs.isnan().any()
            centre = candidates.take_along_dim(costs.argmin(dim=1)[:, None, None, None], dim=1)[:, 0]
            trial.score(centre[:, None])


def make(low: Tensor = LOW, high: Tensor = HIGH, **changes: Any) -> LocalSearch:
    return LocalSearch(low, high, HostedOptions(**{**SMALL, **changes}))


def valley(actions: Tensor) -> Tensor:
    return (actions - torch.tensor([1.5, 0.4])).square().sum(dim=(2, 3))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_hosted_search_keeps_the_contract() -> None:
    findings = list(check_planner(lambda low, high: make(low, high)))
    assert [finding for finding in findings if finding.outcome != "passed"] == []


def test_it_is_a_planner() -> None:
    planner: Planner[Any] = make()
    assert planner.horizon == 4


def test_warm_start_and_seeds_are_scored_first_and_the_search_starts_from_the_best() -> None:
    calls: list[Tensor] = []

    def cost_fn(actions: Tensor) -> Tensor:
        calls.append(actions.clone())
        return valley(actions)

    planner = make(iterations=1, init_std=0.05)
    seed = torch.tensor([1.5, 0.4]).expand(2, 1, 4, 2)
    plan, state = planner.plan(cost_fn, planner.init(2), generator(), seeds=seed)
    assert [call.shape[1] for call in calls] == [2, 24, 1]
    torch.testing.assert_close(calls[0][:, 0], torch.tensor([0.5, 0.25]).expand(2, 4, 2))
    torch.testing.assert_close(calls[0][:, 1:], seed)
    assert (calls[1].mean(dim=1) - torch.tensor([1.5, 0.4])).abs().max() < 0.05
    torch.testing.assert_close(plan.actions, seed[:, 0])
    torch.testing.assert_close(planner.advance(state, 1).mean, state.mean)


def test_the_curve_is_by_iteration_and_repeats_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("forethought.planners.sampling.time.perf_counter", lambda: clock[0])

    def slow(actions: Tensor) -> Tensor:
        clock[0] += 1.0 if actions.shape[1] > 1 else 0.0
        return valley(actions)

    planner = make(iterations=5)
    whole, _ = planner.plan(valley, planner.init(2), generator())
    plan, _ = planner.plan(slow, planner.init(2), generator(), deadline_s=2.5)
    assert plan.iterations_run == 2  # a third would end at 3 s
    assert plan.best_costs.shape == (2, 5)
    assert torch.equal(plan.best_costs[:, :2], whole.best_costs[:, :2])
    assert torch.equal(plan.best_costs[:, 1:], plan.best_costs[:, 1:2].expand(2, 4))
    assert torch.equal(plan.cost, plan.best_costs[:, -1])
    none, _ = planner.plan(valley, planner.init(2), generator(), deadline_s=0.0)
    assert none.iterations_run == 1
    assert torch.equal(none.actions, torch.tensor([0.5, 0.25]).expand(2, 4, 2))


def test_invalid_costs_are_infinite_to_the_search_and_equal_where_all_are() -> None:
    heard: list[Tensor] = []

    class Listening(LocalSearch):
        @override
        def search(self, trial: Trial, generator: torch.Generator) -> None:
            candidates = torch.linspace(-1, 1, 5).reshape(1, 5, 1, 1).expand(2, 5, 4, 2)
            heard.append(trial.score(candidates))

    def cost_fn(actions: Tensor) -> Tensor:
        bad = (actions[:, :, 0, 0] > 0.5) | (torch.arange(2)[:, None] == 1)
        return torch.where(bad, torch.nan, 7.0)

    planner = Listening(LOW, HIGH, HostedOptions(**SMALL))
    plan, _ = planner.plan(cost_fn, planner.init(2), generator())
    assert heard[0].tolist() == [[7.0, 7.0, 7.0, torch.inf, torch.inf], [0.0] * 5]
    assert plan.cost.tolist() == [7.0, torch.inf]
    assert plan.num_invalid.tolist() == [2, 6]


@pytest.mark.parametrize("option", [("horizon", 5), ("num_samples", 30), ("iterations", 4), ("init_std", 0.7)])
def test_every_option_changes_the_result(option: tuple[str, Any]) -> None:
    def run(planner: LocalSearch) -> list[float]:
        plan, _ = planner.plan(valley, planner.init(2), generator())
        return [*plan.actions.flatten().tolist(), *plan.best_costs.flatten().tolist()]

    assert run(make()) == run(make())
    assert run(make(**dict([option]))) != run(make())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon must be at least 1, got 0"),
        ({"num_samples": 1}, "num_samples must be at least 2, got 1"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"init_std": 0.0}, "init_std must be above 0, got 0.0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlannerError, match=message):
        HostedOptions(**options)


def test_bad_calls_are_refused() -> None:
    with pytest.raises(PlannerError, match="batch_size must be at least 1, got 0"):
        make().init(0)
    with pytest.raises(PlannerError, match="steps must be 0 or more, got -1"):
        make().advance(make().init(1), -1)
    with pytest.raises(PlannerError, match="action_low must be finite and below"):
        make(HIGH, LOW)


def test_seeds_of_generators_differ_between_problems_and_follow_the_generator() -> None:
    one = seeds_for(3, generator())
    assert one == seeds_for(3, generator())
    assert len(set(one)) == 3
