import math
import os
import shutil
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import lmdb
import numpy as np
import pytest

from forethought import ForethoughtError, UnknownNameError
from forethought.agent.memory import database
from forethought.agent.memory.store import Episode, EpisodeError, EpisodeStore, MemoryOptions, StoreError
from forethought.envs.spec import ArraySpec, EnvSpec

Maker = Callable[..., Episode]
Same = Callable[[Episode, Episode], None]
FAST = MemoryOptions(sync=False)


@pytest.fixture
def store(folder: Path, spec: EnvSpec) -> Iterator[EpisodeStore]:
    with EpisodeStore.open(folder, "a", spec, FAST) as opened:
        yield opened


@pytest.fixture
def filled(folder: Path, spec: EnvSpec, make_episode: Maker) -> Path:
    """A closed store of 12 episodes of 1, 9, 17, ... transitions."""
    with EpisodeStore.open(folder, "a", spec, FAST) as opened:
        for i in range(12):
            opened.append(make_episode(spec, 8 * i + 1, i), f"key{i}")
    return folder


# Round trips ---------------------------------------------------------------------------------------------------


def test_episodes_come_back(store: EpisodeStore, spec: EnvSpec, make_episode: Maker, assert_same: Same) -> None:
    goal = {"state": np.ones(3, np.float32), "image": np.full((4, 4, 3), 9, np.uint8)}
    episodes = [make_episode(spec, 1), make_episode(spec, 300, 1, goal=goal), make_episode(spec, 7, 2, truncated=True)]
    assert [store.append(episode) for episode in episodes] == [0, 1, 2]
    for expected, found in zip(episodes, store, strict=True):
        assert_same(found, expected)
    assert (len(store), store.num_transitions) == (3, 308)
    assert store.lengths().tolist() == [1, 300, 7]
    assert store.lengths([2, 0]).tolist() == [7, 1]
    assert store.terminated().tolist() == [episode.terminated for episode in episodes]


def test_arrays_of_get_are_its_own(store: EpisodeStore, spec: EnvSpec, make_episode: Maker) -> None:
    store.append(make_episode(spec))
    store.get(0).obs["state"][:] = 0
    assert np.abs(store.get(0).obs["state"]).sum() > 0


def test_the_next_process_continues(filled: Path, spec: EnvSpec, make_episode: Maker, assert_same: Same) -> None:
    with EpisodeStore.open(filled, "a", spec) as opened:
        assert len(opened) == 12
        assert opened.append(make_episode(spec, 3, 99)) == 12
        identity = opened.store_id
    with EpisodeStore.open(filled) as opened:
        assert opened.store_id == identity
        assert_same(opened.get(12), make_episode(spec, 3, 99))
        assert_same(opened.get(5), make_episode(spec, 41, 5))
        assert opened.verify() == []


def test_info_and_stats(filled: Path, spec: EnvSpec, make_episode: Maker) -> None:
    expected = make_episode(spec, 17, 2)
    with EpisodeStore.open(filled) as opened:
        info, stats = opened.info(2), opened.stats()
    assert info["num_bytes"] > 17 * 48
    assert info | {"num_bytes": 0} == {
        "episode_id": 2,
        "env_id": "Toy-v0",
        "key": "key2",
        "length": 17,
        "terminated": expected.terminated,
        "truncated": False,
        "total_reward": pytest.approx(float(expected.rewards.sum(dtype=np.float64))),
        "success": True,
        "num_bytes": 0,
        "meta": {"seed": 2},
    }
    assert (stats["episodes"], stats["transitions"]) == (12, sum(range(1, 97, 8)))
    assert stats["environments"] == [{"env_id": "Toy-v0", "episodes": 12, "transitions": stats["transitions"]}]


def test_info_does_not_read_the_arrays(filled: Path) -> None:
    _flip(filled, "obs/state")
    with EpisodeStore.open(filled) as opened:
        assert opened.info(11)["length"] == 89
        with pytest.raises(StoreError, match="damaged"):
            opened.get(11)


