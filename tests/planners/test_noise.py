import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forethought.planners.noise import colour_matrix, sample_noise

LIKE = torch.zeros(1, dtype=torch.float64)


def colour(length: int, beta: float) -> torch.Tensor:
    return colour_matrix(length, beta, dtype=torch.float64, device=LIKE.device)


@given(length=st.integers(1, 65), beta=st.floats(0, 5))
def test_every_step_has_unit_variance(length: int, beta: float) -> None:
    covariance = colour(length, beta) @ colour(length, beta).T
    torch.testing.assert_close(covariance.diagonal(), torch.ones(length, dtype=torch.float64))


@given(length=st.integers(1, 65))
def test_beta_zero_is_white(length: int) -> None:
    matrix = colour(length, 0.0)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(length, dtype=torch.float64))


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("length", [64, 101])
def test_spectrum_falls_with_slope_beta(length: int, beta: float) -> None:
    noise = sample_noise((1, 4000, length, 1), colour(length, beta), torch.Generator().manual_seed(0), LIKE)
    power = torch.fft.rfft(noise[0, :, :, 0]).abs().square().mean(dim=0)[1:]
    log_f, log_p = torch.arange(1, len(power) + 1).double().log(), power.log()
    log_f, log_p = log_f - log_f.mean(), log_p - log_p.mean()
    slope = (log_f * log_p).sum() / log_f.square().sum()
    assert slope.item() == pytest.approx(-beta, abs=0.05)


def test_colour_runs_along_the_steps_only() -> None:
    noise = sample_noise((2, 3000, 8, 2), colour(8, 2.0), torch.Generator().manual_seed(0), LIKE)
    assert noise.shape == (2, 3000, 8, 2)
    expected = (colour(8, 2.0) @ colour(8, 2.0).T)[0, 1]
    assert expected > 0.5
    torch.testing.assert_close((noise[:, :, 0] * noise[:, :, 1]).mean(), expected, atol=0.05, rtol=0)
    for one, two in [
        (noise[0], noise[1]),
        (noise[:, ::2], noise[:, 1::2]),
        (noise[..., 0], noise[..., 1]),
    ]:
        assert abs((one * two).mean()) < 0.05


def test_white_noise_and_dtype() -> None:
    noise = sample_noise((1, 2000, 5, 3), None, torch.Generator().manual_seed(0), torch.zeros(1))
    assert noise.dtype == torch.float32
    assert noise.std().item() == pytest.approx(1.0, abs=0.02)
    assert abs((noise[:, :, 0] * noise[:, :, 1]).mean()) < 0.05
