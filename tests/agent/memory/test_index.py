"""Moments like the present one on a plane where all is known: what is found, what is suggested, what is kept."""

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from forethought.agent.agent import Agent, AgentOptions
from forethought.agent.memory import index as module
from forethought.agent.memory.index import (
    NOTE,
    ExactSearch,
    FaissSearch,
    RetrievalError,
    RetrievalOptions,
    encoder_key,
    make_search,
    open_index,
)
from forethought.agent.memory.moments import note_name
from forethought.agent.memory.store import EpisodeStore, StoreError
from forethought.agent.objectives import GoalObjective, GoalOptions
from forethought.planners import make_planner

Maker = Callable[..., Any]
H = 4
RIGHT, UP = (np.stack([np.arange(13.0) * (axis == 0), np.arange(13.0) * (axis == 1)], axis=-1) for axis in (0, 1))
"""Walks from the origin along each of the axes."""


@pytest.fixture
def store(plane_model: Maker, walk: Maker, tmp_path: Path) -> Iterator[EpisodeStore]:
    """Two walks from the origin, and one that comes by there and is over too soon to tell of."""
    with EpisodeStore.open(tmp_path / "memory", "a", plane_model().spec) as store:
        store.append_many([walk(RIGHT), walk(UP), walk([[0.1, 0.1], [0.1, 0.0], [0.0, 0.0]])])
        yield store


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": -1}, "seeds must be at least 0, got -1"),
        ({"neighbours": 0}, "neighbours must be at least 1, got 0"),
        ({"seeds": 65}, "neighbours must be at least 65, got 64"),
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"search": "annoy"}, "search must be one of auto, exact, faiss, got 'annoy'"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RetrievalError, match=message):
        RetrievalOptions(**changes)


