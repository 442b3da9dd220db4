"""The LMDB file under a store: made whole or not at all, locked for one writer, looked at before it is mapped.

What reaches LMDB has passed the checks here, because a damaged or truncated file that is mapped can kill the process.
"""

import json
import os
import shutil
import struct
import uuid
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, Literal

import lmdb

from ... import ForethoughtError
from ..files import FileError, LockedError, lock

FORMAT: Final = "forethought-episodes"
VERSION: Final = 1
VERSION_GIVEN_UP: Final = 3
"""Of a store that has given up episodes; its header says which, as `given_up` (version 2: how many of the oldest)."""
HEADER_KEY: Final = b"a"
DATA_FILE: Final = "data.mdb"
RESERVE: Final = 1 << 20
"""Bytes by which the file is longer than its pages need, at least; the file grows in these steps."""

_WRITER_LOCK, _READER_TABLE, _CREATING, _COMPACTING = "writer.lock", "lock.mdb", "creating", "compacting"
_META: Final = struct.Struct("=QQ")
"""At the end of a meta page's content: the last page in use and the number of the transaction."""
_META_AT: Final = 136


class StoreError(ForethoughtError):
    """A store that cannot be opened, read or written; the message says what to do."""


class GivenUpError(StoreError):
    """An episode that was there, and has made room for newer ones or was to be forgotten."""


def create(folder: Path) -> None:
    """Make an empty store: in a folder of its own, renamed into place, so that a data file is always a whole one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock_writer(folder):
            if (folder / DATA_FILE).exists():  # another process was faster
                return
            foreign = {entry.name for entry in folder.iterdir()} - {_WRITER_LOCK, _READER_TABLE, _CREATING, _COMPACTING}
            if foreign:
                raise StoreError(f"{folder} is not empty and no episode store: found {sorted(foreign)[0]!r}")
            temporary = folder / _CREATING
            shutil.rmtree(temporary, ignore_errors=True)
            header = {
                "format": FORMAT,
                "version": VERSION,
                "store_id": uuid.uuid4().hex,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            with lmdb.open(str(temporary), map_size=RESERVE) as env, env.begin(write=True) as txn:
                txn.put(HEADER_KEY, seal(header))
            _move_in(temporary, folder)
    except (OSError, lmdb.Error) as error:
        raise StoreError(f"cannot create an episode store in {folder}: {error}") from error


def compact(folder: Path, env: lmdb.Environment) -> None:
    """Copy a store without its free pages, and put the copy in its place; `env` goes on showing the file of before.

    For the holder of the writer's lock. Processes that read share LMDB's table of readers with those that open the
    copy, and in it the number of the last transaction. The copy therefore counts on from that number, instead of from
    1 as LMDB would have it: otherwise they would take the wrong one of its two meta pages for the newest.
    """
    temporary = folder / _COMPACTING
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        with env.begin() as txn:
            transaction = txn.id()
        env.copy(str(temporary), compact=True)
        with (temporary / DATA_FILE).open("r+b") as file:
            _count_from(file, transaction)
            file.flush()
            os.fsync(file.fileno())
        _move_in(temporary, folder)
    except (OSError, lmdb.Error) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StoreError(f"cannot compact {folder}, which is as it was before: {error}") from error


def _count_from(file: IO[bytes], transaction: int) -> None:
    """Give the newest state in an LMDB file the number `transaction`, in the meta page that goes with it."""
    head = file.read(1 << 17)
    (page,) = struct.unpack_from("=I", head, 40)
    newest = max((0, page), key=lambda start: int(_META.unpack_from(head, start + _META_AT)[1]))
    last_page, _ = _META.unpack_from(head, newest + _META_AT)
    slot = transaction % 2
    meta = bytearray(head[newest : newest + _META_AT + _META.size])
    struct.pack_into("=Q", meta, 0, slot)  # the page's own number
    _META.pack_into(meta, _META_AT, last_page, transaction)
    file.seek(slot * page)
    file.write(meta)


def _move_in(temporary: Path, folder: Path) -> None:
    """Put the data file in `temporary` into its place, in one step."""
    (temporary / DATA_FILE).replace(folder / DATA_FILE)
    shutil.rmtree(temporary)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def identity(folder: Path) -> tuple[int, int] | None:
    """What tells the data file that is in place now from one that was there before; None where there is none."""
    try:
        status = os.stat(folder / DATA_FILE)  # noqa: PTH116, twice as fast, and it stands before every read
    except OSError:
        return None
    return status.st_dev, status.st_ino


def lock_writer(folder: Path) -> IO[bytes]:
    """Take the writer's lock, see `files.lock`; `StoreError` if another process has it."""
    try:
        file = lock(folder / _WRITER_LOCK)
    except LockedError as error:
        raise StoreError(
            f"{folder} is open for appending in another process (pid {error.holder}); "
            "one process appends at a time, any number read"
        ) from error
    except FileError as error:
        raise StoreError(str(error)) from error
    shutil.rmtree(folder / _COMPACTING, ignore_errors=True)  # what a killed writer has left
    return file


