from dataclasses import replace

import pytest
import torch
from torch import Tensor

from forethought.planners import (
    Gradient,
    GradientOptions,
    PlannerError,
    SampleGradient,
    SampleGradientOptions,
    make_planner,
)

LOW, HIGH = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 1.0])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("name", ["gradient", "sample_gradient"])
def test_costs_without_gradient_are_refused(name: str) -> None:
    planner = make_planner(name, LOW, HIGH)
    offset = torch.zeros(1, requires_grad=True)
    with pytest.raises(PlannerError, match="cost_fn must be differentiable by the actions"):
        planner.plan(lambda a: a.detach().sum(dim=(2, 3)), planner.init(1), generator())
    with pytest.raises(PlannerError, match="cost_fn must be differentiable by the actions"):
        planner.plan(lambda a: a.detach().sum(dim=(2, 3)) + offset, planner.init(1), generator())


@pytest.mark.parametrize("name", ["random_shooting", "cem", "icem", "mppi"])
def test_sampling_planners_build_no_graph(name: str) -> None:
    planner = make_planner(name, LOW, HIGH)
    weight = torch.ones(1, requires_grad=True)

    def cost_fn(actions: Tensor) -> Tensor:
        costs = (weight * actions).sum(dim=(2, 3))
        assert not costs.requires_grad
        return costs

    planner.plan(cost_fn, planner.init(1), generator())


@pytest.mark.parametrize("name", ["gradient", "sample_gradient"])
def test_parameters_of_the_model_get_no_gradient(name: str) -> None:
    planner = make_planner(name, LOW, HIGH)
    weight = torch.ones(1, requires_grad=True)
    with torch.no_grad():  # whatever the caller's mode
        plan, _ = planner.plan(lambda a: (weight * a).square().sum(dim=(2, 3)), planner.init(1), generator())
    assert weight.grad is None
    assert not plan.cost.requires_grad


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_scale_of_the_cost_does_not_matter(scale: float) -> None:
    planner = Gradient(LOW.double(), HIGH.double(), GradientOptions(horizon=4))
    target = torch.tensor([1.0, 0.3], dtype=torch.float64)
    plan, _ = planner.plan(lambda a: scale * (a - target).square().sum(dim=(2, 3)), planner.init(1), generator())
    torch.testing.assert_close(plan.actions, target.expand(1, 4, 2), atol=0.05, rtol=0)


def test_invalid_candidate_does_not_stop_the_others() -> None:
    def cost_fn(actions: Tensor) -> Tensor:
        costs = (actions - 0.7).square().sum(dim=(2, 3))
        return costs * torch.where(actions[:, :, 0, 0] < 0, torch.nan, 1.0)

    planner = Gradient(LOW, HIGH, GradientOptions(horizon=3))
    plan, state = planner.plan(cost_fn, planner.init(1), generator())
    assert plan.num_invalid > 0
    assert plan.cost < 0.01
    assert all(tensor.isfinite().all() for tensor in vars(state).values())


def test_steps_leave_the_bounds_again() -> None:
    # All starts at the upper bound: a gradient that dies there would stay there.
    planner = Gradient(LOW, HIGH, GradientOptions(horizon=2, num_samples=2, iterations=40))
    seeds = HIGH.expand(1, 1, 2, 2)
    state = planner.init(1)
    state = type(state)(**{**vars(state), "mean": torch.ones_like(state.mean)})
    plan, _ = planner.plan(lambda a: a.square().sum(dim=(2, 3)), state, generator(), seeds=seeds)
    assert plan.cost < 0.01


def test_steps_shorten_from_the_length_of_the_learning_rate() -> None:
    planner = Gradient(LOW, HIGH, GradientOptions(horizon=1, num_samples=2, iterations=2, learning_rate=0.2))
    calls = []

    def cost_fn(actions: Tensor) -> Tensor:
        calls.append(planner.parametrisation.encode(actions.detach()))
        return actions.sum(dim=(2, 3))

    planner.plan(cost_fn, planner.init(1), generator())
    step = (calls[1] - calls[0])[0, 0]  # the first candidate starts in the middle
    torch.testing.assert_close(step, torch.full_like(step, -0.2 * (1 - 1 / 2)))


def test_refinement_improves_on_icem() -> None:
    target = torch.rand(4, 1, 8, 2, generator=generator()) * (HIGH - LOW) + LOW
    planner = SampleGradient(LOW, HIGH, SampleGradientOptions(horizon=8))
    plan, state = planner.plan(lambda a: (a - target).square().sum(dim=(2, 3)), planner.init(4), generator())
    assert plan.best_costs.shape == (4, 6 + 1 + 10)
    assert (plan.best_costs[:, -1] < 0.8 * plan.best_costs[:, 5]).all()
    # What was found outlives the plan.
    torch.testing.assert_close(planner.parametrisation.decode(state.elites[:, 0]), plan.actions)


def test_elites_stay_beside_what_is_known_of_them() -> None:
    planner = SampleGradient(LOW, HIGH, SampleGradientOptions(horizon=2, num_elites=3))
    state = planner.init(1)
    elites = torch.arange(3.0)[None, :, None, None].expand(1, 3, *state.elites.shape[2:])
    state = replace(state, elites=elites, elite_valid=torch.tensor([[False, True, True]]))
    best = torch.full_like(elites[:, 0], 7.0)
    after = planner.finish(state, best)
    assert after.elites[0, :, 0, 0].tolist() == [7.0, 0.0, 1.0]
    assert after.elite_valid.tolist() == [[True, False, True]]


def test_mean_is_refined_in_place_of_the_worst_elite() -> None:
    options = SampleGradientOptions(horizon=2, iterations=2, num_elites=4, return_mean=True)
    planner = SampleGradient(LOW, HIGH, options)
    state = planner.init(1)
    noise = planner.noise(1, planner.num_drawn(1), generator())
    state = planner.tell(state, planner.ask(state, 1, noise), torch.rand(1, 205, generator=generator()), None)
    assert planner.num_drawn(2) == 0
    refined = planner.ask(state, 2, noise)
    assert torch.equal(refined[:, :3], state.elites[:, :3])
    assert torch.equal(refined[:, 3], state.mean)
    plan, state = planner.plan(lambda a: (a - 0.3).square().sum(dim=(2, 3)), planner.init(1), generator())
    torch.testing.assert_close(plan.actions, planner.parametrisation.decode(state.mean))
    assert plan.cost < 0.01