# -- searching ---------------------------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 60),
    wanted=st.integers(1, 70),
    rows=st.integers(1, 20),
    offset=st.sampled_from([0.0, 1000.0]),
)
@settings(max_examples=60, deadline=None)
def test_the_exact_search_finds_the_nearest(seed: int, count: int, wanted: int, rows: int, offset: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    points, z = (torch.randn(n, 3, generator=generator) + offset for n in (count, 5))
    before, ExactSearch.ROWS = ExactSearch.ROWS, rows
    try:
        found, distance = ExactSearch(points).nearest(z, wanted)
    finally:
        ExactSearch.ROWS = before
    expected = (points[None] - z[:, None]).double().square().sum(dim=-1).sqrt().sort(dim=1).values
    assert found.shape == distance.shape == (5, min(wanted, count))
    torch.testing.assert_close(distance.double(), expected[:, :wanted], rtol=1e-3, atol=1e-3)
    assert all(len(set(row)) == len(row) for row in found.tolist())
    assert torch.allclose((points[found] - z[:, None]).square().sum(dim=-1).sqrt(), distance, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="needs faiss")
@pytest.mark.parametrize("count", [0, 1, 30, 5000])
def test_faiss_finds_nearly_the_same(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    points, z = (torch.randn(n, 4, generator=generator) for n in (count, 50))
    rows, distance = FaissSearch(points).nearest(z, 10)
    expected, _ = ExactSearch(points).nearest(z, 10)
    assert rows.shape == distance.shape == expected.shape
    hits = sum(len(set(a) & set(b)) for a, b in zip(rows.tolist(), expected.tolist(), strict=True))
    assert hits >= 0.9 * expected.numel()


@pytest.mark.skipif(importlib.util.find_spec("faiss") is not None, reason="faiss is here")
def test_faiss_that_is_asked_for_and_missing_is_named_with_its_extra() -> None:
    with pytest.raises(RetrievalError, match=r"search=faiss needs faiss: pip install 'forethought\[ann\]'"):
        make_search(torch.zeros(3, 2), "faiss")


def test_faiss_is_for_many_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FaissSearch", lambda points: "faiss")
    monkeypatch.setattr(module, "MANY", 5)

    def chosen(count: int, kind: str, installed: bool) -> bool:
        spec = object() if installed else None
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "faiss" else object())
        return bool(make_search(torch.zeros(count, 2), kind) == "faiss")

    assert [chosen(n, "auto", True) for n in (5, 6)] == [False, True]
    assert not chosen(6, "auto", False)
    assert not chosen(6, "exact", True)
    assert chosen(1, "faiss", True)


# -- moments and their sequels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_moments_stand_where_they_came_from(plane_model: Maker, store: EpisodeStore, stride: int) -> None:
    index = open_index(plane_model(), store, RetrievalOptions(stride=stride))
    lived = {i: store.get(i).obs["position"] for i in range(3)}
    assert [tuple(m) for m in index.moments.tolist()] == [
        (i, t) for i in lived for t in range(0, len(lived[i]), stride)
    ]
    for (episode, step), z in zip(index.moments.tolist(), index.latents, strict=True):
        np.testing.assert_array_equal(z.numpy(), lived[episode][step])


def test_only_moments_with_a_sequel_of_that_length_are_found(plane_model: Maker, store: EpisodeStore) -> None:
    index = open_index(plane_model(), store, RetrievalOptions())
    z = torch.tensor([[0.1, 0.1], [12.0, 0.0]])
    for horizon, nearest in ((0, [[2, 0], [0, 12]]), (2, [[2, 0], [0, 10]]), (3, [[0, 0], [0, 9]])):
        rows, _ = index.nearest(z, 1, horizon)
        assert index.moments[rows[:, 0]].tolist() == nearest
    assert index.nearest(z, 99, 12)[0].shape == (2, 2)
    assert index.nearest(z, 99, 13)[0].shape == (2, 0)


@pytest.mark.parametrize("stride", [1, 2])
def test_what_is_suggested_led_toward_the_goal(plane_model: Maker, store: EpisodeStore, stride: int) -> None:
    """Of all that was done near the origin, what led along the axis of the goal."""
    index = open_index(plane_model(), store, RetrievalOptions(neighbours=4, stride=stride))
    z = torch.tensor([[0.2, 0.2], [0.2, 0.2], [8.0, 0.3]])
    goal = torch.tensor([[20.0, 0.0], [0.0, 20.0], [0.0, 20.0]])
    seeds = index.seeds(z, goal, H, 2)
    right, up = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert seeds.shape == (3, 2, H, 2)
    assert torch.equal(seeds[0], right.expand(2, H, 2))
    assert torch.equal(seeds[1], up.expand(2, H, 2))
    assert torch.equal(seeds[2], right.expand(2, H, 2))  # that was all that anybody did there


def test_suggestions_are_ordered_by_where_they_led(plane_model: Maker, walk: Maker, store: EpisodeStore) -> None:
    fast = np.stack([np.arange(8.0) * 0.5, np.full(8, 0.3)], axis=-1)
    store.append_many([walk(fast), walk(fast * [2.0, 1.0])])
    index = open_index(plane_model(), store, RetrievalOptions(neighbours=64))
    z, goal = torch.zeros(1, 2), torch.tensor([[30.0, 0.0]])
    ends = z[:, None] + index.seeds(z, goal, H, 64).sum(dim=2)
    rows, _ = index.nearest(z, 64, H)
    there = index.latents[rows[0] + H]
    expected = (goal - there).abs().sum(dim=-1).sort().values
    best = index.latents[rows[0][(goal - there).abs().sum(dim=-1).argsort(stable=True)]]
    assert torch.allclose(ends[0] + best, there[(goal - there).abs().sum(dim=-1).argsort(stable=True)], atol=1e-5)
    assert (expected.diff() >= 0).all()


def test_the_distance_is_that_from_the_end_to_the_goal(plane_model: Maker, walk: Maker, tmp_path: Path) -> None:
    model = plane_model(back=10.0)
    away = [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]], [[0.0, 0.0], [-1.5, 0.0], [-3.0, 0.0]]
    with EpisodeStore.open(tmp_path, "a", model.spec) as store:
        store.append_many([walk(path) for path in away])
        index = open_index(model, store, RetrievalOptions())
    # from 2 back to 0 are 20 steps, from -3 up to 0 are 3
    assert index.seeds(torch.zeros(1, 2), torch.zeros(1, 2), 2, 1)[0, 0, :, 0].tolist() == [-1.5, -1.5]


