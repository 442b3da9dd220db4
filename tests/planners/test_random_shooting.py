import pytest
import torch

from forethought.planners import RandomShooting, RandomShootingOptions


@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_actions_are_uniform_and_sequences_coloured(beta: float) -> None:
    options = RandomShootingOptions(num_samples=20_000, horizon=8, noise_beta=beta)
    planner = RandomShooting(torch.zeros(1), torch.ones(1), options)
    noise = planner.noise(1, 20_000, torch.Generator().manual_seed(0))
    knots = planner.ask(planner.init(1), 0, noise)[0, :, :, 0]
    fractions = torch.histc(knots, bins=10, min=-1, max=1) / knots.numel()
    assert (fractions - 0.1).abs().max() < 0.006
    correlation = torch.corrcoef(knots.T)[0, 1]
    assert correlation > 0.25 if beta else abs(correlation) < 0.03


def test_best_of_several_rounds_is_kept() -> None:
    options = RandomShootingOptions(num_samples=8, horizon=2, iterations=20)
    planner = RandomShooting(torch.zeros(1), torch.ones(1), options)
    seen = []

    def cost_fn(actions: torch.Tensor) -> torch.Tensor:
        costs = (actions - 0.2).abs().sum(dim=(2, 3))
        seen.append(costs)
        return costs

    plan, state = planner.plan(cost_fn, planner.init(1), torch.Generator().manual_seed(0))
    assert plan.cost == torch.cat(seen, dim=1).min()
    torch.testing.assert_close(planner.parametrisation.decode(state.mean), plan.actions)
