"""What every planner over the shared loop does, beyond the contract of all planners."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from forethought.planners import PLANNERS, Plan, PlannerError, SamplingPlanner, SearchState, make_planner

LOW, HIGH = torch.tensor([-1.0, 0.2, -30.0]), torch.tensor([3.0, 0.3, -10.0])
B, H, A = 4, 6, 3

every_planner = pytest.mark.parametrize("name", PLANNERS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(name: str, low: Tensor = LOW, high: Tensor = HIGH, **changes: Any) -> SamplingPlanner:
    small = {"horizon": H, "num_samples": 40, **changes}
    return make_planner(name, low, high, **small)  # type: ignore[return-value]


def targets(batch_size: int = B, low: Tensor = LOW, high: Tensor = HIGH, outside: float = 0.0) -> Tensor:
    """Sequences `[B, H, A]` inside the bounds, or up to `outside` ranges beyond them."""
    unit = torch.rand(batch_size, H, A, generator=generator(7), dtype=low.dtype)
    return low + (high - low) * ((1 + 2 * outside) * unit - outside)


def quadratic(target: Tensor, low: Tensor = LOW, high: Tensor = HIGH) -> Callable[[Tensor], Tensor]:
    return lambda actions: (((actions - target[:, None]) / (high - low)) ** 2).sum(dim=(2, 3))


def same(one: Plan, two: Plan) -> bool:
    fields = ("actions", "cost", "best_costs", "num_invalid", "std")
    return all(torch.equal(getattr(one, field), getattr(two, field)) for field in fields)


class Recorder:
    """A cost function that remembers what it was asked."""

    def __init__(self, cost_fn: Callable[[Tensor], Tensor]) -> None:
        self.cost_fn, self.calls = cost_fn, list[Tensor]()

    def __call__(self, actions: Tensor) -> Tensor:
        self.calls.append(actions.detach().clone())
        return self.cost_fn(actions)


@every_planner
def test_shapes_and_statistics(name: str) -> None:
    planner = make(name)
    plan, state = planner.plan(quadratic(targets()), planner.init(B), generator())
    assert plan.actions.shape == (B, H, A)
    assert plan.cost.shape == plan.num_invalid.shape == plan.std.shape == (B,)
    assert plan.best_costs.shape == (B, planner.num_iterations)
    assert plan.iterations_run == planner.num_iterations
    assert plan.elapsed_s > 0
    assert plan.num_invalid.tolist() == [0] * B
    assert (plan.best_costs.diff(dim=1) <= 0).all()
    assert planner.horizon == H
    assert not any(tensor.requires_grad for tensor in (plan.actions, plan.cost, *vars(state).values()))


@every_planner
def test_plans_reach_the_bounds(name: str) -> None:
    outside = quadratic((HIGH + 5 * (HIGH - LOW)).expand(B, H, A))
    planner = make(name, num_samples=200, warm_start=True)
    state = planner.init(B)
    for _ in range(6):
        plan, state = planner.plan(outside, state, generator())
    close = 0.3 if name == "random_shooting" else 0.9
    assert ((plan.actions - LOW) / (HIGH - LOW)).mean() > close


@every_planner
def test_problem_without_valid_candidate_keeps_its_warm_start(name: str) -> None:
    cost_fn = quadratic(targets())
    planner = make(name)
    _, state = planner.plan(cost_fn, planner.init(B), generator(1))
    state = planner.advance(state, 1)

    def second_problem_bad(actions: Tensor) -> Tensor:
        return torch.where(torch.arange(B)[:, None] == 1, torch.nan, cost_fn(actions))

    recorder = Recorder(second_problem_bad)
    plan, after = planner.plan(recorder, state, generator())
    assert plan.cost.isinf().tolist() == [False, True, False, False]
    assert plan.best_costs[1].isinf().all()
    torch.testing.assert_close(plan.actions[1], planner.parametrisation.decode(state.mean[1]))
    torch.testing.assert_close(after.mean[1], state.mean[1])
    assert plan.num_invalid.tolist() == [0, sum(call.shape[1] for call in recorder.calls), 0, 0]
    assert all(tensor.isfinite().all() for tensor in vars(after).values())
    # and it recovers
    plan, _ = planner.plan(cost_fn, planner.advance(after, 1), generator())
    assert plan.cost.isfinite().all()


@every_planner
def test_seeds_are_tried_and_can_win(name: str) -> None:
    target = targets()
    planner = make(name, iterations=1)
    recorder = Recorder(quadratic(target))
    seeds = torch.stack((targets().flip(0), target), dim=1)
    plan, _ = planner.plan(recorder, planner.init(B), generator(), seeds=seeds)
    torch.testing.assert_close(recorder.calls[0][:, 1:3], seeds)
    assert recorder.calls[0].shape[1] == 40
    assert (plan.best_costs[:, -1] < 1e-9).all()


@every_planner
@pytest.mark.parametrize("shape", [(B, 2, H, A + 1), (B, 2, H + 1, A), (B + 1, 2, H, A), (B, H, A), (B, 40, H, A)])
def test_seeds_of_wrong_shape_are_refused(name: str, shape: tuple[int, ...]) -> None:
    planner = make(name)
    with pytest.raises(PlannerError, match=r"seeds must have shape \[B=4, S, H=6, A=3\] with S at most") as error:
        planner.plan(quadratic(targets()), planner.init(B), generator(), seeds=torch.zeros(shape))
    assert str(list(shape)) in str(error.value)


@every_planner
def test_costs_of_wrong_shape_are_refused(name: str) -> None:
    planner = make(name)
    with pytest.raises(PlannerError, match=r"costs of shape \[4, 40\], got \[4, 40, 6\]"):
        planner.plan(lambda actions: actions.sum(dim=-1), planner.init(B), generator())
    with pytest.raises(PlannerError, match=r"costs of shape \[4, 40\], got float"):
        planner.plan(lambda actions: 0.0, planner.init(B), generator())  # type: ignore[arg-type, return-value]


@every_planner
@pytest.mark.parametrize("deadline_s", [0.0, -1.0])
def test_without_time_the_first_chunk_is_scored(name: str, deadline_s: float) -> None:
    cost_fn = quadratic(targets())
    recorder = Recorder(cost_fn)
    planner = make(name, max_candidates_per_call=5 * B)
    plan, state = planner.plan(recorder, planner.init(B), generator(), deadline_s=deadline_s)
    assert len(recorder.calls) == 1
    assert plan.iterations_run == 1
    torch.testing.assert_close(plan.cost, cost_fn(recorder.calls[0]).amin(dim=1))
    torch.testing.assert_close(plan.cost, cost_fn(plan.actions[:, None])[:, 0])
    assert plan.num_invalid.sum() == 0
    assert plan.best_costs.shape == (B, planner.num_iterations)
    assert (plan.best_costs == plan.best_costs[:, :1]).all()
    assert all(tensor.isfinite().all() for tensor in vars(state).values())


@every_planner
def test_deadline_ends_the_search_between_iterations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("forethought.planners.sampling.time.perf_counter", lambda: clock[0])
    cost_fn = quadratic(targets())

    def slow(actions: Tensor) -> Tensor:
        clock[0] += 1.0
        return cost_fn(actions)

    planner = make(name, iterations=5)
    plan, _ = planner.plan(slow, planner.init(B), generator(), deadline_s=3.5)
    assert plan.iterations_run == 3  # a fourth would end at 4 s
    assert plan.elapsed_s == 3.0


@every_planner
@pytest.mark.parametrize("limit", [1, 7 * B, 13 * B + 1])
def test_chunks_change_nothing(name: str, limit: int) -> None:
    cost_fn = quadratic(targets())
    whole, chunked = make(name), make(name, max_candidates_per_call=limit)
    expected, _ = whole.plan(cost_fn, whole.init(B), generator())
    recorder = Recorder(cost_fn)
    plan, _ = chunked.plan(recorder, chunked.init(B), generator())
    assert same(plan, expected)
    assert max(call.shape[1] for call in recorder.calls) == max(1, limit // B)


@every_planner
def test_a_plan_inherits_where_to_search_but_not_how_narrowly(name: str) -> None:
    planner, cost_fn = make(name), quadratic(targets())
    _, state = planner.plan(cost_fn, planner.init(B), generator(0))
    narrow = dataclasses.replace(state, std=torch.full_like(state.std, 1e-3), moments=state.moments + 5)
    expected, _ = planner.plan(cost_fn, state, generator(1))
    plan, _ = planner.plan(cost_fn, narrow, generator(1))
    assert same(plan, expected)


@every_planner
def test_advance_shifts_the_mean(name: str) -> None:
    planner = make(name)
    _, state = planner.plan(quadratic(targets()), planner.init(B), generator())
    shifted = planner.advance(state, 2)
    torch.testing.assert_close(shifted.mean[:, :-2], state.mean[:, 2:])
    torch.testing.assert_close(shifted.mean[:, -2:], state.mean[:, -1:].expand(-1, 2, -1))
    torch.testing.assert_close(planner.advance(state, H + 3).mean, state.mean[:, -1:].expand(-1, H, -1))
    assert torch.equal(planner.advance(state, 0).mean, state.mean)
    middle = make(name, tail="middle").advance(state, 2)
    assert (middle.mean[:, -2:] == 0).all()
    fresh = make(name, warm_start=False).advance(state, 2)
    assert all(torch.equal(value, getattr(planner.init(B), key)) for key, value in vars(fresh).items())


@every_planner
def test_bad_calls_are_refused(name: str) -> None:
    planner = make(name)
    with pytest.raises(PlannerError, match="batch_size must be at least 1, got 0"):
        planner.init(0)
    with pytest.raises(PlannerError, match="steps must be 0 or more, got -1"):
        planner.advance(planner.init(1), -1)


@every_planner
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_quadratic_any_bounds(name: str, data: st.DataObject) -> None:
    finite = st.floats(-1e4, 1e4, width=32)
    low = torch.tensor(data.draw(st.lists(finite, min_size=2, max_size=2), label="low"))
    width = torch.tensor(data.draw(st.lists(st.floats(2**-3, 1e4, width=32), min_size=2, max_size=2), label="width"))
    target = torch.tensor(data.draw(st.lists(finite, min_size=2, max_size=2), label="target"))
    weight = torch.tensor(data.draw(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=2), label="weight"))
    knots = data.draw(st.sampled_from([None, 1, 3]), label="knots")
    interpolation = data.draw(st.sampled_from(["hold", "linear", "cubic"]), label="interpolation")
    high = low + width

    recorder = Recorder(lambda actions: (weight * (actions - target) ** 2).sum(dim=(2, 3)))
    planner = make(name, low, high, horizon=4, iterations=2, num_knots=knots, interpolation=interpolation)
    plan, _ = planner.plan(recorder, planner.init(2), generator())
    for actions in [*recorder.calls, plan.actions]:
        assert (actions >= low).all()
        assert (actions <= high).all()
    middle = recorder.cost_fn(planner.parametrisation.decode(planner.init(2).mean)[:, None])[:, 0]
    assert (plan.best_costs[:, -1] <= middle).all()
    assert (plan.cost <= middle).all()


def test_search_state_is_batch_first() -> None:
    for name in PLANNERS:
        state = make(name).init(B)
        assert isinstance(state, SearchState)
        assert all(tensor.shape[0] == B for tensor in vars(state).values())
