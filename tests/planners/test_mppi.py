import math
from typing import Any

import pytest
import torch

from forethought.planners import MPPI, MPPIOptions

LOW, HIGH = -torch.ones(1), torch.ones(1)
COSTS = torch.tensor([[1.0, 3.0, 5.0, torch.inf]])


def make(**changes: Any) -> MPPI:
    options = {"horizon": 1, "num_samples": 4, "num_elites": None, "momentum": 0.0, **changes}
    return MPPI(LOW, HIGH, MPPIOptions(**options))


@pytest.mark.parametrize(("scale", "unit"), [("absolute", 1.0), ("range", 4.0), ("std", math.sqrt(8 / 3))])
def test_weights_by_hand(scale: str, unit: float) -> None:
    weights = make(temperature=0.7, temperature_scale=scale).weights(COSTS)
    raw = torch.tensor([[math.exp(-above / (0.7 * unit)) for above in (0, 2, 4)] + [0]])
    torch.testing.assert_close(weights, raw / raw.sum())


@pytest.mark.parametrize("scale", ["range", "std"])
def test_relative_temperature_does_not_know_scale_or_offset(scale: str) -> None:
    planner = make(temperature_scale=scale)
    torch.testing.assert_close(planner.weights(COSTS), planner.weights(1000 * COSTS - 77))


@pytest.mark.parametrize("scale", ["absolute", "range", "std"])
def test_weights_at_the_edges(scale: str) -> None:
    planner = make(temperature_scale=scale)
    assert planner.weights(torch.full((1, 3), torch.inf)).tolist() == [[0, 0, 0]]
    assert planner.weights(torch.full((1, 4), 5.0)).tolist() == [[0.25] * 4]
    assert planner.weights(torch.tensor([[torch.inf, 5.0]])).tolist() == [[0, 1]]


def test_tell_by_hand() -> None:
    candidates = torch.tensor([0.5, -0.5, 0.1, 0.9])[None, :, None, None]
    planner = make(temperature_scale="absolute", temperature=2.0)
    w = torch.tensor([1, math.exp(-1), math.exp(-2), 0])
    w /= w.sum()
    mean = (w * candidates.flatten()).sum()
    std = (w * (candidates.flatten() - mean) ** 2).sum().sqrt()
    state = planner.tell(planner.init(1), candidates, COSTS, None)
    torch.testing.assert_close(state.mean.item(), mean.item())
    torch.testing.assert_close(state.std.item(), std.item())
    fixed = make(temperature_scale="absolute", temperature=2.0, adapt_std=False)
    state = fixed.tell(fixed.init(1), candidates, COSTS, None)
    torch.testing.assert_close(state.mean.item(), mean.item())
    assert state.std.item() == 0.5


def test_only_elites_weigh() -> None:
    candidates = torch.tensor([0.5, -0.5, 0.1, 0.9])[None, :, None, None]
    planner = make(num_elites=2, temperature=1e6, temperature_scale="absolute")
    state = planner.tell(planner.init(1), candidates, torch.tensor([[1.0, 3.0, 5.0, 2.0]]), None)
    torch.testing.assert_close(state.mean.item(), 0.7)
