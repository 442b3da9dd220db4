"""Writing LeRobot datasets; the format is described in `interop_lerobot`, which reads them."""

import json
import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np

from ...envs.spec import EnvSpec
from .episode import Array, Episode
from .interop import OURS, Dataset, ours, record_of
from .interop_lerobot import OURS_FILE, VERSION, Column, goal_columns, obs_columns

_PLACE: Final = "chunk-{chunk_index:03d}/file-{file_index:03d}"
_FILE_BYTES, _CHUNK_FILES = 100_000_000, 1000
_COUNTERS: Final = ("frame_index", "episode_index", "index", "task_index")
_OUTCOME: Final = {"reward": "float32", "success": "bool", "done": "bool"}


def write(folder: Path, dataset: Dataset) -> None:
    """Write a dataset into an empty folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    spec, fps = dataset.spec, _frames_per_second(dataset.spec)
    obs, steps = obs_columns(spec), _step_columns(spec)
    statistics = {column.name: _Statistics() for column in (*obs, *steps)}
    places: list[dict[str, Any]] = []
    extras, total = [], 0
    with closing(_Files(folder)) as files:
        for number, (key, episode) in enumerate(dataset.episodes):
            of_step = _of_steps(episode, number, total, fps)
            cells = {}
            for column in (*obs, *steps):
                rows = episode.obs[column.key][:-1] if column in obs else of_step[column.key]
                cells[column.name] = column.encode(rows)
                statistics[column.name].add(column, rows)
            places.append(_row(number, len(episode), total, files.put(pa.table(cells)), spec.env_id))
            extras.append(pa.table({"record": [record_of(key, episode)], **_extra(spec, episode)}))
            total += len(episode)
    pq.write_table(pa.Table.from_pylist(places), _made(folder / "meta" / "episodes" / _place(0)))
    pq.write_table(pa.concat_tables(extras), folder / OURS_FILE)
    _write_tasks(folder / "meta" / "tasks.parquet", [spec.env_id])
    stats = {name: found.summary() for name, found in statistics.items()}
    info = {
        "codebase_version": VERSION,
        "robot_type": spec.env_id,
        "total_episodes": len(places),
        "total_frames": total,
        "total_tasks": 1,
        "chunks_size": _CHUNK_FILES,
        "data_files_size_in_mb": _FILE_BYTES // 1_000_000,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {"train": f"0:{len(places)}"},
        "data_path": f"data/{_PLACE}.parquet",
        "video_path": None,
        "features": {column.name: column.feature for column in (*obs, *steps)},
        OURS: ours(spec),
    }
    for name, data in (("stats", stats), ("info", info)):
        (folder / "meta" / f"{name}.json").write_text(json.dumps(data, indent=4))


def _frames_per_second(spec: EnvSpec) -> int:
    """The format knows whole numbers only; the exact time between decisions stands in our part."""
    return 1 if math.isnan(spec.control_dt) else max(1, round(1 / spec.control_dt))


def _step_columns(spec: EnvSpec) -> list[Column]:
    """The features that are no observations."""
    outcome = [Column(f"next.{name}", name, (1,), dtype) for name, dtype in _OUTCOME.items()]
    counters = [Column(name, name, (1,), "int64") for name in _COUNTERS]
    action = Column("action", "action", (spec.action_dim,), "float32")
    return [action, *outcome, Column("timestamp", "timestamp", (1,), "float32"), *counters]


def _of_steps(episode: Episode, number: int, before: int, fps: int) -> dict[str, Array]:
    """The rows of these features, by their keys."""
    steps = np.arange(len(episode))
    return {
        "action": episode.actions,
        "reward": episode.rewards,
        "success": episode.success,
        "done": steps == len(episode) - 1,
        "timestamp": (steps / fps).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full_like(steps, number),
        "index": before + steps,
        "task_index": np.zeros_like(steps),
    }


def _extra(spec: EnvSpec, episode: Episode) -> dict[str, Any]:
    """What rows have no place for: the last observation, and the goal."""
    cells = {f"last.{column.name}": column.encode(episode.obs[column.key][-1:]) for column in obs_columns(spec)}
    return cells | {f"goal.{column.name}": _goal_cell(column, episode) for column in goal_columns(spec)}


class _Files:
    """Data files, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number, self.bytes = folder, -1, 0
        self.writer: Any = None

    def put(self, table: Any) -> int:
        """Write the rows of an episode; returns the number of the file they are in."""
        import pyarrow.parquet as pq

        if self.writer is None or self.bytes > _FILE_BYTES:
            self.close()
            self.number, self.bytes = self.number + 1, 0
            self.writer = pq.ParquetWriter(_made(self.folder / "data" / _place(self.number)), table.schema)
        self.writer.write_table(table)
        self.bytes += table.nbytes
        return self.number

    def close(self) -> None:
        """Finish the last one."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None


class _Statistics:
    """Least, greatest, mean and standard deviation of a feature, of pictures by channel and of values up to 1."""

    def __init__(self) -> None:
        self.count = self.values = 0
        self.least: Array = np.array(np.inf)
        self.greatest: Array = np.array(-np.inf)
        self.total: Array = np.array(0.0)
        self.squares: Array = np.array(0.0)

    def add(self, column: Column, rows: Array) -> None:
        """Take in rows of the whole array."""
        if column.part is None:
            numbers = rows.reshape(len(rows), -1).astype(np.float64)
        else:
            numbers = rows[..., 3 * column.part : 3 * column.part + 3].reshape(-1, 3) / 255
        self.picture = column.part is not None
        self.count, self.values = self.count + len(rows), self.values + len(numbers)
        self.least = np.minimum(self.least, numbers.min(axis=0))
        self.greatest = np.maximum(self.greatest, numbers.max(axis=0))
        self.total, self.squares = self.total + numbers.sum(axis=0), self.squares + (numbers**2).sum(axis=0)

    def summary(self) -> dict[str, Any]:
        """As JSON, in the shapes of the format."""
        mean = self.total / self.values
        std = np.sqrt(np.maximum(self.squares / self.values - mean**2, 0))
        found = {"min": self.least, "max": self.greatest, "mean": mean, "std": std}
        shape = (3, 1, 1) if self.picture else (-1,)
        return {**{name: value.reshape(shape).tolist() for name, value in found.items()}, "count": [self.count]}


def _goal_cell(column: Column, episode: Episode) -> Any:
    import pyarrow as pa

    if episode.goal is not None:
        return column.encode(episode.goal[column.key][None])
    return pa.nulls(1, column.encode(np.zeros((1, *_whole(column)), column.dtype)).type)


def _whole(column: Column) -> tuple[int, ...]:
    """The shape of an array that has room for the part that a column holds."""
    return column.shape if column.part is None else (*column.shape[:2], 3 * column.part + 3)


def _row(number: int, steps: int, before: int, file: int, task: str) -> dict[str, Any]:
    """What the format says of an episode."""
    chunk, in_chunk = divmod(file, _CHUNK_FILES)
    return {
        "episode_index": number,
        "tasks": [task],
        "length": steps,
        "dataset_from_index": before,
        "dataset_to_index": before + steps,
        "data/chunk_index": chunk,
        "data/file_index": in_chunk,
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
    }


def _write_tasks(path: Path, tasks: Sequence[str]) -> None:
    """A table whose index is the task in words, as pandas writes it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = "__index_level_0__"
    column = {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
    of_index = {"name": None, "field_name": index, "pandas_type": "unicode", "numpy_type": "object"}
    about = {
        "index_columns": [index],
        "column_indexes": [],
        "columns": [{**column, "metadata": None}, {**of_index, "metadata": None}],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), index: list(tasks)})
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(about)}), path)


def _place(file: int) -> str:
    chunk, in_chunk = divmod(file, _CHUNK_FILES)
    return f"{_PLACE.format(chunk_index=chunk, file_index=in_chunk)}.parquet"


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
