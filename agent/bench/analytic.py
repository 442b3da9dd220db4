"""Tasks that need no simulator: differentiable, quick, two of them with a known optimum."""

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy import linalg
from torch import Tensor
from typing_extensions import override

from .arena import Frame, Outcome, World

_START_DOMAIN = 0xA11


class AnalyticWorld(World[Tensor]):
    """Dynamics `[N, S], [N, A] -> [N, S], [N]` in double precision; a state holds all that differs between episodes."""

    differentiable = True
    optimum: float | None = None
    bound: float = 1.0
    """Actions lie between minus and plus this."""
    action_dim: int = 1

    def __init__(self) -> None:
        self.action_high = torch.full((self.action_dim,), self.bound, dtype=torch.float64)
        self.action_low = -self.action_high

    def start(self, rng: np.random.Generator) -> Sequence[float]:
        """Draw a state `[S]`."""
        raise NotImplementedError

    def move(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Next states `[N, S]` and rewards `[N]`."""
        raise NotImplementedError

    def is_solved(self, state: Tensor) -> bool | None:
        """Whether a state `[S]` is what is wanted; None where there is none."""
        return None

    def sketch(self, draw: ImageDraw.ImageDraw, state: Tensor, scale: float) -> bool:
        """Draw a state on a square of side `scale`; False where there is nothing to see."""
        return False

    @override
    def reset(self, seed: int) -> Tensor:
        return torch.tensor(self.start(np.random.default_rng([seed, _START_DOMAIN])), dtype=torch.float64)

    @override
    def rewards(self, state: Tensor, actions: Tensor) -> Tensor:
        states, rewards = state.expand(len(actions), -1), []
        for step in range(actions.shape[1]):
            states, reward = self.move(states, actions[:, step])
            rewards.append(reward)
        return torch.stack(rewards, dim=1)

    @override
    def step(self, state: Tensor, action: Tensor) -> Outcome[Tensor]:
        states, reward = self.move(state[None], action[None])
        return Outcome(states[0], float(reward[0]), False, self.is_solved(states[0]))

    @override
    def frames(self, states: Sequence[Tensor], size: int) -> Iterator[Frame]:
        for state in states:
            image = Image.new("RGB", (size, size), (246, 247, 249))
            if not self.sketch(ImageDraw.Draw(image), state, size):
                return
            yield np.asarray(image)


class LinearQuadratic(AnalyticWorld):
    """Bring four coupled masses to rest: the convex case.

    Rewards are minus the advantage of the linear-quadratic regulator, `x'Qx + u'Ru + V(next) - V(x)` with `V(x) = x'Px`
    of the Riccati equation: their sum is minus what is lost against the optimum over all time, which is 0.
    """

    name = "lqr"
    summary = "bring four coupled masses to rest: convex, the optimum is known"
    source = "linear-quadratic regulator, infinite horizon"
    optimum = 0.0
    horizon, decisions, control_dt = 10, 25, 0.1
    action_dim = 4
    bound = 4.0

    def __init__(self) -> None:
        super().__init__()
        dt, count, eye = self.control_dt, self.action_dim, np.eye(self.action_dim)
        springs = np.diag(np.full(count - 1, 1.0), 1) + np.diag(np.full(count - 1, 1.0), -1) - 2 * eye
        a = np.block([[eye, dt * eye], [dt * springs, 0.98 * eye]])
        b = np.vstack([0.5 * dt**2 * eye, dt * eye])
        q, r = np.diag([1.0] * count + [0.1] * count), 0.1 * eye
        p = linalg.solve_discrete_are(a, b, q, r)
        self.a, self.b, self.q, self.r, self.p = (torch.from_numpy(np.ascontiguousarray(m)) for m in (a, b, q, r, p))
        gain = np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)
        self.gain = torch.from_numpy(gain)
        """`u = -gain @ x` is optimal where it lies within the bounds."""

    @override
    def start(self, rng: np.random.Generator) -> Sequence[float]:
        positions = rng.uniform(-1.0, 1.0, self.action_dim)
        return [*positions, *np.zeros(self.action_dim)]

    @override
    def move(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        following = state @ self.a.T + action @ self.b.T
        spent = _quadratic(state, self.q - self.p) + _quadratic(action, self.r) + _quadratic(following, self.p)
        return following, -spent


class Rastrigin(AnalyticWorld):
    """Follow a moving point through a landscape with thousands of local minima."""

    name = "rastrigin"
    summary = "follow a moving point through a landscape full of local minima, the optimum is known"
    source = "Rastrigin's function (1974) of the distance of every action from a target that moves"
    optimum = 0.0
    horizon, decisions, control_dt = 6, 25, math.nan
    action_dim = 3
    _WAVES = 2.5

    @override
    def start(self, rng: np.random.Generator) -> Sequence[float]:
        return [0.0, *rng.uniform(0, 2 * math.pi, self.action_dim), *rng.uniform(0.1, 0.4, self.action_dim)]

    @override
    def move(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        time, phase, speed = state[:, :1], state[:, 1 : 1 + self.action_dim], state[:, 1 + self.action_dim :]
        gap = action - 0.8 * torch.sin(phase + speed * time)
        cost = (4 * gap.square() + 0.5 * (1 - torch.cos(2 * math.pi * self._WAVES * gap))).mean(dim=-1)
        return torch.cat((time + 1, phase, speed), dim=-1), -cost


class Trap(AnalyticWorld):
    """Reach a point behind a wall whose wings open toward the start: the reward leads into it."""

    name = "u_trap"
    summary = "reach a point behind a U-shaped wall: going straight for it ends in the trap"
    source = "point with bounded velocity that walls block; reward minus the distance"
    horizon, decisions, control_dt = 25, 30, 0.1
    action_dim = 2
    _WALLS = ((0.3, 0.45, -0.35, 0.35), (0.1, 0.45, 0.23, 0.35), (0.1, 0.45, -0.35, -0.23))  # x from, to, y from, to
    _GOAL = (0.8, 0.0)
    _RADIUS = 0.1

    def __init__(self) -> None:
        super().__init__()
        left, right, low, high = torch.tensor(self._WALLS, dtype=torch.float64).T
        self._middle = torch.stack(((left + right) / 2, (low + high) / 2), dim=-1)
        self._half = torch.stack(((right - left) / 2, (high - low) / 2), dim=-1)
        self._goal = torch.tensor(self._GOAL, dtype=torch.float64)

    @override
    def start(self, rng: np.random.Generator) -> Sequence[float]:
        return [rng.uniform(-0.4, -0.2), rng.uniform(-0.15, 0.15)]

    @override
    def move(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        ahead = state + self.control_dt * action  # shorter than the walls are thick
        blocked = ((ahead[:, None] - self._middle).abs() < self._half).all(dim=-1).any(dim=-1)
        state = torch.where(blocked[:, None], state, ahead)
        return state, -self._gap(state)

    @override
    def is_solved(self, state: Tensor) -> bool | None:
        return bool(self._gap(state) < self._RADIUS)

    def _gap(self, state: Tensor) -> Tensor:
        gap: Tensor = torch.linalg.vector_norm(state - self._goal, dim=-1)
        return gap

    @override
    def sketch(self, draw: ImageDraw.ImageDraw, state: Tensor, scale: float) -> bool:
        def at(x: float, y: float) -> tuple[float, float]:
            return scale * (x + 0.75) / 2, scale * (1.0 - y) / 2

        for left, right, low, high in self._WALLS:
            draw.rectangle((*at(left, high), *at(right, low)), fill=(95, 107, 122))
        _dot(draw, at(*self._GOAL), scale * self._RADIUS / 2, (180, 225, 205))
        _dot(draw, at(*state.tolist()), 0.025 * scale, (0, 114, 178))
        return True


class SparseReach(AnalyticWorld):
    """Stop a mass at a place that nothing points to."""

    name = "sparse_reach"
    summary = "push a mass to a place and stop there; no reward anywhere else"
    source = "double integrator with bounded force; reward 1 within 0.1 m and 0.5 m/s of the goal"
    horizon, decisions, control_dt = 25, 30, 0.1

    @override
    def start(self, rng: np.random.Generator) -> Sequence[float]:
        return [0.0, 0.0, rng.choice([-1.0, 1.0]) * rng.uniform(0.6, 1.0)]

    @override
    def move(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        position, velocity, goal = state.unbind(dim=-1)
        force, dt = action[:, 0], self.control_dt
        position, velocity = position + dt * velocity + 0.5 * dt**2 * force, velocity + dt * force
        following = torch.stack((position, velocity, goal), dim=-1)
        # The product keeps the actions in the graph: there is a gradient, and it is zero.
        return following, self._there(following).to(state) + 0.0 * position

    @override
    def is_solved(self, state: Tensor) -> bool | None:
        return bool(self._there(state))

    def _there(self, state: Tensor) -> Tensor:
        return ((state[..., 0] - state[..., 2]).abs() < 0.1) & (state[..., 1].abs() < 0.5)

    @override
    def sketch(self, draw: ImageDraw.ImageDraw, state: Tensor, scale: float) -> bool:
        position, _, goal = state.tolist()
        draw.line((0, 0.55 * scale, scale, 0.55 * scale), fill=(95, 107, 122), width=2)
        _dot(draw, (scale * (0.5 + goal / 3), 0.5 * scale), scale * 0.1 / 3, (180, 225, 205))
        _dot(draw, (scale * (0.5 + position / 3), 0.5 * scale), 0.03 * scale, (0, 114, 178))
        return True


class Pendulum(AnalyticWorld):
    """Swing up with a torque that is too weak to lift; the reward points upward everywhere."""

    name = "pendulum"
    summary = "swing a pole up with too weak a torque; the reward says how far it is from upright"
    source = "Gymnasium Pendulum-v1, two of its steps per decision, starting within 0.5 rad of hanging"
    horizon, decisions, control_dt = 15, 35, 0.1
    bound = 2.0

    @override
    def start(self, rng: np.random.Generator) -> Sequence[float]:
        return [math.pi + rng.uniform(-0.5, 0.5), rng.uniform(-1.0, 1.0)]

    @override
    def move(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        angle, velocity = state.unbind(dim=-1)
        torque, dt, reward = action[:, 0], 0.05, torch.zeros_like(angle)
        for _ in range(2):
            upright = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
            reward = reward - (upright.square() + 0.1 * velocity.square() + 0.001 * torque.square()) / 2
            velocity = (velocity + (15 * torch.sin(angle) + 3 * torque) * dt).clamp(-8, 8)
            angle = angle + velocity * dt
        return torch.stack((angle, velocity), dim=-1), reward

    @override
    def is_solved(self, state: Tensor) -> bool | None:
        return bool(torch.cos(state[0]) > 0.95)

    @override
    def sketch(self, draw: ImageDraw.ImageDraw, state: Tensor, scale: float) -> bool:
        x, y = math.sin(float(state[0])), math.cos(float(state[0]))
        tip = (scale * (0.5 - 0.35 * x), scale * (0.5 - 0.35 * y))
        draw.line((0.5 * scale, 0.5 * scale, *tip), fill=(213, 94, 0), width=max(3, round(0.06 * scale)))
        _dot(draw, (0.5 * scale, 0.5 * scale), 0.03 * scale, (31, 41, 51))
        return True


def _quadratic(x: Tensor, matrix: Tensor) -> Tensor:
    return ((x @ matrix) * x).sum(dim=-1)


def _dot(draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, colour: tuple[int, int, int]) -> None:
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


ANALYTIC_TASKS: Mapping[str, type[AnalyticWorld]] = MappingProxyType(
    {task.name: task for task in (LinearQuadratic, Rastrigin, SparseReach, Trap, Pendulum)}
)
"""The tasks that need no simulator, by name."""
