"""Guides: what sets the sub-goals that the planner plans for, where the goal itself is too far for it.

Two of them offer the same: landmarks in memory (`configurator.py`), and here a search over macro-actions, which needs
no memory while it plans.
"""

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from typing_extensions import override

from .. import ForethoughtError
from ..planners import CEM, CEMOptions
from .configurator import JUMP, PLAN
from .memory.graph import Ruler
from .threads import threads_for
from .world_model.model import WorldModel

CourseT = TypeVar("CourseT")


class GuideError(ForethoughtError):
    """Options of a guide out of range, or a model that it cannot go by."""


class Guide(Protocol[CourseT]):
    """Chooses what each decision is for.

    What it keeps of `B` episodes is a course, a dataclass of tensors with the batch dimension first, among them
    `mode [B]`: what was chosen last, indices into `configurator.MODES`.
    """

    learns: bool
    """Whether it learns from what is lived through; `notice` is called only then."""

    def notice(self, before: Tensor, action: Tensor, z: Tensor, here: Tensor, course: CourseT) -> CourseT:
        """Learn from the present moment of every episode.

        Args:
            before: latents of the moment before, `[B, Z]`.
            action: what was done then, `[B, A]` in real units.
            z: latents `[B, Z]`.
            here: the same moment as goal embeddings `[B, G]`.
            course: from the last call of `aim`.
        """
        ...

    def aim(
        self, z: Tensor, goal: Tensor, course: CourseT | None, left: Tensor | None = None
    ) -> tuple[Tensor, CourseT]:
        """What to plan for now.

        Args:
            z: present latents `[B, Z]`.
            goal: goal embeddings `[B, G]`.
            course: from the last call; None at the start.
            left: decisions left for the goal, `[B]`; None where nothing limits them.

        Returns:
            goal embeddings `[B, G]`, of sub-goals or the goal itself, and the course from now on.
        """
        ...


@dataclass
class MacroOptions:
    """How sequences of macro-actions are searched; distances are in decisions."""

    horizon: int = 8
    """Macro-actions of a sequence."""
    num_samples: int = 64
    """Sequences per iteration of the cross-entropy method."""
    iterations: int = 3
    """Rounds of sequences."""
    num_elites: int = 8
    """Best sequences that the next round is drawn around."""
    limit: float = 2.0
    """Standard deviations of what was seen within which macro-actions are searched."""

    def __post_init__(self) -> None:
        for name, least in (("horizon", 1), ("num_samples", 4), ("iterations", 1)):
            if getattr(self, name) < least:
                raise GuideError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 2 <= self.num_elites <= self.num_samples:
            raise GuideError(f"num_elites must be between 2 and num_samples={self.num_samples}, got {self.num_elites}")
        if not self.limit > 0:
            raise GuideError(f"limit must be positive, got {self.limit}")


@dataclass(frozen=True)
class MacroCourse:
    """What `B` episodes are about to do.

    Args:
        goal: goal embeddings `[B, G]`.
        macros: macro-actions of the last search `[B, H, M]`.
        mode: what was chosen last, an index into `MODES`, `[B]`.
    """

    goal: Tensor
    macros: Tensor
    mode: Tensor


