"""The agent: encode what is seen, plan in imagination, act. Everything that changes is in an explicit `Carry`."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Self, TypeVar, cast

import torch
from torch import Tensor

from .. import ForethoughtError
from ..planners.base import CostFn, Plan, Planner, PlannerOptions
from .compilation import CHOICES, worth_compiling
from .configurator import PLAN, REACT, ConfiguratorOptions
from .guides import Guide, MacroOptions
from .limits import ActionLimits, LimitedCost, Motion
from .memory.graph import GraphOptions
from .memory.index import MomentIndex, RetrievalOptions
from .objectives import ImaginedCost, Objective, control_heads, propose
from .precision import planning
from .threads import threads_for
from .world_model.distance import cautious
from .world_model.model import WorldModel

T = TypeVar("T")


PLAN_DTYPES = ("auto", "float32", "bfloat16", "float16", "int16", "int8")
LEAST_HORIZON = 3
"""Actions that a plan looks ahead at least, however near its goal: what moves has to be brought to rest there."""


class AgentError(ForethoughtError):
    """Agent options out of range, or an observation that the agent does not know."""


@dataclass
class AgentOptions:
    """How the agent uses its planner."""

    replan_every: int = 1
    """Decisions per plan; the actions in between are taken from the plan."""
    plan_dtype: str = "auto"
    """`float32`, `bfloat16` or `float16` (plan with a copy of the networks in half precision; latents stay in single),
    `int16` or `int8` (fused networks only: products of whole numbers, scaled by row and by column), or `auto`: of these
    what this CPU computes fastest in, `int8` for rewards only."""
    fused: str = "auto"
    """`auto` plans with networks of one call each, in C++ that is compiled once, in seconds, where this machine has a
    compiler and the processor is an x86. `never` plans without; what landmarks measure goes by them all the same."""
    compile: str = "never"
    """`auto` plans for one episode at a time with compiled code, where this machine has what that needs (a C++
    compiler); the first decision then waits up to a minute for it, see `Agent.warm_up`. `never` does without."""
    deadline_s: float | None = None
    """Seconds a decision may take; the best plan found by then is used. None plans to the end. An agent that is loaded
    with a deadline has compiled already."""
    adapt_rate: float = 0.0
    """Share of each error of prediction, 0 to 1, by which the agent corrects what it expects of its actions for the
    rest of the episode, where the world is no longer the one learned from; 0 leaves the model as it was learned."""
    configurator: ConfiguratorOptions = field(default_factory=ConfiguratorOptions)
    """When it goes by what is in its memory."""
    graph: GraphOptions = field(default_factory=GraphOptions)
    """The landmarks there, by which it goes."""
    retrieval: RetrievalOptions = field(default_factory=RetrievalOptions)
    """What it takes from moments there that are like the present one."""
    macro: MacroOptions = field(default_factory=MacroOptions)
    """The search over macro-actions, by which it goes with configurator.guide=macro."""

    def __post_init__(self) -> None:
        if self.replan_every < 1:
            raise AgentError(f"replan_every must be at least 1, got {self.replan_every}")
        if self.plan_dtype not in PLAN_DTYPES:
            raise AgentError(f"plan_dtype must be one of {', '.join(PLAN_DTYPES)}, got {self.plan_dtype!r}")
        for name in ("compile", "fused"):
            if getattr(self, name) not in CHOICES:
                raise AgentError(f"{name} must be one of {', '.join(CHOICES)}, got {getattr(self, name)!r}")
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise AgentError(f"deadline_s must be positive, got {self.deadline_s}")
        if not 0 <= self.adapt_rate <= 1:
            raise AgentError(f"adapt_rate must be between 0 and 1, got {self.adapt_rate}")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild options from what `dataclasses.asdict` made of them."""
        kinds = {
            "configurator": ConfiguratorOptions,
            "graph": GraphOptions,
            "retrieval": RetrievalOptions,
            "macro": MacroOptions,
        }
        return cls(**{**data, **{name: kind(**data[name]) for name, kind in kinds.items() if name in data}})


