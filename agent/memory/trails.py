"""Trails: what was lived through between two landmarks, for ways that are not straight.

Landmarks are far enough apart for a corner to lie between two of them, of which the learned distance knows nothing
where the model has never seen the place. What was walked there is in memory, moment by moment, and leads round it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .graph import LandmarkGraph

Recall = Callable[[int], tuple[Tensor, Tensor] | None]
"""Gives all moments of an episode by its number, as latents `[T, Z]` and as goal embeddings `[T, G]`; None if it is not
in memory, or not yet."""


class Trails:
    """Ways between landmarks as they were walked.

    Args:
        graph: of the landmarks.
        recall: gives episodes; None knows of no trail.
    """

    LONGEST = 4
    """Spacings' worth of moments within which one landmark was on the way to another, and not the start of a detour."""
    LOOP = 1.5
    """Learned steps within which two moments are one place: what was done between them is left out."""
    AHEAD = 2
    """Moments beyond the nearest one that are headed for."""

    def __init__(self, graph: LandmarkGraph, recall: Recall | None = None) -> None:
        self.graph, self.recall = graph, recall
        self._known: dict[tuple[int, ...], Tensor] = {}

    def between(self, begin: int, end: int) -> Tensor | None:
        """Goal embeddings `[n, G]` from one landmark to another as an episode laid both; None if none did."""
        moments = self.graph.moments[[begin, end]]
        (episode, first), (same, last) = moments.tolist()
        within = 1 < last - first <= self.LONGEST * self.graph.options.spacing
        if self.recall is None or episode != same or episode < 0 or not within:
            return None
        key = tuple(moments.ravel().tolist())
        if key not in self._known:
            lived = self.recall(episode)
            if lived is None or len(lived[0]) <= last:
                return None
            self._known[key] = self._without_loops(*(part[first : last + 1] for part in lived))
        return self._known[key]

    def onward(self, trail: Tensor, state: Tensor) -> Tensor:
        """Where to head for along a trail `[n, G]` from a state `[1, ...]` as features: a goal embedding `[G]`."""
        ruler = self.graph.ruler
        nearest = int(ruler.steps(state, ruler.goals(trail))[0].argmin())
        return trail[min(nearest + self.AHEAD, len(trail) - 1)]

    def _without_loops(self, z: Tensor, goals: Tensor) -> Tensor:
        ruler = self.graph.ruler
        with torch.no_grad():
            near = (ruler.steps(ruler.states(z), ruler.goals(goals)) <= self.LOOP).tolist()
        at, kept = 0, [0]
        while at < len(z) - 1:
            at = max((later for later in range(at + 1, len(z)) if near[at][later]), default=at + 1)
            kept.append(at)
        return goals[kept]
