"""Objectives: imagined trajectories to costs. One small class each; lower is better.

The cost module of LeCun (2022): a critic (time to goal, latent distance) plus intrinsic costs (effort, surprise), with
the ensemble's members reduced by a risk measure.
"""

from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Protocol, cast

import torch
from torch import Tensor
from typing_extensions import override

from .. import ForethoughtError
from ..planners.base import StepT
from ..planners.risk import RiskOptions, aggregate
from .compilation import compiled
from .imagination import Trajectory, imagine
from .threads import in_parallel, shares_of, threads_for
from .world_model.control import MAX_LOG_STD, MIN_LOG_STD, ControlHeads
from .world_model.fused import Judge
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

    def judge(self, model: WorldModel) -> Judge | None:
        """What says in one call, without a trajectory, what candidates are worth; None where there is no such way."""
        return None

    def judged(self, judge: Judge, z: Tensor, actions: Tensor) -> Tensor:
        """Costs `[B, N]` of candidates `[B, N, H, A]` from latents `[B, Z]` by what `judge` returned.

        What `__call__` returns for what the first member imagines, up to rounding; without gradients.
        """
        raise TypeError(f"{type(self).__name__} has no judge")

    @property
    def num_seeds(self) -> int:
        """Action sequences that it proposes for every search, `S`."""
        return 0

    def seeds(self, model: WorldModel, z: Tensor, noise: Tensor) -> Tensor:
        """Action sequences `[B, S, H, A]` in real units that a search should try; none by default.

        Args:
            model: a world model, not necessarily the copy that imagines.
            z: present latents `[B, Z]`.
            noise: standard normal `[B, S, H, A]`.
        """
        return noise[:, :0]


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
        if model.time_to_goal is None:
            raise ObjectiveError(f"objective=goal needs a world model trained for it, got one for {model.purpose}")
        latents = trajectory.latents if self.options.summed else trajectory.latents[..., -1:, :]
        target = goal[:, None, None]
        if self.options.cost == "time_to_goal":
            costs = model.steps_to_goal(latents, target)
        else:
            costs = model.goal_distance(latents, target).unsqueeze(0)
        # One for each member of the distance and each that imagines, [M, E, B, N, H].
        total = aggregate(costs.float().sum(dim=-1).flatten(0, 1), self.options.risk)
        if self.options.effort:
            effort = model.normalize_action(trajectory.actions).square().sum(dim=(-2, -1))
            total = total + self.options.effort * effort
        return total


@dataclass
class RewardOptions:
    """How plans for reward are scored."""

    members: int = 1
    """Ensemble members of the dynamics that imagine every candidate; 1 is the fastest."""
    policy_trajectories: int = 8
    """Candidates that the policy prior proposes for every plan; 0 plans without it."""
    policy_noise: float = 1.0
    """Noise of these proposals but the first, in units of the policy's own standard deviation."""
    risk: RiskOptions = field(default_factory=RiskOptions)
    """How the returns by each member and each value function become one."""

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ObjectiveError(f"members must be at least 1, got {self.members}")
        for name in ("policy_trajectories", "policy_noise"):
            if not getattr(self, name) >= 0:
                raise ObjectiveError(f"{name} must be at least 0, got {getattr(self, name)}")


class RewardObjective(Objective):
    """Minus the expected return: rewards over the plan, then the value of following the policy from its end.

    Hansen, Wang and Su, "Temporal difference learning for model predictive control" (2022). Rewards and values are
    discounted, and weighed with the probability that the episode still goes on.
    """

    def __init__(self, options: RewardOptions) -> None:
        self.options = options

    @property
    @override
    def members(self) -> int | None:
        return self.options.members

    @override
    def __call__(self, model: WorldModel, trajectory: Trajectory, goal: Tensor | None) -> Tensor:
        heads, latents = control_heads(model), trajectory.latents
        members, _, samples, _, _ = latents.shape
        first = trajectory.start[None, :, None, None].expand(members, -1, samples, 1, -1)
        before = torch.cat([first, latents[..., :-1, :]], dim=-2)
        actions = model.normalize_action(trajectory.actions).expand(members, -1, -1, -1, -1)
        rewards = heads.rewards(before, actions)  # [E, B, N, H]
        last = latents[..., -1, :]
        values = heads.values(last, heads.act(last))  # [K, E, B, N]
        if heads.terminates:
            alive = heads.alive(latents).cumprod(dim=-1)
            rewards = torch.cat([rewards[..., :1], rewards[..., 1:] * alive[..., :-1]], dim=-1)
            values = values * alive[..., -1]
        return self._cost(heads.discount, rewards, values)

    @override
    def judge(self, model: WorldModel) -> Judge | None:
        return model.judge

    @override
    def judged(self, judge: Judge, z: Tensor, actions: Tensor) -> Tensor:
        return self._cost(judge.discount, *judge(z, actions))

    def _cost(self, discount: float, rewards: Tensor, values: Tensor) -> Tensor:
        """Minus the returns `[..., B, N]` of rewards `[..., B, N, H]` and values `[K, ..., B, N]`, as one `[B, N]`."""
        weights = discount ** torch.arange(rewards.shape[-1] + 1, dtype=rewards.dtype, device=rewards.device)
        returns = torch.addcmul(rewards @ weights[:-1], values, weights[-1])
        return aggregate(-returns.reshape(-1, *returns.shape[-2:]), self.options.risk)

    @property
    @override
    def num_seeds(self) -> int:
        return self.options.policy_trajectories

    @override
    def seeds(self, model: WorldModel, z: Tensor, noise: Tensor) -> Tensor:
        heads, (batch, count, horizon, dim) = control_heads(model), noise.shape
        scale = torch.full((count, 1, 1), self.options.policy_noise, dtype=noise.dtype, device=noise.device)
        scale[0] = 0  # one of them is the policy itself
        if model.judge is not None and not torch.is_grad_enabled():
            return model.denormalize_action(model.judge.propose(z, noise * scale, (MIN_LOG_STD, MAX_LOG_STD)))
        scaled = (noise * scale).reshape(1, batch * count, horizon, dim)
        state, actions = z.repeat_interleave(count, dim=0).unsqueeze(0), []
        for t in range(horizon):
            action = heads.act(state, scaled[:, :, t])
            actions.append(model.denormalize_action(action[0]))
            if t < horizon - 1:
                state = model.step(state, actions[-1])
        return torch.stack(actions, dim=1).reshape(batch, count, horizon, dim)