@dataclass(frozen=True)
class Carry:
    """What the agent carries from one decision to the next, for `B` episodes at once.

    Args:
        planner: state of the planner (warm start).
        latent: last belief `[B, Z]`; None before the first observation.
        action: last action `[B, A]`.
        plan: last plan `[B, H, A]`.
        age: decisions since the search began that `planner` is the state of.
        goal: what it was made for `[B, G]`; None without a goal.
        correction: what each episode taught about the model, `[B, A, Z]`, see `Agent.adapt`; None without
            adaptation.
        course: where each episode is on its way, as its guide keeps it; None without one.
        before: the action before the last one `[B, A]`; None where nothing limits how actions change.
        mode: what was chosen last, indices into `configurator.MODES`, `[B]`; None where there is no choice.
        horizon: how many actions of the last plan counted.
    """

    planner: Any
    latent: Tensor | None = None
    action: Tensor | None = None
    plan: Tensor | None = None
    age: int = 0
    goal: Tensor | None = None
    correction: Tensor | None = None
    course: Any = None
    mode: Tensor | None = None
    before: Tensor | None = None
    horizon: int = 0


def select(carry: T, rows: Tensor) -> T:
    """Keep only the episodes `rows` (indices) of a carry or any dataclass of batch-first tensors."""
    chosen: Any = carry
    if isinstance(carry, Tensor):
        chosen = carry[rows] if carry.ndim else carry
    elif dataclasses.is_dataclass(carry) and not isinstance(carry, type):
        kept = {f.name: select(getattr(carry, f.name), rows) for f in dataclasses.fields(carry)}
        chosen = dataclasses.replace(carry, **kept)
    return cast(T, chosen)


def merge(changed: Tensor, fresh: T, carry: T) -> T:
    """`fresh` in the episodes where `changed [B]`, elsewhere `carry`; any dataclass of batch-first tensors."""
    merged: Any = carry
    if isinstance(carry, Tensor) and carry.ndim:
        merged = torch.where(changed.reshape(-1, *[1] * (carry.ndim - 1)), cast(Tensor, fresh), carry)
    elif dataclasses.is_dataclass(carry) and not isinstance(carry, type):
        fields = [f.name for f in dataclasses.fields(carry)]
        merged = dataclasses.replace(carry, **{n: merge(changed, getattr(fresh, n), getattr(carry, n)) for n in fields})
    return cast(T, merged)


def check_proposals(planner: PlannerOptions, proposals: int, options: AgentOptions) -> None:
    """Refuse what searches could not take in.

    Args:
        planner: options of the planner.
        proposals: action sequences that the objective proposes for every search.
        options: of the agent.

    Raises:
        AgentError: there are too many of these and of those from memory, or those are too short.
    """
    retrieval = options.retrieval
    if proposals + retrieval.seeds >= planner.num_samples:
        raise AgentError(
            f"objective.policy_trajectories + agent.retrieval.seeds must be below planner.num_samples="
            f"{planner.num_samples}, got {proposals} + {retrieval.seeds}"
        )
    if retrieval.seeds and retrieval.stride > planner.horizon:
        raise AgentError(
            f"agent.retrieval.stride must be at most planner.horizon={planner.horizon}, got {retrieval.stride}"
        )


def _up_to(horizon: int, cost_fn: CostFn) -> CostFn:
    """The cost of the first actions of candidates `[B, N, H, A]`, as many as there is time for."""
    return lambda actions: cost_fn(actions[:, :, :horizon])