def test_several_environments(store: EpisodeStore, spec: EnvSpec, make_episode: Maker) -> None:
    other = replace(spec, env_id="Other-v0", obs={"x": ArraySpec((2,), "float32")}, goal=None)
    variant = replace(spec, control_dt=0.5)
    order = [spec, other, spec, variant]
    for i, each in enumerate(order):
        store.append(make_episode(each, 2, i), spec=each)
    assert store.ids().tolist() == [0, 1, 2, 3]
    assert store.ids("Toy-v0").tolist() == [0, 2, 3]
    assert store.ids("Toy-v0", limit=2).tolist() == [0, 2]
    assert store.ids(spec=spec).tolist() == [0, 2]
    assert store.ids(spec=replace(spec, max_episode_steps=7)).tolist() == [0, 2]  # of the same kind, cut off elsewhere
    assert store.ids("nowhere").tolist() == []
    assert store.get(1).obs.keys() == {"x"}
    assert [each.to_json() for each in store.specs] == [spec.to_json(), other.to_json(), variant.to_json()]
    assert [e["episodes"] for e in store.stats()["environments"]] == [2, 1, 1]


def test_seconds_per_decision_that_nobody_knows_are_taken_for_any(
    store: EpisodeStore, spec: EnvSpec, make_episode: Maker
) -> None:
    unknown, timed, slower = (replace(spec, control_dt=seconds) for seconds in (math.nan, 0.1, 0.2))
    for i, each in enumerate((timed, unknown, slower)):
        store.append(make_episode(each, 2, i), spec=each)
    assert store.ids(spec=timed).tolist() == [0, 1]
    assert store.ids(spec=slower).tolist() == [1, 2]
    assert store.ids(spec=unknown).tolist() == [1]
    assert store.ids(spec=replace(timed, goal=None)).tolist() == []


def test_a_large_episode_is_read_and_checked_by_blocks(filled: Path, spec: EnvSpec, make_episode: Maker) -> None:
    episode = make_episode(spec, 20_000, 5)
    with EpisodeStore.open(filled, "a", spec, FAST) as opened:
        assert opened.append(episode) == 12
        assert opened.info(12)["num_bytes"] > 4 * 2**18
    _flip(filled, "obs/state")
    with EpisodeStore.open(filled) as opened:
        with opened.reading() as reader:
            window = reader.rows(12, "obs/state", 100, 104)
            np.testing.assert_array_equal(window, episode.obs["state"][100:104])
            np.testing.assert_array_equal(reader.array(12, "obs/image"), episode.obs["image"])
            with pytest.raises(StoreError, match="damaged"):
                reader.rows(12, "obs/state", 9_999, 10_002)
        assert len(opened.verify()) == 1


def test_reading_in_place(store: EpisodeStore, spec: EnvSpec, make_episode: Maker) -> None:
    store.append(make_episode(spec, 200, 1))
    store.append(make_episode(spec, 200, 2))
    with store.reading() as reader:
        for i in (0, 1, 0):
            array = reader.array(i, "obs/state")
            assert not array.flags.writeable
            assert array.ctypes.data % 64 == 0
            rows = reader.rows(i, "obs/state", 7, 9)
            assert rows.ctypes.data == array[7:].ctypes.data  # the same memory
            np.testing.assert_array_equal(rows, make_episode(spec, 200, i + 1).obs["state"][7:9])
        with pytest.raises(UnknownNameError, match="obs/state"):
            reader.array(0, "obs/stat")


# Appending -----------------------------------------------------------------------------------------------------


def test_a_known_key_writes_nothing(store: EpisodeStore, spec: EnvSpec, make_episode: Maker, assert_same: Same) -> None:
    first = make_episode(spec, 4, 1)
    assert store.append(first, "k") == 0
    before = (store.path / "data.mdb").read_bytes()
    assert store.append(make_episode(spec, 9, 2), "k", spec=replace(spec, env_id="New-v0")) == 0
    assert (store.path / "data.mdb").read_bytes() == before
    assert_same(store.get(0), first)
    assert len(store.specs) == 1
    assert store.find("k") == 0
    assert store.find("other") is None


def test_append_many_mixes_known_and_new_keys(store: EpisodeStore, spec: EnvSpec, make_episode: Maker) -> None:
    store.append(make_episode(spec), "old")
    episodes = [make_episode(spec, i + 1, i) for i in range(5)]
    assert store.append_many(episodes, ["new", "old", None, "new", None]) == [1, 0, 2, 1, 3]
    assert store.lengths().tolist() == [5, 1, 3, 5]
    assert store.append_many([]) == []


def test_append_many_is_all_or_none(store: EpisodeStore, spec: EnvSpec, make_episode: Maker) -> None:
    bad = make_episode(spec, rewards=np.zeros(2, np.float32))
    with pytest.raises(EpisodeError, match="rewards"):
        store.append_many([make_episode(spec), bad], ["a", "b"])
    assert len(store) == 0
    assert store.find("a") is None


