"""Forgetting episodes and compacting the file: what stays, what is said of the rest, and what others see of it."""

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
from forethought.agent.memory.store import Episode, EpisodeStore, GivenUpError, MemoryOptions, StoreError
from forethought.envs.spec import EnvSpec

Maker = Callable[..., Episode]
Same = Callable[[Episode, Episode], None]
LENGTH = 40


@pytest.fixture
def filled(folder: Path, spec: EnvSpec, make_episode: Maker) -> Path:
    """A closed store of 12 episodes under keys, and a note."""
    with EpisodeStore.open(folder, "a", spec, MemoryOptions(sync=False)) as store:
        store.append_many([make_episode(spec, LENGTH, i) for i in range(12)], [f"key{i}" for i in range(12)])
        store.annotate({"note": b"said"})
    return folder


# Forgetting ----------------------------------------------------------------------------------------------------------


def test_what_is_forgotten_is_gone_and_the_rest_stays(
    filled: Path, spec: EnvSpec, make_episode: Maker, assert_same: Same
) -> None:
    with EpisodeStore.open(filled, "a", spec) as store:
        one = store.info(3)["num_bytes"]
        before = store.stats()["episode_bytes"]
        assert store.forget([7, 3, 4, 3]) == [3, 4, 7]
        assert store.forget([3, 11]) == [11]
        left = [0, 1, 2, 5, 6, 8, 9, 10]
        assert store.ids().tolist() == store.ids(spec=spec).tolist() == left
        assert (len(store), store.num_given_up, store.next_id) == (8, 4, 12)
        assert store.num_transitions == store.lengths().sum() == 8 * LENGTH
        assert store.kept([11, 10, 3, 0]).tolist() == [10, 0]
        assert store.lengths([3, 0]).tolist() == [LENGTH, LENGTH]
        assert store.terminated().tolist() == [make_episode(spec, LENGTH, i).terminated for i in left]
        for i, episode in zip(left, store, strict=True):
            assert_same(episode, make_episode(spec, LENGTH, i))
        for read in (store.get, store.info):
            with pytest.raises(GivenUpError, match=r"episode 4 was given up, .* or by `forget`: .* keeps 8 of 12"):
                read(4)
        stats = store.stats()
        assert (stats["episodes"], stats["given_up"], stats["transitions"]) == (8, 4, 8 * LENGTH)
        assert before - stats["episode_bytes"] == pytest.approx(4 * one, abs=8)
        assert stats["environments"] == [{"env_id": "Toy-v0", "episodes": 8, "transitions": 8 * LENGTH}]
        assert store.verify() == []
        assert store.append(make_episode(spec, LENGTH, 3), "key3") == 3  # known, and not written again
        assert store.append(make_episode(spec, LENGTH, 12), "key12") == 12
    with EpisodeStore.open(filled) as store:
        assert store.ids().tolist() == [*left, 12]
        assert store.note("note") == b"said"
        assert store.verify() == []


def test_all_can_be_forgotten_and_others_come_after(filled: Path, spec: EnvSpec, make_episode: Maker) -> None:
    with EpisodeStore.open(filled, "a", spec) as store:
        store.forget(store.ids())
        assert (len(store), store.num_transitions, list(store), store.verify()) == (0, 0, [], [])
        assert store.append(make_episode(spec)) == 12
    with EpisodeStore.open(filled) as store:
        assert store.ids().tolist() == [12]