class Agent:
    """A world model, a planner and an objective that act together.

    Args:
        model: the world model; what plans is a copy of it, so build a new agent after training it further.
        planner: searches action sequences.
        objective: scores what the model imagines.
        options: replanning, precision, deadline, adaptation.
        generator: every random draw of the planner.
        configurator: a guide, which chooses what each decision is for; without one, that is always the goal itself.
        index: moments in memory that `options.retrieval.seeds` are taken from; without one, none are.
        limits: of how fast actions change, which plans keep and know; None for those of the model's spec.

    Raises:
        AgentError: more proposals for a search than it has candidates, see `check_proposals`.
    """

    def __init__(
        self,
        model: WorldModel,
        planner: Planner[Any],
        objective: Objective,
        options: AgentOptions,
        generator: torch.Generator,
        configurator: Guide[Any] | None = None,
        index: MomentIndex | None = None,
        limits: ActionLimits | None = None,
    ) -> None:
        planner_options = getattr(planner, "options", None)
        if isinstance(planner_options, PlannerOptions):
            check_proposals(planner_options, objective.num_seeds, options)
        self.model, self.planner, self.objective = model, planner, objective
        self.configurator, self.index = configurator, index
        self.options, self.generator = options, generator
        # Cast once: autocast would cast the weights again at every call (and is slower than float32 on a CPU).
        try:
            self.precision = planning(options.plan_dtype, options.fused, self.device, model.purpose)
        except ValueError as error:
            raise AgentError(f"plan_dtype={options.plan_dtype} {error}") from None
        dtype, fused = self.precision
        self.imagined = model.frozen(dtype, fused=fused)
        # Proposals are too few for half precision that costs more to begin than it saves.
        self._proposing = self.imagined if fused else model
        # Goals and memory are embedded by the model itself, and compared with what is seen.
        self._seeing = self.imagined if fused and model.purpose == "reward" else model
        self._compile = worth_compiling(options.compile, self.device)
        self.limits = limits or ActionLimits.of(model.spec, device=self.device)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.model.action_centre.device

    def init(self, batch_size: int) -> Carry:
        """The carry at the start of `batch_size` episodes."""
        correction = None
        if self.options.adapt_rate:
            size = (batch_size, self.model.spec.action_dim, self.model.latent_dim)
            correction = torch.zeros(size, device=self.device)
        return Carry(planner=self.planner.init(batch_size), correction=correction)

    def tensors(self, obs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Arrays `{key: [B, ...]}` as tensors on the model's device.

        Where z is learned from vectors and pictures, pictures alone will do. The vectors then stand at their mean, and
        a model that was trained with `learner.vector_dropout` takes that for unknown.

        Raises:
            AgentError: a key is missing, or a number is not finite.
        """
        model = self.model
        if obs and set(obs) == set(model.image_keys) and not model.measured_dim:
            lead = next(iter(obs.values())).shape[: -len(model.spec.obs[model.image_keys[0]].shape)]
            obs = {**obs, **{k: v.expand(*lead, *v.shape) for k, v in model.normalizer.unknown().items()}}
        missing = [k for k in self.model.spec.obs if k not in obs]
        if missing:
            raise AgentError(f"observation must have the keys {sorted(self.model.spec.obs)}, got {sorted(obs)}")
        found = {k: self._tensor(obs[k], array.dtype) for k, array in self.model.spec.obs.items()}
        for key, values in found.items():
            if values.is_floating_point() and not bool(values.isfinite().all()):
                count = int((~values.isfinite()).sum())
                raise AgentError(f"observation must be finite, got {count} bad numbers in {key}")
        return found

    def _tensor(self, values: Any, dtype: str) -> Tensor:
        return torch.as_tensor(values, device=self.device, dtype=getattr(torch, dtype))

    @torch.no_grad()
    def embed_goal(self, goal_obs: Mapping[str, Any]) -> Tensor:
        """Goals as the environment states them, `{key: [B, ...]}`, to goal embeddings `[B, G]`.

        Raises:
            AgentError: a key is missing.
        """
        if self.model.achieved is not None:
            if "desired_goal" not in goal_obs:
                raise AgentError(f"goal must have the key desired_goal, got {sorted(goal_obs)}")
            return self.model.embed_goal({"desired_goal": self._tensor(goal_obs["desired_goal"], "float32")})
        return self.model.embed_goal(self.tensors(goal_obs))

    def warm_up(self) -> None:
        """Plan once for one episode and forget it, so that no later decision waits for a compiler."""
        state = self.generator.get_state()
        nothing = {k: torch.zeros(1, *a.shape, dtype=getattr(torch, a.dtype)) for k, a in self.model.spec.obs.items()}
        options, self.options = self.options, dataclasses.replace(self.options, deadline_s=None)
        try:
            goal = torch.zeros(1, self.model.goal_dim, device=self.device) if self.model.purpose == "goal" else None
            self.act(nothing, self.init(1), goal)
        finally:
            self.options = options
            self.generator.set_state(state)

    @torch.no_grad()
    def adapt(
        self, correction: Tensor | None, z: Tensor, action: Tensor, ahead: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """Learn from one observed transition of each episode, for that episode alone.

        A gradient step on the squared error of the latent prediction, as AdaJEPA takes it on its network, but on what
        actions add to the latent beside the prediction, and normalised (Nagumo and Noda, "A learning method for system
        identification", 1967): small actions, which tell little of what actions do, count for less.

        Args:
            correction: so far, `[B, A, Z]`; None leaves the model alone.
            z: latents before, `[B, Z]`.
            action: what was done, `[B, A]` in real units.
            ahead: latents after, `[B, Z]`.

        Returns:
            the correction from now on, and the error `[B, Z]` of what was expected with the one so far.
        """
        model = self.imagined
        with threads_for(0):
            error = ahead - self.expected(z, action.unsqueeze(1), correction)
            if correction is None:
                return None, error
            done = model.normalize_action(action)
            step = self.options.adapt_rate / done.square().sum(dim=-1, keepdim=True).clamp(min=1.0)
            return torch.baddbmm(correction, (step * done).unsqueeze(2), error.unsqueeze(1)), error

    @torch.no_grad()
    def expected(self, z: Tensor, actions: Tensor, correction: Tensor | None = None) -> Tensor:
        """Where actions `[B, H, A]` are expected to lead from latents `[B, Z]`, on average over the ensemble."""
        with threads_for(0):
            start = z.expand(self.objective.members or self.imagined.members, -1, -1)
            return self.imagined.rollout(start, actions, correction).mean(dim=0)[:, -1]

    def limited(self, action: Tensor, carry: Carry) -> Tensor:
        """The action nearest to `action [B, A]` that may follow on the actions of a carry; itself without limits."""
        if self.limits is None:
            return action
        return self.limits.nearest(action, self._motion(self.limits, carry, len(action))).action.to(action)

    def _motion(self, limits: ActionLimits, carry: Carry, batch_size: int) -> Motion:
        rest = limits.rest((batch_size,))
        if carry.action is None:
            return rest
        last = carry.action.double()
        before = rest.action if carry.before is None else carry.before.double()
        return Motion(last, (last - before) / limits.period_s)

    @torch.no_grad()
    def perceive(self, obs: Mapping[str, Any], carry: Carry) -> Carry:
        """Take in what is seen, without a decision: the belief goes on, and what learns within an episode learns.

        Args:
            obs: what is seen, `{key: [B, ...]}`.
            carry: from `init` or the last decision, whose `action` led to it.

        Raises:
            AgentError: a key of the observation is missing.
        """
        seen = self.tensors(obs)
        # Vectors are soon read, and a second thread takes longer to wake; pictures are worth it.
        with threads_for(math.inf if self.model.image_keys else 0):
            latent = self._seeing.observe(carry.latent, carry.action, seen)
        before, action = carry.latent, carry.action
        if before is None or action is None:
            return dataclasses.replace(carry, latent=latent)
        correction, course = carry.correction, carry.course
        if correction is not None:
            correction, _ = self.adapt(correction, before, action, latent)
        if self.configurator is not None and self.configurator.learns and course is not None:
            course = self.configurator.notice(before, action, latent, self.model.embed_reached(seen), course)
        return dataclasses.replace(carry, latent=latent, correction=correction, course=course)

    def act(
        self,
        obs: Mapping[str, Any],
        carry: Carry,
        goal: Tensor | None,
        deadline_s: float | None = None,
        left: Tensor | None = None,
        committed: Tensor | None = None,
    ) -> tuple[Tensor, Carry, Plan | None]:
        """Decide.

        Where a goal differs from that of the last plan, what is left of the plan is dropped and the search starts anew,
        but the belief goes on. The other episodes of the batch plan then, too, from where their search was.

        Args:
            obs: what is seen, `{key: [B, ...]}`.
            carry: from `init` or the last call.
            goal: goal embeddings `[B, G]`.
            deadline_s: seconds that a decision may take now; None for those of the options.
            left: decisions left for the goals, this one included, `[B]`; None where nothing limits them. Plans toward
                goals count none beyond the last of all, unless they are compiled.
            committed: actions `[B, D, A]` that are done before this one, whatever is decided: the plan begins where
                they are expected to lead. None where this one is done at once.

        Returns:
            actions `[B, A]` in real units, the next carry, and the plan (None where an earlier plan is still used).

        Raises:
            AgentError: a key of the observation is missing.
            ObjectiveError: the objective needs a goal and there is none.
        """
        began = perf_counter()
        carry = self.perceive(obs, carry)
        latent = carry.latent
        assert latent is not None
        start, last = latent, carry
        if committed is not None:
            start = self.expected(latent, committed, carry.correction)
            before = carry.action if committed.shape[1] == 1 else committed[:, -2]
            last = dataclasses.replace(carry, action=committed[:, -1], before=before)
        changed = None if carry.goal is None or goal is None else (goal != carry.goal).any(dim=-1)
        for_another = changed is not None and bool(changed.any())
        if carry.plan is not None and not for_another and carry.age < min(self.options.replan_every, carry.horizon):
            action = self.limited(carry.plan[:, carry.age], last)
            following = dataclasses.replace(
                carry, latent=latent, action=action, age=carry.age + 1, before=self._last(last)
            )
            return action, following, None
        reflex, sure = self._reflex(start)
        if sure.all():
            action = self.limited(reflex, last)
            following = dataclasses.replace(
                carry, latent=latent, action=action, age=carry.age + 1, mode=sure * REACT, before=self._last(last)
            )
            return action, following, None
        state = self.planner.advance(carry.planner, carry.age) if carry.age else carry.planner
        if changed is not None and for_another:
            state = merge(changed, self.planner.init(len(latent)), state)
        target, course = goal, carry.course
        if self.configurator is not None and goal is not None:
            target, course = self.configurator.aim(start, goal, course, left)
        cost_fn: CostFn = ImaginedCost(
            self.imagined, self.objective, start, target, carry.correction, compile=self._compile
        )
        if self.limits is not None:
            motion = self._motion(self.limits, last, len(latent))
            cost_fn = LimitedCost(cost_fn, self.limits, motion)
        horizon = self._horizon(start, target, left)
        if horizon < self.planner.horizon:
            cost_fn = _up_to(horizon, cost_fn)
        seeds = self._seeds(start, target)
        deadline_s = self.options.deadline_s if deadline_s is None else deadline_s
        if deadline_s is not None:
            deadline_s = max(deadline_s - (perf_counter() - began), 1e-9)
        plan, state = self.planner.plan(cost_fn, state, self.generator, seeds, deadline_s)
        if self.limits is not None:
            plan = dataclasses.replace(plan, actions=self.limits.follow(plan.actions, motion))
        action = torch.where(sure[:, None], self.limited(reflex, last), plan.actions[:, 0])
        kept = None if goal is None else goal.clone()  # or a goal changed in place would pass unnoticed
        mode: Tensor | None = None
        if self.options.configurator.mode != "plan":
            mode = torch.where(sure, REACT, PLAN)
        if course is not None:
            mode = course.mode
        following = Carry(
            state, latent, action, plan.actions, 1, kept, carry.correction, course, mode, self._last(last), horizon
        )
        return action, following, plan

    @torch.no_grad()
    def _horizon(self, z: Tensor, target: Tensor | None, left: Tensor | None) -> int:
        """How many actions of the plans from latents `[B, Z]` to targets `[B, G]` count: what the longest needs."""
        most, look_ahead = self.planner.horizon, self.options.configurator.look_ahead
        if target is None or (self._compile and len(z) == 1):  # it would be compiled anew for every horizon
            return most
        if left is not None:
            most = min(most, max(1, int(left.max())))
        if look_ahead is None:
            return most
        farthest = float(cautious(self.imagined.steps_to_goal(z, target), dim=0).max())
        return min(most, max(LEAST_HORIZON, math.ceil(look_ahead * farthest)))

    @torch.no_grad()
    def _reflex(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What the policy prior would do in latents `[B, Z]`, `[B, A]` in real units, and whether to do it, `[B]`.

        It is sure of itself where the value functions, which were trained side by side from different beginnings, agree
        about what it would do: where they know little they differ (Osband et al., "Deep exploration via bootstrapped
        DQN", 2016).
        """
        options, sure = self.options.configurator, torch.zeros(len(z), dtype=torch.bool, device=z.device)
        if self.model.control is None or options.mode not in ("react", "auto"):
            return z.new_zeros(len(z), self.model.spec.action_dim), sure
        heads = control_heads(self.model)
        action = heads.act(z)
        if options.mode == "react":
            return self.model.denormalize_action(action), ~sure
        values = heads.expected(heads.value_logits(torch.cat([z, action.to(z.dtype)], dim=-1)))  # [K, B]
        spread = values.std(dim=0, unbiased=False) / heads.get_buffer("scale")
        return self.model.denormalize_action(action), spread < options.doubt

    def _last(self, carry: Carry) -> Tensor | None:
        """What `Carry.before` is after another action."""
        return None if self.limits is None else carry.action

    def _seeds(self, z: Tensor, target: Tensor | None) -> Tensor | None:
        """What the objective and memory propose for a search toward `target [B, G]`, `[B, S, H, A]`; None for nothing.

        Memory comes last: what is in front was there before it, and draws what it drew.
        """
        seeds, horizon = list[Tensor](), self.planner.horizon
        if self.objective.num_seeds:
            shape = (len(z), self.objective.num_seeds, horizon, self.model.spec.action_dim)
            noise = torch.randn(shape, generator=self.generator, device=self.device)
            seeds.append(propose(self._proposing, self.objective, z, noise, compile=self._compile))
        if self.index is not None and target is not None:
            seeds.append(self.index.seeds(z, target, horizon, self.options.retrieval.seeds))
        return torch.cat(seeds, dim=1) if seeds else None