def control_heads(model: WorldModel) -> ControlHeads:
    """The heads that read reward and value from the latents of a model.

    Raises:
        ObjectiveError: the model was made for goals.
    """
    if model.control is None:
        raise ObjectiveError(f"objective=reward needs a world model trained for it, got one for {model.purpose}")
    return model.control


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


OBJECTIVES: dict[str, type[GoalOptions] | type[RewardOptions]] = {"goal": GoalOptions, "reward": RewardOptions}
"""Options of every objective that a run can have, by name."""


class ImaginedCost:
    """All that a planner sees of the agent: actions `[B, N, H, A]` -> costs `[B, N]`; a `CostFn`.

    Args:
        model: the world model that imagines.
        objective: what to score.
        z: present latents `[B, Z]`.
        goal: goal embeddings `[B, G]`.
        correction: of what the model imagines, one for each problem, see `Dynamics.rollout`.
        compile: use compiled code for one problem at a time (`B = 1`). The numbers of several vary as episodes end.

    Raises:
        ObjectiveError: the objective wants more ensemble members than there are.
    """

    def __init__(
        self,
        model: WorldModel,
        objective: Objective,
        z: Tensor,
        goal: Tensor | None,
        correction: Tensor | None = None,
        *,
        compile: bool = False,
    ) -> None:
        self.model, self.objective, self.z, self.goal, self.correction = model, objective, z, goal, correction
        self.members = objective.members or model.members
        self.compile = compile and len(z) == 1
        self.judge = objective.judge(model) if self.members == 1 and correction is None else None
        if self.members > model.members:
            raise ObjectiveError(f"members must be at most ensemble_size={model.members}, got {self.members}")

    def __call__(self, actions: Tensor) -> Tensor:
        """Costs `[B, N]`; large sets of candidates are shared by the threads."""
        if self.judge is not None and not torch.is_grad_enabled():
            return self.objective.judged(self.judge, self.z, actions).to(actions.dtype)
        if torch.compiler.is_compiling():
            return _score(self.objective, self.model, self.z, self.goal, self.correction, self.members, actions)
        samples, gradients = actions.shape[1], torch.is_grad_enabled()
        shares = 1 if gradients else self._shares(samples)
        fixed = (self.objective, self.model, self.z, self.goal, self.correction, self.members)
        if shares > 1:
            parts = [part.contiguous() for part in actions.chunk(shares, dim=1)]
            functions = [compiled(_score, thread) if self.compile else _score for thread in range(shares)]
            calls = [partial(f, *fixed, part) for f, part in zip(functions, parts, strict=False)]
            return torch.cat(in_parallel(calls), dim=1)
        # Plainly: small sets that come here are parts, or ever fewer candidates, too many shapes to be worth compiling.
        with threads_for(self.model.product_size(self.members * len(self.z) * samples)):
            return _score(*fixed, actions)

    def fuse(self, step: StepT, samples: int) -> StepT | None:
        """See `FusingCostFn`: pays where calls, not products, take the time."""
        if not self.compile or (self.judge is None and self._shares(samples) > 1):
            return None

        @wraps(step)
        def fused(*args: object) -> object:
            with threads_for(0):
                return compiled(step)(*args)

        return cast(StepT, fused)

    def _shares(self, samples: int) -> int:
        size = self.model.product_size(self.members * len(self.z) * samples)
        return min(samples, shares_of(size)) if self.z.device.type == "cpu" else 1


def propose(model: WorldModel, objective: Objective, z: Tensor, noise: Tensor, *, compile: bool = False) -> Tensor:
    """`Objective.seeds`, for one problem with compiled code if wanted; arguments as there and of `ImaginedCost`."""
    compile = compile and len(z) == 1 and objective.judge(model) is None  # which proposes in one call
    with torch.no_grad(), threads_for(0):
        seeds: Tensor = (compiled(_propose) if compile else _propose)(objective, model, z, noise)
    return seeds


def _score(
    objective: Objective,
    model: WorldModel,
    z: Tensor,
    goal: Tensor | None,
    correction: Tensor | None,
    members: int,
    actions: Tensor,
) -> Tensor:
    return objective(model, imagine(model, z, actions, members, correction), goal).to(actions.dtype)


def _propose(objective: Objective, model: WorldModel, z: Tensor, noise: Tensor) -> Tensor:
    return objective.seeds(model, z, noise)
