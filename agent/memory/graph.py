"""Landmarks: moments lived through, joined by the ways between them, on which far goals are reached leg by leg.

The graph is what remains of many episodes when planning is all that matters: landmarks cover the latents that were
visited, by the learned distance and not by looks; an edge says that one landmark was reached from another, or is
believed to be because the learned distance is short, where it can be trusted (Savinov, Dosovitskiy and Koltun,
"Semi-parametric topological memory", 2018; Eysenbach, Salakhutdinov and Levine, "Search on the replay buffer", 2019).
What failed when it was tried counts for longer (Emmons et al., "Sparse graphical memory", 2020).

A landmark is named by its episode and step. Latents are a model's view of it and are computed anew for every model;
what was walked, how often, and what failed is kept in the notes of the episode store.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor
from torch.nn.functional import embedding

from ... import ForethoughtError
from ..threads import threads_for
from ..world_model.distance import Quasimetric, cautious
from ..world_model.model import WorldModel
from .moments import encoder_key, moments_of, note_name
from .store import EpisodeStore, GivenUpError

Array = NDArray[Any]
NOTE = "graph/"
"""Where a store keeps the graph of an environment, see `note_name`."""
NOWHERE = -1
"""No landmark: of a moment, or as the successor of one from which there is no way. The episode of an imagined one."""

FEW = 16
"""Latents that are compared with all landmarks one by one."""
DISMISSED = -2
"""The episode of a landmark that was imagined and is not there."""
OBSTACLE = 20.0
"""Spacings that a way counts more for each time it was tried in vain, and each obstacle in between."""
BRUSHES = 4
"""How often something is met on a way that was walked for it to be in the way: a corner is often brushed twice."""
CLOSED = 1e6
"""Steps that a way counts more when it was found closed: it is the last to be tried again."""


class GraphError(ForethoughtError):
    """Options of a graph out of range, or a graph that does not fit its store."""


@dataclass
class GraphOptions:
    """How landmarks are laid and how far ways between them are trusted; distances are in decisions."""

    spacing: float = 8.0
    """Distance of a landmark from all others, at least, in the direction that is longer."""
    reach: float = 24.0
    """Distance up to which the planner gets along without landmarks, and the learned distance is believed."""
    believe: float | None = None
    """Distance up to which a way is believed that nobody walked; None for `reach`. Where the world may have changed, or
    is another than the one learned from, it should be little more than `spacing`."""
    neighbours: int = 16
    """Landmarks to which ways are believed from each one, beside the ways that were walked."""
    max_landmarks: int = 4000
    """Landmarks laid at most; what is new after that is not covered."""
    stride: int = 4
    """Every which moment of an episode is looked at."""
    hope: float = 3.0
    """How many times its distance an unknown way counts: less leads to more exploring."""

    def __post_init__(self) -> None:
        for name, least in (("neighbours", 1), ("max_landmarks", 1), ("stride", 1), ("hope", 1.0)):
            if not getattr(self, name) >= least:
                raise GraphError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not (self.believe is None or self.believe > 0):
            raise GraphError(f"believe must be positive or None, got {self.believe}")
        if not 0 < self.spacing < self.reach:
            raise GraphError(f"spacing must be between 0 and reach={self.reach}, got {self.spacing}")


class Ruler:
    """Learned steps between many states and many goals; what they need of each is computed once.

    Where several heads measure, the length is their mean plus standard deviation: where they disagree it is long. Of a
    quasimetric, features are what its heads make of a state or goal and, last, its point in goal space, for the floor.

    Args:
        model: made for goals.
    """

    ELEMENTS = 1 << 24
    """Numbers held at once while measuring."""

    def __init__(self, model: WorldModel) -> None:
        self.model = model
        self.head = model.time_to_goal.frozen(fused=True) if isinstance(model.time_to_goal, Quasimetric) else None

    def states(self, z: Tensor) -> Tensor:
        """Latents `[n, Z]` to features `[n, ...]`."""
        return z if self.head is None else self._features(self.head.embed(z), self.model.goal_point(z))

    def goals(self, goal: Tensor) -> Tensor:
        """Goal embeddings `[n, G]` to features `[n, ...]`."""
        return goal if self.head is None else self._features(self.head.embed_goal(goal), goal)

    def _features(self, embedded: Tensor, point: Tensor) -> Tensor:
        return torch.cat([embedded.transpose(0, 1).flatten(1), point.to(embedded.dtype)], dim=-1)

    @torch.no_grad()
    def steps(self, states: Tensor, goals: Tensor) -> Tensor:
        """Steps `[n, m]` from each of the states `[n, ...]` to each goal `[m, ...]`, both as features."""
        if not len(goals) or not len(states):
            return states.new_zeros(len(states), len(goals))
        per_row = goals.numel()
        rows = max(1, self.ELEMENTS // max(per_row, 1))
        return torch.cat([self._between(part.unsqueeze(1), goals.unsqueeze(0)) for part in torch.split(states, rows)])

    @torch.no_grad()
    def paired(self, states: Tensor, goals: Tensor) -> Tensor:
        """Steps `[n, k]` from each of the states `[n, ...]` to goals of its own `[n, k, ...]`."""
        rows = max(1, self.ELEMENTS // max(goals[0].numel(), 1)) if len(goals) else 1
        if len(states) <= rows:
            return self._between(states.unsqueeze(1), goals)
        parts = zip(torch.split(states, rows), torch.split(goals, rows), strict=True)
        return torch.cat([self._between(s.unsqueeze(1), g) for s, g in parts])

    def _between(self, states: Tensor, goals: Tensor) -> Tensor:
        with threads_for(0):
            if self.head is None:
                n, m = max(len(states), len(goals)), goals.shape[1]
                z, goal = states.expand(n, m, -1), goals.expand(n, m, -1)
                return self.model.steps_to_goal(z, goal)[0]
            size, shape = self.model.goal_dim, (self.head.members, 2, self.head.GROUPS, self.head.SIZE)
            x, y = (part[..., :-size].reshape(*part.shape[:-1], *shape) for part in (states, goals))
            steps = self.head.between(x, y) / self.head.get_buffer("unit")  # [n, m, M]
            if self.model.options.distance_floor:
                steps = torch.maximum(steps, self.head.floor(states[..., -size:], goals[..., -size:])[..., None])
            return cautious(steps, dim=-1)

    @torch.no_grad()
    def to_one(self, columns: Tensor, goal: Tensor) -> Tensor:
        """Steps `[n]` from states to one goal `[...]`, as features; of states as columns `[..., n]`."""
        if self.head is None:
            return self.steps(columns.T, goal[None])[:, 0]
        size, shape = self.model.goal_dim, (self.head.members, 2, self.head.GROUPS, self.head.SIZE)
        with threads_for(0):
            x, y = (part[:-size].reshape(*shape, -1) for part in (columns, goal))
            steps = self.head.between_columns(x, y) / self.head.get_buffer("unit")  # [M, n]
            if self.model.options.distance_floor:
                steps = torch.maximum(steps, self.head.floor(columns[-size:].T, goal[-size:]))
            return cautious(steps, dim=0)


class LandmarkGraph:
    """Landmarks of one environment as one world model sees them, and the ways between them.

    Args:
        model: measures; made for goals.
        options: see `GraphOptions`.

    Attributes:
        moments: episode and step of each landmark, `[N, 2]`.
        latents: `[N, Z]`.
        goals: the same as goal embeddings `[N, G]`.
        states, targets: the same as features, of states and of goals, `[N, ...]`; see `Ruler`.
        obstacles: latents of places where one should have come to, and did not, `[K, Z]`.
        edges: landmarks from and to, `[E, 2]`.
        length: learned steps of each edge, `[E]`.
        walked: how often each was walked, `[E]`; 0 where it is only believed.
        failed: how often each was tried in vain, and obstacles were met on it, more than it was walked since, `[E]`.
        brushed: how often something was met on each since it was walked last, `[E]`; not kept.
        next_episode: the first episode that was not taken in yet.
        looks: how often ways were looked for more closely, since all that was found closed was doubted.
        version: counts changes; what was computed of an older one is out of date.
    """

    CANDIDATES = 48
    """Nearest latents among which neighbours are looked for."""

    NEARBY = 128
    """Landmarks to which distances are measured in a decision."""

    def __init__(self, model: WorldModel, options: GraphOptions) -> None:
        self.model, self.options, self.ruler = model, options, Ruler(model)
        device = next(model.parameters()).device
        self.moments = np.zeros((0, 2), np.int64)
        self.expanded = np.zeros(0, np.bool_)
        self.latents = torch.zeros(0, model.latent_dim, device=device)
        self.goals = torch.zeros(0, model.goal_dim, device=device)
        self.states, self.targets = self.ruler.states(self.latents), self.ruler.goals(self.goals)
        self.edges = np.zeros((0, 2), np.int64)
        self.length, self.walked, self.failed = (np.zeros(0, np.float32) for _ in range(3))
        self.brushed = np.zeros(0, np.int64)
        self.obstacles = torch.zeros(0, model.latent_dim, device=device)
        self._index: dict[tuple[int, int], int] = {}
        # What ways are found with, as long as edges and states are the same.
        self._into: tuple[NDArray[np.int64], Any] | None = None
        self._columns: Tensor | None = None
        self._alone = np.zeros(0, np.bool_)  # whether the neighbours of a landmark are not known
        self.next_episode = 0
        self.version = 0
        self.looks = 0

    def __len__(self) -> int:
        return len(self.moments)

    # -- laying landmarks ---------------------------------------------------------------------------------------------

    def add(self, latents: Tensor, goals: Tensor, episode: int, steps: Array) -> NDArray[np.int64]:
        """Take in a stretch of an episode: lay landmarks where there are none, and note which ways were walked.

        Args:
            latents: of the moments, `[T, Z]`.
            goals: the same moments as goal embeddings, `[T, G]`.
            episode: number of the episode.
            steps: when in the episode, `[T]`, ascending; ways are noted between moments that follow each other.

        Returns:
            the landmark that each moment belongs to, `[T]`, or `NOWHERE`.
        """
        with torch.no_grad():
            states, targets = self.ruler.states(latents), self.ruler.goals(goals)
        at, begin = np.full(len(latents), NOWHERE), 0
        while begin < len(latents):
            part = slice(begin, begin + 512)
            near, gap = self.nearest(latents[part], states[part], targets[part])
            covered = gap <= self.options.spacing
            true = covered & self.imagined[near] if len(self) else np.zeros_like(covered)
            changes = true if len(self) >= self.options.max_landmarks else true | ~covered
            stop = int(changes.argmax()) if changes.any() else len(near)
            at[begin : begin + stop] = np.where(covered[:stop], near[:stop], NOWHERE)
            begin += stop
            if stop < len(near):
                one, moment = slice(begin, begin + 1), np.array([[episode, int(steps[begin])]])
                if true[stop]:
                    at[begin] = near[stop]
                    self._come_true(int(near[stop]), moment, latents[one], goals[one])
                else:
                    at[begin] = len(self)
                    self.place(moment, latents[one], goals[one])
                begin += 1
        pairs = np.stack([at[:-1], at[1:]], axis=-1)
        self.walk(pairs[(pairs != NOWHERE).all(axis=-1) & (pairs[:, 0] != pairs[:, 1])])
        return at

    def place(self, moments: NDArray[np.int64], latents: Tensor, goals: Tensor) -> None:
        """Lay landmarks at these moments `[n, 2]`, wherever others are."""
        self.moments = np.concatenate([self.moments, moments])
        self.expanded = np.concatenate([self.expanded, np.zeros(len(moments), np.bool_)])
        self._alone = np.concatenate([self._alone, np.ones(len(moments), np.bool_)])
        self.latents, self.goals = torch.cat([self.latents, latents]), torch.cat([self.goals, goals])
        with torch.no_grad():
            self.states = torch.cat([self.states, self.ruler.states(latents)])
            self.targets = torch.cat([self.targets, self.ruler.goals(goals)])
        self._into, self._columns = None, None
        self.version += 1

    @torch.no_grad()
    def imagine(self, landmark: int, latents: Tensor) -> None:
        """Lay landmarks where nobody was, if there are none near: what may lie beyond a landmark.

        Whoever comes to one makes it true.

        Args:
            landmark: beyond which.
            latents: where one would get from it, `[n, Z]`.
        """
        goals = self.model.goal_point(latents)
        states, targets = self.ruler.states(latents), self.ruler.goals(goals)
        self.expanded[landmark] = True
        self.version += 1
        gone = self.targets[torch.from_numpy(self.moments[:, 0] == DISMISSED)]
        again = (self.ruler.steps(states, gone) <= self.closeness * self.options.spacing / 2).any(dim=1).tolist()
        for row in range(len(latents)):
            one = slice(row, row + 1)
            _, gap = self.nearest(latents[one], states[one], targets[one])
            if (
                gap[0] > 0.8 * self.closeness * self.options.spacing
                and not again[row]
                and len(self) < self.options.max_landmarks
            ):
                self.place(np.full((1, 2), NOWHERE), latents[one], goals[one])

    def dismiss(self, landmarks: Array) -> None:
        """Take imagined landmarks (indices) for places where nobody can be: no way leads there any more."""
        self.moments[landmarks[self.imagined[landmarks]]] = DISMISSED
        self.version += 1

    LOOKS = 3
    """How often it is looked for ways before what was found closed is doubted, each time more closely."""

    @property
    def closeness(self) -> float:
        """How much nearer to others than at first landmarks are imagined."""
        return float(0.7**self.looks)

    def reconsider(self) -> None:
        """Look more closely for ways where none is left; if that was of no use, doubt all that was found closed.

        That is what was imagined and not found, what failed, and what was in the way.
        """
        self.looks = (self.looks + 1) % self.LOOKS
        if self.looks:
            self.expanded[:] = False
            self.version += 1
            return
        self.moments[self.moments[:, 0] == DISMISSED] = NOWHERE
        self.expanded[:] = False
        self.failed[:] = 0
        self.obstacles = self.obstacles[:0]
        self.version += 1

    def _come_true(self, landmark: int, moment: NDArray[np.int64], z: Tensor, goal: Tensor) -> None:
        """Put an imagined landmark where somebody was."""
        self.moments[landmark], self.latents[landmark], self.goals[landmark] = moment[0], z[0], goal[0]
        self.states[landmark], self.targets[landmark] = self.ruler.states(z)[0], self.ruler.goals(goal)[0]
        self.expanded[landmark], self._alone[landmark], self._columns = False, True, None
        legs = np.flatnonzero((self.edges == landmark).any(axis=1))
        self.length[legs] = self._measured(self.edges[legs])
        self.version += 1

    @property
    def toll(self) -> float:
        """Steps that a way counts more for each obstacle in between."""
        return OBSTACLE * self.options.spacing

    @property
    def believed(self) -> float:
        """Distance up to which ways are believed that nobody walked."""
        return self.options.reach if self.options.believe is None else self.options.believe

    @property
    def unknown(self) -> NDArray[np.bool_]:
        """Which landmarks nobody was at yet, or looked beyond, and may be there, `[N]`."""
        return np.asarray((self.moments[:, 0] == NOWHERE) | (~self.imagined & ~self.expanded))

    @property
    def proven(self) -> NDArray[np.bool_]:
        """Which edges were walked, and not tried in vain since, `[E]`."""
        return np.asarray((self.walked > 0) & (self.failed == 0))

    @property
    def imagined(self) -> NDArray[np.bool_]:
        """Which landmarks nobody was at yet, `[N]`."""
        return np.asarray(self.moments[:, 0] < 0)

    @torch.no_grad()
    def nearest(self, z: Tensor, states: Tensor, targets: Tensor) -> tuple[NDArray[np.int64], Array]:
        """The landmark nearest to each of `n` moments and its distance, the longer way counting; inf without landmarks.

        Args:
            z: latents `[n, Z]`.
            states: the same as features of states.
            targets: the same as features of goals.
        """
        if not len(self):
            return np.zeros(len(z), np.int64), np.full(len(z), np.inf, np.float32)
        candidates = self._alike(z, 8)
        there, back = self._both_ways(states, targets, candidates)
        gaps = torch.maximum(there, back)
        if len(self.obstacles):  # a landmark behind a wall is not near
            repeated, ends = states.repeat_interleave(candidates.shape[1], 0), self.targets[candidates].flatten(0, 1)
            hits = self.obstructed(repeated, ends, there.flatten().cpu().numpy())
            gaps = gaps.masked_fill(torch.from_numpy(hits > 0).to(gaps.device).reshape(gaps.shape), torch.inf)
        gone = torch.from_numpy(self.moments[:, 0] == DISMISSED).to(z.device)[candidates]
        gap, best = gaps.masked_fill(gone, torch.inf).min(dim=1)
        return candidates.gather(1, best[:, None])[:, 0].cpu().numpy(), gap.cpu().numpy()

    def _alike(self, z: Tensor, count: int) -> Tensor:
        """The landmarks `[n, count]` (or all) whose latents are nearest to latents `[n, Z]`, the nearest first."""
        # As a matrix product it takes five times as long for the few latents of a decision.
        few = "donot_use_mm_for_euclid_dist" if len(z) <= FEW else "use_mm_for_euclid_dist_if_necessary"
        distances = torch.cdist(z, self.latents, compute_mode=few)
        return distances.topk(min(count, len(self)), largest=False).indices

    def walk(self, pairs: NDArray[np.int64]) -> None:
        """Note that these ways `[n, 2]` were walked; each time makes up for one in vain."""
        if not len(pairs):
            return
        ways, counts = np.unique(pairs, axis=0, return_counts=True)
        at = self._edges_of(ways)
        self.walked[at] += counts
        self.brushed[at] = 0
        self.failed[at] = np.maximum(self.failed[at] - counts, 0)
        self.version += 1

    @torch.no_grad()
    def obstruct(self, beyond: Tensor, again: bool = False) -> None:
        """Note that one should have come to latents `[1, Z]` and did not: all edges that lead through there failed.

        The first few on a way that was walked, and not tried in vain since, are passed over: they stand beside it.

        Args:
            beyond: where one should have come to.
            again: whether one did not get anywhere the moment before either: walked ways count both as one.
        """
        there = self.ruler.goals(self.model.goal_point(beyond))
        known = self.ruler.steps(self.ruler.states(self.obstacles), there)
        if len(known) and float(known.min()) <= self.options.spacing / 4:
            return
        through = self._on_edges(beyond)[:, 0]
        beside = through & self.proven
        self.brushed[beside] += not again
        if beside.any() and self.brushed[beside].max() < BRUSHES:
            return
        self.obstacles = torch.cat([self.obstacles, beyond])
        self.fail(np.flatnonzero(through))

    @torch.no_grad()
    def clear(self, before: Tensor, after: Tensor) -> None:
        """Take away obstacles that somebody came through, from latents `[n, Z]` to those of the next moment."""
        if not len(self.obstacles):
            return
        begin, end = self.ruler.states(before), self.ruler.goals(self.model.goal_point(after))
        steps = self.ruler.paired(begin, end.unsqueeze(1))[:, 0].cpu().numpy()
        gone = self._through(self.obstacles, begin, end, steps).any(axis=0)
        if not gone.any():
            return
        rows = torch.from_numpy(gone).to(self.obstacles.device)
        self.failed = np.maximum(self.failed - self._on_edges(self.obstacles[rows]).sum(axis=1), 0).astype(np.float32)
        self.obstacles = self.obstacles[~rows]
        self.version += 1

    @torch.no_grad()
    def obstructed(self, begin: Tensor, end: Tensor, length: Array) -> NDArray[np.int64]:
        """How many obstacles lie between, as far as the learned distance tells.

        Args:
            begin: features of states `[n, ...]`.
            end: features of goals, `[n, ...]`.
            length: learned steps from each of them to its own, `[n]`.
        """
        return np.asarray(self._through(self.obstacles, begin, end, length).sum(axis=1))

    def _on_edges(self, places: Tensor) -> NDArray[np.bool_]:
        """Whether places `[k, Z]` lie between the ends of edges, `[E, k]`."""
        begin, end = torch.from_numpy(self.edges).to(self.latents.device).unbind(dim=1)
        return self._through(places, self.states[begin], self.targets[end], self.length)

    def _through(self, places: Tensor, begin: Tensor, end: Tensor, length: Array) -> NDArray[np.bool_]:
        """Whether places `[k, Z]` lie between, `[n, k]`: whether going through them is hardly a detour."""
        if not len(places) or not len(begin):
            return np.zeros((len(begin), len(places)), np.bool_)
        there = self.ruler.steps(begin, self.ruler.goals(self.model.goal_point(places)))
        back = self.ruler.steps(self.ruler.states(places), end).T
        return np.asarray((there + back).cpu().numpy() - length[:, None] <= self.options.spacing / 6)

    def fail(self, edges: NDArray[np.int64]) -> None:
        """Note that these edges (indices) were tried in vain."""
        self.failed[edges] += 1
        self.version += 1

    def _edges_of(self, ways: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices of the edges along these ways `[n, 2]`, which are made where there are none."""
        new = [way for way in map(tuple, ways.tolist()) if way not in self._index]
        if new:
            for way in new:
                self._index[way] = len(self._index)
            added, self._into = np.array(new, np.int64), None
            self.edges = np.concatenate([self.edges, added])
            self.length = np.concatenate([self.length, self._measured(added)])
            begin, end = torch.from_numpy(added).to(self.latents.device).unbind(dim=1)
            failed = self.obstructed(self.states[begin], self.targets[end], self.length[-len(new) :])
            self.walked = np.concatenate([self.walked, np.zeros(len(new), np.float32)])
            self.failed = np.concatenate([self.failed, failed.astype(np.float32)])
            self.brushed = np.concatenate([self.brushed, np.zeros(len(new), np.int64)])
        return np.array([self._index[way] for way in map(tuple, ways.tolist())], np.int64)

    def _both_ways(self, states: Tensor, targets: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
        """Learned steps `[n, k]` from moments, as features of states and of goals, to landmarks `[n, k]`; and back."""
        there = self.ruler.paired(states, self.targets[near])
        of_each = targets.repeat_interleave(near.shape[1], 0).unsqueeze(1)
        return there, self.ruler.paired(self.states[near].flatten(0, 1), of_each).reshape(there.shape)

    def _measured(self, ways: NDArray[np.int64]) -> NDArray[np.float32]:
        """Learned steps along ways `[n, 2]`, at least 1."""
        begin, end = torch.from_numpy(ways).to(self.latents.device).unbind(dim=1)
        steps = self.ruler.paired(self.states[begin], self.targets[end].unsqueeze(1))[:, 0]
        return np.asarray(np.maximum(steps.cpu().numpy(), 1), np.float32)

    BELIEVED = 512
    """Landmarks whose neighbours are looked for at once."""

    def believe(self) -> None:
        """Join landmarks that were laid since the last call with those that the learned distance says are near."""
        alone, count = np.flatnonzero(self._alone), min(self.CANDIDATES, len(self))
        if not len(alone):
            return
        kept, ways = min(self.options.neighbours + 1, count), []  # one of them is the landmark itself
        for rows in torch.split(torch.from_numpy(alone).to(self.latents.device), self.BELIEVED):
            near = self._alike(self.latents[rows], count)
            out, back = self._both_ways(self.states[rows], self.targets[rows], near)
            here = rows[:, None].expand_as(near)
            for steps, begin, end in ((out, here, near), (back, near, here)):
                least = steps.topk(kept, largest=False)
                begin, end = begin.gather(1, least.indices), end.gather(1, least.indices)
                short = least.values <= self.believed
                ways.append(torch.stack([begin[short], end[short]], dim=-1))
        pairs = torch.cat(ways).cpu().numpy()
        self._edges_of(np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0))
        self._alone[:] = False
        self.version += 1

    # -- merging landmarks --------------------------------------------------------------------------------------------

    SAME = 0.5
    """Spacings, by the longer of both ways, within which two landmarks are one place: half as near as they are laid."""

    def merge(self) -> int:
        """Make one of landmarks that turn out to be one place, as a better model may show; returns how many are gone.

        The older one stays, with the ways of both and all that was lived through on them. No leg of a way becomes
        longer by more than twice `SAME` spacings. Landmarks that somebody failed to go between, or that an obstacle is
        between, stay two. Sparse graphical memory (Emmons et al. 2020) merges by what is near either way, too.
        """
        before = len(self)
        while (into := self._doubles()) is not None:
            self._join(into)
        return before - len(self)

    @torch.no_grad()
    def _doubles(self) -> NDArray[np.int64] | None:
        """The landmark that each is to be merged into, `[N]`, itself for most; None if there is nothing to merge."""
        into, lived = np.arange(len(self)), np.flatnonzero(~self.imagined)
        rows = torch.from_numpy(lived).to(self.latents.device)
        z = self.latents[rows]
        near = rows[torch.cdist(z, z).topk(min(self.CANDIDATES, len(z)), largest=False).indices]  # [n, k]
        gap = torch.maximum(*self._both_ways(self.states[rows], self.targets[rows], near)).cpu().numpy()
        close = np.argwhere(gap <= self.SAME * self.options.spacing)
        for row, column in close[np.lexsort((gap[tuple(close.T)], close[:, 0]))].tolist():  # the nearest first
            one, other = int(near[row, column]), int(lived[row])
            # What an older one is merged into is decided by now, so that nothing is merged twice.
            merged = np.flatnonzero(into == one).tolist() if one < other and into[other] == other else []
            if merged and not any(self._are_apart(member, other) for member in merged):
                into[other] = one
        return None if (into == np.arange(len(self))).all() else into

    def _are_apart(self, one: int, other: int) -> bool:
        """Whether something stands between two landmarks that are near each other."""
        for begin, end in ((one, other), (other, one)):
            edge = self._index.get((begin, end))
            if edge is not None and self.failed[edge] > 0:
                return True
            if not len(self.obstacles):
                continue
            length = self._measured(np.array([[begin, end]]))
            if self.obstructed(self.states[begin : begin + 1], self.targets[end : end + 1], length)[0]:
                return True
        return False

    def _join(self, into: NDArray[np.int64]) -> None:
        """Merge landmarks into others, `[N]`, which stay."""
        kept = np.unique(into)
        number = np.searchsorted(kept, into)
        ways = number[self.edges]
        apart = ways[:, 0] != ways[:, 1]
        self.edges, which = np.unique(ways[apart], axis=0, return_inverse=True)
        self._into, self._columns = None, None
        self._index = {(begin, end): edge for edge, (begin, end) in enumerate(self.edges.tolist())}
        self.walked, self.failed = (
            np.bincount(which.reshape(-1), counts[apart], len(self.edges)).astype(np.float32)
            for counts in (self.walked, self.failed)
        )
        self.brushed = np.zeros(len(self.edges), np.int64)
        self.expanded = np.bincount(number, self.expanded).astype(np.bool_)
        self.moments, rows = self.moments[kept], torch.from_numpy(kept).to(self.latents.device)
        self.latents, self.goals = self.latents[rows], self.goals[rows]
        self.states, self.targets = self.states[rows], self.targets[rows]
        self.length = self._measured(self.edges)
        self._alone = np.ones(len(self), np.bool_)  # those that stay may have other neighbours now
        self.version += 1

    # -- finding ways -------------------------------------------------------------------------------------------------

    def trust(self, length: Array | float) -> Any:
        """How likely a way of a learned length is thought to work before it was tried: 1 to 1/2 if it is believed."""
        return 1 - 0.5 * (length / self.believed)

    def costs(self) -> NDArray[np.float64]:
        """Expected steps of each edge, `[E]`: its length over the chance that it works, and a toll where it failed."""
        prior, closed = np.clip(self.trust(self.length), 1 / self.options.hope, 1.0), 0.0
        if self.imagined.any():
            least = self.moments[:, 0][self.edges].min(axis=-1, initial=0)
            prior[least < 0] = 1 / self.options.hope
            closed = CLOSED * (least == DISMISSED)
        chance = (self.walked + prior) / (self.walked + 1)
        return np.asarray(self.length / chance + self.toll * self.failed + closed, np.float64)

    @torch.no_grad()
    def to_goal(self, end: Tensor) -> NDArray[np.float64]:
        """Learned steps `[N]` of the last leg from each landmark to a goal `[...]`, as features."""
        if self._columns is None:
            self._columns = self.states.T.contiguous()
        return np.asarray(self.ruler.to_one(self._columns, end).cpu().numpy(), np.float64)

    def expected(self, last: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expected steps of a last leg of so many learned ones; beyond belief, `hope` times as many.

        Not from where it was imagined what lies beyond: that is where to set out from.
        """
        within = last <= self.believed
        far = np.where(self.expanded | (self.moments[:, 0] == DISMISSED), np.inf, self.options.hope * last)
        return np.where(within, last / np.where(within, self.trust(last), 1.0), far)

    def ways(
        self, last: NDArray[np.float64], costs: NDArray[np.float64] | None = None
    ) -> tuple[Array, NDArray[np.int64]]:
        """Shortest ways of all landmarks to a goal (Dijkstra 1959).

        Args:
            last: expected steps of the last leg from each landmark, `[N]`, as of `expected`.
            costs: expected steps of the edges, `[E]`, inf where there is no way; None for those of `costs`.

        Returns:
            expected steps to the goal, `[N]`; and the next landmark on the way, `[N]`, which is `N` for the goal.
        """
        count, (order, backwards) = len(self), self._edges_into()
        backwards.data = np.concatenate([self.costs() if costs is None else costs, last])[order]
        value, successor = dijkstra(backwards, indices=count, return_predecessors=True)
        return value[:count], np.where(successor[:count] < 0, NOWHERE, successor[:count]).astype(np.int64)

    def _edges_into(self) -> tuple[NDArray[np.int64], Any]:
        """Edges by where they lead and where they begin, those to the goal last: numbers, and a matrix for costs."""
        if self._into is None:
            count = len(self)
            last = np.stack([np.arange(count), np.full(count, count)], axis=-1)
            begin, end = np.concatenate([self.edges, last]).T
            numbers = csr_matrix((np.arange(len(begin)), (end, begin)), shape=(count + 1, count + 1))
            self._into = numbers.data, numbers.astype(np.float64)
        return self._into

    @torch.no_grad()
    def steps_nearby(self, z: Tensor, states: Tensor, ends: Tensor) -> Array:
        """Learned steps `[B, N+1]` to the landmarks that look nearest, and inf to all others; and, last, to a goal.

        Args:
            z: latents `[B, Z]`.
            states: the same as features.
            ends: goals `[B, ...]` as features.
        """
        near = self._alike(z, self.NEARBY)
        found = self.ruler.paired(states, torch.cat([embedding(near, self.targets), ends.unsqueeze(1)], dim=1))
        measured, steps = found.cpu().numpy(), np.full((len(z), len(self) + 1), np.inf, np.float32)
        steps[np.arange(len(z))[:, None], near.cpu().numpy()], steps[:, -1] = measured[:, :-1], measured[:, -1]
        return steps

    def length_of(self, begin: int, end: int) -> float:
        """Learned steps along an edge."""
        return float(self.length[self._index[begin, end]])

    def was_walked(self, begin: int, end: int) -> bool:
        """Whether somebody came along this way."""
        edge = self._index.get((begin, end))
        return edge is not None and bool(self.walked[edge] > 0)

    def between(self, near: Array, beyond: Array) -> NDArray[np.int64]:
        """The edges (indices) that lead from landmarks in `near` to landmarks in `beyond`, both `[N]` bool."""
        if not len(self.edges):
            return np.zeros(0, np.int64)
        return np.flatnonzero(near[self.edges[:, 0]] & beyond[self.edges[:, 1]])


# -- from and to a store ----------------------------------------------------------------------------------------------


def open_graph(
    model: WorldModel,
    store: EpisodeStore,
    options: GraphOptions,
    on_episode: Callable[[int, int], None] | None = None,
) -> LandmarkGraph:
    """The graph of a store: what was kept there, and every episode of the model's environment since.

    Args:
        model: made for goals.
        store: of episodes.
        options: see `GraphOptions`; landmarks laid with other ones are kept.
        on_episode: told how many of how many episodes were taken in.

    Raises:
        GraphError: what was kept does not fit the store.
    """
    graph = LandmarkGraph(model, options)
    note = store.note(note_name(NOTE, model.spec))
    if note is not None:
        _restore(graph, store, note)
    new = [i for i in store.ids(spec=model.spec).tolist() if i >= graph.next_episode]
    for number, episode_id in enumerate(new):
        seen = _seen(model, store, episode_id, options.stride)
        if seen is None:
            continue
        graph.add(seen[0], seen[1], episode_id, seen[2])
        graph.next_episode = episode_id + 1
        if on_episode is not None:
            on_episode(number + 1, len(new))
    graph.believe()
    return graph


def _seen(
    model: WorldModel, store: EpisodeStore, episode_id: int, stride: int = 1
) -> tuple[Tensor, Tensor, NDArray[np.int64]] | None:
    """`moments_of` an episode; None if the process that writes has given it up meanwhile."""
    try:
        with store.reading() as reader:
            obs = {k: reader.array(episode_id, f"obs/{k}") for k in model.spec.obs}
            return moments_of(model, obs, reader.array(episode_id, "actions"), stride)
    except GivenUpError:
        return None


def recall(model: WorldModel, store: EpisodeStore, episode_id: int) -> tuple[Tensor, Tensor] | None:
    """All moments of an episode, latents `[T, Z]` and goal embeddings `[T, G]`; None if it is not in the store."""
    seen = _seen(model, store, episode_id) if episode_id in store.ids() else None
    return None if seen is None else seen[:2]


def save_graph(graph: LandmarkGraph, store: EpisodeStore) -> None:
    """Keep landmarks, and of the edges all that was lived through, in the notes of a store."""
    imagined = graph.imagined
    lived = (graph.walked > 0) | (graph.failed > 0) | imagined[graph.edges].any(axis=-1)
    arrays = {
        # What was imagined has no moment: it is kept as this very model saw it.
        "imagined_latents": graph.latents[torch.from_numpy(imagined)].cpu().numpy(),
        "imagined_goals": graph.goals[torch.from_numpy(imagined)].cpu().numpy(),
        "obstacles": graph.obstacles.cpu().numpy(),
        "model": np.frombuffer(encoder_key(graph.model, 1), np.uint8),
        "moments": graph.moments,
        "expanded": graph.expanded,
        "edges": graph.edges[lived],
        "walked": graph.walked[lived],
        "failed": graph.failed[lived],
        "next_episode": np.array([graph.next_episode]),
    }
    note = save({k: np.ascontiguousarray(v) for k, v in arrays.items()})
    store.annotate({note_name(NOTE, graph.model.spec): note})


def _restore(graph: LandmarkGraph, store: EpisodeStore, note: bytes) -> None:
    """Put what was noted into an empty graph. Landmarks of episodes that are gone are gone, with their ways."""
    model = graph.model
    try:
        arrays = load(note)
        moments, edges = arrays["moments"], arrays["edges"]
        number, order = np.full(len(moments), NOWHERE), list[NDArray[np.int64]]()
        rows: list[tuple[Tensor, Tensor]] = []
        for episode_id in np.unique(moments[moments[:, 0] >= 0, 0]).tolist():
            mine = np.flatnonzero(moments[:, 0] == episode_id)
            seen = _seen(model, store, episode_id)
            if seen is None:
                continue
            latents, goals, _ = seen
            at = torch.from_numpy(moments[mine, 1]).to(latents.device)
            rows.append((latents[at], goals[at]))
            order.append(mine)
        if bytes(arrays["model"]) == encoder_key(model, 1):
            like = graph.latents
            rows.append(
                (torch.tensor(arrays["imagined_latents"]).to(like), torch.tensor(arrays["imagined_goals"]).to(like))
            )
            order.append(np.flatnonzero(moments[:, 0] < 0))
            graph.obstacles = torch.tensor(arrays["obstacles"]).to(like)
        if rows:
            found = np.concatenate(order)
            graph.place(moments[found], *(torch.cat(part) for part in zip(*rows, strict=True)))
            number[found] = np.arange(len(found))
            graph.expanded = arrays["expanded"][found]
            alive = (number[edges] != NOWHERE).all(axis=-1)
            kept = graph._edges_of(number[edges[alive]])
            graph.walked[kept], graph.failed[kept] = arrays["walked"][alive], arrays["failed"][alive]
            if bytes(arrays["model"]) != encoder_key(model, 1):
                graph.merge()  # another model may see one place where there were two
        graph.next_episode = int(arrays["next_episode"][0])
    except (KeyError, IndexError, ValueError, SafetensorError) as error:
        raise GraphError(f"the graph kept in {store.path} does not fit it: {error!r}") from error
