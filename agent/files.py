"""Files that are never half written: everything goes to a temporary file that is renamed into place."""

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import ForethoughtError


class FileError(ForethoughtError):
    """A file that cannot be written, read or understood."""


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