def open_environment(folder: Path, mode: Literal["r", "a"], map_size: int, sync: bool) -> lmdb.Environment:
    """Check and open the file of a store; `StoreError` with the reason when it cannot be."""
    try:
        size = _check_file(folder / DATA_FILE)
        table = folder / _READER_TABLE
        # A folder that cannot be written, and so has no room for the table of readers, is taken to be at rest.
        locking = mode == "a" or os.access(table if table.exists() else folder, os.W_OK)
        while True:
            try:
                return lmdb.open(
                    str(folder), map_size, readonly=mode == "r", create=False, sync=sync, metasync=sync,
                    lock=locking, max_readers=1024,
                )  # fmt: skip
            except lmdb.MemoryError:  # address space is limited: be content with less, at last with what is used
                if map_size < size:
                    raise
                map_size //= 2
    except (OSError, lmdb.Error) as error:
        raise StoreError(f"cannot open the store {folder} with mode {mode!r}: {error}") from error


def _check_file(data: Path) -> int:
    """Look at the two meta pages of an LMDB file before it is mapped; returns its size.

    A page behind the end of the file kills the process that touches it.
    """
    with data.open("rb") as file:
        head = file.read(1 << 17)
    size = data.stat().st_size  # after the meta pages: the file grows before they do
    page = struct.unpack_from("=I", head, 40)[0] if len(head) >= 44 else 0
    if page not in {512 << power for power in range(8)} or len(head) < page + 152:
        raise StoreError(f"{data} is no episode store, or damaged at its start ({size} bytes)")
    newest, last_page = -1, 0
    for start in (0, page):
        magic, version = struct.unpack_from("=II", head, start + 16)
        pages, transaction = _META.unpack_from(head, start + _META_AT)
        if (magic, version) != (0xBEEFC0DE, 1):
            raise StoreError(f"{data} is no episode store, or damaged at its start")
        if transaction > newest:
            newest, last_page = transaction, pages
    if size < (last_page + 1) * page:
        raise StoreError(f"{data} is truncated: {size} of {(last_page + 1) * page} bytes; restore it from a backup")
    return size


def read_header(folder: Path, txn: "lmdb.Transaction[memoryview]") -> dict[str, Any]:
    """The header of the store; `StoreError` if it is none of ours."""
    try:
        header = unseal(txn.get(HEADER_KEY))
    except ValueError as error:
        raise StoreError(f"{folder} holds the database of another program, or is damaged: {error}") from error
    if header["format"] != FORMAT:
        raise StoreError(f"{folder} holds {header['format']!r}, not {FORMAT!r}")
    if header["version"] not in range(VERSION, VERSION_GIVEN_UP + 1):
        known = f"{VERSION} to {VERSION_GIVEN_UP}"
        raise StoreError(f"{folder} has format version {header['version']}; this release reads {known}")
    return header


def seal(record: dict[str, Any]) -> bytes:
    """A record as JSON under a checksum."""
    text = json.dumps(record, allow_nan=False).encode()
    return struct.pack("<I", zlib.crc32(text)) + text


def unseal(value: memoryview | None) -> dict[str, Any]:
    """Undo `seal`; `ValueError` for anything else."""
    if value is None or len(value) < 4 or struct.unpack_from("<I", value)[0] != zlib.crc32(value[4:]):
        raise ValueError("a record is missing, or its checksum does not match")
    record = json.loads(bytes(value[4:]))
    if not isinstance(record, dict):
        raise ValueError("a record is no JSON object")
    return record