def test_the_map_grows(folder: Path, spec: EnvSpec, make_episode: Maker, assert_same: Same) -> None:
    with EpisodeStore.open(folder, "a", spec, MemoryOptions(map_size=1 << 20, sync=False)) as opened:
        for i in range(40):
            opened.append(make_episode(spec, 2000, i))
        assert opened.stats()["bytes"] > 4 << 20
        assert_same(opened.get(0), make_episode(spec, 2000, 0))
        assert opened.verify() == []


@pytest.mark.parametrize("key", ["", "x" * 501, "é" * 251])
def test_bad_keys(key: str, store: EpisodeStore, spec: EnvSpec, make_episode: Maker) -> None:
    with pytest.raises(StoreError, match="key must have 1 to 500 bytes"):
        store.append(make_episode(spec), key)


def test_the_longest_key(store: EpisodeStore, spec: EnvSpec, make_episode: Maker) -> None:
    assert store.append(make_episode(spec), "x" * 500) == store.find("x" * 500) == 0


# Misuse --------------------------------------------------------------------------------------------------------


def test_bad_arguments(store: EpisodeStore, spec: EnvSpec, make_episode: Maker) -> None:
    store.append(make_episode(spec))
    with pytest.raises(StoreError, match="episode_id must be between 0 and 0, got 1"):
        store.get(1)
    with pytest.raises(StoreError, match="episode_id must be between 0 and 0, got -1"):
        store.info(-1)
    with pytest.raises(StoreError, match="ids must be between 0 and 0, got 5"):
        store.lengths([0, 5])
    with pytest.raises(StoreError, match="limit must be at least 0, got -1"):
        store.ids(limit=-1)
    with pytest.raises(StoreError, match="keys must be as many as the 1 episodes, got 2"):
        store.append_many([make_episode(spec)], ["a", "b"])
    with pytest.raises(StoreError, match="map_size must be at least 1048576, got 1"):
        MemoryOptions(map_size=1)
    with pytest.raises(StoreError, match="mode must be 'r' or 'a', got 'w'"):
        EpisodeStore.open(store.path, "w")  # type: ignore[arg-type]


def test_append_needs_a_spec_and_a_writer(filled: Path, spec: EnvSpec, make_episode: Maker) -> None:
    with EpisodeStore.open(filled, "a") as opened, pytest.raises(StoreError, match="spec must say which environment"):
        opened.append(make_episode(spec))
    with EpisodeStore.open(filled, "r", spec) as opened, pytest.raises(StoreError, match="opened for reading"):
        opened.append(make_episode(spec))


def test_nothing_changes_inside_a_reading_block(store: EpisodeStore, spec: EnvSpec, make_episode: Maker) -> None:
    store.append(make_episode(spec))
    with store.reading() as reader:
        view = reader.array(0, "obs/state")
        with pytest.raises(StoreError, match=r"append inside a reading\(\) block"):
            store.append(make_episode(spec))
        with pytest.raises(StoreError, match=r"close inside a reading\(\) block"):
            store.close()
        store.info(0)
        assert store.refresh() == 0
        np.testing.assert_array_equal(view, make_episode(spec).obs["state"])
    assert store.append(make_episode(spec)) == 1


def test_a_closed_store_says_so(filled: Path) -> None:
    opened = EpisodeStore.open(filled)
    opened.close()
    opened.close()
    for use in (lambda: opened.get(0), opened.stats, opened.refresh):
        with pytest.raises(StoreError, match="is closed"):
            use()


def test_a_store_opens_once_per_process(filled: Path, store: EpisodeStore) -> None:
    for mode in ("r", "a"):
        with pytest.raises(StoreError, match="already open in this process"):
            EpisodeStore.open(filled, mode)


def test_a_fork_must_open_again(filled: Path, spec: EnvSpec, make_episode: Maker) -> None:
    with EpisodeStore.open(filled, "a", spec) as opened:

        def child() -> None:
            with pytest.raises(StoreError, match="opened before a fork"):
                opened.get(0)
            with pytest.raises(StoreError, match="opened before a fork"):
                opened.append(make_episode(spec))
            opened.close()

        _in_a_fork(child)
        with opened.reading():  # the child gets a copy of the mutex, locked
            _in_a_fork(child)
        assert opened.append(make_episode(spec)) == 12  # the child's close took nothing from the parent
        assert opened.verify() == []


# Foreign, damaged and truncated files --------------------------------------------------------------------------