def test_a_bound_gives_up_the_oldest_of_what_is_left(filled: Path, spec: EnvSpec, make_episode: Maker) -> None:
    with EpisodeStore.open(filled) as store:
        one = store.stats()["episode_bytes"] // 12
    with EpisodeStore.open(filled, "a", spec, MemoryOptions(max_bytes=7 * one + one // 2)) as store:
        store.forget([1, 8])
        store.append(make_episode(spec, LENGTH, 12))
        assert store.ids().tolist() == [5, 6, 7, 9, 10, 11, 12]
        assert store.verify() == []


def test_what_cannot_be_forgotten(filled: Path, spec: EnvSpec) -> None:
    with EpisodeStore.open(filled, "a", spec) as store:
        for wrong in (12, -1):
            with pytest.raises(StoreError, match=f"episode ids must be between 0 and 11, got {wrong}"):
                store.forget([3, wrong])
        assert len(store) == 12
        with store.reading(), pytest.raises(StoreError, match="forget inside a reading"):
            store.forget([3])
    with EpisodeStore.open(filled) as store:
        for change in (lambda: store.forget([3]), store.compact):
            with pytest.raises(StoreError, match="opened for reading; open it with mode 'a' to"):
                change()


def test_records_left_in_any_gap_are_found(filled: Path, spec: EnvSpec) -> None:
    with EpisodeStore.open(filled, "a", spec) as store:
        store.forget([1, 6])
    with lmdb.open(str(filled), map_size=1 << 30) as env, env.begin(write=True) as txn:
        txn.put(b"d" + (6).to_bytes(8, "big") + bytes(4), b"left")
    with EpisodeStore.open(filled) as store:
        assert store.verify() == ["records are left of episodes that were given up"]


STEPS = st.one_of(st.sets(st.integers(0, 30), min_size=1), st.integers(1, 4), st.just("compact"))


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        STEPS,
        min_size=1,
        max_size=8,
    ),
    max_bytes=st.one_of(st.none(), st.integers(1, 20_000)),
)
def test_a_store_does_what_a_dictionary_would(
    spec: EnvSpec, make_episode: Maker, steps: list[set[int] | int | str], max_bytes: int | None
) -> None:
    """Whatever is appended, forgotten and compacted: writer, a reader that follows, and one that comes late agree."""
    with tempfile.TemporaryDirectory() as folder:
        sizes: dict[int, int] = {}
        kept: list[int] = []
        with EpisodeStore.open(folder, "a", spec, MemoryOptions(sync=False, max_bytes=max_bytes)) as store:
            for step in steps:
                if isinstance(step, set):
                    gone = {i for i in step if i < store.next_id}
                    assert store.forget(gone) == sorted(gone & set(kept))
                    kept = [i for i in kept if i not in gone]
                elif isinstance(step, int):
                    new = store.append_many([make_episode(spec, 10 * (k + 1), k) for k in range(step)])
                    sizes |= {i: store._index["num_bytes"][i] for i in new}
                    kept += new
                    while max_bytes is not None and len(kept) > 1 and sum(sizes[i] for i in kept) > max_bytes:
                        kept.pop(0)
                else:
                    before, after = store.compact()
                    assert after <= before
                assert store.ids().tolist() == kept
                assert store.stats()["episode_bytes"] == sum(sizes[i] for i in kept)
                assert store.num_transitions == sum(map(len, store))
                assert store.verify() == []
        with EpisodeStore.open(folder) as store:
            assert store.ids().tolist() == kept
            assert store.stats()["episode_bytes"] == sum(sizes[i] for i in kept)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_a_sampler_leaves_out_what_was_forgotten(cache_bytes: int, filled: Path, spec: EnvSpec) -> None:
    with EpisodeStore.open(filled, "a", spec) as store:
        sampler = SequenceSampler(store, spec, 4, 2, cache_bytes=cache_bytes, focus_share=0.5)
        store.forget([0, 5, 11])
        sampler.refresh()
        later = SequenceSampler(store, spec, 4, 2, cache_bytes=cache_bytes, focus_share=0.5)
        assert sampler.num_windows == later.num_windows == 9 * (LENGTH - 3)
        batch, other = (s.sample(64, np.random.default_rng(0)) for s in (sampler, later))
        assert (batch.goal_obs["state"] == other.goal_obs["state"]).all()
        assert np.isin(batch.actions.numpy(), np.concatenate([episode.actions for episode in store])).all()