def test_where_memory_holds_less_there_are_fewer(plane_model: Maker, store: EpisodeStore) -> None:
    index = open_index(plane_model(), store, RetrievalOptions())
    z = torch.zeros(3, 2)
    assert index.seeds(z, z, 11, 64).shape == (3, 4, 11, 2)
    assert index.seeds(z, z, 13, 5).shape == (3, 0, 13, 2)
    store.forget([0, 1, 2])
    nothing = open_index(plane_model(), store, RetrievalOptions())
    assert len(nothing) == 0
    assert nothing.seeds(z, z, H, 5).shape == (3, 0, H, 2)


@pytest.mark.parametrize(
    ("horizon", "count", "message"),
    [
        (2, 1, "horizon must be at least stride=3, got 2"),
        (3, 9, "count must be between 0 and neighbours=8, got 9"),
        (3, -1, "count must be between 0 and neighbours=8, got -1"),
    ],
)
def test_what_cannot_be_asked_for(
    plane_model: Maker, store: EpisodeStore, horizon: int, count: int, message: str
) -> None:
    index = open_index(plane_model(), store, RetrievalOptions(neighbours=8, stride=3))
    with pytest.raises(RetrievalError, match=message):
        index.seeds(torch.zeros(1, 2), torch.zeros(1, 2), horizon, count)


@pytest.mark.parametrize(
    "model",
    [{}, {"recurrence": "gru"}, {"distance": "quasimetric"}, {"encoder": "augmented"}],
)
@pytest.mark.parametrize("goal", ["observation", "achieved"])
def test_every_kind_of_model_retrieves(
    toy_spec: Maker, toy_model: Maker, make_episode: Maker, tmp_path: Path, model: dict[str, Any], goal: str
) -> None:
    made = toy_model(toy_spec("state", goal), **model)
    with EpisodeStore.open(tmp_path, "a", made.spec) as store:
        store.append_many([make_episode(made.spec, 9, seed) for seed in range(3)])
        index = open_index(made, store, RetrievalOptions(neighbours=9))
        lived = [store.get(i).actions for i in range(3)]
    seeds = index.seeds(index.latents[:2], torch.zeros(2, made.goal_dim), H, 5)
    windows = {part[t : t + H].tobytes() for part in lived for t in range(len(part) - H + 1)}
    assert {row.numpy().tobytes() for problem in seeds for row in problem} <= windows


# -- the cache ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the episodes that were encoded."""
    lengths: list[int] = []
    original = module.moments_of

    def counted(model: Any, obs: Any, actions: Any, stride: int = 1) -> Any:
        lengths.append(len(actions))
        return original(model, obs, actions, stride)

    monkeypatch.setattr(module, "moments_of", counted)
    return lengths


def same(one: Any, other: Any) -> bool:
    z = torch.tensor([[1.0, 0.5]])
    seeds = [index.seeds(z, 9 * z, H, 5) for index in (one, other)]
    return (
        np.array_equal(one.moments, other.moments) and torch.equal(one.latents, other.latents) and torch.equal(*seeds)
    )