def test_missing_and_foreign_folders(tmp_path: Path, spec: EnvSpec) -> None:
    with pytest.raises(StoreError, match="there is no episode store"):
        EpisodeStore.open(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    with pytest.raises(StoreError, match="cannot create"):
        EpisodeStore.open(tmp_path / "file", "a", spec)
    with pytest.raises(StoreError, match=r"not empty and no episode store: found 'notes\.txt'"):
        EpisodeStore.open(tmp_path / "other", "a", spec)
    assert not (tmp_path / "other" / "data.mdb").exists()


@pytest.mark.parametrize("mode", ["r", "a"])
def test_the_database_of_another_program(mode: str, folder: Path) -> None:
    with lmdb.open(str(folder)) as env, env.begin(write=True) as txn:
        txn.put(b"a", b"hello")
    with pytest.raises(StoreError, match="another program"):
        EpisodeStore.open(folder, mode)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"version": 4}, "has format version 4; this release reads 1 to 3"), ({"format": "graph"}, "holds 'graph'")],
)
def test_other_formats_and_versions(change: dict[str, object], message: str, filled: Path) -> None:
    with lmdb.open(str(filled), map_size=1 << 30) as env, env.begin(write=True) as txn:
        header = database.unseal(memoryview(txn.get(database.HEADER_KEY)))
        txn.put(database.HEADER_KEY, database.seal(header | change))
    with pytest.raises(StoreError, match=message):
        EpisodeStore.open(filled)


@pytest.mark.parametrize("mode", ["r", "a"])
@pytest.mark.parametrize("content", [b"", b"x", b"x" * 5000, bytes(8192), b"SQLite format 3\0" * 1000])
def test_files_that_are_no_database(mode: str, content: bytes, folder: Path) -> None:
    folder.mkdir()
    (folder / "data.mdb").write_bytes(content)
    with pytest.raises(StoreError, match="no episode store"):
        EpisodeStore.open(folder, mode)
    assert (folder / "data.mdb").read_bytes() == content


