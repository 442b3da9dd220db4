import torch
from torch import Tensor

from forethought.planners import CEM, CEMOptions

LOW, HIGH = -torch.ones(1), torch.ones(1)
CANDIDATES = torch.tensor([0.5, -0.5, 0.1, 0.3])[None, :, None, None]  # B=1, N=4, K=1, A=1


def make(**changes: float) -> CEM:
    return CEM(LOW, HIGH, CEMOptions(**{"horizon": 1, "num_samples": 4, "num_elites": 2, "momentum": 0.0, **changes}))  # type: ignore[arg-type]


def test_refit_by_hand() -> None:
    planner = make()
    state = planner.tell(planner.init(1), CANDIDATES, torch.tensor([[1.0, 9.0, 2.0, 3.0]]), None)
    torch.testing.assert_close(state.mean.item(), 0.3)
    torch.testing.assert_close(state.std.item(), 0.2)
    torch.testing.assert_close(state.elites.flatten(), torch.tensor([0.5, 0.1]))


def test_momentum_keeps_a_part_of_the_old() -> None:
    planner = make(momentum=0.25)
    state = planner.tell(planner.init(1), CANDIDATES, torch.tensor([[1.0, 9.0, 2.0, 3.0]]), None)
    torch.testing.assert_close(state.mean.item(), 0.75 * 0.3)
    torch.testing.assert_close(state.std.item(), 0.75 * 0.2 + 0.25 * 0.5)


def test_invalid_candidates_are_no_elites_even_if_too_few_are_left() -> None:
    planner, inf = make(num_elites=3), torch.inf
    state = planner.tell(planner.init(1), CANDIDATES, torch.tensor([[1.0, inf, 2.0, inf]]), None)
    torch.testing.assert_close(state.mean.item(), 0.3)
    torch.testing.assert_close(state.std.item(), 0.2)
    assert state.elite_valid.tolist() == [[True, True, False]]
    # A single candidate says where to search, but not how widely.
    state = planner.tell(planner.init(1), CANDIDATES, torch.tensor([[inf, inf, 2.0, inf]]), None)
    torch.testing.assert_close(state.mean.item(), 0.1)
    torch.testing.assert_close(state.std.item(), 0.5)


def test_std_has_floor_and_ceiling() -> None:
    costs = torch.tensor([[1.0, 9.0, 2.0, 3.0]])
    assert make(min_std=0.4).tell(make().init(1), CANDIDATES, costs, None).std.item() == torch.tensor(0.4).item()
    assert make(max_std=0.15, init_std=0.1).tell(make().init(1), CANDIDATES, costs, None).std == torch.tensor(0.15)


def test_mean_is_scored_before_it_is_returned() -> None:
    planner = CEM(LOW, HIGH, CEMOptions(horizon=3, return_mean=True))
    calls = []

    def cost_fn(actions: torch.Tensor) -> torch.Tensor:
        calls.append(actions)
        return (actions - 0.3).square().sum(dim=(2, 3))

    plan, state = planner.plan(cost_fn, planner.init(1), torch.Generator().manual_seed(0))
    torch.testing.assert_close(plan.actions, planner.parametrisation.decode(state.mean))
    torch.testing.assert_close(plan.actions, calls[-1][:, 0])
    assert calls[-1].shape[1] == 1
    torch.testing.assert_close(plan.cost, cost_fn(plan.actions[:, None])[:, 0])


def test_mean_without_a_valid_cost_gives_way_to_the_best() -> None:
    planner = CEM(LOW, HIGH, CEMOptions(horizon=3, return_mean=True))

    def cost_fn(actions: torch.Tensor) -> torch.Tensor:
        costs = (actions - 0.3).square().sum(dim=(2, 3))
        return costs if actions.shape[1] > 1 else costs * torch.nan

    plan, _ = planner.plan(cost_fn, planner.init(1), torch.Generator().manual_seed(0))
    assert plan.cost == plan.best_costs[:, -1]
    assert plan.num_invalid.tolist() == [1]


