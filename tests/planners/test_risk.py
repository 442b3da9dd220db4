import math
from typing import Any

import pytest
import torch

from forethought.planners import PlannerError, RiskOptions, aggregate

COSTS = torch.tensor([1.0, 4.0, 2.0, 9.0], dtype=torch.float64)[:, None, None]  # E=4, B=1, N=1
STD = math.sqrt((9 + 0 + 4 + 25) / 4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (RiskOptions("mean"), 4.0),
        (RiskOptions("mean_std", beta=0.5), 4 + 0.5 * STD),
        (RiskOptions("mean_std", beta=-2.0), 4 - 2 * STD),
        (RiskOptions("worst"), 9.0),
        (RiskOptions("cvar", alpha=1.0), 4.0),
        (RiskOptions("cvar", alpha=0.5), 6.5),
        (RiskOptions("cvar", alpha=0.25), 9.0),
        (RiskOptions("cvar", alpha=0.1), 9.0),
        (RiskOptions("cvar", alpha=0.375), (9 + 0.5 * 4) / 1.5),
    ],
)
def test_by_hand(options: RiskOptions, expected: float) -> None:
    assert aggregate(COSTS, options).item() == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["mean", "mean_std", "cvar", "worst"])
def test_shape_single_member_gradient_and_nan(kind: str) -> None:
    options = RiskOptions(kind, alpha=0.6)
    costs = torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    total = aggregate(costs, options)
    assert total.shape == (2, 3)
    (gradient,) = torch.autograd.grad(total.sum(), costs)
    assert (gradient.sum(dim=0) - 1).abs().max() < 1e-5  # a constant added to every member is added to the result
    torch.testing.assert_close(aggregate(costs[:1], options), costs[0])
    (gradient,) = torch.autograd.grad(aggregate(costs[:1], options).sum(), costs)
    assert gradient.isfinite().all()
    spoilt = costs.detach().clone()
    spoilt[3, 1, 2] = torch.nan
    assert aggregate(spoilt, options).isnan().nonzero().tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "median"}, "kind must be one of mean, mean_std, cvar, worst, got 'median'"),
        ({"beta": math.inf}, "beta must be finite, got inf"),
        ({"alpha": 0.0}, "alpha must be above 0 and at most 1, got 0.0"),
        ({"alpha": 1.5}, "alpha must be above 0 and at most 1, got 1.5"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlannerError) as error:
        RiskOptions(**options)
    assert str(error.value) == message


@pytest.mark.parametrize("shape", [(2, 3), (0, 2, 3)])
def test_bad_costs_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PlannerError, match=r"costs must have shape \[E, B, N\] with E at least 1, got \["):
        aggregate(torch.zeros(shape), RiskOptions())