def test_truncated_files_are_refused(filled: Path) -> None:
    data = filled / "data.mdb"
    whole = data.read_bytes()
    with EpisodeStore.open(filled) as opened:
        used = opened.stats()["bytes"]
    assert used < len(whole)
    for size in [1, 100, 4096, 8191, 8192, 8193, 20_000, used // 2, used - 4096, used - 1]:
        data.write_bytes(whole[:size])
        with pytest.raises(StoreError, match=r"truncated|damaged at its start"):
            EpisodeStore.open(filled)
    data.write_bytes(whole[:used])  # only the reserve is gone
    with EpisodeStore.open(filled) as opened:
        assert opened.verify() == []


@pytest.mark.parametrize("where", ["obs/state", "obs/image", "actions", "rewards", "success"])
def test_a_flipped_bit_is_found(
    where: str, filled: Path, assert_same: Same, make_episode: Maker, spec: EnvSpec
) -> None:
    _flip(filled, where)
    with EpisodeStore.open(filled) as opened:
        assert [problem for problem in opened.verify() if problem.startswith("episode 11: damaged arrays")]
        assert len(opened.verify()) == 1
        with pytest.raises(StoreError, match=r"damaged \(episode 11"):
            opened.get(11)
        with opened.reading() as reader, pytest.raises(StoreError, match="damaged"):
            reader.rows(11, where, 0, 1)
        assert_same(opened.get(10), make_episode(spec, 81, 10))


def test_a_damaged_note_is_found(filled: Path) -> None:
    with EpisodeStore.open(filled, "a") as opened:
        opened.annotate({"graph/one": b"good", "graph/two": b"damaged"})
    with lmdb.open(str(filled), map_size=1 << 30) as env, env.begin(write=True) as txn:
        key = next(bytes(k) for k, v in txn.cursor() if bytes(v).endswith(b"damaged"))
        txn.put(key, bytes(txn.get(key) or b"")[:-1] + b"D")
    with EpisodeStore.open(filled) as opened:
        (problem,) = opened.verify()
        assert "note 'graph/two' does not match its checksum" in problem


def test_wrong_keys_are_found(filled: Path) -> None:
    with lmdb.open(str(filled), map_size=1 << 30) as env, env.begin(write=True) as txn:
        txn.put(b"ckey3", struct.pack(">Q", 4))
    with EpisodeStore.open(filled) as opened:
        assert opened.verify() == ["key 'key3' does not lead to episode 3"]
    with lmdb.open(str(filled), map_size=1 << 30) as env, env.begin(write=True) as txn:
        txn.put(b"ckey3", struct.pack(">Q", 3))
        txn.put(b"cghost", struct.pack(">Q", 1))
    with EpisodeStore.open(filled) as opened:
        assert opened.verify() == ["13 keys are stored for 12 episodes with a key"]


@pytest.mark.parametrize(
    ("record", "value", "message"),
    [
        (b"e" + struct.pack(">Q", 4), b"short", "malformed index"),
        (b"e" + struct.pack(">Q", 4), None, "gaps in the index"),
        (b"b" + struct.pack(">Q", 0), b"{}", "environment spec 0"),
        (b"b" + struct.pack(">Q", 0), None, "environment spec 0"),
    ],
)
def test_a_damaged_index_is_refused(record: bytes, value: bytes | None, message: str, filled: Path) -> None:
    _rewrite(filled, record, value)
    with pytest.raises(StoreError, match=message):
        EpisodeStore.open(filled)


@pytest.mark.parametrize("change", ["missing", "longer", "exchanged", "length"])
def test_index_and_episodes_must_agree(change: str, filled: Path) -> None:
    episode, index = b"d" + struct.pack(">QI", 4, 0), b"e" + struct.pack(">Q", 4)
    with lmdb.open(str(filled), map_size=1 << 30) as env, env.begin() as txn:
        value, row = txn.get(episode), bytearray(txn.get(index))
    row[0] += 1
    record, new = {
        "missing": (episode, None),
        "longer": (episode, value + b"x"),
        "exchanged": (episode, bytes(len(value))),
        "length": (index, bytes(row)),
    }[change]
    _rewrite(filled, record, new)
    with EpisodeStore.open(filled) as opened:
        assert next(problem.split(":")[0] for problem in opened.verify()) == "episode 4"
        with pytest.raises(StoreError, match="damaged"):
            opened.get(4)
        opened.get(5)


def test_random_damage_never_crashes(filled: Path, tmp_path: Path) -> None:
    whole = (filled / "data.mdb").read_bytes()
    pages = [p for p in range(len(whole) // 4096) if struct.unpack_from("<Q", whole, p * 4096)[0] == p]
    rng = np.random.default_rng(0)

    def child() -> None:
        for i in range(150):
            damaged = bytearray(whole)
            at = int(rng.choice(pages)) * 4096 + int(rng.choice([rng.integers(64), rng.integers(4096)]))
            damaged[at] = int(rng.integers(256))
            copy = tmp_path / str(i)
            copy.mkdir()
            (copy / "data.mdb").write_bytes(damaged)
            try:
                with EpisodeStore.open(copy) as opened:
                    problems = opened.verify()
                    if not problems:
                        assert len([*opened]) == 12
            except ForethoughtError:
                pass
            shutil.rmtree(copy)

    _in_a_fork(child)


# Helpers -------------------------------------------------------------------------------------------------------


def _rewrite(folder: Path, record: bytes, value: bytes | None) -> None:
    with lmdb.open(str(folder), map_size=1 << 30) as env, env.begin(write=True) as txn:
        if value is None:
            assert txn.delete(record)
        else:
            txn.put(record, value)


def _flip(folder: Path, name: str) -> None:
    """Flip one bit of an array of the last episode, in the file."""
    with EpisodeStore.open(folder) as opened, opened.reading() as reader:
        content = reader.array(len(opened) - 1, name).tobytes()
    middle = len(content) // 2
    data = bytearray((folder / "data.mdb").read_bytes())
    data[data.rindex(content[max(middle - 30, 0) : middle + 30])] ^= 1
    (folder / "data.mdb").write_bytes(data)


def _in_a_fork(child: Callable[[], None]) -> None:
    """Run `child` in a fork of this process and fail if it raises, exits or is killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            child()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"child ended with wait status {status}"


def test_notes_are_kept_beside_episodes(folder: Path, spec: EnvSpec, make_episode: Maker) -> None:
    with EpisodeStore.open(folder, "a", spec) as store:
        store.annotate({"graph/nodes": b"one", "graph/edges": b"two", "other": b""})
        store.append(make_episode(spec))
        assert store.note("graph/nodes") == b"one"
        assert store.note("other") == b""
        assert store.note("graph") is None
        assert store.notes("graph/") == ["graph/edges", "graph/nodes"]
        store.annotate({"graph/nodes": b"three", "graph/edges": None})
    with EpisodeStore.open(folder) as store:
        assert store.notes() == ["graph/nodes", "other"]
        assert store.note("graph/nodes") == b"three"
        assert len(store) == 1
        assert store.verify() == []
        with pytest.raises(StoreError, match="opened for reading"):
            store.annotate({"graph/nodes": b""})
