import torch
from torch import Tensor

from forethought.planners import ICEM, ICEMOptions

LOW, HIGH = -torch.ones(2), torch.ones(2)


def record(planner: ICEM) -> tuple[list[Tensor], list[Tensor]]:
    """The candidates and costs of two plans in a row."""
    calls, costs = [], []

    def cost_fn(actions: Tensor) -> Tensor:
        calls.append(actions)
        costs.append((actions - 0.3).square().sum(dim=(2, 3)))
        return costs[-1]

    state, generator = planner.init(1), torch.Generator().manual_seed(0)
    for _ in range(2):
        _, state = planner.plan(cost_fn, state, generator)
        state = planner.advance(state, 1)
    return calls, costs


def elites(actions: Tensor, costs: Tensor, count: int) -> Tensor:
    return actions[0, costs[0].topk(count, largest=False).indices]


def test_population_shrinks_to_two_per_elite() -> None:
    planner = ICEM(LOW, HIGH, ICEMOptions(num_samples=100, num_elites=15, iterations=6, shrink=1.5))
    calls, _ = record(planner)
    assert [call.shape[1] for call in calls] == [100, 67, 44, 30, 30, 30] * 2


def test_best_elites_are_kept_within_a_plan_and_shifted_between_plans() -> None:
    options = ICEMOptions(horizon=5, num_samples=60, num_elites=10, iterations=3, keep_elites=0.3)
    calls, costs = record(ICEM(LOW, HIGH, options))
    torch.testing.assert_close(calls[1][0, -3:], elites(calls[0], costs[0], 3))
    torch.testing.assert_close(calls[2][0, -3:], elites(calls[1], costs[1], 3))
    last = elites(calls[2], costs[2], 3)
    torch.testing.assert_close(calls[3][0, -3:], torch.cat((last[:, 1:], last[:, -1:]), dim=1))


def test_there_is_nothing_to_keep_at_first() -> None:
    calls, _ = record(ICEM(LOW, HIGH, ICEMOptions(num_samples=60)))
    assert len(torch.unique(calls[0][0], dim=0)) == 60


def noise(planner: ICEM, iteration: int) -> torch.Tensor:
    return planner.noise(1, planner.num_drawn(iteration), torch.Generator().manual_seed(iteration))


def test_mean_is_tried_in_the_last_iteration() -> None:
    planner = ICEM(LOW, HIGH, ICEMOptions(iterations=3))
    state = planner.init(1)
    state = planner.tell(state, planner.ask(state, 0, noise(planner, 0)), torch.rand(1, 256), None)
    assert not torch.equal(planner.ask(state, 1, noise(planner, 1))[:, 0], state.mean)
    assert torch.equal(planner.ask(state, 2, noise(planner, 2))[:, 0], state.mean)


def test_elites_that_were_invalid_are_not_kept() -> None:
    planner = ICEM(LOW, HIGH, ICEMOptions(num_samples=40, num_elites=10, keep_elites=1.0))
    state = planner.init(1)
    candidates = planner.ask(state, 0, noise(planner, 0))
    costs = torch.full((1, 40), torch.inf)
    costs[0, :4] = torch.arange(4.0)
    state = planner.tell(state, candidates, costs, None)
    kept = planner.ask(state, 1, noise(planner, 1))[0, -10:]
    assert torch.equal(kept[:4], candidates[0, :4])
    assert not (kept[4:, None] == candidates[0]).flatten(2).all(dim=2).any()