def test_latents_are_kept_and_extended(
    plane_model: Maker, walk: Maker, store: EpisodeStore, encoded: list[int]
) -> None:
    told: list[tuple[int, int]] = []
    first = open_index(plane_model(), store, RetrievalOptions(), on_episode=lambda *counts: told.append(counts))
    assert store.notes() == [note_name(NOTE, plane_model().spec)]
    assert encoded == [12, 12, 2]
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert same(first, open_index(plane_model(), store, RetrievalOptions()))
    assert len(encoded) == 3
    store.append(walk(RIGHT[:6] + 0.5))
    more = open_index(plane_model(), store, RetrievalOptions())
    assert encoded[3:] == [5]
    assert len(more) == len(first) + 6
    store.forget([0])
    fewer = open_index(plane_model(), store, RetrievalOptions())
    assert encoded[4:] == []
    assert set(fewer.moments[:, 0].tolist()) == {1, 2, 3}
    store.annotate({note_name(NOTE, plane_model().spec): None})
    assert same(fewer, open_index(plane_model(), store, RetrievalOptions()))


def test_latents_of_another_encoder_or_stride_are_computed_anew(
    plane_model: Maker, store: EpisodeStore, encoded: list[int]
) -> None:
    model = plane_model()
    open_index(model, store, RetrievalOptions())
    model.normalizer.update_from(store, [0])
    again = open_index(model, store, RetrievalOptions())
    assert len(encoded) == 6
    assert again.latents[:, 0].abs().max() < 5
    open_index(model, store, RetrievalOptions(stride=2))
    assert len(encoded) == 9


@pytest.mark.parametrize("recurrence", ["none", "gru"])
@pytest.mark.parametrize("latent_norm", ["none", "layernorm", "simnorm"])
def test_the_key_follows_from_all_that_latents_come_from(toy_model: Maker, recurrence: str, latent_norm: str) -> None:
    options = {"recurrence": recurrence, "latent_norm": latent_norm}
    model, other = toy_model(**options), toy_model(**options)
    assert encoder_key(model, 1) == encoder_key(other, 1)
    assert encoder_key(model, 1) != encoder_key(model, 2)
    with torch.no_grad():
        next(other.dynamics.parameters()).add_(1.0)
        assert encoder_key(model, 1) == encoder_key(other, 1)  # predicts latents, and makes none
        changed = [other.encoder, other.normalizer] + ([other.recurrence] if recurrence == "gru" else [])
        for part in changed:
            before = encoder_key(other, 1)
            tensor = next(iter(part.state_dict().values()))
            tensor.add_(1)
            assert encoder_key(other, 1) != before
    kinds = {encoder_key(toy_model(latent_norm=norm), 1) for norm in ("none", "layernorm", "simnorm")}
    assert len(kinds) == 3


def test_a_note_that_says_nothing_is_replaced(plane_model: Maker, store: EpisodeStore, encoded: list[int]) -> None:
    first, name = open_index(plane_model(), store, RetrievalOptions()), note_name(NOTE, plane_model().spec)
    good = load(store.note(name) or b"")
    for bad in (
        b"nothing",
        save({"key": good["key"]}),
        save({**good, "latents": good["latents"][1:]}),
        save({**good, "ids": good["ids"] + 100}),
    ):
        encoded.clear()
        store.annotate({name: bad})
        assert same(first, open_index(plane_model(), store, RetrievalOptions()))
        assert len(encoded) == 3
        assert same(first, open_index(plane_model(), store, RetrievalOptions()))
        assert len(encoded) == 3


