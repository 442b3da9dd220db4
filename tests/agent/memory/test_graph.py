"""Landmarks on a plane whose distances are known: what is laid, joined, found, kept and found again."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from forethought.agent.memory.graph import (
    BRUSHES,
    CLOSED,
    DISMISSED,
    NOTE,
    NOWHERE,
    GraphError,
    GraphOptions,
    LandmarkGraph,
    Ruler,
    open_graph,
    recall,
    save_graph,
)
from forethought.agent.memory.moments import moments_of, note_name
from forethought.agent.memory.store import EpisodeReader, EpisodeStore, GivenUpError
from forethought.agent.world_model.model import WorldModel

Maker = Callable[..., Any]
LINE = np.stack([np.arange(13), np.zeros(13)], axis=-1)
"""Thirteen places from left to right, one step apart."""


def options(**changes: Any) -> GraphOptions:
    return GraphOptions(**{"spacing": 2.0, "reach": 5.0, "stride": 1, **changes})


def added(model: WorldModel, *paths: Any, **changes: Any) -> LandmarkGraph:
    graph = LandmarkGraph(model, options(**changes))
    for episode, path in enumerate(paths):
        z = torch.as_tensor(np.asarray(path), dtype=torch.float32)
        graph.add(z, z, episode, np.arange(len(z)))
    graph.believe()
    return graph


def laid(model: WorldModel, places: Any, ways: Any, **changes: Any) -> LandmarkGraph:
    """A graph with landmarks at these places and nothing but these ways, each walked once."""
    graph = LandmarkGraph(model, options(**changes))
    z = torch.as_tensor(np.asarray(places), dtype=torch.float32)
    graph.place(np.stack([np.zeros(len(z), np.int64), np.arange(len(z))], axis=-1), z, z)
    graph.walk(np.asarray(ways, np.int64).reshape(-1, 2))
    return graph


def edges(graph: LandmarkGraph) -> dict[tuple[int, int], float]:
    """How often each way was walked."""
    return {(int(a), int(b)): float(n) for (a, b), n in zip(graph.edges, graph.walked, strict=True)}


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neighbours": 0}, "neighbours must be at least 1, got 0"),
        ({"max_landmarks": 0}, "max_landmarks must be at least 1, got 0"),
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"believe": 0.0}, "believe must be positive or None, got 0.0"),
        ({"hope": 0.5}, "hope must be at least 1.0, got 0.5"),
        ({"hope": float("nan")}, "hope must be at least 1.0, got nan"),
        ({"spacing": 5.0}, "spacing must be between 0 and reach=5.0, got 5.0"),
        ({"spacing": 0.0}, "spacing must be between 0 and reach=5.0, got 0.0"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        options(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"spacing": 3.0},
        {"reach": 8.0},
        {"believe": 3.0},
        {"neighbours": 1},
        {"max_landmarks": 3},
        {"stride": 3},
        {"hope": 2.0},
    ],
)
def test_every_option_changes_what_is_found(
    plane_model: Maker, walk: Maker, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with EpisodeStore.open(tmp_path, "a", plane_model().spec) as store:
        store.append(walk(LINE * 1.3))
        plain, other = (open_graph(plane_model(), store, options(**c)) for c in ({}, changes))

    def found(graph: LandmarkGraph) -> list[list[float]]:
        last = graph.expected(graph.to_goal(graph.ruler.goals(torch.tensor([[40.0, 0.0]]))[0]))
        return [graph.moments.ravel().tolist(), graph.edges.ravel().tolist(), graph.ways(last)[0].tolist()]

    assert found(plain) == found(open_graph_again(plain))
    assert found(plain) != found(other)


def open_graph_again(graph: LandmarkGraph) -> LandmarkGraph:
    again = LandmarkGraph(graph.model, graph.options)
    again.add(*[torch.as_tensor(LINE * 1.3, dtype=torch.float32)] * 2, 0, np.arange(len(LINE)))
    again.believe()
    return again


# -- laying landmarks --------------------------------------------------------------------------------------------------


@given(
    path=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40),
    back=st.sampled_from([1.0, 2.5]),
    spacing=st.sampled_from([0.5, 2.0, 4.5]),
)
@settings(max_examples=50, deadline=None)
def test_landmarks_cover_what_was_visited_and_keep_their_distance(
    plane_model: Maker, path: list[float], back: float, spacing: float
) -> None:
    z = torch.tensor([[x, 0.0] for x in path])
    graph = LandmarkGraph(plane_model(back), options(spacing=spacing))
    at = graph.add(z, z, 3, np.arange(len(z)))
    steps = graph.ruler.steps(z, z)
    either_way = torch.maximum(steps, steps.T)
    marks = torch.from_numpy(graph.moments[:, 1])
    assert (at != NOWHERE).all()
    assert (either_way[torch.arange(len(z)), marks[torch.from_numpy(at)]] <= spacing).all()
    apart = either_way[marks][:, marks] + 100 * torch.eye(len(marks))
    assert (apart > spacing).all()
    assert (graph.moments[:, 0] == 3).all()
    assert torch.equal(graph.latents, z[marks])


def test_a_stretch_may_be_added_in_pieces(plane_model: Maker) -> None:
    """Landmarks are the same whether moments come one by one or all at once."""
    z = torch.tensor(LINE, dtype=torch.float32)
    whole, pieces = (LandmarkGraph(plane_model(), options()) for _ in range(2))
    at = whole.add(z, z, 0, np.arange(len(z)))
    one_by_one = [int(pieces.add(z[t : t + 1], z[t : t + 1], 0, np.array([t]))[0]) for t in range(len(z))]
    assert at.tolist() == one_by_one
    np.testing.assert_array_equal(whole.moments, pieces.moments)


def test_there_are_no_more_landmarks_than_allowed(plane_model: Maker) -> None:
    graph = LandmarkGraph(plane_model(), options(max_landmarks=2))
    z = torch.tensor(LINE, dtype=torch.float32)
    at = graph.add(z, z, 0, np.arange(len(z)))
    assert at.tolist() == [0, 0, 0, 1, 1, 1, *[NOWHERE] * 7]
    assert edges(graph) == {(0, 1): 1}


def test_ways_that_were_walked_are_edges(plane_model: Maker) -> None:
    graph = added(plane_model(), LINE, LINE[:5], reach=2.5)  # nothing else is near enough to be believed
    assert graph.moments.tolist() == [[0, 0], [0, 3], [0, 6], [0, 9], [0, 12]]
    assert edges(graph) == {(0, 1): 2, (1, 2): 1, (2, 3): 1, (3, 4): 1}
    assert graph.length.tolist() == [3.0] * 4


def test_near_landmarks_are_believed_to_be_joined_in_the_direction_that_is_short(plane_model: Maker) -> None:
    graph = added(plane_model(back=2.0), LINE, spacing=4.0, reach=6.0)
    assert graph.moments[:, 1].tolist() == [0, 3, 6, 9, 12]
    found = edges(graph)
    walked = {way for way, count in found.items() if count}
    assert walked == {(i, i + 1) for i in range(4)}
    # three to the right is 3 steps, six is 6; back to the left twice as many
    assert set(found) - walked == {(i, i + 2) for i in range(3)} | {(i + 1, i) for i in range(4)}
    assert {way: graph.length_of(*way) for way in found} == {
        (a, b): 3.0 * (b - a) if b > a else 6.0 * (a - b) for a, b in found
    }


def test_neighbours_are_looked_for_in_parts_and_once(plane_model: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = added(plane_model(), LINE)
    monkeypatch.setattr(LandmarkGraph, "BELIEVED", 2)
    graph, measured = added(plane_model(), LINE), list[int]()
    assert edges(graph) == edges(whole)
    graph.place(np.full((1, 2), NOWHERE), torch.tensor([[13.0, 4.0]]), torch.tensor([[13.0, 4.0]]))
    graph.believe()
    alike = graph._alike
    monkeypatch.setattr(graph, "_alike", lambda z, count: (measured.append(len(z)), alike(z, count))[1])
    graph._come_true(len(graph) - 1, np.array([[0, 9]]), torch.tensor([[12.0, 3.0]]), torch.tensor([[12.0, 3.0]]))
    graph.believe()
    graph.believe()
    assert measured == [1]


@pytest.mark.parametrize("neighbours", [1, 2])
def test_only_so_many_neighbours_are_believed(plane_model: Maker, neighbours: int) -> None:
    graph = laid(plane_model(), [[x, 0.0] for x in (0, 3, 7, 12, 18)], [], reach=30.0, neighbours=neighbours)
    graph.believe()
    nearest = {0: [1, 2], 1: [0, 2], 2: [1, 3], 3: [2, 4], 4: [3, 2]}
    kept = {(a, b) for a, near in nearest.items() for b in near[:neighbours]}
    assert set(edges(graph)) == kept | {(b, a) for a, b in kept}


def test_what_is_believed_does_not_depend_on_when(plane_model: Maker) -> None:
    """Landmarks that come later are joined to earlier ones too, in both directions."""
    graph = added(plane_model(), LINE[:7], reach=3.5)
    z = torch.tensor(LINE[7:], dtype=torch.float32)
    graph.add(z, z, 1, np.arange(len(z)))
    graph.believe()
    assert set(edges(graph)) == set(edges(added(plane_model(), LINE, reach=3.5))) | {(2, 3), (3, 2)}


@pytest.mark.parametrize("most", [2, 9])
def test_an_imagined_landmark_comes_true_where_somebody_comes(plane_model: Maker, most: int) -> None:
    graph = added(plane_model(), LINE[:1], max_landmarks=most)
    place = torch.tensor([[4.0, 0.0]])
    graph.place(np.full((1, 2), NOWHERE), place, place)
    graph.believe()
    assert graph.imagined.tolist() == [False, True]
    assert edges(graph) == {(0, 1): 0, (1, 0): 0}  # believed, as others are
    z = torch.tensor([[1.0, 0.0], [5.0, 0.0]])
    at = graph.add(z, z, 7, np.array([20, 21]))
    assert at.tolist() == [0, 1]
    assert graph.moments.tolist() == [[0, 0], [7, 21]]
    assert torch.equal(graph.latents[1], z[1])
    assert graph.length.tolist() == [5, 5], "of where it is now"
    assert edges(graph) == {(0, 1): 1, (1, 0): 0}


def test_an_imagined_landmark_that_is_not_there_is_headed_for_no_more(plane_model: Maker) -> None:
    graph = laid(plane_model(), [[0, 0], [3, 0], [6, 0]], [])
    graph.moments[1] = NOWHERE
    graph.walk(np.array([[0, 1], [1, 2]]))
    before = graph.ways(np.array([np.inf, np.inf, 1.0]))[0]
    graph.dismiss(np.array([0, 1]))
    assert graph.moments[:, 0].tolist() == [0, DISMISSED, 0]  # what somebody was at is not dismissed
    assert before[0] <= 10
    assert graph.ways(np.array([np.inf, np.inf, 1.0]))[0][0] >= CLOSED


def test_what_leads_through_an_obstacle_fails(plane_model: Maker) -> None:
    places = [[0, 0], [4, 0], [0, 3], [4, 3]]
    graph = laid(plane_model(), places, [(0, 1), (1, 0), (2, 3), (0, 2)])
    graph.walked[[graph._index[way] for way in ((0, 1), (1, 0))]] = 0

    def failed() -> dict[tuple[int, int], float]:
        return {way: float(graph.failed[edge]) for way, edge in graph._index.items() if graph.failed[edge]}

    graph.obstruct(torch.tensor([[2.0, 0.0]]))
    assert failed() == {(0, 1): 1, (1, 0): 1}
    graph.obstruct(torch.tensor([[2.0, 0.1]]))
    assert len(graph.obstacles) == 1, "it is the same one"
    assert failed() == {(0, 1): 1, (1, 0): 1}
    graph.walk(np.array([[0, 1], [1, 3]]))
    assert failed() == {(1, 0): 1}, "who comes through makes up for it"
    graph.place(np.array([[0, 9]]), torch.tensor([[5.0, 0.0]]), torch.tensor([[5.0, 0.0]]))
    graph.believe()
    behind = graph._index[0, 4]
    assert graph.failed[behind] == 1, "what is new and leads through it is taken to fail"
    assert graph.costs()[behind] > graph.toll


def test_what_is_met_on_a_way_that_was_walked_closes_it_if_it_is_met_again_and_again_or_after_it_failed(
    plane_model: Maker,
) -> None:
    bump = torch.tensor([[2.0, 0.1]])
    graph = laid(plane_model(), [[0, 0], [4, 0]], [(0, 1)])
    for _ in range(2):
        graph.walk(np.array([[0, 1]]))
        for _ in range(BRUSHES - 1):
            graph.obstruct(bump)
        assert (len(graph.obstacles), graph.failed.tolist()) == (0, [0])
    graph.obstruct(bump)
    assert (len(graph.obstacles), graph.failed.tolist()) == (1, [1])
    graph = laid(plane_model(), [[0, 0], [4, 0]], [(0, 1)])
    graph.fail(np.array([0]))
    graph.obstruct(bump)
    assert (len(graph.obstacles), graph.failed.tolist()) == (1, [2])


def test_pressing_against_one_place_counts_once_on_a_way_that_was_walked(plane_model: Maker) -> None:
    graph, bump = laid(plane_model(), [(0, 0), (2, 0)], [(0, 1)]), torch.tensor([[1.0, 0.0]])
    graph.walk(np.array([[0, 1]]))
    for _ in range(2 * BRUSHES):
        graph.obstruct(bump, again=True)
    assert graph.proven.tolist() == [True]
    for _ in range(BRUSHES):
        graph.obstruct(bump)
    assert graph.proven.tolist() == [False]


def test_where_somebody_comes_through_is_no_obstacle(plane_model: Maker) -> None:
    graph = laid(plane_model(), [[0, 0], [4, 0], [0, 3], [4, 3]], [(0, 1), (2, 3)])
    graph.walked[:] = 0
    for place in ([2.0, 0.0], [2.0, 3.0]):
        graph.obstruct(torch.tensor([place]))
    assert graph.failed.tolist() == [1, 1]
    version = graph.version
    graph.clear(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 1.0]]))
    assert len(graph.obstacles) == 2, "it went past them"
    assert graph.version == version
    graph.clear(torch.tensor([[0.0, 1.0], [1.6, 0.0]]), torch.tensor([[1.0, 1.0], [2.6, 0.0]]))
    assert graph.obstacles.tolist() == [[2.0, 3.0]]
    assert graph.failed.tolist() == [0, 1]
    assert graph.version > version


def test_a_landmark_behind_an_obstacle_is_not_near(plane_model: Maker) -> None:
    graph = added(plane_model(), LINE[:1])
    graph.obstruct(torch.tensor([[1.0, 0.0]]))
    z = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    at = graph.add(z, z, 3, np.array([0, 1]))
    assert at.tolist() == [1, 0]


def test_all_that_was_found_closed_can_be_doubted(plane_model: Maker) -> None:
    graph = laid(plane_model(), [[0, 0], [3, 0]], [(0, 1)])
    graph.moments[1] = NOWHERE
    graph.obstruct(torch.tensor([[1.5, 0.0]]))
    graph.dismiss(np.array([1]))
    assert graph.costs()[0] >= CLOSED
    graph.expanded[:] = True
    for _ in range(graph.LOOKS - 1):  # more closely first
        before = graph.closeness
        graph.reconsider()
        assert graph.closeness < before
        assert not graph.expanded.any()
        assert graph.costs()[0] >= CLOSED
    graph.reconsider()
    assert graph.closeness == 1.0
    assert graph.costs()[0] < graph.toll
    assert graph.imagined.tolist() == [False, True]


# -- finding ways ------------------------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 9),
    density=st.floats(0, 1),
    barred=st.floats(0, 0.5),
)
@settings(max_examples=60, deadline=None)
def test_ways_are_the_shortest(plane_model: Maker, seed: int, count: int, density: float, barred: float) -> None:
    rng = np.random.default_rng(seed)
    pairs = [(a, b) for a in range(count) for b in range(count) if a != b and rng.random() < density]
    graph = laid(plane_model(2.0), rng.uniform(-9, 9, (count, 2)), pairs)
    graph.fail(rng.integers(len(pairs), size=2) if pairs else np.zeros(0, np.int64))
    last = np.where(rng.random(count) < 0.5, np.inf, rng.uniform(0, 20, count))
    closed = rng.random(len(pairs)) < barred
    value, successor = graph.ways(last, graph.costs() + CLOSED * closed)
    costs = dict(zip(pairs, graph.costs() + CLOSED * closed, strict=True)) if pairs else {}
    best = last.copy()
    for _ in range(count):  # Bellman and Ford
        for (a, b), cost in costs.items():
            best[a] = min(best[a], cost + best[b])
    np.testing.assert_allclose(value, best)
    for landmark in range(count):
        follows = int(successor[landmark])
        if not np.isfinite(best[landmark]):
            assert follows == NOWHERE or not np.isfinite(last[landmark])
        elif follows == count:
            assert best[landmark] == pytest.approx(last[landmark])
        else:
            assert best[landmark] == pytest.approx(costs[landmark, follows] + best[follows])


def test_without_landmarks_there_are_no_ways(plane_model: Maker) -> None:
    graph = LandmarkGraph(plane_model(), options())
    value, successor = graph.ways(np.zeros(0))
    assert value.shape == successor.shape == (0,)
    assert graph.between(np.zeros(0, bool), np.zeros(0, bool)).tolist() == []


def test_a_way_that_failed_costs_more_until_it_is_walked_again(plane_model: Maker) -> None:
    graph = laid(plane_model(), [[0, 0], [4, 0], [0, 4]], [[0, 1], [0, 2]], reach=6.0)
    costs, versions = [graph.costs()], [graph.version]
    for _ in range(3):
        graph.fail(np.array([0]))
        costs.append(graph.costs())
        versions.append(graph.version)
    mine, other = np.stack(costs).T
    assert (np.diff(mine) > 0).all()
    assert (np.diff(other) == 0).all()
    assert (np.diff(versions) > 0).all()
    graph.walk(np.array([[0, 1]]))
    assert mine[1] < graph.costs()[0] < mine[3]
    graph.walk(np.array([[0, 1], [0, 1], [0, 1]]))
    assert graph.costs()[0] < mine[1]
    assert graph.failed.tolist() == [0, 0]


def test_what_was_walked_often_costs_its_length(plane_model: Maker) -> None:
    graph = laid(plane_model(), [[0, 0], [4, 0]], [[0, 1]] * 1000, reach=6.0)
    assert graph.costs()[0] == pytest.approx(4.0, rel=1e-3)


@pytest.mark.parametrize(("length", "cost"), [(2.0, 2 / (1 - 1 / 6)), (6.0, 12.0), (9.0, 27.0)])
def test_the_last_leg_costs_more_the_less_it_is_to_be_trusted(plane_model: Maker, length: float, cost: float) -> None:
    graph = laid(plane_model(), [[0, 0]], [], reach=6.0, hope=3.0)
    assert graph.expected(graph.to_goal(graph.ruler.goals(torch.tensor([[length, 0.0]]))[0])) == pytest.approx([cost])


def test_edges_between_two_groups_of_landmarks(plane_model: Maker) -> None:
    graph = laid(plane_model(), [[0, 0], [3, 0], [6, 0]], [[0, 1], [1, 0], [1, 2]])
    found = graph.between(np.array([True, True, False]), np.array([False, True, True]))
    assert graph.edges[found].tolist() == [[0, 1], [1, 2]]


# -- merging landmarks -------------------------------------------------------------------------------------------------


@given(data=st.data(), count=st.integers(2, 14), back=st.sampled_from([1.0, 2.0]))
@settings(max_examples=60, deadline=None)
def test_merging_keeps_all_ways_and_all_that_was_lived_through(
    plane_model: Maker, data: st.DataObject, count: int, back: float
) -> None:
    places = data.draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=count, max_size=count))
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(lambda pair: pair[0] != pair[1])
    graph = laid(plane_model(back), np.array(places) / 2, data.draw(st.lists(pairs, max_size=30)))
    graph.expanded[0] = True
    graph.fail(np.flatnonzero(np.arange(len(graph.edges)) % 3 == 0))
    names, old, radius = [tuple(m) for m in graph.moments.tolist()], known(graph), graph.SAME * graph.options.spacing
    length = {way: graph.length_of(*way) for way in edges(graph)}
    apart = graph.ruler.steps(graph.states, graph.targets).numpy()
    apart = np.maximum(apart, apart.T)
    failed = {way for way, counts in old["ways"].items() if counts[1] > 0}
    into = graph._doubles()
    gone = graph.merge()
    number = np.arange(count) if into is None else np.searchsorted(np.unique(into), into)
    assert len(graph) == count - gone == number.max() + 1
    kept = [names.index(tuple(m)) for m in graph.moments.tolist()]
    assert (apart[np.arange(count), np.array(kept)[number]] <= radius).all(), "only what is near is one place"
    for i, one in enumerate(kept):
        for other in kept[:i]:
            ways = (known(graph)["ways"].get((names[a], names[b]), (0, 0)) for a, b in ((one, other), (other, one)))
            doubted = any(counts[1] > 0 for counts in ways)
            assert apart[one, other] > radius or doubted, "what is near stays two only where going between them failed"
    moved = dict[tuple[int, int], np.ndarray[Any, Any]]()
    for (begin, end), steps in length.items():
        way = (int(number[begin]), int(number[end]))
        if way[0] != way[1]:
            moved[way] = moved.get(way, np.zeros(2)) + old["ways"][names[begin], names[end]]
            assert graph.length_of(*way) <= steps + 2 * radius, "no leg becomes longer than by what ends were moved"
    assert {way: tuple(counts) for way, counts in moved.items()} == {
        way: known(graph)["ways"][names[kept[way[0]]], names[kept[way[1]]]] for way in edges(graph)
    }
    assert all(number[begin] != number[end] for begin, end in length if (names[begin], names[end]) in failed)
    assert graph.expanded.tolist() == [k == number[0] for k in range(len(graph))]
    assert graph.merge() == 0


def test_what_was_merged_is_joined_to_its_neighbours_anew(plane_model: Maker) -> None:
    graph = laid(plane_model(), [(0, 0), (0.4, 0), (4, 0), (8, 0)], [(1, 2)])
    assert graph.merge() == 1
    assert edges(graph) == {(0, 1): 1.0}
    graph.believe()
    assert set(edges(graph)) == {(0, 1), (1, 0), (1, 2), (2, 1)}
    graph.walk(np.array([[0, 1]]))
    assert edges(graph)[0, 1] == 2.0


def test_landmarks_on_two_sides_of_an_obstacle_stay_two(plane_model: Maker) -> None:
    graph = laid(plane_model(), [(0, 0), (1, 0), (0, 9)], [(0, 2)])
    graph.obstruct(torch.tensor([[0.5, 0.0]]))
    assert graph.merge() == 0
    graph.obstacles = graph.obstacles[:0]
    assert graph.merge() == 1


def test_what_was_only_imagined_is_merged_with_nothing(plane_model: Maker) -> None:
    graph = laid(plane_model(), [(0, 0), (9, 0)], [(0, 1)])
    graph.place(np.full((2, 2), NOWHERE), torch.zeros(2, 2), torch.zeros(2, 2))
    graph.dismiss(np.array([3]))
    assert graph.merge() == 0
    assert LandmarkGraph(plane_model(), options()).merge() == 0


# -- the ruler ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("distance", "floor"), [("pairwise", True), ("quasimetric", True), ("quasimetric", False)])
def test_the_ruler_measures_what_the_model_says(
    toy_spec: Maker, toy_model: Maker, distance: str, floor: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ruler, "ELEMENTS", 64)  # in several parts
    model = toy_model(toy_spec("state", "achieved"), distance=distance, distance_floor=floor)
    if distance == "quasimetric":
        model.time_to_goal.get_buffer("pace").fill_(3.0)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(7, model.latent_dim, generator=generator)
    goals = torch.randn(5, model.goal_dim, generator=generator)
    ruler = Ruler(model)
    with torch.no_grad():
        steps = model.steps_to_goal(z[:, None].expand(-1, 5, -1), goals[None].expand(7, -1, -1))
        expected = steps.mean(dim=0) + (steps.std(dim=0, unbiased=False) if distance == "quasimetric" else 0)
        found = ruler.steps(ruler.states(z), ruler.goals(goals))
        nearest = torch.tensor([[0, 1], [4, 4], [2, 3], [1, 0], [3, 3], [0, 0], [2, 1]])
        paired = ruler.paired(ruler.states(z), ruler.goals(goals)[nearest])
        to_one = ruler.to_one(ruler.states(z).T.contiguous(), ruler.goals(goals)[2])
    torch.testing.assert_close(to_one, expected[:, 2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(paired, expected.gather(1, nearest), rtol=1e-4, atol=1e-4)


def test_the_way_to_a_goal_is_measured_from_where_landmarks_are_now(plane_model: Maker) -> None:
    def steps(graph: LandmarkGraph) -> list[float]:
        return list(graph.to_goal(graph.ruler.goals(torch.zeros(1, 2))[0]))

    graph = laid(plane_model(), [[3, 4], [6, 8], [6, 8.1]], [])
    graph.moments[1] = NOWHERE
    assert steps(graph) == pytest.approx([7, 14, 14.1], abs=0.01)
    z = torch.tensor([[6.0, 8.1]])
    graph._come_true(1, np.array([[0, 7]]), z, z)
    assert steps(graph) == pytest.approx([7, 14.1, 14.1], abs=0.01)
    graph.merge()
    assert steps(graph) == pytest.approx([7, 14.1], abs=0.01)
    graph.place(np.array([[0, 8]]), torch.zeros(1, 2), torch.zeros(1, 2))
    assert steps(graph) == pytest.approx([7, 14.1, 0], abs=0.01)


@pytest.mark.parametrize("recurrence", ["none", "gru"])
def test_moments_are_what_the_model_believes_at_the_time(
    toy_spec: Maker, toy_model: Maker, toy_obs: Maker, toy_actions: Maker, recurrence: str
) -> None:
    model = toy_model(recurrence=recurrence)
    obs, actions = toy_obs(model.spec, (1, 8)), toy_actions(model.spec, (1, 7))
    latents, goals, at = moments_of(model, {k: v[0].numpy() for k, v in obs.items()}, actions[0].numpy(), 3)
    with torch.no_grad():
        expected = model.encode_sequence(obs, actions)[0, ::3]
        reached = model.embed_reached({k: v[0, ::3] for k, v in obs.items()})
    assert at.tolist() == [0, 3, 6]
    torch.testing.assert_close(latents, expected)
    torch.testing.assert_close(goals, reached)


# -- from and to a store -----------------------------------------------------------------------------------------------


@pytest.fixture
def store(plane_model: Maker, walk: Maker, tmp_path: Path) -> Iterator[EpisodeStore]:
    """Three walks: to the right, up from the middle of it, and back."""
    up = np.stack([np.full(10, 6.0), np.arange(10.0)], axis=-1)
    with EpisodeStore.open(tmp_path, "a", plane_model().spec) as store:
        store.append_many([walk(LINE), walk(up), walk(LINE[::-1])])
        yield store


def known(graph: LandmarkGraph) -> dict[str, Any]:
    """What a graph holds, by episode and step instead of by number."""
    name = [tuple(moment) for moment in graph.moments.tolist()]
    place = {n: tuple(z) for n, z in zip(name, graph.latents.tolist(), strict=True)}
    ways = {
        (name[a], name[b]): (float(walked), float(failed))
        for (a, b), walked, failed in zip(graph.edges.tolist(), graph.walked, graph.failed, strict=True)
    }
    beyond = {n for n, looked in zip(name, graph.expanded.tolist(), strict=True) if looked}
    return {"place": place, "ways": ways, "expanded": beyond, "next": graph.next_episode}


def test_a_graph_is_kept_with_its_store(plane_model: Maker, store: EpisodeStore) -> None:
    graph = open_graph(plane_model(), store, options())
    graph.fail(np.array([0, len(graph.edges) - 1]))
    graph.expanded[1:3] = True
    save_graph(graph, store)
    told: list[tuple[int, int]] = []
    again = open_graph(plane_model(), store, options(), lambda *counts: told.append(counts))
    assert told == []  # no episode is taken in twice
    assert store.notes(NOTE) == [note_name(NOTE, plane_model().spec)]
    assert known(again) == known(graph)
    assert {(0, 0), (0, 3), (1, 3)} <= set(known(graph)["place"])


def test_an_episode_is_recalled_as_the_model_sees_it(plane_model: Maker, store: EpisodeStore) -> None:
    model, episode = plane_model(), int(store.ids()[0])
    lived = recall(model, store, episode)
    assert lived is not None
    with store.reading() as reader:
        (key,) = model.spec.obs
        seen = torch.tensor(reader.array(episode, f"obs/{key}"))
    assert all(torch.equal(part, seen) for part in lived)
    assert recall(model, store, store.next_id) is None


def test_an_episode_that_is_given_up_meanwhile_is_passed_over(
    plane_model: Maker, store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = EpisodeReader.array

    def array(self: EpisodeReader, episode_id: int, name: str) -> Any:
        if episode_id == 0:
            raise GivenUpError("episode 0 was given up")
        return read(self, episode_id, name)

    monkeypatch.setattr(EpisodeReader, "array", array)
    graph = open_graph(plane_model(), store, options())
    assert len(graph)
    assert 0 not in graph.moments[:, 0]


def test_a_kept_graph_sees_the_episodes_that_came_since(plane_model: Maker, walk: Maker, store: EpisodeStore) -> None:
    save_graph(open_graph(plane_model(), store, options()), store)
    store.append(walk(LINE + np.array([0.0, 20.0])))
    told: list[tuple[int, int]] = []
    after = open_graph(plane_model(), store, options(), lambda *counts: told.append(counts))
    assert told == [(1, 1)]
    store.annotate({note_name(NOTE, plane_model().spec): None})
    assert known(after) == known(open_graph(plane_model(), store, options()))
    assert {moment[0] for moment in known(after)["place"]} == {0, 1, 3}


def test_landmarks_of_episodes_that_are_gone_are_gone(plane_model: Maker, store: EpisodeStore) -> None:
    graph = open_graph(plane_model(), store, options())
    graph.fail(np.arange(len(graph.edges)))
    save_graph(graph, store)
    store.forget([1])
    after, before = known(open_graph(plane_model(), store, options())), known(graph)
    assert after["place"] == {name: z for name, z in before["place"].items() if name[0] != 1}
    kept = {way: counts for way, counts in before["ways"].items() if way[0][0] != 1 and way[1][0] != 1}
    assert after["ways"] == kept
    assert len(kept) < len(before["ways"])


def test_a_graph_of_a_memory_without_episodes_is_empty(plane_model: Maker, store: EpisodeStore) -> None:
    save_graph(open_graph(plane_model(), store, options()), store)
    store.forget([0, 1, 2])
    assert len(open_graph(plane_model(), store, options())) == 0


def test_latents_are_those_of_the_model_that_opens(plane_model: Maker, store: EpisodeStore) -> None:
    """What was walked outlives a model; how far it is says the next one."""
    graph = open_graph(plane_model(), store, options())
    save_graph(graph, store)
    other = open_graph(plane_model(back=3.0), store, options(reach=12.0))
    assert known(other)["place"] == known(graph)["place"]
    back = [way for way in edges(other) if other.latents[way[0], 0] > other.latents[way[1], 0] and edges(other)[way]]
    assert back
    assert all(other.length_of(*way) == 9.0 for way in back)


def test_what_another_model_takes_for_one_place_is_merged_on_opening(plane_model: Maker, store: EpisodeStore) -> None:
    model = plane_model()
    graph = open_graph(model, store, options())
    save_graph(graph, store)
    assert known(open_graph(model, store, options())) == known(graph)
    model.normalizer.get_buffer("count").fill_(1)
    model.normalizer.get_buffer("squares").fill_(16)  # all is four times as near
    fewer = open_graph(model, store, options())
    assert len(fewer) < len(graph)
    assert known(fewer)["place"].keys() < known(graph)["place"].keys()


def test_a_note_that_is_no_graph_is_refused(plane_model: Maker, store: EpisodeStore) -> None:
    store.annotate({note_name(NOTE, plane_model().spec): save({"moments": np.zeros((1, 2), np.int64)})})
    with pytest.raises(GraphError, match=r"the graph kept in .* does not fit it: KeyError\('edges'\)"):
        open_graph(plane_model(), store, options())


def test_other_environments_in_the_store_are_not_looked_at(
    plane_model: Maker, walk: Maker, store: EpisodeStore
) -> None:
    spec = dataclasses.replace(plane_model().spec, env_id="Other-v0")
    store.append(walk(LINE + np.array([50.0, 0.0])), spec=spec)
    graph = open_graph(plane_model(), store, options())
    assert float(graph.latents[:, 0].max()) == 12.0


def test_one_id_may_be_several_environments(plane_model: Maker, walk: Maker, store: EpisodeStore) -> None:
    slow = plane_model()
    slow.spec = dataclasses.replace(slow.spec, control_dt=2 * slow.spec.control_dt)
    store.append(walk(LINE + np.array([50.0, 0.0])), spec=slow.spec)
    before = open_graph(plane_model(), store, options())
    for model in (slow, plane_model()):
        save_graph(open_graph(model, store, options()), store)
    assert len(store.notes(NOTE)) == 2
    assert known(open_graph(plane_model(), store, options())) == known(before)
    assert float(open_graph(slow, store, options()).latents[:, 0].min()) >= 50.0


def test_imagined_landmarks_are_kept_for_the_model_that_imagined_them(plane_model: Maker, store: EpisodeStore) -> None:
    model = plane_model()
    graph = open_graph(model, store, options())
    graph.place(np.full((1, 2), NOWHERE), torch.full((1, 2), 40.0), torch.full((1, 2), 40.0))
    graph.obstruct(torch.full((1, 2), 20.0))
    save_graph(graph, store)
    again = open_graph(model, store, options())
    assert {name[0] for name in known(again)["place"]} == {NOWHERE, 0, 1}
    assert again.obstacles.tolist() == [[20.0, 20.0]]
    model.normalizer.get_buffer("mean").add_(1)
    again = open_graph(model, store, options())
    assert {name[0] for name in known(again)["place"]} == {0, 1}
    assert not len(again.obstacles)


def test_a_note_that_is_nothing_is_refused(plane_model: Maker, store: EpisodeStore) -> None:
    store.annotate({note_name(NOTE, plane_model().spec): b"nothing"})
    with pytest.raises(GraphError):
        open_graph(plane_model(), store, options())
