"""Episodes in an embedded LMDB database: crash-safe, checksummed, one writer and many readers.

LMDB (Chu 2011, "MDB: A Memory-Mapped Database and Backend for OpenLDAP") writes copy-on-write: a commit is there as a
whole or not at all, and readers keep the snapshot they started from. One tree holds, by the first byte of the key,

    a                header: format, version, id and creation time of the store, which episodes were given up
    b + spec u32     environment specs
    c + key          idempotency keys -> episode id
    d + episode u64  + block u32: episodes, in the records of `episode`
    e + episode u64  index: length, spec, end and size of each episode
    N + name         notes: what was made of the episodes, under a checksum

and the index sorts last, so that opening reads it in one sweep to the end and touches no episode.

Episodes are given up in one way, whether they are to be forgotten or are the oldest of a store with a bound on its
size, in the very commit that goes beyond it: their records go, LMDB writes later ones where they were, and the header
says which are gone, as ranges of numbers. Keys and index stay, so that numbers keep their meaning and a resumed run
does not collect again what it has had.
"""

import math
import os
import struct
import threading
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, takewhile
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Literal, Self

import lmdb
import numpy as np
from numpy.typing import NDArray

from ...envs.spec import EnvError, EnvSpec
from .database import (
    DATA_FILE,
    HEADER_KEY,
    RESERVE,
    VERSION_GIVEN_UP,
    GivenUpError,
    StoreError,
    compact,
    create,
    identity,
    lock_writer,
    open_environment,
    read_header,
    seal,
    unseal,
)
from .episode import Array, Episode, EpisodeError, EpisodeHeader, EpisodeLayout

__all__ = ["Episode", "EpisodeError", "EpisodeReader", "EpisodeStore", "GivenUpError", "MemoryOptions", "StoreError"]

_SPEC, _KEY, _EPISODE, _INDEX, _NOTE = b"b", b"c", b"d", b"e", b"N"
_INDEX_ROW: Final = np.dtype([("length", "<u4"), ("spec", "<u2"), ("terminated", "<u2"), ("num_bytes", "<u8")])
_MAX_KEY_BYTES: Final = 500


@dataclass
class MemoryOptions:
    """How the episode store is opened."""

    path: str | None = None
    """Folder of the store, on a local disk; None keeps it in the run folder."""
    map_size: int = 1 << 36
    """Bytes of address space to start with; grows by itself and takes no disk space."""
    max_bytes: int | None = None
    """Bytes of episodes to keep: an append that goes beyond gives up the oldest, whosever they are; None keeps all."""
    sync: bool = True
    """Put every commit on disk before it counts, so that it outlives a power cut; without, a killed process still
    loses nothing, but a power cut may cost the store."""

    def __post_init__(self) -> None:
        if self.map_size < RESERVE:
            raise StoreError(f"map_size must be at least {RESERVE}, got {self.map_size}")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise StoreError(f"max_bytes must be at least 1 or None, got {self.max_bytes}")


