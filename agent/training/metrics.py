"""What training measures: an append-only log that survives kill -9, and the health of the latent space."""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from ... import ForethoughtError
from ..files import FileError, write_bytes

WARNING_KEY = "latent/warning"
"""The metric under which the text of `collapse_warning` is logged; the report shows it in a box."""

COLLAPSE_STD = 0.05
"""Mean standard deviation of the latents below which they count as collapsed to a point."""
COLLAPSE_RANK = 0.1
"""Effective rank, as a fraction of the latent width, below which the latents count as collapsed to a subspace."""

_FIELDS = {"phase": str, "update": int, "decisions": int, "frames": int, "seconds": int | float, "time": int | float}
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class MetricsError(ForethoughtError):
    """A metric that cannot be logged, or latents whose health cannot be measured."""


class MetricsLogger:
    """Appends one JSON object per line to `metrics.jsonl`, and to TensorBoard where that is installed.

    A line counts once its newline is on file: a process killed while writing leaves a torn last line, which readers
    ignore and the next logger cuts off. Opening the folder of an earlier run goes on where that run stopped.

    Args:
        run_dir: folder of the run; made if missing.
        tensorboard: also write `run_dir/tensorboard` if the package is installed; `tensorboard_status` says what came
            of it.

    Attributes:
        lines: on file so far; a checkpoint that notes it can be resumed without duplicates or gaps, by `truncate`.

    Raises:
        FileError: the folder cannot be written, or an earlier log is corrupt before its last line.
    """

    def __init__(self, run_dir: Path, tensorboard: bool = True) -> None:
        self.path = run_dir / "metrics.jsonl"
        self._tensorboard_dir = run_dir / "tensorboard"
        self._seconds_before = 0.0
        self.lines = 0
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                os.truncate(self.path, len(_whole_lines(self.path.read_bytes())))
                records = read_metrics(self.path)
                self.lines, self._seconds_before = len(records), _last_seconds(records)
            self._file = self.path.open("ab")
        except OSError as error:
            raise FileError(f"cannot write {self.path}: {error.strerror or error}") from error
        self._started = time.monotonic()
        self._writer: Any = None
        self.tensorboard_status = "off: tensorboard=False"
        """Where TensorBoard events go, or why they do not."""
        if tensorboard:
            self._open_tensorboard(purge_step=None)

    def log(
        self, phase: str, metrics: Mapping[str, float | int | str], *, update: int, decisions: int, frames: int
    ) -> None:
        """Append one line.

        `seconds` (since the start of the run, pauses between resumes left out) and `time` (Unix) are added.
        Non-finite numbers are written as the strings `nan`, `inf` and `-inf`, so that every line is valid JSON;
        `read_metrics` turns them back into numbers.

        Args:
            phase: what the run was doing: `collect`, `train`, `evaluate`, ...
            metrics: flat names to numbers or text, as in `{"loss/prediction": 0.1}`.
            update: gradient updates so far.
            decisions: actions chosen so far.
            frames: environment steps so far, action repeat included.

        Raises:
            MetricsError: a name is taken by a field of the line, or a value is neither a number nor text.
            FileError: the disk is full or gone.
        """
        values = {name: _scalar(name, value) for name, value in metrics.items()}
        record: dict[str, Any] = {
            "phase": phase,
            "update": update,
            "decisions": decisions,
            "frames": frames,
            "seconds": round(self._seconds_before + time.monotonic() - self._started, 3),
            "time": round(time.time(), 3),
            **{name: _json_value(value) for name, value in values.items()},
        }
        try:
            self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            self._file.flush()
            self.lines += 1
        except OSError as error:
            raise FileError(f"cannot write {self.path}: {error.strerror or error}") from error
        if self._writer is not None:
            with self._tensorboard_may_fail():
                for name, value in values.items():
                    add = self._writer.add_text if isinstance(value, str) else self._writer.add_scalar
                    add(f"{phase}/{name}", value, update)

    def truncate(self, lines: int) -> None:
        """Keep only the first `lines` lines: a run that is resumed writes what came after them once more.

        `seconds` goes on from the last line kept. TensorBoard hides the events of later updates. A log that is shorter
        already, because the last lines never reached the disk, is left as it is.

        Raises:
            FileError: the log cannot be read or rewritten; the old one is untouched.
        """
        records = read_metrics(self.path)
        kept = records[:lines]
        if len(kept) < len(records):
            write_bytes(self.path, b"".join(self.path.read_bytes().splitlines(keepends=True)[:lines]))
            self._file.close()
            self._file = self.path.open("ab")
        self.lines, self._seconds_before = len(kept), _last_seconds(kept)
        self._started = time.monotonic()
        if self._writer is not None:
            with self._tensorboard_may_fail():
                self._writer.close()
            self._open_tensorboard(purge_step=kept[-1]["update"] + 1 if kept else 0)

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        try:
            self._file.close()
        except OSError as error:  # the rest of a line that `log` has complained about
            raise FileError(f"cannot write {self.path}: {error.strerror or error}") from error
        finally:
            if self._writer is not None:
                with self._tensorboard_may_fail():
                    self._writer.close()
                self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_tensorboard(self, purge_step: int | None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            self.tensorboard_status = f"off: {error}; pip install 'forethought[track]'"
            return
        with self._tensorboard_may_fail():
            self._writer = SummaryWriter(str(self._tensorboard_dir), purge_step=purge_step, flush_secs=10)
            self.tensorboard_status = f"on: {self._tensorboard_dir}"

    @contextmanager
    def _tensorboard_may_fail(self) -> Iterator[None]:
        """What TensorBoard cannot write is lost, and no reason to stop: `metrics.jsonl` holds all of it."""
        try:
            yield
        except OSError as error:
            self._writer = None
            self.tensorboard_status = f"off: cannot write {self._tensorboard_dir}: {error.strerror or error}"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`, also while it is being written; a torn last line is ignored.

    Raises:
        FileError: the file is missing, or corrupt before its last line; the message says at which line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    records = []
    for number, line in enumerate(_whole_lines(data).splitlines(), start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise FileError(f"cannot read {path}: line {number} is not JSON: {error}") from error
        if not isinstance(record, dict) or not all(
            isinstance(record.get(name), kind) for name, kind in _FIELDS.items()
        ):
            raise FileError(f"cannot read {path}: line {number} must be an object with {', '.join(_FIELDS)}")
        records.append(
            {
                name: _NON_FINITE.get(value, value) if name != "phase" and isinstance(value, str) else value
                for name, value in record.items()
            }
        )
    return records


@torch.no_grad()
def latent_health(z: Tensor) -> dict[str, float]:
    """How much of the latent space a batch of latents uses.

    Give it well over `Z` latents from many episodes: the rank of `N` points is at most `N - 1`.

    Args:
        z: latents `[N, Z]`, `N >= 2`.

    Returns:
        `latent/std`: standard deviation over the batch, mean over dimensions.
        `latent/std_min`: the same for the dimension that varies least.
        `latent/effective_rank`: exponential of the entropy of the normalised singular values of the centred latents,
        from 1 (a line) to `min(N - 1, Z)` (isotropic), 0 if all latents are equal. Source: Roy and Vetterli, "The
        effective rank: a measure of effective dimensionality", EUSIPCO 2007.
        All three are NaN if a latent is not finite.

    Raises:
        MetricsError: `z` has another shape.
    """
    if z.ndim != 2 or z.shape[0] < 2 or z.shape[1] < 1:
        raise MetricsError(f"z must be [N, Z] with N of at least 2, got {list(z.shape)}")
    centred = z.double() - z.double().mean(dim=0)
    std = centred.square().sum(dim=0).div(len(z) - 1).sqrt()
    if not bool(torch.isfinite(std).all()):
        return {"latent/std": math.nan, "latent/std_min": math.nan, "latent/effective_rank": math.nan}
    # The eigenvalues of the smaller Gram matrix are the squared singular values, at a fraction of the cost of an SVD.
    gram = centred.T @ centred if centred.shape[0] > centred.shape[1] else centred @ centred.T
    singular = torch.linalg.eigvalsh(gram).clamp_min(0.0).sqrt()
    total = singular.sum()
    rank = torch.special.entr(singular / total).sum().exp() if total > 0 else total
    return {"latent/std": float(std.mean()), "latent/std_min": float(std.min()), "latent/effective_rank": float(rank)}


def collapse_warning(health: Mapping[str, float], latent_dim: int) -> str | None:
    """Say in plain words what is wrong with the latents and what to try, or None if they are healthy.

    Args:
        health: what `latent_health` returned.
        latent_dim: width of the latents, `Z`.
    """
    std, rank = health["latent/std"], health["latent/effective_rank"]
    if not (math.isfinite(std) and math.isfinite(rank)):
        return "The latents are not finite: training has diverged. Lower the learning rate or clip gradients harder."
    if std < COLLAPSE_STD:
        return (
            f"The latents have collapsed to a point: their standard deviation is {std:.3g}, below {COLLAPSE_STD}, so "
            "different observations look alike to the planner. Give the anti-collapse loss more weight or lower the "
            "learning rate."
        )
    if rank < COLLAPSE_RANK * latent_dim:
        return (
            f"The latents have collapsed to a few directions: effective rank {rank:.1f} of {latent_dim}, below "
            f"{100 * COLLAPSE_RANK:.0f} % of the width. Give the anti-collapse loss more weight, "
            "collect more varied data, or choose a narrower latent."
        )
    return None


def _whole_lines(data: bytes) -> bytes:
    return data[: data.rfind(b"\n") + 1]


def _last_seconds(records: list[dict[str, Any]]) -> float:
    return float(records[-1]["seconds"]) if records else 0.0


def _scalar(name: str, value: object) -> float | int | str:
    if name in _FIELDS:
        raise MetricsError(f"a metric must not be named {name!r}: it is a field of every line")
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str | int | float):
        return value
    try:
        return float(value)  # type: ignore[arg-type]  # NumPy and torch scalars
    except (TypeError, ValueError, RuntimeError):
        raise MetricsError(f"metric {name!r} must be a number or text, got {type(value).__name__}") from None


def _json_value(value: float | int | str) -> float | int | str:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
