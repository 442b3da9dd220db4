"""Problems whose answer is known: a quadratic, the linear-quadratic regulator, a blocked path, a real simulator."""

from typing import Any

import mujoco
import mujoco.rollout
import numpy as np
import pytest
import torch
from torch import Tensor

from forethought.planners import PLANNERS, Planner, make_planner

D = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("name", "distance"),
    [
        ("random_shooting", 0.8),
        ("cem", 0.1),
        ("icem", 0.12),
        ("mppi", 0.15),
        ("gradient", 0.03),
        ("sample_gradient", 0.03),
    ],
)
def test_minimum_of_a_quadratic(name: str, distance: float) -> None:
    low, high = torch.tensor([-1.0, 2.0], dtype=D), torch.tensor([3.0, 2.5], dtype=D)
    target = low + (high - low) * torch.rand(5, 1, 4, 2, dtype=D, generator=generator(1))
    planner = make_planner(name, low, high, horizon=4, iterations=30 if name == "gradient" else 12)
    plan, _ = planner.plan(lambda a: ((a - target) ** 2).sum(dim=(2, 3)), planner.init(5), generator())
    assert ((plan.actions - target[:, 0]).abs() / (high - low)).mean() < distance / 2


class Regulator:
    """A double integrator with quadratic cost; the optimum by the finite-horizon Riccati recursion."""

    def __init__(self, horizon: int) -> None:
        self.a = torch.tensor([[1.0, 0.1], [0.0, 1.0]], dtype=D)
        self.b = torch.tensor([[0.005], [0.1]], dtype=D)
        self.q, self.r, self.final = torch.diag(torch.tensor([1.0, 0.1], dtype=D)), 0.05, 10 * torch.eye(2, dtype=D)
        self.start = torch.tensor([[1.0, 0.0], [-0.5, 0.8], [0.3, -0.4]], dtype=D)
        p = self.final
        for _ in range(horizon):
            gain = torch.linalg.solve(self.r + self.b.T @ p @ self.b, self.b.T @ p @ self.a)
            p = self.q + self.a.T @ p @ (self.a - self.b @ gain)
        self.optimum = ((self.start @ p) * self.start).sum(dim=-1)

    def __call__(self, actions: Tensor) -> Tensor:
        x = self.start[:, None].expand(-1, actions.shape[1], -1)
        cost = torch.zeros(x.shape[:2], dtype=D)
        for t in range(actions.shape[2]):
            cost = cost + ((x @ self.q) * x).sum(dim=-1) + self.r * actions[:, :, t].square().sum(dim=-1)
            x = x @ self.a.T + actions[:, :, t] @ self.b.T
        return cost + ((x @ self.final) * x).sum(dim=-1)


@pytest.mark.parametrize(
    ("name", "excess", "options"),
    [
        ("random_shooting", 2.0, {"noise_beta": 2.0}),
        ("cem", 0.10, {"iterations": 12, "min_std": 0.01}),
        ("cem", 0.06, {"num_knots": 5, "interpolation": "linear"}),
        ("icem", 0.06, {"noise_beta": 1.0, "iterations": 12, "min_std": 0.01, "shrink": 1.0}),
        ("mppi", 0.05, {"iterations": 12, "min_std": 0.01}),
        ("gradient", 0.03, {"iterations": 60}),
        ("sample_gradient", 0.02, {"refine_iterations": 20}),
    ],
)
def test_linear_quadratic_regulator(name: str, excess: float, options: dict[str, Any]) -> None:
    regulator = Regulator(horizon=20)
    planner = make_planner(name, torch.tensor([-3.0], dtype=D), torch.tensor([3.0], dtype=D), horizon=20, **options)
    plan, _ = planner.plan(regulator, planner.init(3), generator())
    ratio = plan.cost / regulator.optimum
    assert (ratio >= 1 - 1e-9).all(), "nothing beats the optimum"
    assert (ratio <= 1 + excess).all()


GOAL, WALL, RADIUS = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.0]), 0.5


def walk(actions: Tensor) -> Tensor:
    """Positions `[B, N, H, 2]` of a point mass that starts at the origin."""
    x = v = torch.zeros(*actions.shape[:2], 2)
    path = []
    for t in range(actions.shape[2]):
        v = 0.8 * v + 0.2 * actions[:, :, t]
        x = x + 0.5 * v
        path.append(x)
    return torch.stack(path, dim=2)


