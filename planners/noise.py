"""Coloured noise along a sequence: power spectrum proportional to `1 / f**beta`, unit variance at every step."""

import math

import torch
from torch import Tensor


def colour_matrix(length: int, beta: float, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix that colours white noise: `colour_matrix(K, beta) @ white[K]` has a spectrum `1 / f**beta`.

    The method of Timmer and König ("On generating power law noise", 1995), an inverse Fourier transform of scaled
    Gaussian coefficients, written as one matrix: for the lengths of a planning horizon one product is faster than a
    transform. The constant component gets the amplitude of frequency `1 / K`, as in Pinneri et al. (2020). Unlike
    there, rows have unit norm, so every step has a variance of exactly one whatever the colour. As there, the noise is
    periodic: the last step is as similar to the first as to the one before it.

    Args:
        length: number of steps, `K`.
        beta: exponent; 0 is white, 1 pink, 2 red (Brownian).
        dtype: of the result.
        device: of the result.

    Returns:
        `[K, K]`; orthogonal for `beta=0`.
    """
    time = torch.arange(length, dtype=torch.float64)
    columns = [torch.full_like(time, math.sqrt(0.5) * (1.0 / length) ** (-beta / 2))]
    for k in range(1, length // 2 + 1):
        phase = 2 * math.pi * k / length * time
        amplitude = (k / length) ** (-beta / 2)
        if 2 * k == length:  # the Nyquist frequency has one coefficient instead of two
            columns.append(math.sqrt(0.5) * amplitude * torch.cos(phase))
        else:
            columns += [amplitude * torch.cos(phase), amplitude * torch.sin(phase)]
    matrix = torch.stack(columns, dim=1)
    matrix = matrix.div(torch.linalg.vector_norm(matrix, dim=1, keepdim=True))
    return matrix.to(dtype=dtype, device=device)


def sample_noise(
    shape: tuple[int, int, int, int], colour: Tensor | None, generator: torch.Generator, like: Tensor
) -> Tensor:
    """Gaussian noise of unit variance, coloured along the steps, independent everywhere else.

    Args:
        shape: `[B, N, K, A]`: problems, candidates, steps, dimensions.
        colour: `[K, K]` from `colour_matrix`; None for white noise.
        generator: source of the random numbers, on the device of `like`.
        like: gives dtype and device.

    Returns:
        `[B, N, K, A]`.
    """
    if colour is None:
        return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
    batch_size, count, steps, dim = shape
    white = torch.randn((batch_size, count, dim, steps), generator=generator, dtype=like.dtype, device=like.device)
    coloured: Tensor = white @ colour.T
    return coloured.transpose(-1, -2)
