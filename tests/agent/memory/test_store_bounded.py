"""A store with a bound on its size: what it keeps, what it says of the rest, and that the space is used again."""

import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.agent.memory import database
from forethought.agent.memory.sampler import SequenceSampler
from forethought.agent.memory.store import Episode, EpisodeReader, EpisodeStore, GivenUpError, MemoryOptions, StoreError
from forethought.envs.spec import EnvSpec

Maker = Callable[..., Episode]
Same = Callable[[Episode, Episode], None]


def bounded(max_bytes: int | None) -> MemoryOptions:
    return MemoryOptions(sync=False, max_bytes=max_bytes)


@pytest.fixture
def size(folder: Path, spec: EnvSpec, make_episode: Maker) -> int:
    """Bytes of an episode of 100 transitions."""
    with EpisodeStore.open(folder.with_name("size"), "a", spec) as store:
        return int(store.info(store.append(make_episode(spec, 100, 0), "key0"))["num_bytes"])


@pytest.fixture
def half_gone(folder: Path, spec: EnvSpec, make_episode: Maker, size: int) -> Path:
    """A closed store of 12 episodes of 100 transitions, of which it keeps 5."""
    with EpisodeStore.open(folder, "a", spec, bounded(5 * size + size // 2)) as store:
        for i in range(12):
            assert store.append(make_episode(spec, 100, i), f"key{i}") == i
    return folder


def test_the_newest_are_kept_and_numbers_keep_their_meaning(
    half_gone: Path, spec: EnvSpec, make_episode: Maker, assert_same: Same
) -> None:
    with EpisodeStore.open(half_gone, "a", spec) as store:
        assert (len(store), store.num_given_up, store.next_id, store.num_transitions) == (5, 7, 12, 500)
        assert store.ids().tolist() == store.ids("Toy-v0", spec=spec).tolist() == [7, 8, 9, 10, 11]
        assert store.ids(limit=2).tolist() == [7, 8]
        assert store.kept([11, 3, 7, 6]).tolist() == [11, 7]
        assert store.lengths().tolist() == [100] * 5
        assert store.lengths([0, 11]).tolist() == [100, 100]
        assert store.terminated([3]).tolist() == [make_episode(spec, 100, 3).terminated]
        for episode_id, episode in zip(range(7, 12), store, strict=True):
            assert_same(episode, make_episode(spec, 100, episode_id))
        assert store.verify() == []
        assert store.find("key11") == 11
        assert store.append(make_episode(spec, 100, 12), "key12") == 12  # without a bound, and therefore kept
        assert len(store) == 6


READS: dict[str, Callable[[EpisodeStore], object]] = {
    "get": lambda store: store.get(6),
    "info": lambda store: store.info(6),
    "array": lambda store: read(store, lambda reader: reader.array(6, "actions")),
    "rows": lambda store: read(store, lambda reader: reader.rows(6, "actions", 0, 1)),
}


def read(store: EpisodeStore, what: Callable[[EpisodeReader], object]) -> object:
    with store.reading() as reader:
        return what(reader)


@pytest.mark.parametrize("name", READS)
def test_what_is_gone_is_said_to_be_gone(name: str, half_gone: Path) -> None:
    message = "episode 6 was given up, for newer ones .*: .* keeps 5 of 12 episodes"
    with EpisodeStore.open(half_gone) as store, pytest.raises(GivenUpError, match=message):
        READS[name](store)


def test_a_known_key_of_an_episode_that_is_gone_writes_nothing(
    half_gone: Path, spec: EnvSpec, make_episode: Maker
) -> None:
    with EpisodeStore.open(half_gone, "a", spec, bounded(1)) as store:
        assert store.find("key2") == 2
        assert store.append(make_episode(spec, 100, 2), "key2") == 2
        assert (store.num_given_up, store.next_id) == (7, 12)


def test_a_smaller_bound_takes_effect_with_the_next_episode(
    half_gone: Path, spec: EnvSpec, make_episode: Maker, size: int
) -> None:
    with EpisodeStore.open(half_gone, "a", spec, bounded(2 * size + size // 2)) as store:
        assert len(store) == 5
        store.append(make_episode(spec, 100, 12))
        assert store.ids().tolist() == [11, 12]
        assert store.verify() == []


def test_stats_say_what_is_kept(half_gone: Path, size: int) -> None:
    with EpisodeStore.open(half_gone) as store:
        stats = store.stats()
        assert stats["episode_bytes"] == sum(store.info(i)["num_bytes"] for i in store.ids())
    assert (stats["episodes"], stats["given_up"], stats["transitions"], stats["version"]) == (5, 7, 500, 3)
    assert stats["environments"] == [{"env_id": "Toy-v0", "episodes": 5, "transitions": 500}]
    json.dumps(stats)


def test_a_store_that_has_given_nothing_up_is_read_by_older_releases(
    folder: Path, spec: EnvSpec, make_episode: Maker
) -> None:
    with EpisodeStore.open(folder, "a", spec, bounded(1 << 30)) as store:
        store.append(make_episode(spec))
        stats = store.stats()
    assert (stats["version"], stats["given_up"]) == (1, 0)


@settings(max_examples=30, deadline=None)
@given(
    commits=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=4), min_size=1, max_size=6),
    max_bytes=st.integers(1, 30_000),
)
def test_kept_are_the_newest_that_fit_but_never_none(
    spec: EnvSpec, make_episode: Maker, commits: list[list[int]], max_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with EpisodeStore.open(folder, "a", spec, bounded(max_bytes)) as store:
            sizes: list[int] = []
            for lengths in commits:
                store.append_many([make_episode(spec, n, n) for n in lengths])
                sizes = store._index["num_bytes"].tolist()
                fitting = [k for k in range(len(sizes)) if sum(sizes[k:]) <= max_bytes]
                assert store.num_given_up == min(fitting, default=len(sizes) - 1)
            assert store.verify() == []
            kept, transitions = store.ids().tolist(), store.num_transitions
        with EpisodeStore.open(folder) as store:  # the same as counted anew
            assert (store.ids().tolist(), store.num_transitions) == (kept, transitions)
            assert transitions == sum(len(episode) for episode in store)


@pytest.mark.parametrize("together", [1, 4])
def test_space_is_used_again(folder: Path, spec: EnvSpec, make_episode: Maker, together: int) -> None:
    """Of ten times as many episodes, the file has no more than the bound, some commits and one step of growth."""
    bound, one = 4 << 20, 0
    with EpisodeStore.open(folder, "a", spec, bounded(bound)) as store:
        for i in range(0, 600, together):
            ids = store.append_many([make_episode(spec, 1000, i + k) for k in range(together)])
            one = store.info(ids[-1])["num_bytes"]
        assert 600 * one > 10 * bound
        assert bound - one < store.stats()["episode_bytes"] <= bound
        room = 1.05 * bound + 4 * together * one
        assert store.stats()["bytes"] < room
        assert (folder / "data.mdb").stat().st_size < room + together * one + 2 * database.RESERVE
        assert store.verify() == []


def test_a_record_that_was_left_behind_is_found(half_gone: Path) -> None:
    with lmdb.open(str(half_gone), map_size=1 << 30) as env, env.begin(write=True) as txn:
        txn.put(b"d" + struct.pack(">QI", 6, 0), b"left")
    with EpisodeStore.open(half_gone) as store:
        assert store.verify() == ["records are left of episodes that were given up"]


def put_given_up(folder: Path, given_up: object) -> None:
    with lmdb.open(str(folder), map_size=1 << 30) as env, env.begin(write=True) as txn:
        header = database.unseal(memoryview(txn.get(database.HEADER_KEY)))
        txn.put(database.HEADER_KEY, database.seal({**header, "version": 2, "given_up": given_up}))


@pytest.mark.parametrize("given_up", [-1, 0, 13, [[0, 13]], [[-1, 7]], [[3, 3]], [[5, 7], [0, 2]], [[0, 5], [5, 7]]])
def test_a_header_that_cannot_be_is_refused(given_up: object, half_gone: Path) -> None:
    put_given_up(half_gone, given_up)
    with pytest.raises(StoreError, match="of 12 given up"):
        EpisodeStore.open(half_gone)


def test_a_store_of_version_2_says_how_many_of_the_oldest_are_gone(half_gone: Path) -> None:
    put_given_up(half_gone, 7)
    with EpisodeStore.open(half_gone, "a") as store:
        assert store.ids().tolist() == [7, 8, 9, 10, 11]
        assert store.forget([9]) == [9]
        assert (store.ids().tolist(), store.stats()["version"]) == ([7, 8, 10, 11], 3)
        assert store.verify() == []


def test_a_bound_must_be_positive() -> None:
    with pytest.raises(StoreError, match="max_bytes must be at least 1 or None, got 0"):
        MemoryOptions(max_bytes=0)


# Sampling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_a_sampler_draws_from_what_is_kept(
    cache_bytes: int, folder: Path, spec: EnvSpec, make_episode: Maker, size: int
) -> None:
    """Also where it was given numbers of episodes, and had some of them in memory; the same as one made afterwards."""
    with EpisodeStore.open(folder, "a", spec, bounded(6 * size)) as store:
        store.append_many([make_episode(spec, 100, i) for i in range(6)])
        sampler = SequenceSampler(store, spec, 4, episode_ids=range(6), cache_bytes=cache_bytes, focus_share=0.5)
        store.append_many([make_episode(spec, 100, i) for i in range(6, 9)])
        sampler.refresh(range(9))
        later = SequenceSampler(store, spec, 4, episode_ids=range(9), cache_bytes=cache_bytes, focus_share=0.5)
        assert sampler.num_windows == later.num_windows == 6 * 97
        batch, other = (s.sample(64, np.random.default_rng(0)) for s in (sampler, later))
        for key in spec.obs:
            assert (batch.obs[key] == other.obs[key]).all()
        kept = np.concatenate([episode.actions for episode in store])
        assert np.isin(batch.actions.numpy(), kept).all()