def obstacle_course(actions: Tensor) -> Tensor:
    path = walk(actions)
    inside = torch.relu(RADIUS + 0.1 - (path - WALL).norm(dim=-1))
    to_goal = (path - GOAL).norm(dim=-1)
    collisions = (20 * inside + 100 * (inside > 0.1)).sum(dim=-1)
    return collisions.add(0.1 * to_goal.sum(dim=-1)).add(5 * to_goal[..., -1])


@pytest.mark.parametrize("name", ["cem", "icem", "mppi", "gradient", "sample_gradient"])
def test_the_way_round_an_obstacle(name: str) -> None:
    planner = make_planner(name, -torch.ones(2), torch.ones(2), horizon=20)
    state = planner.init(4)
    for seed in range(3):
        plan, state = planner.plan(obstacle_course, state, generator(seed))
    path = walk(plan.actions[:, None])[:, 0]
    assert ((path - WALL).norm(dim=-1) > RADIUS).all(), "never inside"
    assert ((path[:, -1] - GOAL).norm(dim=-1) < 0.5).all(), "at the goal in the end"
    straight = torch.tensor([1.0, 0.0]).expand(1, 1, 20, 2)
    assert ((walk(straight) - WALL).norm(dim=-1) < RADIUS).any(), "the straight line is blocked"


PENDULUM = """
<mujoco>
  <option timestep="0.02"/>
  <worldbody>
    <body><joint name="hinge" type="hinge" axis="0 1 0" damping="0.05"/>
      <geom type="capsule" fromto="0 0 0 0 0 -0.5" size="0.03" mass="1"/></body>
  </worldbody>
  <actuator><motor joint="hinge" ctrlrange="-1 1" ctrllimited="true"/></actuator>
</mujoco>
"""


def swing_up(planner: Planner[Any], decisions: int) -> float:
    """Height of the tip, -1 to 1, after planning with the true dynamics of a pendulum too heavy to lift at once."""
    model = mujoco.MjModel.from_xml_string(PENDULUM)
    data, scratch, repeat = mujoco.MjData(model), mujoco.MjData(model), 5

    def cost_fn(actions: Tensor) -> Tensor:
        controls = actions[0].repeat_interleave(repeat, dim=1).double().numpy()
        start = np.zeros((len(controls), mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)))
        mujoco.mj_getState(model, data, now := start[0].copy(), mujoco.mjtState.mjSTATE_FULLPHYSICS)
        start[:] = now
        states, _ = mujoco.rollout.rollout(model, scratch, start, controls)
        angle, speed = torch.from_numpy(states[..., 1]), torch.from_numpy(states[..., 2])
        return (1 + torch.cos(angle) + 0.01 * speed**2).mean(dim=-1)[None]

    state, draws = planner.init(1), generator()
    for _ in range(decisions):
        plan, state = planner.plan(cost_fn, state, draws)
        data.ctrl[:] = plan.actions[0, 0].numpy()
        for _ in range(repeat):
            mujoco.mj_step(model, data)
        state = planner.advance(state, 1)
    return float(-np.cos(data.qpos[0]))


@pytest.mark.parametrize("name", ["cem", "icem", "mppi"])
def test_swing_up_with_a_simulator(name: str) -> None:
    planner = make_planner(
        name, torch.tensor([-1.0]), torch.tensor([1.0]), horizon=15, num_samples=64, iterations=3, noise_beta=2.0
    )
    assert swing_up(planner, decisions=40) > 0.95


def test_swing_up_needs_planning() -> None:
    greedy = make_planner("icem", torch.tensor([-1.0]), torch.tensor([1.0]), horizon=1, num_samples=64, iterations=3)
    assert swing_up(greedy, decisions=40) < 0.0


def test_every_planner_has_known_answers() -> None:
    tested = {mark.args[1][i][0] for mark in test_minimum_of_a_quadratic.pytestmark for i in range(len(mark.args[1]))}  # type: ignore[attr-defined]
    assert tested == set(PLANNERS)
