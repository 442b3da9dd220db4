"""Files that are never half written: everything goes to a temporary file that is renamed into place."""

import contextlib
import fcntl
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from .. import ForethoughtError


class FileError(ForethoughtError):
    """A file that cannot be written, read or understood."""


class LockedError(FileError):
    """A lock that another process holds.

    Args:
        holder: its process id, or "unknown".
    """

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is locked by another process (pid {holder})")
        self.holder = holder


def lock(path: Path) -> IO[bytes]:
    """Take a lock, which the system releases when the file is closed or the process dies.

    A POSIX record lock, because children do not inherit it: no forked worker keeps the lock of a killed process.

    Raises:
        LockedError: another process has it.
        FileError: the file cannot be written.
    """
    try:
        file = path.open("a+b")
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read(20).decode(errors="replace").strip()
        file.close()
        raise LockedError(path, holder or "unknown") from error
    try:
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            file.close()
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error
    return file


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically: readers see the old file or the new one, never a part, whatever crashes.

    Raises:
        FileError: the disk is full, the folder is read-only or missing; the old file is untouched.
    """
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # noqa: PTH101  (mkstemp makes private files)
        os.replace(temporary, path)  # noqa: PTH105
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write `data` as readable JSON, atomically.

    Raises:
        FileError: as `write_bytes`, or a float is not finite; the old file is untouched.
    """
    try:
        text = json.dumps(data, indent=2, allow_nan=False)
    except ValueError as error:
        raise FileError(f"cannot write {path}: {error}") from error
    write_bytes(path, text.encode() + b"\n")


def finite(data: Any) -> Any:
    """JSON has no NaN: numbers that are not finite become null."""
    if isinstance(data, dict):
        return {k: finite(v) for k, v in data.items()}
    if isinstance(data, list):
        return [finite(v) for v in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileError: the file is missing, truncated, or no JSON object.
    """
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FileError(f"cannot read {path}: {error}") from error
    if not isinstance(data, dict):
        raise FileError(f"cannot read {path}: expected a JSON object, got {type(data).__name__}")
    return data
