"""Planners need nothing but a cost function: here they steer a cart around a wall, without any model or training.

    python plan_with_any_cost.py

Every planner gets the same problem, then the default one drives in closed loop: plan, take the first action, shift the
plan by one step, plan again.
"""

import torch
from torch import Tensor

from forethought.planners import PLANNERS, CostFn, make_planner

DT = 0.1  # seconds per action
START, GOAL = torch.tensor([0.0, 0.0, 0.0, 0.0]), torch.tensor([2.0, 0.0])  # x, y, speeds; metres, metres per second
WALL, RADIUS = torch.tensor([1.0, 0.05]), 0.4
LOW, HIGH = torch.tensor([-2.0, -1.0]), torch.tensor([2.0, 1.0])  # acceleration, in m/s^2, one bound per dimension


def step(state: Tensor, action: Tensor) -> Tensor:
    """One step of a double integrator: states `[..., 4]`, actions `[..., 2]` -> states `[..., 4]`."""
    position, speed = state[..., :2], state[..., 2:]
    speed = 0.98 * speed + DT * action
    return torch.cat([position + DT * speed, speed], dim=-1)


def cost_from(start: Tensor) -> CostFn:
    """The cost of plans from the state `start [4]`: distance to the goal on the way, and a high price for the wall."""

    def cost_fn(actions: Tensor) -> Tensor:  # [B, N, H, 2] -> [B, N]
        state, cost = start.expand(*actions.shape[:2], 4), torch.zeros(actions.shape[:2])
        for t in range(actions.shape[2]):
            state = step(state, actions[:, :, t])
            inside = (RADIUS - (state[..., :2] - WALL).norm(dim=-1)).clamp(min=0)
            cost = cost + (state[..., :2] - GOAL).norm(dim=-1) + 100 * inside
        return cost

    return cost_fn


def main() -> None:
    """Compare the planners, then drive."""
    print("one plan from rest:")
    for name in PLANNERS:
        planner = make_planner(name, LOW, HIGH, horizon=30, num_samples=128, iterations=8, num_knots=10)
        plan, _ = planner.plan(cost_from(START), planner.init(1), torch.Generator().manual_seed(0))
        print(f"  {name:16s} cost {float(plan.cost[0]):6.1f}   {1e3 * plan.elapsed_s:5.0f} ms")

    planner = make_planner("icem", LOW, HIGH, horizon=20, num_samples=64, iterations=3)
    generator, search, state, clearance = torch.Generator().manual_seed(0), planner.init(1), START, torch.inf
    for _ in range(60):
        plan, search = planner.plan(cost_from(state), search, generator)
        state = step(state, plan.actions[0, 0])
        search = planner.advance(search, steps=1)
        clearance = min(clearance, float((state[:2] - WALL).norm() - RADIUS))
    distance = float((state[:2] - GOAL).norm())
    print(f"closed loop: {distance:.2f} m from the goal after 6 s, never nearer than {clearance:.2f} m to the wall")


if __name__ == "__main__":
    main()
