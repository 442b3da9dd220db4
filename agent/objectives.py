"""Objectives: imagined trajectories to costs. One small class each; lower is better.

The cost module of LeCun (2022): a critic (time to goal, latent distance) plus intrinsic costs (effort, surprise), with
the ensemble's members reduced by a risk measure.
"""

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor
from typing_extensions import override

from .. import ForethoughtError
from ..planners.base import CostFn
from ..planners.risk import RiskOptions, aggregate
from .imagination import Trajectory, imagine
from .threads import threads_for
from .world_model.model import WorldModel


class ObjectiveError(ForethoughtError):
    """Options of an objective that are out of range."""


class Objective(Protocol):
    """Scores imagined trajectories."""

    @property
    def members(self) -> int | None:
        """Ensemble members to imagine with; None for all."""
        ...

    def __call__(self, model: WorldModel, trajectory: Trajectory, goal: Tensor | None) -> Tensor:
        """Costs `[B, N]`.

        Args:
            model: whose heads read the latents.
            trajectory: what it imagined.
            goal: goal embeddings `[B, G]`; None where there is no goal.
        """
        ...


@dataclass
class GoalOptions:
    """How plans toward a goal are scored."""

    cost: str = "time_to_goal"
    """`time_to_goal` (learned steps to the goal) or `latent_l2` (squared distance in goal space)."""
    summed: bool = True
    """Sum the cost over the horizon; otherwise only the last latent counts."""
    effort: float = 0.0
    """Weight of the squared normalised action, summed over the horizon."""
    members: int = 1
    """Ensemble members that imagine every candidate; 1 is the fastest, risk measures want more."""
    risk: RiskOptions = field(default_factory=RiskOptions)
    """How the costs of these members become one."""

    def __post_init__(self) -> None:
        if self.cost not in ("time_to_goal", "latent_l2"):
            raise ObjectiveError(f"cost must be one of time_to_goal, latent_l2, got {self.cost!r}")
        if self.members < 1:
            raise ObjectiveError(f"members must be at least 1, got {self.members}")
        if self.members == 1 and self.risk.kind != "mean":
            raise ObjectiveError(f"members must be at least 2 with risk.kind={self.risk.kind}, got 1")
        if not self.effort >= 0:
            raise ObjectiveError(f"effort must be at least 0, got {self.effort}")


class GoalObjective(Objective):
    """Cost of not being at the goal, summed over the plan (PLDM and eb_jepa found the sum better than the end)."""

    def __init__(self, options: GoalOptions) -> None:
        self.options = options

    @property
    @override
    def members(self) -> int | None:
        return self.options.members

    @override
    def __call__(self, model: WorldModel, trajectory: Trajectory, goal: Tensor | None) -> Tensor:
        if goal is None:
            raise ObjectiveError("goal must be given to a goal objective, got None")
        latents = trajectory.latents if self.options.summed else trajectory.latents[..., -1:, :]
        target = goal[:, None, None]
        if self.options.cost == "time_to_goal":
            costs = model.steps_to_goal(latents, target)
        else:
            costs = model.goal_distance(latents, target)
        total = aggregate(costs.float().sum(dim=-1), self.options.risk)
        if self.options.effort:
            effort = model.normalize_action(trajectory.actions).square().sum(dim=(-2, -1))
            total = total + self.options.effort * effort
        return total


class DisagreementObjective(Objective):
    """Exploration: seek latents on which the ensemble disagrees (Sekar et al., "Plan2Explore", 2020).

    The cost is minus the variance over members, mean over latents and summed over the horizon; goals are ignored.
    """

    @property
    @override
    def members(self) -> int | None:
        return None

    @override
    def __call__(self, model: WorldModel, trajectory: Trajectory, goal: Tensor | None) -> Tensor:
        return -trajectory.latents.var(dim=0, unbiased=False).mean(dim=-1).sum(dim=-1)


def make_cost_fn(model: WorldModel, objective: Objective, z: Tensor, goal: Tensor | None) -> CostFn:
    """All that a planner sees of the agent: actions `[B, N, H, A]` -> costs `[B, N]`.

    Args:
        model: the world model that imagines.
        objective: what to score.
        z: present latents `[B, Z]`.
        goal: goal embeddings `[B, G]`.
    """

    members = objective.members or model.members
    if members > model.members:
        raise ObjectiveError(f"members must be at most ensemble_size={model.members}, got {members}")

    def cost_fn(actions: Tensor) -> Tensor:
        with threads_for(model.product_size(members * actions.shape[0] * actions.shape[1])):
            trajectory = imagine(model, z, actions, members)
            return objective(model, trajectory, goal).to(actions.dtype)

    return cost_fn
