"""Trails on a plane with exact distances: what was walked between two landmarks, without its loops."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from forethought.agent.memory.graph import GraphOptions, LandmarkGraph
from forethought.agent.memory.trails import Trails

Maker = Callable[..., Any]
# To the right, back a little, to the right again and up: the second landmark is laid at the sixth moment.
PATH = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.0], [1.0, 0.0], [1.5, 0.0], [1.5, 1.0], [1.5, 2.0], [1.5, 3.0]])


@pytest.fixture
def trails(plane_model: Maker) -> Trails:
    graph = LandmarkGraph(plane_model(), GraphOptions(spacing=2.0, reach=6.0, stride=1))
    graph.add(PATH, PATH, 3, np.arange(len(PATH)))
    graph.believe()
    assert graph.moments.tolist() == [[3, 0], [3, 5]]
    return Trails(graph, lambda episode: (PATH, PATH) if episode == 3 else None)


def test_a_trail_is_what_was_walked_without_its_loops(trails: Trails) -> None:
    trail = trails.between(0, 1)
    assert trail is not None
    assert trail.tolist() == [[0, 0], [1.5, 0], [1.5, 1]]


def test_there_is_no_trail_where_no_episode_went(trails: Trails) -> None:
    assert trails.between(1, 0) is None
    trails.graph.moments[1] = (3, 9)  # a detour lies between
    assert trails.between(0, 1) is None
    trails.graph.moments[1] = (4, 5)
    assert trails.between(0, 1) is None
    trails.graph.moments[:, 0] = -1  # imagined
    assert trails.between(0, 1) is None


def test_an_episode_that_is_not_in_memory_yet_is_asked_for_again(trails: Trails) -> None:
    known, trails.recall = trails.recall, lambda episode: None
    assert trails.between(0, 1) is None
    trails.recall = None
    assert trails.between(0, 1) is None
    trails.recall = known
    assert trails.between(0, 1) is not None
    trails.recall = lambda episode: pytest.fail("it was recalled before")
    assert trails.between(0, 1) is not None


@pytest.mark.parametrize(("place", "ahead"), [((0.1, 0.1), 2), ((0.9, 0.1), 3), ((2.1, 0.0), 4), ((9.0, 9.0), 4)])
def test_what_is_headed_for_lies_beyond_the_nearest_moment(
    trails: Trails, place: tuple[float, float], ahead: int
) -> None:
    trail = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]])
    state = trails.graph.ruler.states(torch.tensor([place]))
    assert torch.equal(trails.onward(trail, state), trail[ahead])