def test_the_mean_can_be_returned_unscored() -> None:
    scored, unscored = (
        CEM(LOW, HIGH, CEMOptions(horizon=3, return_mean=True, score_mean=score)) for score in (True, False)
    )
    calls = []

    def cost_fn(actions: torch.Tensor) -> torch.Tensor:
        calls.append(actions)
        return (actions - 0.3).square().sum(dim=(2, 3))

    plan, state = scored.plan(cost_fn, scored.init(1), torch.Generator().manual_seed(0))
    count = len(calls)
    other, same = unscored.plan(cost_fn, unscored.init(1), torch.Generator().manual_seed(0))
    assert len(calls) == 2 * count - 1
    assert torch.equal(other.actions, plan.actions)
    assert torch.equal(same.mean, state.mean)
    assert other.cost == plan.best_costs[:, -1]


def test_an_unscored_mean_is_returned_whatever_it_costs() -> None:
    """Where two ways lead round an obstacle, their mean is inside it; only scoring it would tell."""

    def cost_fn(actions: torch.Tensor) -> torch.Tensor:
        middle = actions.mean(dim=(2, 3))
        return torch.where(middle.abs() < 0.15, torch.nan, (middle.abs() - 0.5).square())

    options = CEMOptions(horizon=3, iterations=1, num_samples=256, num_elites=128, return_mean=True, score_mean=False)
    planner = CEM(torch.tensor([-1.0]), torch.tensor([1.0]), options)
    plan, state = planner.plan(cost_fn, planner.init(1), torch.Generator().manual_seed(0))
    assert torch.equal(plan.actions, planner.parametrisation.decode(state.mean))
    assert cost_fn(plan.actions[:, None]).isnan()
    assert plan.cost == plan.best_costs[:, -1]


def test_without_a_valid_candidate_an_unscored_mean_is_the_warm_start() -> None:
    planner = CEM(LOW, HIGH, CEMOptions(horizon=3, return_mean=True, score_mean=False))
    plan, _ = planner.plan(
        lambda actions: torch.full(actions.shape[:2], torch.nan), planner.init(1), torch.Generator().manual_seed(0)
    )
    assert torch.equal(plan.actions, planner.parametrisation.decode(planner.init(1).mean))
    assert plan.cost.isposinf()


def test_without_time_to_score_the_mean_the_best_is_returned() -> None:
    planner = CEM(LOW, HIGH, CEMOptions(horizon=3, return_mean=True))
    calls = []

    def cost_fn(actions: torch.Tensor) -> torch.Tensor:
        calls.append(actions)
        return (actions - 0.3).square().sum(dim=(2, 3))

    plan, _ = planner.plan(cost_fn, planner.init(1), torch.Generator().manual_seed(0), deadline_s=0.0)
    assert len(calls) == 1
    assert plan.cost == plan.best_costs[:, -1]


def test_a_plan_that_nothing_beats_is_not_lost_to_the_next_search() -> None:
    # Doing nothing is best, and everything else far worse: the mean of the elites is.
    def cost_fn(actions: Tensor) -> Tensor:
        return (actions.abs() > 1e-6).flatten(2).any(dim=2).float() + actions.abs().sum(dim=(2, 3))

    costs = {}
    for from_best in (True, False):
        planner = CEM(LOW, HIGH, CEMOptions(horizon=6, num_samples=16, num_elites=4, from_best=from_best))
        generator, state, found = torch.Generator().manual_seed(0), planner.init(1), []
        for _ in range(4):
            plan, state = planner.plan(cost_fn, state, generator)
            found.append(float(plan.cost[0]))
            state = planner.advance(state, 1)
        costs[from_best] = found
    assert costs[True] == [0.0] * 4
    assert costs[False][0] == 0.0
    assert costs[False][1] > 0.5
