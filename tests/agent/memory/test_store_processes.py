"""The store among processes: killed writers, live readers, full disks, folders that cannot be written."""

import os
import resource
import shutil
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from forethought.agent.memory.sampler import SequenceSampler
from forethought.agent.memory.store import Episode, EpisodeStore, GivenUpError, MemoryOptions, StoreError
from forethought.envs.spec import EnvSpec

Maker = Callable[..., Episode]
Same = Callable[[Episode, Episode], None]
Report = Callable[[object], object]
Work = Callable[[Report], None]
Fork = Callable[[Work], "Child"]


@dataclass
class Child:
    """A forked process that reports lines through a pipe."""

    pid: int
    pipe: int
    text: str = ""
    ended: bool = False

    def line(self) -> str:
        """The next line; fails when the process ends without one."""
        while "\n" not in self.text:
            chunk = os.read(self.pipe, 4096)
            assert chunk, f"child {self.pid} ended after {self.text!r}"
            self.text += chunk.decode()
        line, self.text = self.text.split("\n", 1)
        return line

    def rest(self) -> list[str]:
        """All lines up to the end of the process."""
        while chunk := os.read(self.pipe, 4096):
            self.text += chunk.decode()
        return self.text.split("\n")[:-1]

    def kill(self) -> None:
        if not self.ended:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.ended = True

    def join(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        self.ended = True
        assert status == 0, f"child ended with wait status {status}"


@pytest.fixture
def fork() -> Iterator[Fork]:
    """`fork(work)` runs `work(report)` in a fork of this process, which must hold no store open."""
    children: list[Child] = []

    def start(work: Work) -> Child:
        pipe, end = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
            pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(pipe)
                work(lambda value: os.write(end, f"{value}\n".encode()))
                code = 0
            finally:
                os._exit(code)
        os.close(end)
        children.append(Child(pid, pipe))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        os.close(child.pipe)


def sleep_forever() -> None:
    while True:
        time.sleep(60)


def test_one_writer_at_a_time(fork: Fork, folder: Path, spec: EnvSpec, make_episode: Maker) -> None:
    def write(report: Report) -> None:
        with EpisodeStore.open(folder, "a", spec) as store:
            report(store.append(make_episode(spec)))
            sleep_forever()

    child = fork(write)
    child.line()
    with pytest.raises(StoreError, match=rf"open for appending in another process \(pid {child.pid}\)"):
        EpisodeStore.open(folder, "a", spec)
    with EpisodeStore.open(folder) as store:  # reading is fine
        assert len(store) == 1
    child.kill()
    with EpisodeStore.open(folder, "a", spec) as store:
        assert store.append(make_episode(spec)) == 1


def test_a_child_of_a_killed_writer_keeps_no_lock(fork: Fork, folder: Path, spec: EnvSpec) -> None:
    def write(report: Report) -> None:
        store = EpisodeStore.open(folder, "a", spec)
        grandchild = os.fork()
        if grandchild == 0:
            sleep_forever()
        report(grandchild)
        store.ids()
        sleep_forever()

    child = fork(write)
    grandchild = int(child.line())
    try:
        child.kill()
        EpisodeStore.open(folder, "a", spec).close()
    finally:
        os.kill(grandchild, signal.SIGKILL)


@pytest.mark.parametrize("sync", [True, False])
def test_killed_writers_lose_nothing(
    fork: Fork, sync: bool, folder: Path, spec: EnvSpec, make_episode: Maker, assert_same: Same
) -> None:
    rng = np.random.default_rng(5)
    checked = 0

    def episode(i: int) -> Episode:
        return make_episode(spec, 1 + i * 37 % 300, i)

    def write(report: Report) -> None:
        with EpisodeStore.open(folder, "a", spec, MemoryOptions(map_size=1 << 20, sync=sync)) as store:
            i = 0
            while True:  # from the beginning, as a resumed run does: what is there already is not written again
                report(store.append(episode(i), f"run/{i}"))
                i += 1

    for _ in range(10):
        child = fork(write)
        for _ in range(int(rng.integers(0, 30))):
            child.line()
        time.sleep(float(rng.random()) * 0.01)
        child.kill()
        acknowledged = child.rest()
        with EpisodeStore.open(folder) if (folder / "data.mdb").exists() else EpisodeStore.open(folder, "a") as store:
            assert store.verify() == []
            if acknowledged:
                assert len(store) > int(acknowledged[-1])
            for i in range(checked, len(store)):
                assert_same(store.get(i), episode(i))
                assert store.find(f"run/{i}") == i
            checked = len(store)
    assert checked > 20


@pytest.mark.parametrize("sync", [True, False])
def test_killed_writers_of_a_bounded_store_keep_the_newest_whole(
    fork: Fork, sync: bool, folder: Path, spec: EnvSpec, make_episode: Maker, assert_same: Same
) -> None:
    """Wherever the kill falls, what is kept is whole, is what the bound asks for, and its space is used again."""
    rng, bound, written = np.random.default_rng(6), 1 << 20, 0
    options = MemoryOptions(map_size=1 << 20, sync=sync, max_bytes=bound)

    def episode(i: int) -> Episode:
        return make_episode(spec, 400 + i * 37 % 300, i)

    def write(report: Report) -> None:
        with EpisodeStore.open(folder, "a", spec, options) as store:
            i = max(store.next_id - 40, 0)  # some that are there, and some that are gone: neither is written again
            while True:
                report(store.append(episode(i), f"run/{i}"))
                i += 1

    for _ in range(10):
        child = fork(write)
        for _ in range(40 + int(rng.integers(0, 40))):
            child.line()
        time.sleep(float(rng.random()) * 0.01)
        child.kill()
        acknowledged = child.rest()
        with EpisodeStore.open(folder) as store:
            assert store.verify() == []
            assert store.next_id >= max([written, *(int(line) + 1 for line in acknowledged)])
            written = store.next_id
            sizes = [store.info(i)["num_bytes"] for i in store.ids()]
            assert bound - 20_000 * bool(store.num_given_up) < sum(sizes) + max(sizes) <= bound + max(sizes)
            for i in store.ids().tolist():
                assert_same(store.get(i), episode(i))
            assert all(store.find(f"run/{i}") == i for i in range(written))
            assert store.stats()["bytes"] < 2 * bound
    assert written > 200  # 26 of which fit


def test_readers_of_a_bounded_store_see_what_they_read_to_its_end(
    fork: Fork, folder: Path, spec: EnvSpec, make_episode: Maker
) -> None:
    """A snapshot stays while its block lasts; then what is gone is named, and a sampler draws from what is there."""
    pipe, end = os.pipe()

    def write(report: Report) -> None:
        with EpisodeStore.open(folder, "a", spec, MemoryOptions(sync=False, max_bytes=200_000)) as store:
            for i in range(90):
                report(store.append(make_episode(spec, 500, i)))
                if i % 30 == 2:
                    os.read(pipe, 1)

    def until(child: Child, number: int) -> None:
        while child.line() != str(number):
            pass

    child = fork(write)
    until(child, 2)
    with EpisodeStore.open(folder) as store:
        assert store.ids().tolist() == [0, 1, 2]
        sampler = SequenceSampler(store, spec, 4, cache_bytes=0)
        late = SequenceSampler(store, spec, 4, episode_ids=[])
        with store.reading() as reader:
            before = reader.array(1, "obs/state")
            os.write(end, b"x")
            until(child, 32)  # 30 episodes of some 37 kB have come, and episode 1 is gone for everybody else
            np.testing.assert_array_equal(before, make_episode(spec, 500, 1).obs["state"])
            np.testing.assert_array_equal(reader.array(2, "actions"), make_episode(spec, 500, 2).actions)
        with pytest.raises(GivenUpError, match="episode 1 was given up"):
            store.get(1)
        assert store.ids().tolist() == [0, 1, 2]  # as of the last refresh
        batch = sampler.sample(64, np.random.default_rng(0))
        kept = store.ids().tolist()
        assert min(kept) > 2
        assert np.isin(batch.actions.numpy(), [make_episode(spec, 500, i).actions for i in kept]).all()
        os.write(end, b"x")
        until(child, 62)
        late.refresh(range(33))  # all of them gone, which it does not know yet
        assert late.num_windows == 0
        os.write(end, b"x")
        child.rest()
        child.join()
        store.refresh()
        assert max(store.ids()) == 89
        assert store.verify() == []
    os.close(pipe)
    os.close(end)


def test_readers_go_over_to_a_compacted_file(
    fork: Fork, folder: Path, spec: EnvSpec, make_episode: Maker, assert_same: Same
) -> None:
    """The block under way ends in the old file; what comes after it is read from the new one, and from the next."""
    pipe, end = os.pipe()

    def write(report: Report) -> None:
        with EpisodeStore.open(folder, "a", spec, MemoryOptions(sync=False)) as store:
            store.append_many([make_episode(spec, 40, i) for i in range(12)])
            report("filled")
            for act in (lambda: store.forget([2, 6]), store.compact, lambda: store.append(make_episode(spec, 9, 12))):
                os.read(pipe, 1)
                act()
                report("done")
            for i in range(13, 16):
                os.read(pipe, 1)
                store.append(make_episode(spec, 9, i))
                report(store.compact())

    def let(child: Child) -> None:
        os.write(end, b"x")
        child.line()

    child = fork(write)
    child.line()
    with EpisodeStore.open(folder) as store:
        let(child)
        assert len(store) == 12
        with pytest.raises(GivenUpError):
            store.get(2)
        store.refresh()
        assert store.ids().tolist() == [0, 1, 3, 4, 5, 7, 8, 9, 10, 11]
        with store.reading() as reader:
            actions = reader.array(1, "actions")
            let(child)  # compacts
            let(child)  # appends, to the new file
            np.testing.assert_array_equal(actions, make_episode(spec, 40, 1).actions)
            np.testing.assert_array_equal(reader.array(11, "rewards"), make_episode(spec, 40, 11).rewards)
        assert store.refresh() == 1
        assert_same(store.get(12), make_episode(spec, 9, 12))
        for i in range(13, 16):
            let(child)
            assert_same(store.get(1), make_episode(spec, 40, 1))
            assert store.refresh() == 1
            assert_same(store.get(i), make_episode(spec, 9, i))
        assert store.verify() == []
    child.rest()
    child.join()
    os.close(pipe)
    os.close(end)


def test_killed_while_forgetting_and_compacting(
    fork: Fork, folder: Path, spec: EnvSpec, make_episode: Maker, assert_same: Same
) -> None:
    """Wherever the kill falls, a whole store is there, the old one or the new one."""
    rng = np.random.default_rng(8)

    def write(report: Report) -> None:
        with EpisodeStore.open(folder, "a", spec, MemoryOptions(map_size=1 << 20, sync=False)) as store:
            while True:
                i = store.next_id
                report(f"append {store.append_many([make_episode(spec, 300, i + k) for k in range(4)])[-1]}")
                for gone in store.forget([i + 1, i + 2]):
                    report(f"forget {gone}")
                store.compact()

    said: dict[str, set[int]] = {"append": {-1}, "forget": set()}
    for _ in range(15):
        child = fork(write)
        lines = [child.line() for _ in range(int(rng.integers(1, 8)))]
        time.sleep(float(rng.random()) * 0.01)
        child.kill()
        for what, number in map(str.split, lines + child.rest()):
            said[what].add(int(number))
        with EpisodeStore.open(folder) as reader:
            assert reader.verify() == []
            assert reader.next_id > max(said["append"])
            kept = set(reader.ids().tolist())
            assert kept & said["forget"] == set()
            assert {i for i in range(reader.next_id) if i % 4 not in (1, 2)} <= kept
            for i in kept:
                assert_same(reader.get(i), make_episode(spec, 300, i))


def test_kill_during_creation_leaves_nothing_in_the_way(folder: Path, spec: EnvSpec, make_episode: Maker) -> None:
    (folder / "creating").mkdir(parents=True)
    (folder / "creating" / "data.mdb").write_bytes(b"half written")
    (folder / "writer.lock").write_text("1")
    with EpisodeStore.open(folder, "a", spec) as store:
        assert store.append(make_episode(spec)) == 0
    assert not (folder / "creating").exists()


def test_readers_see_a_live_writer(
    fork: Fork, folder: Path, spec: EnvSpec, make_episode: Maker, assert_same: Same
) -> None:
    """Also while the writer grows its map beyond that of the reader."""
    pipe, end = os.pipe()

    def write(report: Report) -> None:
        with EpisodeStore.open(folder, "a", spec, MemoryOptions(map_size=1 << 20, sync=False)) as store:
            for i in range(30):
                report(store.append(make_episode(spec, 1000, i)))
                if i in (0, 9):
                    os.read(pipe, 1)

    child = fork(write)
    child.line()
    with EpisodeStore.open(folder, options=MemoryOptions(map_size=1 << 20)) as store:
        assert len(store) == 1
        os.write(end, b"x")
        while child.line() != "9":
            pass
        assert len(store) == 1
        assert store.refresh() == 9
        assert_same(store.get(9), make_episode(spec, 1000, 9))
        os.write(end, b"x")
        child.rest()
        child.join()
        assert store.refresh() == 20
        assert_same(store.get(29), make_episode(spec, 1000, 29))
        assert store.num_transitions == 30_000
        assert store.verify() == []
    os.close(pipe)
    os.close(end)


def test_threads_share_a_store(folder: Path, spec: EnvSpec, make_episode: Maker) -> None:
    expected = make_episode(spec, 500).obs["state"]
    with EpisodeStore.open(folder, "a", spec, MemoryOptions(map_size=1 << 20, sync=False)) as store:
        store.append(make_episode(spec, 500))
        done, wrong = threading.Event(), []

        def read() -> None:
            while not done.is_set():
                with store.reading() as reader:
                    if not np.array_equal(reader.array(0, "obs/state"), expected):
                        wrong.append(1)

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for i in range(100):
            store.append(make_episode(spec, 500, i))
        done.set()
        for thread in threads:
            thread.join()
        assert not wrong
        assert len(store) == 101


def test_threads_may_ask_for_numbers_while_another_appends(folder: Path, spec: EnvSpec, make_episode: Maker) -> None:
    with EpisodeStore.open(folder, "a", spec, MemoryOptions(sync=False)) as store:
        store.append_many([make_episode(spec, 1)] * 2000)  # so many that NumPy lets other threads run meanwhile
        done, wrong = threading.Event(), list[str]()

        def read() -> None:
            while not done.is_set():
                known = store.ids()
                if (store.lengths(known)[:2000] != 1).any() or len(store.lengths()) < len(known):
                    wrong.append(f"of {len(known)}")

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for i in range(200):
                store.append(make_episode(spec, 2 + i % 3))
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert not wrong
        assert store.lengths()[2000:].tolist() == [2 + i % 3 for i in range(200)]


def test_a_full_disk_leaves_the_store_as_it_was(
    fork: Fork, folder: Path, spec: EnvSpec, make_episode: Maker, assert_same: Same
) -> None:
    def write(report: Report) -> None:
        with EpisodeStore.open(folder, "a", spec, MemoryOptions(sync=False)) as store:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            for i in range(200):
                try:
                    store.append(make_episode(spec, 1000, i), f"{i}")
                except StoreError as error:
                    report(error)
                    break
            stored = len(store)
            assert store.verify() == []
            assert store.find(str(stored)) is None
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            report(store.append(make_episode(spec, 1000, stored)))

    child = fork(write)
    assert "cannot append to" in child.line()
    stored = int(child.line())
    child.join()
    assert stored > 10
    with EpisodeStore.open(folder) as store:
        assert store.verify() == []
        assert_same(store.get(stored), make_episode(spec, 1000, stored))


def test_little_address_space_is_enough(fork: Fork, folder: Path, spec: EnvSpec, make_episode: Maker) -> None:
    def write(report: Report) -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
        store = EpisodeStore.open(folder, "a", spec, MemoryOptions(sync=False))
        try:
            for i in range(400):
                store.append_many([make_episode(spec, 2000, i)] * 4)
        except StoreError as error:
            report(error)
        with pytest.raises(StoreError, match="is closed"):
            store.get(0)
        store = EpisodeStore.open(folder, "a", spec, MemoryOptions(sync=False))
        assert store.get(len(store) - 1).arrays()
        report(len(store))

    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    child = fork(write)
    assert "no address space to grow the map" in child.line()
    assert int(child.line()) > 4
    child.join()


@pytest.mark.skipif(os.geteuid() != 0, reason="as root, because root can become somebody else")
def test_a_folder_that_cannot_be_written_is_read(
    fork: Fork, spec: EnvSpec, make_episode: Maker, assert_same: Same
) -> None:
    folder = Path(tempfile.mkdtemp())  # not under tmp_path, which nobody else may enter
    folder.chmod(0o755)

    def read(report: Report) -> None:
        os.setuid(65534)
        with pytest.raises(StoreError, match="Permission denied"):
            EpisodeStore.open(folder, "a", spec)
        with pytest.raises(StoreError, match="cannot create an episode store"):
            EpisodeStore.open(folder / "new", "a", spec)
        with EpisodeStore.open(folder) as store:
            assert_same(store.get(1), make_episode(spec, 4, 1))
            assert store.verify() == []

    try:
        with EpisodeStore.open(folder, "a", spec) as store:
            store.append_many([make_episode(spec, 4, i) for i in range(3)])
        fork(read).join()
        (folder / "lock.mdb").unlink()
        fork(read).join()
        (folder / "data.mdb").chmod(0o600)

        def refused(report: Report) -> None:
            os.setuid(65534)
            with pytest.raises(StoreError, match="Permission denied"):
                EpisodeStore.open(folder)

        fork(refused).join()
    finally:
        shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder_is_read(folder: Path, spec: EnvSpec, make_episode: Maker) -> None:
    with EpisodeStore.open(folder, "a", spec) as store:
        store.append(make_episode(spec))
    try:
        for path in (*folder.iterdir(), folder):
            path.chmod(0o555)
        with EpisodeStore.open(folder) as store:
            assert len(store) == 1
        with pytest.raises(StoreError, match="Permission denied"):
            EpisodeStore.open(folder, "a", spec)
    finally:
        folder.chmod(0o755)
