"""Knots: an action sequence of `H` steps described by fewer numbers, `actions = W @ knots` with a constant `W`."""

import torch
from torch import Tensor

INTERPOLATIONS = ("hold", "linear", "cubic")


def knot_matrix(horizon: int, num_knots: int, interpolation: str) -> Tensor:
    """The constant matrix from knots to action sequences.

    Rows sum to one, so a constant sequence has constant knots. `hold` repeats each knot over a block of steps;
    `linear` joins knots at evenly spaced times, the first at step 0 and the last at step `H - 1`; `cubic` is the
    smooth curve through the same points (cubic Hermite spline with Catmull-Rom tangents), which may overshoot them.

    Args:
        horizon: `H`.
        num_knots: `K`, between 1 and `H`.
        interpolation: one of `INTERPOLATIONS`.

    Returns:
        `[H, K]`, float64.
    """
    steps = torch.arange(horizon, dtype=torch.float64)
    identity = torch.eye(num_knots, dtype=torch.float64)
    if interpolation == "hold" or num_knots == 1:
        return identity[(steps * num_knots / horizon).floor().long()]
    position = steps * (num_knots - 1) / max(horizon - 1, 1)
    left = position.floor().long().clamp(max=num_knots - 2)
    t = (position - left).unsqueeze(1)
    start, end = identity[left], identity[left + 1]
    if interpolation == "linear":
        return (1 - t) * start + t * end
    tangents = torch.empty_like(identity)
    tangents[1:-1] = (identity[2:] - identity[:-2]) / 2
    tangents[0], tangents[-1] = identity[1] - identity[0], identity[-1] - identity[-2]
    return (
        (2 * t**3 - 3 * t**2 + 1) * start
        + (t**3 - 2 * t**2 + t) * tangents[left]
        + (3 * t**2 - 2 * t**3) * end
        + (t**3 - t**2) * tangents[left + 1]
    )


class Parametrisation:
    """The edge between the actions of the user and the unit box in which planners search.

    Outside: actions `[..., H, A]` in real units. Inside: knots `[..., K, A]` in `[-1, 1]`, the unit being half the
    range of each dimension; `K = H` and one knot per action where `num_knots` is None.

    Args:
        action_low: lower bounds `[A]`.
        action_high: upper bounds `[A]`.
        horizon: `H`.
        num_knots: `K`; None for one knot per action.
        interpolation: one of `INTERPOLATIONS`.
    """

    def __init__(
        self, action_low: Tensor, action_high: Tensor, horizon: int, num_knots: int | None, interpolation: str
    ) -> None:
        self.low, self.high = action_low.clone(), action_high.clone()
        self.centre, self.half = action_low / 2 + action_high / 2, action_high / 2 - action_low / 2
        self.horizon, self.steps, self.dim = horizon, num_knots or horizon, action_low.shape[0]
        self.matrix: Tensor | None = None
        if num_knots is not None:
            matrix = knot_matrix(horizon, num_knots, interpolation)
            self.matrix = matrix.to(action_low)
            self.inverse = torch.linalg.pinv(matrix).to(action_low)

    def decode(self, knots: Tensor) -> Tensor:
        """Actions `[..., H, A]` of knots `[..., K, A]`, inside the bounds to the last bit."""
        scaled = knots if self.matrix is None else _apply(self.matrix, knots)
        return torch.addcmul(self.centre, self.half, scaled).clamp_(self.low, self.high)

    def encode(self, actions: Tensor) -> Tensor:
        """Knots `[..., K, A]` nearest (least squares) to actions `[..., H, A]`, which may be out of bounds."""
        scaled = (actions.clamp(self.low, self.high) - self.centre) / self.half
        return self._project(scaled).clamp_(-1, 1)

    def pull_back(self, gradients: Tensor) -> Tensor:
        """The gradient by knots `[..., K, A]` of the gradient by actions `[..., H, A]` (bounds left aside)."""
        scaled = gradients * self.half
        return scaled if self.matrix is None else _apply(self.matrix.T, scaled)

    def shift(self, knots: Tensor, steps: int, *, repeat_last: bool) -> Tensor:
        """Drop the first `steps` actions; fill the tail with the last action, or with the middle of the bounds."""
        scaled = knots if self.matrix is None else _apply(self.matrix, knots)
        steps = min(steps, self.horizon)
        last = scaled[..., -1:, :] if repeat_last else torch.zeros_like(scaled[..., -1:, :])
        tail = last.expand(*scaled.shape[:-2], steps, self.dim)
        return self._project(torch.cat((scaled[..., steps:, :], tail), dim=-2)).clamp_(-1, 1)

    def _project(self, scaled: Tensor) -> Tensor:
        return scaled if self.matrix is None else _apply(self.inverse, scaled)


def _apply(matrix: Tensor, sequences: Tensor) -> Tensor:
    """`matrix[P, Q] @ sequences[..., Q, A]`, as one matrix product instead of one per sequence."""
    return (sequences.transpose(-1, -2) @ matrix.T).transpose(-1, -2)
