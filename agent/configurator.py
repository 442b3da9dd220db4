"""The configurator: decides for every decision how to decide it, and toward what.

In LeCun's architecture ("A path towards autonomous machine intelligence", 2022) it sets the other modules up for the
task at hand. Here it chooses, episode by episode, between planning straight for the goal, planning for a landmark on a
way that memory knows, and setting out where no way is known; what it chose is in the log and in the report.

It takes what is expected to need the fewest decisions. Distances that several heads disagree about count as longer, see
`memory.graph.Ruler`, so a goal of which little is known is rather gone to by what is remembered. What cannot arrive in
the time that is left, even if all goes well, is not taken while something else might: nobody has to say how much a
decision is worth, and where time is plentiful it does not matter.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import ForethoughtError
from .memory.graph import CLOSED, NOWHERE, LandmarkGraph
from .memory.trails import Trails

MODES = ("plan", "memory", "explore", "jump", "react")
"""What a decision can be: a plan toward the goal itself (or for reward), along a way that memory knows, over unknown
ground, or to where a macro-action leads; or what the policy prior would do, without a plan."""
PLAN, MEMORY, EXPLORE, JUMP, REACT = range(5)
DETOUR = 1.3
"""How much longer than the learned distance a known way may be where landmarks on it are passed by: if it is longer,
something stands in between that the distance does not know of."""
NEAR = 1.5
"""Spacings from a landmark within which an episode counts as being there."""
REACHED = 2 / 3
"""Spacings from a landmark within which it is as good as reached, and what is next on the way can be headed for."""
CORNER = 1 / 4
"""Spacings from a landmark up to which one is round the corner that it stands at."""
STALLED = 2
"""Decisions without coming nearer after which something that is in the way is gone round, where the place is learned:
a model that knows a place knows its walls, and what it stalls at is none."""
VISITED = 2 * STALLED
"""Decisions without coming nearer to a corner after which it has been gone to as far as it may be."""
PROVEN = 1.5
"""How many times as long as what is hoped for a way may be that was walked from end to end, to be gone again."""
FORGOTTEN = 5
"""Patiences after which it counts no more how near an episode once came to what it heads for."""

Floats = NDArray[Any]


class ConfiguratorError(ForethoughtError):
    """Options of the configurator out of range."""


@dataclass
class ConfiguratorOptions:
    """When the agent goes by its memory."""

    mode: str = "plan"
    """`plan` straight for the goal, or for reward. With goals, `auto` goes along landmarks in memory where the goal is
    far, and sets out over unknown ground where that is shorter by far; `memory` only does that where it must; `explore`
    heads for what was never seen, the nearest first, and for the goal when nothing is left. With rewards, `react` does
    what the policy prior says, and `auto` does so where it is sure."""
    guide: str = "graph"
    """What sets sub-goals unless the mode is `plan`: `graph`, the landmarks in memory, or `macro`, jumps of a model
    with `world_model.macro_stride`, which needs no memory; what is below is for `graph`."""
    patience: int = 15
    """Plans (with `agent.replan_every=1` decisions) without coming nearer after which the way counts as closed."""
    progress: float = 1.0
    """Learned steps by which a plan must come nearer to where it heads than any before to count as that."""
    look_ahead: float | None = None
    """With goals: plans look ahead this many times the steps that are expected to what they are for, more where the
    heads disagree about them, and cost in proportion; None always looks `planner.horizon` ahead, which is the most, and
    so do plans that `agent.compile` compiles."""
    doubt: float = 0.05
    """With rewards and mode auto: how far the value functions may disagree about what the policy prior would do, as a
    share of the spread of returns, for it to be done without a plan."""

    def __post_init__(self) -> None:
        if self.mode not in ("plan", "auto", "memory", "explore", "react"):
            raise ConfiguratorError(f"mode must be one of plan, auto, memory, explore, react, got {self.mode!r}")
        if self.guide not in ("graph", "macro"):
            raise ConfiguratorError(f"guide must be one of graph, macro, got {self.guide!r}")
        if self.guide == "macro" and self.mode not in ("plan", "auto"):
            raise ConfiguratorError(f"mode must be plan or auto with guide=macro, got {self.mode!r}")
        if self.patience < 1:
            raise ConfiguratorError(f"patience must be at least 1, got {self.patience}")
        if not self.progress > 0:
            raise ConfiguratorError(f"progress must be positive, got {self.progress}")
        if not (self.look_ahead is None or self.look_ahead > 0):
            raise ConfiguratorError(f"look_ahead must be positive or None, got {self.look_ahead}")
        if not self.doubt >= 0:
            raise ConfiguratorError(f"doubt must be 0 or more, got {self.doubt}")


@dataclass(frozen=True)
class Course:
    """Where `B` episodes are on their ways, for landmarks `N` and edges `E` of one version of the graph.

    Args:
        version: of the graph.
        goal: goal embeddings `[B, G]`.
        ends: the same as features of goals, see `Ruler`.
        last: learned steps from each landmark to the goal, `[B, N]`.
        value: expected steps from each landmark to the goal by the best way, `[B, N]`.
        successor: the next landmark on that way, `[B, N]`; `N` for the goal.
        barred: edges found closed in this episode, `[B, E]`.
        closed: landmarks from which the last leg to the goal was found closed in this episode, `[B, N]`.
        avoided: plans for which a landmark, or the goal (last), is not headed for, `[B, N+1]`.
        least: fewest learned steps to each landmark, and the goal (last), while it was headed for, `[B, N+1]`.
        spent: plans in which it was headed for since, `[B, N+1]`.
        idle: plans since it was headed for at all, `[B, N+1]`.
        mode: what was chosen last, an index into `MODES`, `[B]`.
        at: the landmark that each episode was at last, `[B]`, or `NOWHERE`; noted where the graph learns.
        number: which of the episodes that began together each one is, `[B]`.
        bumped: whether the last action led somewhere else than expected, `[B]`; noted where the graph learns.
        step: which moment of the episode was noticed last; noted where the graph learns.
    """

    version: int
    goal: Tensor
    ends: Tensor
    last: Tensor
    value: Tensor
    successor: Tensor
    barred: Tensor
    closed: Tensor
    avoided: Tensor
    least: Tensor
    spent: Tensor
    idle: Tensor
    mode: Tensor
    at: Tensor
    number: Tensor
    bumped: Tensor
    step: int = 0


@dataclass(frozen=True)
class Choice:
    """What one decision is for.

    Args:
        target: a landmark, or their number for the goal.
        hops: landmarks on the way to the target, itself included.
        walked: whether the first leg of it was ever walked.
        corner: the landmark from which it leads on, if that is clear and the place is learned, or `NOWHERE`.
        trail: the first leg of it as it was walked, goal embeddings `[n, G]`, where it turned out not to be straight.
    """

    target: int
    hops: list[int]
    walked: bool = False
    corner: int = NOWHERE
    trail: Tensor | None = None


class Configurator:
    """Chooses what each decision is for.

    Args:
        graph: landmarks in memory.
        options: see `ConfiguratorOptions`.
        learns: whether the graph learns from what is lived through, for all episodes to come: new landmarks, ways that
            were walked, ways that were tried in vain. Otherwise such ways are known within the episode alone.

    Attributes:
        episode: number that the first of the running episodes will have in memory, where the graph learns.
        trails: ways as they were walked; known where it is told how to recall episodes.
    """

    def __init__(self, graph: LandmarkGraph, options: ConfiguratorOptions, learns: bool = False) -> None:
        self.graph, self.options, self.learns = graph, options, learns
        self.episode = 0
        self.trails = Trails(graph)
        self._winding = set[tuple[int, int]]()  # legs that are not straight
        self._generator = torch.Generator().manual_seed(0)

    def notice(self, before: Tensor, action: Tensor, z: Tensor, here: Tensor, course: Course) -> Course:
        """Let the graph learn from the present moment of every episode, where it does.

        Args:
            before: latents of the moment before, `[B, Z]`.
            action: what was done then, `[B, A]` in real units.
            z: latents `[B, Z]`.
            here: the same moment as goal embeddings `[B, G]`.
            course: from the last call of `aim`.
        """
        if not self.learns:
            return course
        bumped = self._feel(before, action, z, course.bumped)
        at, episodes = course.at.clone(), (self.episode + course.number).tolist()
        for row in range(len(z)):
            step = np.array([course.step + 1])
            (found,) = self.graph.add(z[row : row + 1], here[row : row + 1], episodes[row], step).tolist()
            came_from = int(at[row])
            if found != NOWHERE:
                at[row] = found
                if came_from not in (NOWHERE, found):
                    self.graph.walk(np.array([[came_from, found]]))
        self.graph.believe()
        # Whether a way was walked from end to end is asked from where one is.
        arrived = bool(((course.at == NOWHERE) & (at != NOWHERE)).any())
        version = NOWHERE if arrived else course.version
        return replace(course, at=at, bumped=bumped, step=course.step + 1, version=version)

    @torch.no_grad()
    def _feel(self, before: Tensor, action: Tensor, z: Tensor, bumped: Tensor) -> Tensor:
        """Take for an obstacle what the last action would have led to, where it led somewhere else instead.

        Returns:
            whether it did, `[B]`.
        """
        model, ruler = self.graph.model, self.graph.ruler
        ahead = model.rollout(before.expand(1, -1, -1), action[:, None].expand(-1, self.BEYOND, -1))[0]
        expected = ruler.states(ahead[:, 0])
        missed = ruler.paired(expected, ruler.goals(model.goal_point(z)).unsqueeze(1))[:, 0]
        meant = ruler.paired(ruler.states(before), ruler.goals(model.goal_point(ahead[:, 0])).unsqueeze(1))[:, 0]
        surprising = (missed >= self.SURPRISE[0]) & (missed >= self.SURPRISE[1] * meant)
        self.graph.clear(before[~surprising], z[~surprising])
        for row in torch.nonzero(surprising)[:, 0].tolist():
            self.graph.obstruct(ahead[row : row + 1, -1], again=bool(bumped[row]))
        return surprising

    BEYOND = 2
    """Decisions for which the last action is imagined to be held to find what stood in its way."""
    SURPRISE = (0.35, 0.6)
    """Learned steps by which a decision ends elsewhere, and their share of what it was to cover, that say so."""

    @torch.no_grad()
    def _around(self, z: Tensor) -> Tensor:
        """Where one comes to rest a few steps from a latent `[1, Z]` after holding actions, as imagined; `[n, Z]`."""
        model, options = self.graph.model, self.graph.options
        low, high = (x.to(z) for x in map(torch.tensor, (model.spec.action_low, model.spec.action_high)))
        drawn = torch.rand(self.DIRECTIONS, len(low), generator=self._generator).to(z)
        drawn = (3 * drawn).floor().clamp(max=2) / 2  # none or all of it, in either direction of each dimension
        held = (low + (high - low) * drawn)[:, None].expand(-1, max(1, round(2 * options.spacing)), -1)
        ahead = model.rollout(z.expand(1, len(held), -1), held)[0]  # [n, H, Z]
        start, flat = self.graph.ruler.states(z), ahead.flatten(0, 1)
        rest = ((low + high) / 2).expand(len(flat), max(1, round(options.spacing)), -1)
        flat = model.rollout(flat[None], rest)[0, :, -1]  # let go, and come to rest
        steps = self.graph.ruler.steps(start, self.graph.ruler.goals(model.goal_point(flat)))[0]
        return flat[(steps > 0.8 * self.graph.closeness * options.spacing) & (steps <= 1.2 * options.spacing)]

    DIRECTIONS = 32
    """Actions that are imagined to be held from a landmark."""
    AHEAD = 64
    """Landmarks that are looked beyond before a decision, at most."""

    def _look_ahead(self, z: Tensor, goal: Tensor, course: Course) -> Course:
        """Imagine what lies beyond the landmark at the end of each way, until the way is one of small steps.

        Unknown ground is free until something is met there, and ways are found anew whenever it is (Koenig and
        Likhachev, "D* Lite", 2002). Where nothing is left to try, all that was found closed is doubted.
        """
        graph = self.graph
        for _ in range(self.AHEAD):
            beyond = self._beyond(course)
            if not beyond:
                break
            for landmark in beyond:
                graph.imagine(landmark, self._around(graph.latents[landmark : landmark + 1]))
            graph.believe()
            course = self._course(goal, course)
        at, value = course.at.cpu().numpy(), course.value.cpu().numpy()
        # Every way from where the episode is was found closed.
        lost = [row for row in np.flatnonzero(at != NOWHERE).tolist() if value[row, at[row]] >= CLOSED]
        if not lost or self.options.mode == "explore":
            return course
        graph.reconsider()
        kept = torch.ones_like(course.at, dtype=torch.bool)[:, None]
        kept[lost] = False
        return self._course(goal, replace(course, barred=course.barred & kept, closed=course.closed & kept))

    def _beyond(self, course: Course) -> set[int]:
        """The landmarks at the ends of the ways to the goals that nobody looked beyond, unless the last leg is sure."""
        graph, count, found = self.graph, len(self.graph), set[int]()
        at, value, last, successor = (x.cpu().numpy() for x in (course.at, course.value, course.last, course.successor))
        for row in np.flatnonzero(at != NOWHERE).tolist():
            end = int(at[row])
            if self.options.mode != "explore":
                while 0 <= (following := int(successor[row, end])) < count:
                    end = following
                if last[row, end] <= graph.believed and value[row, end] < last[row, end] + graph.toll:
                    continue
            if not graph.expanded[end]:
                found.add(end)
        return found

    @torch.no_grad()
    def aim(self, z: Tensor, goal: Tensor, course: Course | None, left: Tensor | None = None) -> tuple[Tensor, Course]:
        """What to plan for now.

        Args:
            z: present latents `[B, Z]`.
            goal: goal embeddings `[B, G]`.
            course: from the last call; None at the start.
            left: decisions left for the goal, `[B]`; None where nothing limits them.

        Returns:
            goal embeddings `[B, G]`, of landmarks or the goal itself, and the course from now on.
        """
        graph, count, options = self.graph, len(self.graph), self.options
        course = self._course(goal, course)
        if self.learns:
            course = self._look_ahead(z, goal, course)
            count = len(graph)
        states = graph.ruler.states(z)
        every = graph.steps_nearby(z, states, course.ends)  # [B, N+1]
        steps, direct = every[:, :-1], every[:, -1]
        tolls = np.zeros((len(z), count + 1))  # of obstacles between here and each landmark, and the goal
        if len(graph.obstacles):
            near = np.nonzero(steps <= graph.options.reach)
            tolls[near] = graph.toll * graph.obstructed(states[near[0]], graph.targets[near[1]], steps[near])
            tolls[:, -1] = graph.toll * graph.obstructed(states, course.ends, direct)
        imagined, exploring = graph.imagined, self._exploring
        mode, targets = torch.empty_like(course.mode), goal.clone()
        # As arrays, whose single numbers are read and written several times as fast.
        least, spent = (x.cpu().numpy().copy() for x in (course.least, course.spent))
        idle, avoided = course.idle.cpu().numpy() + 1, np.maximum(course.avoided.cpu().numpy() - 1, 0)
        last, value, successor, closed = (
            x.cpu().numpy() for x in (course.last, course.value, course.successor, course.closed)
        )
        bumped: list[bool] = course.bumped.tolist()
        stuck, there, real = dict[int, Choice](), REACHED * graph.options.spacing, ~imagined
        for row in range(len(z)):
            far = np.inf if exploring else float(direct[row])
            time = np.inf if left is None else float(left[row])
            way = _Way(
                last[row], value[row], successor[row], closed[row], avoided[row], spent[row], real, tolls[row],
                bumped[row],
            )  # fmt: skip
            choice = self._choose(steps[row], far, way, time)
            if choice.target < count:
                trail = choice.trail
                targets[row] = graph.goals[choice.target] if trail is None else self.trails.onward(trail, states[[row]])
                mode[row] = EXPLORE if imagined[choice.target] else MEMORY
            else:
                mode[row] = PLAN if direct[row] <= graph.believed else EXPLORE
            away, at = float(steps[row, choice.target] if choice.target < count else direct[row]), (row, choice.target)
            if idle[at] > FORGOTTEN * options.patience or away < least[at] - options.progress:
                least[at], spent[at] = away, 0
            elif spent[at] >= options.patience * (2 if choice.walked or (self.learns and away <= there) else 1):
                spent[at], stuck[row] = 0, choice
            else:
                spent[at] += 1
            idle[at] = 0
            if choice.corner != NOWHERE and steps[row, choice.corner] <= CORNER * graph.options.spacing:
                spent[row, choice.corner] = VISITED  # one goes on from there, and not back to it
        least_now, spent_now, idle_now, avoided_now = (
            torch.from_numpy(x).to(goal) for x in (least, spent, idle, avoided)
        )
        course = replace(course, mode=mode, least=least_now, spent=spent_now, idle=idle_now, avoided=avoided_now)
        return targets, self._close(course, steps, stuck) if stuck else course

    @property
    def _exploring(self) -> bool:
        """Whether what was never seen is what counts now."""
        return self.options.mode == "explore" and bool(self.graph.unknown.any())

    def _choose(self, steps: Floats, direct: float, way: "_Way", left: float = np.inf) -> Choice:
        """What one episode is to head for.

        Args:
            steps: learned steps to each landmark, `[N]`.
            direct: to the goal.
            way: what it knows.
            left: decisions left.
        """
        choice = self._onward(steps, direct, way, left)
        corner, stalls = choice.corner, way.spent[choice.target] >= STALLED
        if corner == NOWHERE:
            return choice
        if choice.hops and self.graph.was_walked(corner, choice.hops[0]):
            leg = corner, choice.hops[0]
            if stalls or way.bumped:
                self._winding.add(leg)
            if leg in self._winding and (trail := self.trails.between(*leg)) is not None:
                return Choice(leg[1], [leg[1]], walked=True, corner=corner, trail=trail)
        if not stalls or steps[corner] <= CORNER * self.graph.options.spacing or way.spent[corner] >= VISITED:
            return choice
        return Choice(corner, [corner])  # something is in between from here, and not from there

    def _onward(self, steps: Floats, direct: float, way: "_Way", left: float) -> Choice:
        """What one episode is to head for unless it is stuck at a corner; arguments are those of `_choose`."""
        graph, goal, reach = self.graph, len(self.graph), self.graph.options.reach
        within = direct <= graph.believed
        straight = direct / float(graph.trust(direct)) if within else graph.options.hope * direct
        if self.learns and not within:
            straight *= PROVEN
        straight += float(way.tolls[goal])
        if way.avoided[goal] or (not within and (self.options.mode == "memory" or not way.real.all())):
            straight = np.inf  # what is imagined to lie beyond the known is closer than what is only hoped for
        first, rest, walked, corner = goal, np.inf, False, NOWHERE
        if goal:
            tolls = way.tolls[:-1]
            there = way.real & (steps <= REACHED * graph.options.spacing) & (tolls == 0)
            if there.any():  # of landmarks that are as good as reached, the one farthest on the way
                here = int(np.where(there, way.value, np.inf).argmin())
            else:
                here = int(np.where(way.real, steps + tolls, np.inf).argmin())
            if way.real[here] and steps[here] <= NEAR * graph.options.spacing:
                # Here only what is known of the ways from this landmark counts: walls may stand between it and others.
                first, rest = int(way.successor[here]), float(way.value[here])
                if self._exploring and first == goal:  # as good as there: once it is nearest, it is looked beyond it
                    return Choice(here, [here])
                walked = graph.was_walked(here, first)
                beyond = 0.0 if first == goal else float(way.value[first])
                clear = rest - beyond < graph.toll and not way.avoided[here]
                if self.learns and clear and (walked or first == goal):
                    corner = here
                straight = np.inf if way.closed[here] else straight
            else:
                near = (steps <= reach) & (way.avoided[:-1] == 0) & way.real
                over = np.where(near, steps / np.maximum(graph.trust(steps), 1 / graph.options.hope), np.inf)
                expected = over + tolls + way.value
                first = int(expected.argmin())
                rest = float(expected[first])
        if first in (goal, NOWHERE) or not np.isfinite(rest):
            return Choice(goal, [], corner=corner)
        takes_straight = straight <= rest
        if np.isfinite(straight) and max(straight, rest) > left:  # or else both might arrive
            in_time = self._least(steps, here, first, way) <= left
            takes_straight = takes_straight if (direct <= left) == in_time else not in_time
        if takes_straight:
            return Choice(goal, [])
        hops, along = [first], float(steps[first])
        while way.real[first]:
            following = int(way.successor[hops[-1]])
            if self.learns and following != NOWHERE and way.spent[following] >= STALLED:  # not straight, it turned out
                return Choice(first, [first], walked, corner)
            if following == NOWHERE or way.avoided[following]:
                return Choice(hops[-1], hops, walked, corner)
            if following == goal and within and along + way.last[hops[-1]] <= DETOUR * direct:
                return Choice(goal, hops, corner=corner)
            if following == goal or not way.real[following]:
                return Choice(hops[-1], hops, walked, corner)
            along += graph.length_of(hops[-1], following)
            if steps[following] > reach or along > DETOUR * steps[following] or way.tolls[following]:
                return Choice(hops[-1], hops, walked, corner)
            hops.append(following)
        return Choice(first, hops, walked, corner)

    def _least(self, steps: Floats, here: int, first: int, way: "_Way") -> float:
        """Learned steps from here to the goal by the landmark `first`, if every leg of the way works at once.

        Args:
            steps: to each landmark, `[N]`; inf to those that look far away.
            here: the landmark nearest to here.
            first: on the way.
            way: what the episode knows.
        """
        graph, least, at = self.graph, float(steps[first]), first
        if not np.isfinite(least):
            least = graph.length_of(here, first)
        while 0 <= (following := int(way.successor[at])) < len(graph):
            least, at = least + graph.length_of(at, following), following
        return least + float(way.last[at])

    def _course(self, goal: Tensor, course: Course | None) -> Course:
        """The course of episodes that go on, with ways found anew where the goal or the graph has changed."""
        graph, count, edges = self.graph, len(self.graph), len(self.graph.edges)
        if course is not None and course.version == graph.version and torch.equal(course.goal, goal):
            return course
        batch = len(goal)
        table, number = goal.new_zeros(batch, count), goal.new_zeros(batch, dtype=torch.int64)
        fresh = Course(
            version=graph.version,
            goal=goal.clone(),
            ends=graph.ruler.goals(goal),
            last=table.clone(),
            value=table.clone(),
            successor=torch.full_like(table, NOWHERE, dtype=torch.int64),
            barred=goal.new_zeros(batch, edges, dtype=torch.bool),
            closed=torch.zeros_like(table, dtype=torch.bool),
            avoided=goal.new_zeros(batch, count + 1),
            least=goal.new_full((batch, count + 1), torch.inf),
            spent=goal.new_zeros(batch, count + 1),
            idle=goal.new_full((batch, count + 1), torch.inf),
            mode=number.clone(),
            at=number + NOWHERE,
            bumped=torch.zeros_like(number, dtype=torch.bool),
            number=torch.arange(batch, device=goal.device),
        )
        stale = torch.ones_like(number, dtype=torch.bool)
        if course is not None:
            same = (course.goal == goal).all(dim=-1)
            fresh.barred[:, : course.barred.shape[1]] = course.barred & same[:, None]
            fresh.closed[:, : course.closed.shape[1]] = course.closed & same[:, None]
            for name in ("avoided", "least", "spent", "idle"):
                kept, now = getattr(course, name), getattr(fresh, name)
                now[:, : course.closed.shape[1]] = kept[:, :-1]
                now[same, -1] = kept[same, -1]
            fresh = replace(
                fresh,
                mode=course.mode,
                at=course.at,
                number=course.number,
                bumped=course.bumped,
                step=course.step,
            )
            if course.version == graph.version:
                stale = ~same
                for name in ("last", "value", "successor"):
                    getattr(fresh, name).copy_(getattr(course, name))
        self._find(fresh, torch.nonzero(stale)[:, 0].tolist())
        return fresh

    def _find(self, course: Course, rows: list[int]) -> None:
        """Find the ways of these episodes, in place."""
        graph = self.graph
        if not rows or not len(graph):
            return
        costs = graph.costs()
        for row in rows:
            last = graph.to_goal(course.ends[row])
            if self._exploring:
                expected = np.where(graph.unknown, 0.0, np.inf)
            else:
                expected = graph.expected(last) + CLOSED * course.closed[row].cpu().numpy()
                if len(graph.obstacles):
                    ends = course.ends[row].expand(len(graph), -1)
                    expected = expected + graph.toll * graph.obstructed(graph.states, ends, last)
            barred = course.barred[row].cpu().numpy()
            value, successor = graph.ways(expected, costs + CLOSED * barred)
            at = int(course.at[row])
            if self.learns and not self._exploring and at != NOWHERE:
                # A way that somebody walked is worth more than a hope, unless that is of something shorter by far.
                sure = np.where(graph.imagined | (last > graph.believed), np.inf, expected)
                known, along = graph.ways(sure, np.where((graph.walked > 0) & ~barred, costs, np.inf))
                if known[at] <= min(PROVEN * value[at], CLOSED):
                    value, successor = known, along
            for kept, found in ((course.last, last), (course.value, value), (course.successor, successor)):
                kept[row] = torch.from_numpy(found).to(kept)

    def _close(self, course: Course, steps: Floats, stuck: dict[int, Choice]) -> Course:
        """Close the ways that these episodes have tried in vain, from all landmarks around them."""
        graph, spacing, count = self.graph, self.graph.options.spacing, len(self.graph)
        names = ("last", "value", "successor", "barred", "closed", "avoided")
        course = replace(course, **{name: getattr(course, name).clone() for name in names})
        failed = []
        for row, choice in stuck.items():
            near = (steps[row] <= NEAR * spacing) & ~graph.imagined
            if choice.target == count:
                course.avoided[row, -1] = self.options.patience
                course.closed[row] |= torch.from_numpy(near).to(course.closed.device)
            if choice.hops:
                tried = torch.tensor(choice.hops)
                beyond = graph.ruler.steps(graph.states[tried], graph.targets).amin(dim=0).cpu().numpy() <= spacing
                near[choice.hops] = False
                beyond = beyond & ~near
                edges = graph.between(near, beyond)
                course.avoided[row, :-1][torch.from_numpy(beyond)] = self.options.patience
                course.barred[row, torch.from_numpy(edges)] = True
                failed.append(edges)
        if self.learns and failed:
            graph.fail(np.unique(np.concatenate(failed)))
            headed = np.array([choice.hops[0] for choice in stuck.values() if choice.hops])
            graph.dismiss(np.intersect1d(headed, graph.edges[graph.failed > 1, 1]))
            # Ways are found anew with the next call.
        else:
            self._find(course, list(stuck))
        return course


@dataclass(frozen=True)
class _Way:
    """One row of a course, as arrays."""

    last: Floats
    value: Floats
    successor: NDArray[np.int64]
    closed: NDArray[np.bool_]
    avoided: Floats
    spent: Floats
    real: NDArray[np.bool_]
    tolls: Floats
    bumped: bool