# Compacting ----------------------------------------------------------------------------------------------------------


def contents(store: EpisodeStore) -> list[object]:
    arrays = [{name: array.tobytes() for name, array in episode.arrays().items()} for episode in store]
    infos = [store.info(i) for i in store.ids()]
    keys = [store.find(f"key{i}") for i in range(13)]
    return [arrays, infos, keys, store.specs, store.store_id, {name: store.note(name) for name in store.notes()}]


@pytest.mark.parametrize("commits", [0, 1])  # so that the newest of LMDB's two meta pages is the one or the other
def test_a_compacted_store_holds_the_same_in_less_room(
    commits: int, filled: Path, spec: EnvSpec, make_episode: Maker
) -> None:
    with EpisodeStore.open(filled, "a", spec) as store:
        store.append_many([make_episode(spec, 5000, 1)] * 8)
        store.forget([1, 4, *range(12, 19)])
        for _ in range(commits):
            store.annotate({"more": b"said"})
        before, transaction = contents(store), store._env.info()["last_txnid"]
        old, new = store.compact()
        assert new == (filled / "data.mdb").stat().st_size < old / 3
        assert store._env.info()["last_txnid"] == transaction
        assert contents(store) == before
        assert store.verify() == []
        with pytest.raises(GivenUpError):
            store.get(4)
        assert store.append(make_episode(spec, LENGTH, 5), "key12") == 20
        assert store.compact()[1] >= new
    with EpisodeStore.open(filled) as store:
        assert store.ids().tolist() == [0, 2, 3, *range(5, 12), 19, 20]
        assert store.verify() == []
    assert sorted(path.name for path in filled.iterdir()) == ["data.mdb", "lock.mdb", "writer.lock"]


@pytest.mark.parametrize("step", ["copy", "_count_from", "_move_in"])
def test_a_compaction_that_fails_leaves_the_store_as_it_was(
    step: str, filled: Path, spec: EnvSpec, make_episode: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with EpisodeStore.open(filled, "a", spec) as store:
        store.forget([3])
        before = contents(store)
        if step == "copy":
            (filled / "compacting").touch()  # a file, where a folder is to be
        else:
            monkeypatch.setattr(database, step, full)
        with pytest.raises(StoreError, match=r"cannot compact .*, which is as it was before"):
            store.compact()
        assert contents(store) == before
        monkeypatch.undo()
        if step == "copy":
            (filled / "compacting").unlink()
        (filled / "compacting").mkdir()  # as one that was killed leaves it
        (filled / "compacting" / "data.mdb").write_bytes(b"half written")
        store.compact()
        assert contents(store) == before
        assert store.append(make_episode(spec)) == 12


def test_a_writer_clears_away_what_a_killed_compaction_has_left(filled: Path, spec: EnvSpec) -> None:
    (filled / "compacting").mkdir()
    (filled / "compacting" / "data.mdb").write_bytes(b"half written")
    EpisodeStore.open(filled).close()
    assert (filled / "compacting").exists()
    EpisodeStore.open(filled, "a", spec).close()
    assert not (filled / "compacting").exists()


def test_a_reader_refuses_another_store_in_the_place_of_its_own(filled: Path, spec: EnvSpec, tmp_path: Path) -> None:
    EpisodeStore.open(tmp_path / "other", "a", spec).close()
    with EpisodeStore.open(filled) as store:
        (tmp_path / "other" / "data.mdb").replace(filled / "data.mdb")
        with pytest.raises(StoreError, match="another store was put in the place of"):
            store.get(0)
        with pytest.raises(StoreError, match="is closed"):
            store.get(0)


def test_a_reader_of_a_folder_that_was_moved_reads_on(filled: Path) -> None:
    with EpisodeStore.open(filled) as store:
        filled.rename(filled.with_name("elsewhere"))
        assert len(store.get(3)) == LENGTH
