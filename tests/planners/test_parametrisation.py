import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forethought.planners.parametrisation import INTERPOLATIONS, Parametrisation, knot_matrix

LOW, HIGH = torch.tensor([-1.0, 2.0], dtype=torch.float64), torch.tensor([3.0, 2.5], dtype=torch.float64)


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_known_matrices() -> None:
    torch.testing.assert_close(knot_matrix(4, 2, "hold"), rows([1, 0], [1, 0], [0, 1], [0, 1]))
    torch.testing.assert_close(knot_matrix(3, 2, "linear"), rows([1, 0], [0.5, 0.5], [0, 1]))
    quarter = knot_matrix(5, 3, "cubic")[1]  # halfway between the first two knots, by hand
    torch.testing.assert_close(quarter, rows([0.5 - 1 / 8 + 1 / 16, 0.5 + 1 / 8, -1 / 16])[0])


@given(horizon=st.integers(1, 30), data=st.data(), interpolation=st.sampled_from(INTERPOLATIONS))
def test_laws_of_knots(horizon: int, data: st.DataObject, interpolation: str) -> None:
    num_knots = data.draw(st.integers(1, horizon))
    matrix = knot_matrix(horizon, num_knots, interpolation)
    assert matrix.shape == (horizon, num_knots)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(horizon, dtype=torch.float64))
    # No knot is without effect, and knots can be told from the actions.
    assert torch.linalg.matrix_rank(matrix) == num_knots
    if interpolation != "cubic":
        assert (matrix >= 0).all()
    if num_knots == horizon:
        torch.testing.assert_close(matrix, torch.eye(horizon, dtype=torch.float64))


@given(horizon=st.integers(3, 30), interpolation=st.sampled_from(["linear", "cubic"]))
def test_lines_are_reproduced(horizon: int, interpolation: str) -> None:
    matrix = knot_matrix(horizon, 3, interpolation)
    line = torch.linspace(-1, 1, horizon, dtype=torch.float64)
    torch.testing.assert_close(matrix @ rows([-1, 0, 1])[0], line)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("num_knots", [None, 1, 3, 7])
def test_encode_inverts_decode(interpolation: str, num_knots: int | None) -> None:
    parametrisation = Parametrisation(LOW, HIGH, 7, num_knots, interpolation)
    knots = torch.rand(5, 3, num_knots or 7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    actions = parametrisation.decode(knots)
    assert actions.shape == (5, 3, 7, 2)
    torch.testing.assert_close(parametrisation.encode(actions), knots)


def test_hold_seeds_are_block_averages() -> None:
    parametrisation = Parametrisation(torch.tensor([-1.0]), torch.tensor([1.0]), 4, 2, "hold")
    knots = parametrisation.encode(torch.tensor([[0.0], [0.5], [9.0], [-9.0]]))
    torch.testing.assert_close(knots, torch.tensor([[0.25], [0.0]]))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("num_knots", [None, 3])
def test_pull_back_is_the_gradient(interpolation: str, num_knots: int | None) -> None:
    parametrisation = Parametrisation(LOW, HIGH, 7, num_knots, interpolation)
    generator = torch.Generator().manual_seed(0)
    knots = torch.rand(2, num_knots or 7, 2, dtype=torch.float64, generator=generator) - 0.5
    weights = torch.rand(2, 7, 2, dtype=torch.float64, generator=generator)
    step, direction = 1e-3, torch.rand(knots.shape, dtype=torch.float64, generator=generator)
    change = ((parametrisation.decode(knots + step * direction) - parametrisation.decode(knots)) * weights).sum() / step
    torch.testing.assert_close((parametrisation.pull_back(weights) * direction).sum(), change)


def test_cubic_overshoot_is_clamped() -> None:
    parametrisation = Parametrisation(LOW, HIGH, 12, 4, "cubic")
    knots = torch.tensor([-1.0, 1.0, 1.0, -1.0], dtype=torch.float64)[:, None].expand(4, 2)
    assert (knot_matrix(12, 4, "cubic") @ knots > 1.01).any()
    assert (parametrisation.decode(knots) <= HIGH).all()


def test_shift_with_knots_moves_time() -> None:
    parametrisation = Parametrisation(torch.tensor([-1.0]), torch.tensor([1.0]), 6, 3, "hold")
    knots = torch.tensor([[0.1], [0.2], [0.3]])
    torch.testing.assert_close(parametrisation.shift(knots, 2, repeat_last=True), torch.tensor([[0.2], [0.3], [0.3]]))
    torch.testing.assert_close(parametrisation.shift(knots, 2, repeat_last=False), torch.tensor([[0.2], [0.3], [0.0]]))
    torch.testing.assert_close(parametrisation.shift(knots, 1, repeat_last=True), torch.tensor([[0.15], [0.25], [0.3]]))