def test_a_damaged_note_is_replaced(
    plane_model: Maker, store: EpisodeStore, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_index(plane_model(), store, RetrievalOptions())

    def note(self: EpisodeStore, name: str) -> bytes | None:
        raise StoreError(f"note {name!r} does not match its checksum")

    with monkeypatch.context() as patch:
        patch.setattr(EpisodeStore, "note", note)
        assert same(first, open_index(plane_model(), store, RetrievalOptions()))
    assert len(encoded) == 6


def test_a_memory_that_is_only_read_stays_as_it_is(plane_model: Maker, store: EpisodeStore, encoded: list[int]) -> None:
    open_index(plane_model(), store, RetrievalOptions(), keep=False)
    assert store.notes() == []
    store.close()
    for _ in range(2):
        with EpisodeStore.open(store.path) as reading:
            index = open_index(plane_model(), reading, RetrievalOptions())
            assert reading.notes() == []
    assert len(encoded) == 9
    assert index.seeds(torch.zeros(1, 2), torch.ones(1, 2), H, 3).shape == (1, 3, H, 2)  # with the store closed


def test_other_environments_in_the_store_are_not_looked_at(
    plane_model: Maker, walk: Maker, store: EpisodeStore
) -> None:
    spec = dataclasses.replace(plane_model().spec, env_id="Other-v0")
    store.append(walk(RIGHT), spec=spec)
    assert 3 not in open_index(plane_model(), store, RetrievalOptions()).moments[:, 0]


# -- in planning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
def test_an_agent_tries_what_memory_suggests(plane_model: Maker, store: EpisodeStore, batch: int) -> None:
    """Searching costs nothing but the seeds here: all else that the planner draws is worse or the same."""
    model = plane_model()
    options = AgentOptions(plan_dtype="float32", retrieval=RetrievalOptions(seeds=3, neighbours=3))
    index = open_index(model, store, options.retrieval)
    seen: list[Any] = []

    class Watched(GoalObjective):
        def __call__(self, model: Any, trajectory: Any, goal: Any) -> Any:
            seen.append(trajectory.actions)
            return super().__call__(model, trajectory, goal)

    def act(with_index: bool) -> Any:
        low, high = torch.tensor(model.spec.action_low), torch.tensor(model.spec.action_high)
        planner = make_planner("cem", low, high, horizon=H, num_samples=8, num_elites=2, iterations=1)
        agent = Agent(
            model, planner, Watched(GoalOptions()), options, torch.Generator().manual_seed(0),
            index=index if with_index else None,
        )  # fmt: skip
        seen.clear()
        obs = {"position": np.zeros((batch, 2), np.float32)}
        agent.act(obs, agent.init(batch), torch.tensor([[9.0, 0.0]]).expand(batch, -1))
        return torch.cat([actions.reshape(-1, *actions.shape[-3:]) for actions in seen])[:batch]

    plain, remembered = act(False), act(True)
    expected = index.seeds(torch.zeros(batch, 2), torch.tensor([[9.0, 0.0]]).expand(batch, -1), H, 3)
    assert remembered.shape == plain.shape == (batch, 8, H, 2)

    def holds(candidates: Any, sequence: Any) -> bool:
        return bool((candidates - sequence).abs().flatten(1).amax(dim=1).min() < 1e-5)

    for row in range(batch):
        assert all(holds(remembered[row], seed) for seed in expected[row])
        assert not all(holds(plain[row], seed) for seed in expected[row])


def test_seeds_are_for_where_the_agent_is_to_go_next(plane_model: Maker, store: EpisodeStore) -> None:
    """What the configurator chose counts, not the goal of the episode."""
    model = plane_model()
    options = AgentOptions(plan_dtype="float32", retrieval=RetrievalOptions(seeds=2))
    asked: list[Any] = []

    class Elsewhere:
        learns = False

        def aim(self, z: Any, goal: Any, course: Any, left: Any = None) -> Any:
            return goal + 5, course

    class Asked:
        def seeds(self, z: Any, goal: Any, horizon: int, count: int) -> Any:
            asked.append((goal, horizon, count))
            return torch.zeros(len(z), count, horizon, 2)

    low, high = torch.tensor(model.spec.action_low), torch.tensor(model.spec.action_high)
    planner = make_planner("icem", low, high, horizon=H, num_samples=8, num_elites=2, iterations=2)
    parts: Any = Elsewhere(), Asked()
    agent = Agent(model, planner, GoalObjective(GoalOptions()), options, torch.Generator().manual_seed(0), *parts)
    agent.act({"position": np.zeros((2, 2), np.float32)}, agent.init(2), torch.ones(2, 2))
    ((goal, horizon, count),) = asked
    assert goal.tolist() == [[6.0, 6.0]] * 2
    assert (horizon, count) == (H, 2)
