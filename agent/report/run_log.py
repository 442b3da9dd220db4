"""Logs of drives: a line of JSON per decision, or MCAP for Foxglove, PlotJuggler and other tools of robotics."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import numpy as np
from typing_extensions import override

from ... import ForethoughtError
from ..realtime import Tick

SUFFIXES = (".jsonl", ".mcap")
_NUMBERS = {"type": "array", "items": {"type": "number"}}
_SCHEMA = {
    "title": "forethought.Tick",
    "type": "object",
    "properties": {
        **{name: {"type": "integer"} for name in ("tick", "episode", "iterations")},
        **{
            name: {"type": "number"}
            for name in ("time_s", "decision_s", "sent_s", "cost", "surprise", "reward", "behind_s")
        },
        **{name: {"type": "boolean"} for name in ("success", "overrun", "late")},
        "observation_age": {"type": "number"},
        "fallback": {"type": "string"},
        "asked": _NUMBERS,
        "command": _NUMBERS,
        "obs": {"type": "object", "additionalProperties": _NUMBERS},
    },
}


class LogError(ForethoughtError):
    """A log that cannot be written."""


class _Sink(Protocol):
    def write(self, row: Mapping[str, Any]) -> None:
        """Write one decision."""
        ...

    def flush(self) -> None:
        """Have what was written reach the file."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


class RunLog:
    """Writes decisions to a file; they are kept in memory until `flush`, so that driving never waits for a disk.

    Images among the observations are left out. Numbers that are not finite become null.

    Args:
        path: `.jsonl` or `.mcap`; replaced if it exists.
        header: what the drive is, as JSON values: the first line, or the metadata of the MCAP file.

    Raises:
        LogError: another suffix, a folder that cannot be written, or the extra `logs` is missing.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        if path.suffix not in SUFFIXES:
            raise LogError(f"log must end in {' or '.join(SUFFIXES)}, got {path}")
        self._ticks: list[Tick] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._sink: _Sink = (_Lines if path.suffix == ".jsonl" else _Mcap)(path, header)
        except OSError as error:
            raise LogError(f"cannot write log={path}: {error.strerror or error}") from error

    def add(self, tick: Tick) -> None:
        """Keep one decision."""
        self._ticks.append(tick)

    def flush(self) -> None:
        """Write what was kept."""
        for tick in self._ticks:
            self._sink.write(row_of(tick))
        self._ticks.clear()
        self._sink.flush()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
        self._sink.close()


def row_of(tick: Tick) -> dict[str, Any]:
    """A decision as JSON values; what is unknown is left out."""
    row: dict[str, Any] = {}
    for name, value in vars(tick).items():
        if name == "obs":
            row[name] = {k: _plain(v) for k, v in value.items() if v.dtype != np.uint8}
        elif value is not None:
            row[name] = _plain(value)
    return row


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(x) for x in value.ravel().tolist()]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Lines(_Sink):
    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self._file: IO[str] = path.open("w")
        self._file.write(json.dumps(header) + "\n")

    @override
    def write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")

    @override
    def flush(self) -> None:
        self._file.flush()

    @override
    def close(self) -> None:
        self._file.close()


class _Mcap(_Sink):
    """One channel `/forethought` of JSON messages with a schema; times count from when the robot was made."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        try:
            from mcap.writer import Writer
        except ImportError as error:
            raise LogError(f"log={path} needs mcap, which is not installed: pip install 'forethought[logs]'") from error
        self._file = path.open("wb")
        self._writer = Writer(self._file)
        self._writer.start(library="forethought")
        self._writer.add_metadata("forethought", {k: json.dumps(v) for k, v in header.items()})
        schema = self._writer.register_schema("forethought.Tick", "jsonschema", json.dumps(_SCHEMA).encode())
        self._channel = self._writer.register_channel("/forethought", "json", schema)

    @override
    def write(self, row: Mapping[str, Any]) -> None:
        time_ns = round(row["time_s"] * 1e9)
        known = {k: v for k, v in row.items() if v is not None}
        self._writer.add_message(self._channel, time_ns, json.dumps(known).encode(), time_ns, row["tick"])

    @override
    def flush(self) -> None:
        self._file.flush()

    @override
    def close(self) -> None:
        self._writer.finish()
        self._file.close()