class MacroGuide(Guide[MacroCourse]):
    """Sets sub-goals by jumping ahead in imagination, many decisions at a time, to what is near the goal.

    Sequences of macro-actions are searched for the smallest learned distance to the goal, summed over the jumps; the
    sub-goal is where the first one leads, or the last of them that is within reach from here. The search begins anew
    with every call, but the sequence found last is among the first ones, as it was and without its first jump.

    Args:
        model: made for goals, with a macro-action model.
        options: see `MacroOptions`.
        reach: distance up to which the planner gets along without sub-goals, in decisions.
        generator: every random draw of the search.

    Raises:
        GuideError: the model has no macro-action model.
    """

    learns = False

    def __init__(self, model: WorldModel, options: MacroOptions, reach: float, generator: torch.Generator) -> None:
        if model.macro is None:
            raise GuideError("agent.configurator.guide=macro needs a run with world_model.macro_stride above 0, got 0")
        self.model, self.macro, self.options, self.reach = model, model.macro, options, reach
        self.generator, self.ruler = generator, Ruler(model)
        bound = torch.full((model.macro.macro_dim,), options.limit, device=next(model.parameters()).device)
        search = CEMOptions(
            horizon=options.horizon,
            num_samples=options.num_samples,
            iterations=options.iterations,
            num_elites=options.num_elites,
        )
        self.planner = CEM(-bound, bound, search)

    @override
    def notice(self, before: Tensor, action: Tensor, z: Tensor, here: Tensor, course: MacroCourse) -> MacroCourse:
        return course

    @override
    @torch.no_grad()
    def aim(
        self, z: Tensor, goal: Tensor, course: MacroCourse | None, left: Tensor | None = None
    ) -> tuple[Tensor, MacroCourse]:
        states, ends = self.ruler.states(z), self.ruler.goals(goal)
        near = self.ruler.paired(states, ends[:, None])[:, 0] <= self.reach
        if left is not None:
            near |= left < self.macro.stride  # no jump would be over in time
        fresh = z.new_zeros(len(z), self.options.horizon, self.macro.macro_dim)
        macros = fresh if course is None else course.macros.clone()
        target, far = goal.clone(), torch.nonzero(~near)[:, 0]
        if len(far):
            seeds = None
            if course is not None:
                later = torch.cat([course.macros[:, 1:], fresh[:, :1]], dim=1)
                seeds = torch.stack([course.macros, later], dim=1)
                changed = (course.goal != goal).any(dim=-1)
                seeds = seeds.masked_fill(changed[:, None, None, None], torch.nan)[far]
            macros[far], target[far] = self._search(z[far], states[far], ends[far], seeds)
        return target, MacroCourse(goal.clone(), macros, torch.where(near, PLAN, JUMP))

    def _search(self, z: Tensor, states: Tensor, ends: Tensor, seeds: Tensor | None) -> tuple[Tensor, Tensor]:
        """Macro-actions `[B, H, M]` toward goals, and the sub-goals `[B, G]` on their way.

        Args:
            z: present latents `[B, Z]`.
            states: the same as features, see `Ruler`.
            ends: goals as features.
            seeds: sequences to begin with, `[B, S, H, M]`.
        """

        def costs(macros: Tensor) -> Tensor:
            with threads_for(0):
                ahead = self.ruler.states(self.imagine(z, macros).flatten(0, 2))
                of_each = ends.repeat_interleave(macros.shape[1] * macros.shape[2], 0)
                return self.ruler.paired(ahead, of_each[:, None]).reshape(macros.shape[:3]).sum(dim=-1)

        plan, _ = self.planner.plan(costs, self.planner.init(len(z)), self.generator, seeds)
        points = self.model.goal_point(self.imagine(z, plan.actions.unsqueeze(1))[:, 0])  # [B, H, G]
        away = self.ruler.paired(states, self.ruler.goals(points.flatten(0, 1)).reshape(*points.shape[:2], -1))
        chosen = (away <= self.reach).long().cumprod(dim=1).sum(dim=1).clamp(min=1) - 1
        return plan.actions, points[torch.arange(len(z)), chosen]

    def imagine(self, z: Tensor, macros: Tensor) -> Tensor:
        """Where sequences of macro-actions `[B, N, H, M]` lead from latents `[B, Z]`: latents `[B, N, H, Z]`."""
        at, ahead = z.unsqueeze(1).expand(-1, macros.shape[1], -1), []
        for macro in macros.unbind(dim=2):
            at = self.macro.jump(at, macro)
            ahead.append(at)
        return torch.stack(ahead, dim=2)