class EpisodeStore:
    """Episodes on disk, numbered from 0 in the order they came; made by `EpisodeStore.open`.

    An episode, once appended, is there as a whole, never changes and outlives a kill of the process; it stays for good,
    or until newer ones need its room (`MemoryOptions.max_bytes`) or `forget` gives it up; reading it then raises
    `GivenUpError`.
    Every episode is checked against its checksum when a process first reads it. One process appends at a time; any
    number read meanwhile and see what was committed when they last called `refresh`. A process opens a store once and
    shares the object between its threads; after a fork the child opens the store again.

    All methods raise `StoreError` when the store is closed, damaged, was opened in another process, or the disk fails.
    """

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        mode: Literal["r", "a"] = "r",
        spec: EnvSpec | None = None,
        options: MemoryOptions | None = None,
    ) -> "EpisodeStore":
        """Open the store in the folder `path`; `mode="a"` creates it where there is none.

        Args:
            path: folder on a local disk; `options.path` is for the caller to read.
            mode: "r" to read, also beside a live writer and from a read-only folder; "a" to append as well.
            spec: the environment that appended episodes come from, where `append` is not told.
            options: durability and address space.

        Raises:
            StoreError: another writer is active, the folder is missing, read-only, or holds something else, or the
                store is damaged or of another version.
        """
        if mode not in ("r", "a"):
            raise StoreError(f"mode must be 'r' or 'a', got {mode!r}")
        folder = Path(path)
        if not (folder / DATA_FILE).exists():
            if mode == "r":
                raise StoreError(f"there is no episode store in {folder}; mode 'a' creates one")
            create(folder)
        options = options or MemoryOptions()
        file = identity(folder)
        env = open_environment(folder, mode, options.map_size, options.sync)
        lock: IO[bytes] | None = None
        try:
            # Only now: closing this file drops the lock for the whole process, and LMDB has just refused to open
            # a store twice in one process.
            lock = lock_writer(folder) if mode == "a" else None
            return cls(folder, env, lock, spec, options, file)
        except BaseException:
            if lock is not None:
                lock.close()
            env.close()
            raise

    def __init__(
        self,
        path: Path,
        environment: lmdb.Environment,
        lock: IO[bytes] | None,
        spec: EnvSpec | None,
        options: MemoryOptions,
        file: tuple[int, int] | None,
    ) -> None:
        self.path, self.spec, self.max_bytes = path, spec, options.max_bytes
        self._env: lmdb.Environment | None = environment
        self._sync, self._file = options.sync, file
        self._lock = lock
        self._pid = os.getpid()
        self._mutex = threading.RLock()
        self._txn: lmdb.Transaction[memoryview] | None = None  # of the read under way, under the mutex
        self._index = {name: array("q") for name in _INDEX_ROW.names or ()}  # arrays that grow cheaply
        self._kept = np.zeros(0, np.bool_)  # by number, False for an episode that was given up
        self._num_transitions = self._num_bytes = 0
        self._specs: list[EnvSpec] = []
        self._layouts: dict[int, EpisodeLayout] = {}  # of the episodes whose header was found right
        self._checked: set[tuple[int, int]] = set()  # blocks whose checksum was found right
        with self._read() as txn:
            self._header = read_header(path, txn)
        if lock is not None:
            environment.reader_check()  # frees what killed readers held
            # A killed writer may have committed without having said so in the table of readers, and while one of them
            # lives all go by that table; LMDB puts it right when the next one begins to write.
            environment.begin(write=True).abort()
        self.refresh()

    # What is there ---------------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether the store was opened with mode "a"."""
        return self._lock is not None

    @property
    def store_id(self) -> str:
        """What tells this store from every other, kept when it is copied."""
        return str(self._header["store_id"])

    @property
    def specs(self) -> tuple[EnvSpec, ...]:
        """The environments that episodes have come from, in the order they first came."""
        return tuple(self._specs)

    @property
    def num_transitions(self) -> int:
        """Number of transitions in all episodes that are kept."""
        return self._num_transitions

    @property
    def num_given_up(self) -> int:
        """Number of episodes given up."""
        return self.next_id - len(self)

    @property
    def next_id(self) -> int:
        """The number of the next episode to be appended; counts those given up too."""
        return len(self._kept)

    def __len__(self) -> int:
        """Number of episodes that are kept."""
        return int(np.count_nonzero(self._kept))

    def __iter__(self) -> Iterator[Episode]:
        return (self.get(episode_id) for episode_id in self.ids().tolist())

    def ids(
        self,
        env_id: str | None = None,
        limit: int | None = None,
        *,
        spec: EnvSpec | None = None,
        exactly: bool = False,
    ) -> NDArray[np.int64]:
        """Numbers of the episodes kept, ascending: the first `limit` of those that come from `env_id` and from `spec`.

        An environment is the same if its spec is, but for `max_episode_steps`, which says where episodes are cut off,
        and for a `control_dt` that is not known of what is stored; or with `exactly` in these, too: one of `specs`.
        """
        if limit is not None and limit < 0:
            raise StoreError(f"limit must be at least 0, got {limit}")
        wanted = [
            number
            for number, known in enumerate(self._specs)
            if env_id in (None, known.env_id) and (spec is None or (spec is known if exactly else _alike(spec, known)))
        ]
        kept = np.flatnonzero(self._kept)
        return kept[np.isin(self._column("spec", kept), wanted)][:limit]

    def kept(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of these episodes that were not given up, in their order."""
        wanted = np.asarray(ids, dtype=np.int64)
        return wanted[~np.isin(wanted, np.flatnonzero(~self._kept))]

    def lengths(self, ids: Sequence[int] | NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Number of transitions of each of these episodes, given up or not, or of all kept; `[len(ids)]`."""
        return self._column("length", ids)

    def terminated(self, ids: Sequence[int] | NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
        """Whether the last transition of each of these episodes ended the task itself; otherwise as `lengths`."""
        return self._column("terminated", ids).astype(np.bool_)

    def spec_of(self, episode_id: int) -> EnvSpec:
        """The environment that an episode comes from, given up or not."""
        return self._specs[int(self._column("spec", [episode_id])[0])]

    def find(self, key: str) -> int | None:
        """The episode appended under `key`, also if it was given up since, or None."""
        with self._read() as txn:
            return _find(txn, key)

    def info(self, episode_id: int) -> dict[str, Any]:
        """What is known of an episode without reading its arrays, as JSON values.

        `episode_id`, `env_id`, `key`, `length`, `terminated`, `truncated`, `total_reward`, `success` (after any
        transition), `num_bytes`, and the `meta` given at append.
        """
        with self._read() as txn:
            values = dict(self._header_of(txn, episode_id).values)
        meta, num_bytes = values.pop("meta"), self._index["num_bytes"][episode_id]
        return {"episode_id": int(episode_id), **values, "num_bytes": num_bytes, "meta": meta}

    def stats(self) -> dict[str, Any]:
        """The store in numbers, as JSON values: identity, episodes kept, given up, transitions, and by environment.

        `episode_bytes` are those of the episodes kept, `bytes` those of the file, free pages included.
        """
        with self._read():
            info, page = self._environment().info(), self._environment().stat()["psize"]
        kept = self.ids()
        lengths, spec_of = self.lengths(kept), self._column("spec", kept)
        environments = [
            {
                "env_id": spec.env_id,
                "episodes": int((spec_of == number).sum()),
                "transitions": int(lengths[spec_of == number].sum()),
            }
            for number, spec in enumerate(self._specs)
        ]
        return {
            **self._header,
            "episodes": len(self),
            "given_up": self.num_given_up,
            "transitions": self.num_transitions,
            "episode_bytes": self._num_bytes,
            "bytes": (info["last_pgno"] + 1) * page,
            "environments": environments,
        }

    # Reading ---------------------------------------------------------------------------------------------------

    def get(self, episode_id: int) -> Episode:
        """The episode of that number, in arrays of its own."""
        with self.reading() as reader:
            return reader.episode(episode_id)

    def note(self, name: str) -> bytes | None:
        """What was last noted under `name`, or None."""
        with self._read() as txn:
            record = txn.get(_keyed(name, _NOTE))
            if record is None:
                return None
            if len(record) < 4 or struct.unpack_from("<I", record)[0] != zlib.crc32(record[4:]):
                raise self._damaged(f"note {name!r} does not match its checksum")
            return bytes(record[4:])

    def notes(self, prefix: str = "") -> list[str]:
        """The names of all notes that begin with `prefix`, sorted."""
        start = _NOTE + prefix.encode()
        with self._read() as txn:
            cursor = txn.cursor()
            keys = map(bytes, cursor.iternext(values=False)) if cursor.set_range(start) else iter(())
            return [key[1:].decode() for key in takewhile(lambda key: key.startswith(start), keys)]

    @contextmanager
    def reading(self) -> Iterator["EpisodeReader"]:
        """Read arrays in place: `with store.reading() as reader: window = reader.rows(7, "obs/state", 3, 8)`.

        All reads see one snapshot. The arrays are read-only, most of them views into the memory map, and **die with
        the block**: copy what is to be kept. Keep the block short; appending inside it is refused.
        """
        with self._read() as txn:
            yield EpisodeReader(self, txn)

    def refresh(self) -> int:
        """See what the writer committed since; returns how many episodes are new, kept or already given up."""
        with self._read() as txn:
            cursor, known = txn.cursor(), self.next_id
            rows = bytearray()
            if cursor.set_range(_numbered(_INDEX, known)):
                for row in cursor.iternext(keys=False):
                    if len(row) != _INDEX_ROW.itemsize:
                        raise self._damaged("malformed index")
                    rows += row
            new = np.frombuffer(rows, dtype=_INDEX_ROW)
            if len(new) and (not cursor.last() or cursor.key() != _numbered(_INDEX, known + len(new) - 1)):
                raise self._damaged("gaps in the index")
            for number in range(len(self._specs), int(new["spec"].max()) + 1 if len(new) else 0):
                self._specs.append(self._read_spec(txn, number))
            header = read_header(self.path, txn)
            kept = self._kept_of(header, known + len(new))
            for name, column in self._index.items():
                column.frombytes(new[name].astype(np.int64).tobytes())
            self._num_transitions += int(new["length"].sum(dtype=np.int64))
            self._num_bytes += int(new["num_bytes"].sum(dtype=np.int64))
            before = np.concatenate([self._kept, np.ones(len(new), np.bool_)])
            gone = np.flatnonzero(before & ~kept).tolist()
            for episode_id in gone:
                self._num_transitions -= self._index["length"][episode_id]
                self._num_bytes -= self._index["num_bytes"][episode_id]
                self._layouts.pop(episode_id, None)
            if gone:
                self._checked = {block for block in self._checked if kept[block[0]]}
            self._header, self._kept = header, kept
        return len(new)

    def _kept_of(self, header: Mapping[str, Any], total: int) -> NDArray[np.bool_]:
        """Which of `total` episodes are kept, as the header of the store says."""
        given_up = _given_up(header)
        bounds = [number for ends in given_up for number in ends]
        kept = np.ones(total, np.bool_)
        for first, stop in given_up:
            kept[max(first, 0) : max(stop, 0)] = False
        sound = all(one < other for one, other in pairwise([-1, *bounds, total + 1]))
        if not sound or (kept[: self.next_id] & ~self._kept).any():
            raise self._damaged(f"episodes {given_up} of {total} given up")
        return kept

    def verify(self) -> list[str]:
        """Read everything and compare it with checksums, index and keys; the problems found, none for a sound store."""
        problems: list[str] = []
        keys: dict[str, int] = {}
        for episode_id in self.ids().tolist():
            try:
                with self._read() as txn:
                    header = self._header_of(txn, episode_id)
                    if header.values["key"] is not None:
                        keys[header.values["key"]] = episode_id
                    for number in range(len(header.layout.checksums)):
                        header.layout.check(number, self._record(txn, episode_id, number))
            except GivenUpError:  # by the writer, while this was reading
                continue
            except (StoreError, EpisodeError) as error:
                problems.append(f"episode {episode_id}: {error}")
        for name in self.notes():
            try:
                self.note(name)
            except StoreError as error:
                problems.append(str(error))
        try:
            with self._read() as txn:
                problems += [f"key {k!r} does not lead to episode {i}" for k, i in keys.items() if _find(txn, k) != i]
                cursor = txn.cursor()
                cursor.set_range(_KEY)
                leads = [_number(v) for k, v in takewhile(lambda item: item[0][:1] == _KEY, cursor.iternext())]
                # Beside a live writer, keys may be there of episodes that are gone by now, or were not there yet.
                given_up = _given_up(read_header(self.path, txn))
                kept = self._kept.copy()
                for first, stop in given_up:
                    kept[first:stop] = False
                stored, found = (sum(i < len(kept) and bool(kept[i]) for i in ids) for ids in (leads, keys.values()))
                if not problems and stored != found:
                    problems.append(f"{stored} keys are stored for {found} episodes with a key")
                left = [first for first, stop in given_up if _between(cursor, _block(first, 0), _block(stop, 0))]
                if left:
                    problems.append("records are left of episodes that were given up")
        except StoreError as error:
            problems.append(str(error))
        return problems

    # Writing ---------------------------------------------------------------------------------------------------

    def append(self, episode: Episode, key: str | None = None, *, spec: EnvSpec | None = None) -> int:
        """Store an episode and return its number; it is committed when the call returns.

        Where that takes the episodes beyond `MemoryOptions.max_bytes`, the oldest of them are given up in the same
        commit, but never the newest.

        Args:
            episode: what happened.
            key: makes the call idempotent: a key that is already there returns the episode stored under it and
                writes nothing.
            spec: the environment it comes from; by default the one the store was opened with.

        Raises:
            EpisodeError: the episode does not fit `spec`.
            StoreError: the store is read-only or the disk is full; the store is as it was before.
        """
        return self.append_many([episode], [key], spec=spec)[0]

    def append_many(
        self, episodes: Sequence[Episode], keys: Sequence[str | None] | None = None, *, spec: EnvSpec | None = None
    ) -> list[int]:
        """Store several episodes in one commit, all or none; otherwise as `append`."""
        self._refuse_unless_writable("append")
        spec = spec or self.spec
        keys = [None] * len(episodes) if keys is None else keys
        if spec is None:
            raise StoreError("spec must say which environment the episode comes from, here or at open")
        if len(keys) != len(episodes):
            raise StoreError(f"keys must be as many as the {len(episodes)} episodes, got {len(keys)}")
        with self._mutex:
            self._refuse_while_reading("append")
            # Both by key, or by position where there is none.
            new: dict[str | int, tuple[Episode, list[memoryview]]] = {}
            ids: dict[str | int, int] = {}
            for position, (episode, key) in enumerate(zip(episodes, keys, strict=True)):
                existing = None if key is None else self.find(key)
                if key is not None and existing is not None:
                    ids[key] = existing
                elif key not in new:
                    episode.validate(spec)
                    new[position if key is None else key] = (episode, episode.to_records(spec.env_id, key))
            known = self.next_id
            if new:
                try:
                    sizes = [len(record) for _, records in new.values() for record in records]
                    self._commit(sizes, lambda txn: self._put(txn, spec, new))
                except (lmdb.Error, OSError) as error:
                    raise StoreError(f"cannot append to {self.path}, which is as it was before: {error}") from error
                self.refresh()
            ids.update({name: known + i for i, name in enumerate(new)})
            return [ids[position if key is None else key] for position, key in enumerate(keys)]

    def annotate(self, notes: Mapping[str, bytes | None]) -> None:
        """Note something under each of these names, in place of what is there, or with None take it away.

        Notes hold what was made of episodes (graphs, counts), not what happened. All are written in one commit or none.

        Raises:
            StoreError: the store is read-only or the disk is full; the store is as it was before.
        """
        self._refuse_unless_writable("annotate")
        records = {
            _keyed(name, _NOTE): None if note is None else struct.pack("<I", zlib.crc32(note)) + note
            for name, note in notes.items()
        }

        def put(txn: "lmdb.Transaction[bytes]") -> None:
            for key, record in records.items():
                if record is None:
                    txn.delete(key)
                else:
                    txn.put(key, record)

        with self._mutex:
            self._refuse_while_reading("annotate")
            try:
                self._commit([len(record or b"") for record in records.values()], put)
            except (lmdb.Error, OSError) as error:
                raise StoreError(f"cannot annotate {self.path}, which is as it was before: {error}") from error

    def _commit(self, sizes: Sequence[int], put: Callable[["lmdb.Transaction[bytes]"], None]) -> None:
        """Carry out `put`, which writes records of these sizes, in one transaction."""
        env = self._environment()
        while True:
            try:
                self._reserve(sizes)
                with env.begin(write=True) as txn:
                    put(txn)
                return
            except lmdb.MapFullError:
                self._resize(2 * env.info()["map_size"])

    def forget(self, ids: Iterable[int]) -> list[int]:
        """Give up these episodes for good, in one commit; returns those of them that were there.

        Their room is used for later ones (`compact` hands it back). Their numbers and keys stay, as with
        `MemoryOptions.max_bytes`: whoever appends under one of the keys is told that this episode is known.

        Raises:
            StoreError: there never was such an episode, the store is read-only or the disk is full; the store is as it
                was before.
        """
        self._refuse_unless_writable("forget")
        with self._mutex:
            self._refuse_while_reading("forget")
            gone: list[int] = np.unique(self.kept(self._known(list(ids)))).tolist()
            if gone:
                header = self._header_without(gone, self.next_id)
                pages = int(self._column("num_bytes", gone).sum()) // 512  # LMDB's list of them: 8 bytes of 4096
                try:
                    self._commit([len(header), pages], lambda txn: self._give_up(txn, gone, header))
                except (lmdb.Error, OSError) as error:
                    raise StoreError(f"cannot forget in {self.path}, which is as it was before: {error}") from error
                self.refresh()
        return gone

    def compact(self) -> tuple[int, int]:
        """Rewrite the file without the room that was given up; returns its bytes before and after.

        The new file takes the place of the old one in one step: killed at any moment, one of the two is there, whole.
        Readers in other processes finish what they are reading in the old file, whose room the system takes back when
        the last of them is done, and read on from the new one.

        Raises:
            StoreError: the store is read-only or the disk is full; the store is as it was before.
        """
        self._refuse_unless_writable("compact")
        with self._mutex:
            self._refuse_while_reading("compact")
            before = (self.path / DATA_FILE).stat().st_size
            compact(self.path, self._environment())
            self._reopen()
            return before, (self.path / DATA_FILE).stat().st_size

    def _put(
        self, txn: "lmdb.Transaction[bytes]", spec: EnvSpec, new: Mapping[str | int, tuple[Episode, list[memoryview]]]
    ) -> None:
        spec_number = next((i for i, known in enumerate(self._specs) if _same(spec, known)), len(self._specs))
        if spec_number == len(self._specs):
            txn.put(_numbered(_SPEC, spec_number), seal(spec.to_json()))
        sizes: list[int] = []
        for episode_id, (key, (episode, records)) in enumerate(new.items(), start=self.next_id):
            for number, record in enumerate(records):
                txn.put(_block(episode_id, number), record)
            sizes.append(sum(map(len, records)))
            row = np.array((len(episode), spec_number, episode.terminated, sizes[-1]), dtype=_INDEX_ROW)
            txn.put(_numbered(_INDEX, episode_id), row.tobytes(), append=True)
            if isinstance(key, str):
                txn.put(_keyed(key), struct.pack(">Q", episode_id))
        gone = self._beyond_the_bound(sizes)
        if gone:
            self._give_up(txn, gone, self._header_without(gone, self.next_id + len(new)))

    def _beyond_the_bound(self, new: Sequence[int]) -> list[int]:
        """The oldest episodes, as far as the bound asks for when those of sizes `new` come; never the newest of all."""
        excess = self._num_bytes + sum(new) - (self.max_bytes or math.inf)
        if excess <= 0:
            return []
        numbers = np.concatenate([np.flatnonzero(self._kept), np.arange(self.next_id, self.next_id + len(new))])
        sizes = np.concatenate([self._column("num_bytes"), np.asarray(new, dtype=np.int64)])
        count = int(np.searchsorted(np.cumsum(sizes), excess)) + 1
        oldest: list[int] = numbers[: min(count, len(numbers) - 1)].tolist()
        return oldest

    def _header_without(self, gone: Sequence[int], total: int) -> bytes:
        """The header of the store of `total` episodes when these are given up too."""
        lost = np.zeros(total + 2, np.bool_)  # one more at either side, to see where ranges begin and end
        lost[1 : self.next_id + 1] = ~self._kept
        lost[np.asarray(gone, dtype=np.int64) + 1] = True
        given_up = np.flatnonzero(lost[1:] != lost[:-1]).reshape(-1, 2).tolist()
        return seal({**self._header, "version": VERSION_GIVEN_UP, "given_up": given_up})

    def _give_up(self, txn: "lmdb.Transaction[bytes]", gone: Sequence[int], header: bytes) -> None:
        """Delete the records of these episodes, and say so in the header."""
        for episode_id in gone:
            number = 0
            while txn.delete(_block(episode_id, number)):
                number += 1
        txn.put(HEADER_KEY, header)

    def _reserve(self, sizes: Sequence[int]) -> None:
        """Make the file (sparsely) long enough for all pages of the next commit.

        LMDB may leave the last pages of a commit unwritten when they ended up unused. With the length settled before,
        a file that is shorter than its last page is a truncated one, and can be refused instead of crashing the
        process that maps it.
        """
        env, data = self._environment(), self.path / DATA_FILE
        page = env.stat()["psize"]
        used = (env.info()["last_pgno"] + 1) * page
        needed = used + sum(size + 4 * page for size in sizes) + RESERVE
        if data.stat().st_size < needed:
            os.truncate(data, -(-needed // RESERVE) * RESERVE)

    # Life ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Release files and the writer's lock; closing twice is fine."""
        if self._pid != os.getpid():  # a fork's copy: files, lock and memory map belong to the parent
            return
        with self._mutex:
            self._refuse_while_reading("close")
            env, lock = self._env, self._lock
            self._env = self._lock = None
            self._layouts.clear()
            self._checked.clear()
            if env is not None:
                env.close()
            if lock is not None:
                lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EpisodeStore({str(self.path)!r}, episodes={len(self)}, transitions={self.num_transitions})"

    # Inside ----------------------------------------------------------------------------------------------------

    def _environment(self) -> lmdb.Environment:
        if self._env is None:
            raise StoreError(f"the store {self.path} is closed")
        if self._pid != os.getpid():
            raise StoreError(f"the store {self.path} was opened before a fork; open it again in the child process")
        return self._env

    def _column(self, name: str, ids: Sequence[int] | NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        wanted = np.flatnonzero(self._kept) if ids is None else self._known(ids)
        # A slice of an array is taken at once, whereas NumPy would hold its memory while another thread refreshes; and
        # columns only ever grow, before what is kept is told.
        return np.frombuffer(self._index[name][:], dtype=np.int64)[wanted]

    def _known(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """These numbers, all of which must be those of episodes."""
        wanted = np.asarray(ids, dtype=np.int64)
        unknown = wanted[(wanted < 0) | (wanted >= self.next_id)]
        if len(unknown):
            raise StoreError(f"episode ids must be between 0 and {self.next_id - 1}, got {unknown[0]}")
        return wanted

    @contextmanager
    def _read(self) -> Iterator["lmdb.Transaction[memoryview]"]:
        self._environment()  # raises before the mutex, which a fork may have copied locked
        with self._mutex:
            if self._txn is not None:
                yield self._txn
                return
            try:
                with self._begin() as txn:
                    self._txn = txn
                    yield txn
            except lmdb.Error as error:
                raise StoreError(f"cannot read the store {self.path}: {error}") from error
            finally:
                self._txn = None

    def _begin(self) -> "lmdb.Transaction[memoryview]":
        """A transaction that reads the file that is in place now, which another process may have compacted."""
        while True:
            try:
                txn = self._environment().begin(buffers=True)
            except lmdb.MapResizedError:  # the writer has grown the map: adopt its size
                self._resize(0)
                txn = self._environment().begin(buffers=True)
            if identity(self.path) in (self._file, None):  # after it began: what it shows was the newest until then
                return txn
            txn.abort()
            self._reopen()

    def _reopen(self) -> None:
        """Go on with the file that is in place now."""
        map_size = self._environment().info()["map_size"]
        self._environment().close()
        self._layouts.clear()
        self._checked.clear()
        try:
            self._file = identity(self.path)
            self._env = open_environment(self.path, "a" if self.writable else "r", map_size, self._sync)
            with self._env.begin(buffers=True) as txn:
                if read_header(self.path, txn)["store_id"] != self.store_id:
                    raise StoreError(f"another store was put in the place of {self.path}; open it again")
        except BaseException:
            self.close()
            raise

    def _refuse_unless_writable(self, what: str) -> None:
        self._environment()  # raises if the store is closed, or a fork's copy
        if self._lock is None:
            raise StoreError(f"{self.path} was opened for reading; open it with mode 'a' to {what}")

    def _refuse_while_reading(self, what: str) -> None:
        if self._txn is not None:
            raise StoreError(f"{what} inside a reading() block: leave the block first")

    def _resize(self, map_size: int) -> None:
        """Change the size of the memory map; LMDB keeps no map at all when that fails, so the store closes."""
        try:
            self._environment().set_mapsize(map_size)
        except lmdb.Error as error:
            self.close()
            raise StoreError(f"no address space to grow the map of {self.path}, now closed: {error}") from error

    def _record(self, txn: "lmdb.Transaction[memoryview]", episode_id: int, number: int) -> memoryview:
        if not 0 <= episode_id < self.next_id:
            raise StoreError(f"episode_id must be between 0 and {self.next_id - 1}, got {episode_id}")
        record = txn.get(_block(episode_id, number)) if self._kept[episode_id] else None
        if record is None:
            # A writer may have given it up since the last refresh.
            if any(first <= episode_id < stop for first, stop in _given_up(read_header(self.path, txn))):
                raise GivenUpError(
                    f"episode {episode_id} was given up, for newer ones (memory.max_bytes) or by `forget`: "
                    f"{self.path} keeps {len(self)} of {self.next_id} episodes"
                )
            raise self._damaged(f"episode {episode_id} lacks block {number}")
        return record

    def _header_of(self, txn: "lmdb.Transaction[memoryview]", episode_id: int) -> EpisodeHeader:
        try:
            header = EpisodeHeader.parse(self._record(txn, episode_id, 0))
        except EpisodeError as error:
            raise self._damaged(f"episode {episode_id}: {error}") from error
        spec = self._specs[self._index["spec"][episode_id]]
        expected = (self._index["length"][episode_id], self._index["terminated"][episode_id], spec.env_id)
        if expected != tuple(header.values[name] for name in ("length", "terminated", "env_id")):
            raise self._damaged(f"episode {episode_id} is not the one of the index")
        return header

    def _layout(self, txn: "lmdb.Transaction[memoryview]", episode_id: int) -> EpisodeLayout:
        layout = self._layouts.get(episode_id)
        if layout is None:
            layout = self._layouts[episode_id] = self._header_of(txn, episode_id).layout
        return layout

    def _part(self, txn: "lmdb.Transaction[memoryview]", episode_id: int, number: int) -> memoryview:
        """The arrays in a block, read and checked if this process has not done so before."""
        layout, record = self._layout(txn, episode_id), self._record(txn, episode_id, number)
        if (episode_id, number) not in self._checked:
            try:
                layout.check(number, record)
            except EpisodeError as error:
                raise self._damaged(f"episode {episode_id}: {error}") from error
            self._checked.add((episode_id, number))
        return layout.part(number, record)

    def _read_spec(self, txn: "lmdb.Transaction[memoryview]", number: int) -> EnvSpec:
        sealed = txn.get(_numbered(_SPEC, number))
        try:
            return EnvSpec.from_json(unseal(sealed))
        except (ValueError, EnvError) as error:
            raise self._damaged(f"environment spec {number}: {error}") from error

    def _damaged(self, what: str) -> StoreError:
        return StoreError(f"the store {self.path} is damaged ({what}); verify() lists what is, a backup replaces it")


class EpisodeReader:
    """Reads arrays in place during one `EpisodeStore.reading` block; names are those of `Episode.arrays`.

    Its methods raise `StoreError` for an episode that is not there or is damaged, and `UnknownNameError` for an array
    that is not.
    """

    def __init__(self, store: EpisodeStore, txn: "lmdb.Transaction[memoryview]") -> None:
        self._store, self._txn = store, txn
        self._last: tuple[int, int] | None = None
        self._last_part = memoryview(b"")

    def array(self, episode_id: int, name: str) -> Array:
        """A whole array."""
        return self._store._layout(self._txn, episode_id).array(name, partial(self._part, episode_id))

    def rows(self, episode_id: int, name: str, start: int, stop: int) -> Array:
        """Rows `start:stop` of an array, which must be there; only the one or two blocks they lie in are touched."""
        return self._store._layout(self._txn, episode_id).rows(name, start, stop, partial(self._part, episode_id))

    def episode(self, episode_id: int) -> Episode:
        """The whole episode, in arrays of its own."""
        return self._store._header_of(self._txn, episode_id).episode(partial(self._part, episode_id))

    def _part(self, episode_id: int, number: int) -> memoryview:
        if self._last != (episode_id, number):
            self._last_part = self._store._part(self._txn, episode_id, number)
            self._last = (episode_id, number)
        return self._last_part


def _block(episode_id: int, number: int) -> bytes:
    return _EPISODE + struct.pack(">QI", episode_id, number)


def _numbered(kind: bytes, number: int) -> bytes:
    return kind + struct.pack(">Q", number)


def _keyed(key: str, kind: bytes = _KEY) -> bytes:
    encoded = key.encode()
    if not 1 <= len(encoded) <= _MAX_KEY_BYTES:
        raise StoreError(f"key must have 1 to {_MAX_KEY_BYTES} bytes, got {len(encoded)}")
    return kind + encoded


def _find(txn: "lmdb.Transaction[Any]", key: str) -> int | None:
    value = txn.get(_keyed(key))
    return None if value is None else _number(value)


def _number(value: bytes | memoryview) -> int:
    """The episode that a key leads to."""
    return int.from_bytes(bytes(value[:8]), "big")


def _between(cursor: Any, first: bytes, stop: bytes) -> bool:
    """Whether a record has a key from `first` on and before `stop`."""
    return bool(cursor.set_range(first)) and bytes(cursor.key()) < stop


def _given_up(header: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Which episodes were given up, as the header of a store says: ascending ranges, without their stops."""
    given_up = header.get("given_up", [])
    return [(0, given_up)] if isinstance(given_up, int) else [(first, stop) for first, stop in given_up]


def _same(one: EnvSpec, other: EnvSpec) -> bool:
    """Equality of specs in which an unknown `control_dt`, nan, equals itself."""
    return one.to_json() == other.to_json()


def _alike(spec: EnvSpec, known: EnvSpec) -> bool:
    """Whether what is stored under `known` is of the kind of `spec`; where nobody knows how long a step took, it is."""
    lasting = spec.control_dt if math.isnan(known.control_dt) else known.control_dt
    return _same(spec, replace(known, max_episode_steps=spec.max_episode_steps, control_dt=lasting))
