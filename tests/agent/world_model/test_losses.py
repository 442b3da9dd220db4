"""Losses against numbers worked out by hand, and the laws they obey."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from forethought.agent.world_model.losses import (
    covariance_loss,
    prediction_loss,
    sigreg_loss,
    straightening_loss,
    variance_loss,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sigreg(z: Tensor, projections: int = 64, seed: int = 0) -> float:
    return float(sigreg_loss(z, torch.Generator().manual_seed(seed), projections))


# -- prediction --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rho", "expected"), [(1.0, (1 + 4 + 9) / 3), (0.5, (1 + 4 / 2 + 9 / 4) / 1.75)])
def test_prediction_loss_weighs_steps_by_rho(rho: float, expected: float) -> None:
    target = normal(3, 3, 4)  # [B, L, Z]
    error = torch.tensor([1.0, 2.0, 3.0]).view(3, 1)  # by step
    predicted = torch.stack([target + error, target - error])  # two members
    assert float(prediction_loss(predicted, target, rho)) == pytest.approx(expected, rel=1e-5)


def test_prediction_loss_is_the_mean_over_members() -> None:
    target = torch.zeros(2, 3, 4)
    predicted = torch.stack([target, target + 2])
    assert float(prediction_loss(predicted, target, 0.7)) == pytest.approx(2.0)


def test_prediction_loss_stops_gradients_into_the_target() -> None:
    target, predicted = normal(2, 3, 4).requires_grad_(), normal(1, 2, 3, 4, seed=1).requires_grad_()
    prediction_loss(predicted, target, 1.0).backward()
    assert target.grad is None
    assert predicted.grad is not None
    assert torch.allclose(predicted.grad, 2 * (predicted - target).detach() / predicted.numel())


# -- variance and covariance -------------------------------------------------------------------------------------------


def test_variance_loss_is_a_hinge() -> None:
    z = torch.tensor([-1.0, 1.0]).repeat(500)[:, None] * torch.tensor([2.0, 1.01, 0.5, 0.0])  # std of each column
    expected = (0 + 0 + (1 - math.sqrt(0.25 * 1000 / 999 + 1e-4)) + (1 - math.sqrt(1e-4))) / 4
    assert float(variance_loss(z)) == pytest.approx(expected, rel=1e-4)
    assert float(variance_loss(z[:, :2])) == 0.0
    assert float(variance_loss(z[:, 2:3], target_std=0.25)) == 0.0
    assert float(variance_loss(z + 100)) == pytest.approx(expected, rel=1e-3)


def test_variance_loss_pushes_a_collapsed_latent_apart() -> None:
    z = (1e-3 * normal(32, 4)).requires_grad_()
    variance_loss(z).backward()
    assert z.grad is not None
    assert (z.grad * (z - z.mean(0))).sum() < 0  # going downhill spreads


def test_covariance_loss_by_hand() -> None:
    z = torch.tensor([[1.0, 2.0, 0.0], [-1.0, -2.0, 0.0], [0.0, 0.0, 3.0], [0.0, 0.0, -3.0]])
    # the only covariance off the diagonal is (2 + 2) / 3 between the first two, counted twice, over Z = 3
    assert float(covariance_loss(z)) == pytest.approx(2 * (4 / 3) ** 2 / 3)
    assert float(covariance_loss(z + 7)) == pytest.approx(2 * (4 / 3) ** 2 / 3, rel=1e-4)


def test_covariance_loss_is_zero_for_independent_dimensions() -> None:
    grid = torch.cartesian_prod(torch.tensor([-1.0, 1.0]), torch.tensor([-3.0, 0.0, 3.0]), torch.tensor([0.0, 5.0]))
    assert float(covariance_loss(grid)) == pytest.approx(0.0, abs=1e-6)
    assert float(covariance_loss(normal(4000, 8))) < 0.01
    assert float(covariance_loss(normal(4000, 1).expand(-1, 8))) > 6


# -- SIGReg ------------------------------------------------------------------------------------------------------------


def test_sigreg_is_lowest_for_a_standard_normal() -> None:
    z = normal(2000, 8)
    good = sigreg(z)
    assert 0 <= good < 0.002
    bad = {
        "collapsed": torch.zeros_like(z),
        "shrunk": 0.3 * z,
        "blown up": 3 * z,
        "shifted": z + 1,
        "one direction": z[:, :1].expand(-1, 8),
        "half empty": torch.cat([z[:, :4], torch.zeros(2000, 4)], dim=1),
    }
    for name, other in bad.items():
        assert sigreg(other) > 10 * good, name


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(0.0, 2.0), scale=st.floats(0.2, 4.0))
def test_sigreg_of_a_gaussian_has_a_closed_form(shift: float, scale: float) -> None:
    """Along one dimension the characteristic function is known: exp(i t shift - t^2 scale^2 / 2)."""
    quantiles = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    z = (shift + scale * math.sqrt(2) * torch.erfinv(2 * quantiles - 1))[:, None]
    t = torch.linspace(0, 3, 17, dtype=torch.float64)
    target, size = torch.exp(-t.square() / 2), torch.exp(-(t.square()) * scale**2 / 2)
    error = (size * torch.cos(t * shift) - target).square() + (size * torch.sin(t * shift)).square()
    expected = 2 * torch.trapezoid(error * target, t)
    assert sigreg(z, projections=4) == pytest.approx(float(expected), abs=1e-4)


def test_sigreg_draws_its_projections_from_the_generator() -> None:
    z = normal(64, 8)
    before = torch.get_rng_state()
    assert sigreg(z, seed=1) == sigreg(z, seed=1)
    assert sigreg(z, seed=1) != sigreg(z, seed=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_sigreg_descends_to_a_normal() -> None:
    z, generator = (0.1 * normal(256, 2)).requires_grad_(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([z], lr=0.05)
    for _ in range(120):
        optimizer.zero_grad()
        sigreg_loss(z, generator).backward()
        optimizer.step()
    assert torch.allclose(z.detach().std(0), torch.ones(2), atol=0.15)
    assert torch.allclose(z.detach().mean(0), torch.zeros(2), atol=0.1)


# -- straightening -----------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(st.floats(0.1, 5.0), min_size=2, max_size=6), seed=st.integers(0, 100))
def test_straightening_is_zero_on_a_line_at_any_speed(steps: list[float], seed: int) -> None:
    way = torch.tensor([0.0, *steps]).cumsum(0)
    line = normal(2, 1, 3, seed=seed) + way[:, None] * (normal(2, 1, 3, seed=seed + 1) + 0.01)
    assert float(straightening_loss(line)) == pytest.approx(0.0, abs=1e-3)


def test_straightening_counts_the_turn() -> None:
    corner = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 5.0]]])
    back = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [-3.0, 0.0]]])
    assert float(straightening_loss(corner)) == pytest.approx(1.0)
    assert float(straightening_loss(back)) == pytest.approx(2.0)
    assert float(straightening_loss(torch.cat([corner, back]))) == pytest.approx(1.5)
    assert float(straightening_loss(torch.zeros(1, 3, 2))) == pytest.approx(1.0)  # a standing latent is not straight
