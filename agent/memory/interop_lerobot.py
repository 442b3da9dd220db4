"""LeRobot datasets, format v3.0 (huggingface/lerobot, `lerobot.datasets`), written and read without that library.

    meta/info.json                      features, frames per second, counts
    meta/stats.json                     least, greatest, mean, std of every feature
    meta/tasks.parquet                  task in words -> number
    meta/episodes/chunk-000/file-000.parquet   length and place of every episode
    data/chunk-000/file-000.parquet     a row per transition: what was seen, the action, and what came of it
    videos/<feature>/...                pictures of others; ours are PNG inside the rows, which lose nothing
    meta/forethought.parquet            of ours: the last observation, goal, ends, key and metadata of every episode

A row has no place for what was seen last: a dataset of others with T rows gives T-1 transitions. Stacked frames are a
feature each.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from ...envs.spec import ArraySpec, EnvSpec
from .episode import Array, Episode, stored_dtype
from .interop import OURS, Dataset, InteropError, bounds_of, digest_of, ours, record_of, spec_of

_VERSION: Final = "v3.0"
_PLACE: Final = "chunk-{chunk_index:03d}/file-{file_index:03d}"
_FILE_BYTES, _CHUNK_FILES = 100_000_000, 1000
_OURS_FILE: Final = Path("meta") / f"{OURS}.parquet"
_COUNTERS: Final = ("frame_index", "episode_index", "index", "task_index")


@dataclass(frozen=True)
class _Column:
    """A feature: rows `[N, *shape]` of an array as cells of a table, numbers as lists and pictures as PNG.

    `part` is which three channels of the array named `key` it holds, None for all of it.
    """

    name: str
    key: str
    shape: tuple[int, ...]
    dtype: str
    part: int | None = None

    @property
    def feature(self) -> dict[str, Any]:
        if self.part is not None:
            return {"dtype": "image", "shape": list(self.shape), "names": ["height", "width", "channels"]}
        return {"dtype": self.dtype, "shape": [int(np.prod(self.shape))], "names": None}

    def encode(self, rows: Array) -> Any:
        """Cells of the rows of the whole array."""
        import imageio.v3 as iio
        import pyarrow as pa

        if self.part is not None:
            frames = rows[..., 3 * self.part : 3 * self.part + 3]
            cells = pa.array([iio.imwrite("<bytes>", frame, extension=".png") for frame in frames], pa.binary())
            return pa.StructArray.from_arrays([cells, pa.nulls(len(rows), pa.string())], names=["bytes", "path"])
        flat = np.ascontiguousarray(rows).reshape(-1)
        size = flat.size // len(rows)
        return pa.array(flat) if size == 1 else pa.FixedSizeListArray.from_arrays(pa.array(flat), size)

    def decode(self, cells: Any) -> Array:
        """The rows that cells of a table stand for; of pictures, those three channels."""
        import imageio.v3 as iio

        if self.part is not None:
            frames = [iio.imread(cell["bytes"], extension=".png") for cell in cells.to_pylist()]
            return np.stack(
                [np.atleast_3d(frame)[..., [0, 1, 2] if frame.ndim == 3 else [0, 0, 0]] for frame in frames]
            )
        values, rows = cells.combine_chunks(), len(cells)
        while hasattr(values.type, "value_type"):
            values = values.flatten()
        return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(rows, *self.shape)


def _columns_of(key: str, array: ArraySpec) -> list[_Column]:
    """The features of an observation: pictures one by one, everything else as a vector."""
    name, dtype = key.replace("/", "."), stored_dtype(array)
    if not array.is_image or array.shape[-1] % 3:
        return [_Column(f"observation.{name}", key, array.shape, dtype)]
    frames, shape = array.shape[-1] // 3, (*array.shape[:2], 3)
    names = [f"observation.images.{name}" + (f".{k}" if frames > 1 else "") for k in range(frames)]
    return [_Column(feature, key, shape, dtype, k) for k, feature in enumerate(names)]


def _obs_columns(spec: EnvSpec) -> list[_Column]:
    columns = [column for key, array in spec.obs.items() for column in _columns_of(key, array)]
    names = [column.name for column in columns]
    if len(set(names)) < len(names):
        raise InteropError(f"two observations would have the same name among {sorted(names)}")
    return columns


def _goal_columns(spec: EnvSpec) -> list[_Column]:
    if spec.goal is None:
        return []
    if spec.goal.kind == "observation":
        return _obs_columns(spec)
    return [_Column("desired_goal", "desired_goal", (spec.goal.dim or 0,), "float32")]


def _read_arrays(columns: Sequence[_Column], table: Any, prefix: str = "") -> dict[str, Array]:
    """The arrays that columns of a table hold, by key."""
    parts: dict[str, list[Array]] = {}
    for column in columns:
        parts.setdefault(column.key, []).append(column.decode(table[prefix + column.name]))
    return {key: arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1) for key, arrays in parts.items()}


# -- writing ----------------------------------------------------------------------------------------------------------


def write(folder: Path, dataset: Dataset) -> None:
    """Write a dataset into an empty folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    spec = dataset.spec
    fps = _frames_per_second(spec)
    obs, goal = _obs_columns(spec), _goal_columns(spec)
    action = _Column("action", "action", (spec.action_dim,), "float32")
    outcome = [_Column(f"next.{name}", name, (1,), kind) for name, kind in _OUTCOME.items()]
    statistics: dict[str, _Statistics] = {}
    places, extras, total, written = [], [], 0, 0
    writer, file = None, -1
    try:
        for number, (key, episode) in enumerate(dataset.episodes):
            steps = len(episode)
            last = np.arange(steps) == steps - 1
            of_step = {"reward": episode.rewards, "success": episode.success, "done": last}
            cells = {c.name: c.encode(episode.obs[c.key][:-1]) for c in obs}
            cells |= {action.name: action.encode(episode.actions)}
            cells |= {c.name: c.encode(of_step[c.key]) for c in outcome}
            cells |= {"timestamp": pa.array((np.arange(steps) / fps).astype(np.float32))}
            counters = (np.arange(steps), np.full(steps, number), total + np.arange(steps), np.zeros(steps))
            cells |= {n: pa.array(c.astype(np.int64)) for n, c in zip(_COUNTERS, counters, strict=True)}
            table = pa.table(cells)
            if writer is None or written > _FILE_BYTES:
                if writer is not None:
                    writer.close()
                file, written = file + 1, 0
                writer = pq.ParquetWriter(_made(folder / "data" / _place(file)), table.schema)
            writer.write_table(table)
            written += table.nbytes
            for c, rows in [*((c, episode.obs[c.key][:-1]) for c in obs), (action, episode.actions)]:
                statistics.setdefault(c.name, _Statistics()).add(c, rows)
            for c in outcome:
                statistics.setdefault(c.name, _Statistics()).add(c, of_step[c.key])
            places.append(_row(number, steps, total, file, spec.env_id))
            tables = {f"last.{c.name}": c.encode(episode.obs[c.key][-1:]) for c in obs}
            tables |= {f"goal.{c.name}": _goal_cell(c, episode) for c in goal}
            extras.append(pa.table({"record": [record_of(key, episode)], **tables}))
            total += steps
    finally:
        if writer is not None:
            writer.close()
    pq.write_table(pa.Table.from_pylist(places), _made(folder / "meta" / "episodes" / _place(0)))
    pq.write_table(pa.concat_tables(extras), folder / _OURS_FILE)
    _write_tasks(folder / "meta" / "tasks.parquet", [spec.env_id])
    stats = {name: found.summary() for name, found in statistics.items()}
    (folder / "meta" / "stats.json").write_text(json.dumps(stats, indent=4))
    features = {c.name: c.feature for c in (*obs, action, *outcome)}
    features |= {"timestamp": {"dtype": "float32", "shape": [1], "names": None}}
    features |= {name: {"dtype": "int64", "shape": [1], "names": None} for name in _COUNTERS}
    info = {
        "codebase_version": _VERSION,
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
        "features": features,
        OURS: ours(spec),
    }
    (folder / "meta" / "info.json").write_text(json.dumps(info, indent=4))


_OUTCOME: Final = {"reward": "float32", "success": "bool", "done": "bool"}


class _Statistics:
    """Least, greatest, mean and standard deviation of a feature, of pictures by channel and of values up to 1."""

    def __init__(self) -> None:
        self.count = self.values = 0
        self.least: Array = np.array(np.inf)
        self.greatest: Array = np.array(-np.inf)
        self.total: Array = np.array(0.0)
        self.squares: Array = np.array(0.0)

    def add(self, column: _Column, rows: Array) -> None:
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


def _frames_per_second(spec: EnvSpec) -> int:
    """The format knows whole numbers only; the exact time between decisions stands in our part."""
    return 1 if math.isnan(spec.control_dt) else max(1, round(1 / spec.control_dt))


def _goal_cell(column: _Column, episode: Episode) -> Any:
    import pyarrow as pa

    if episode.goal is not None:
        return column.encode(episode.goal[column.key][None])
    return pa.nulls(1, column.encode(np.zeros((1, *_whole(column)), column.dtype)).type)


def _whole(column: _Column) -> tuple[int, ...]:
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


# -- reading ----------------------------------------------------------------------------------------------------------


def read(source: Path) -> Dataset:
    """A dataset, of ours or of others."""
    import pyarrow.parquet as pq

    info = json.loads((source / "meta" / "info.json").read_text())
    if info["codebase_version"] != _VERSION:
        raise InteropError(f"the format is {info['codebase_version']!r}, this release reads {_VERSION!r}")
    prefix = f"import/{digest_of(source / 'meta' / 'info.json', source / 'meta' / 'stats.json')}"
    if OURS not in info:
        return _foreign(source, info, prefix)
    spec = spec_of(info[OURS])
    extras = pq.read_table(source / _OURS_FILE)
    if len(extras) != info["total_episodes"]:
        raise InteropError(f"{_OURS_FILE} tells of {len(extras)} episodes, the dataset holds {info['total_episodes']}")

    def episodes() -> Iterator[tuple[str | None, Episode]]:
        obs_columns = _obs_columns(spec)
        for number, table in enumerate(_tables(source)):
            extra = extras.slice(number, 1)
            record = json.loads(extra["record"][0].as_py())
            obs, last = _read_arrays(obs_columns, table), _read_arrays(obs_columns, extra, "last.")
            goals = _goal_columns(spec)
            known = bool(goals) and extra[f"goal.{goals[0].name}"][0].is_valid
            goal = {key: rows[0] for key, rows in _read_arrays(goals, extra, "goal.").items()} if known else None
            episode = Episode(
                obs={key: np.concatenate([rows, last[key]]) for key, rows in obs.items()},
                actions=_Column("action", "action", (spec.action_dim,), "float32").decode(table["action"]),
                rewards=table["next.reward"].to_numpy(),
                success=table["next.success"].to_numpy(),
                terminated=record["terminated"],
                truncated=record["truncated"],
                goal=goal,
                meta=record["meta"],
            )
            yield record["key"] or f"{prefix}/{number}", episode

    return Dataset(spec, episodes())


def _tables(source: Path) -> Iterator[Any]:
    """The rows of each episode, in their order."""
    import pyarrow.parquet as pq

    for path in sorted((source / "data").glob("*/*.parquet")):
        table = pq.read_table(path)
        ends = np.flatnonzero(np.diff(table["episode_index"].to_numpy())) + 1
        for first, stop in pairwise([0, *ends.tolist(), len(table)]):
            yield table.slice(first, stop - first)


def _foreign(source: Path, info: Mapping[str, Any], prefix: str) -> Dataset:
    """A dataset that others made: all observations that are numbers or pictures; bounds of actions as they occur."""
    import pyarrow.parquet as pq

    stats = json.loads((source / "meta" / "stats.json").read_text())["action"]
    low, high = bounds_of(*(np.asarray(stats[name], np.float64).reshape(-1) for name in ("min", "max")))
    numbers, videos = _features(info["features"])
    columns = sorted([*numbers, *videos], key=lambda column: column.key)
    paths = sorted((source / "meta" / "episodes").glob("*/*.parquet"))
    rows = sorted((row for path in paths for row in pq.read_table(path).to_pylist()), key=lambda r: r["episode_index"])
    spec = EnvSpec(
        env_id=source.name,
        obs={
            c.key: ArraySpec(c.shape, "float32" if c.part is None else "uint8")
            for c in sorted(columns, key=lambda c: c.key)
        },
        action_low=low,
        action_high=high,
        control_dt=1 / info["fps"],
        max_episode_steps=max(row["length"] for row in rows),
    )

    def episodes() -> Iterator[tuple[str | None, Episode]]:
        films = {c.name: _Film(source, info, c.name) for c in videos}
        for row, table in zip(rows, _tables(source), strict=True):
            steps = len(table) - 1
            if steps < 1:
                continue
            obs = {
                key: np.asarray(array, stored_dtype(spec.obs[key]))
                for key, array in _read_arrays(numbers, table).items()
            }
            obs |= {c.key: films[c.name].frames(row) for c in videos}
            outcome = {name: _outcome(table, name)[:steps] for name in ("reward", "success")}
            action = _Column("action", "action", (len(low),), "float32").decode(table["action"])
            yield (
                f"{prefix}/{row['episode_index']}",
                Episode(
                    obs=obs,
                    actions=action[:steps].astype(np.float32),
                    rewards=outcome["reward"].astype(np.float32),
                    success=outcome["success"].astype(np.bool_),
                    terminated=False,
                    truncated=True,
                    meta={"dataset": source.name, "episode": row["episode_index"], "tasks": list(row["tasks"])},
                ),
            )

    return Dataset(spec, episodes())


def _features(features: Mapping[str, Any]) -> tuple[list[_Column], list[_Column]]:
    """Observations in the rows, and those in videos."""
    numbers: list[_Column] = []
    videos: list[_Column] = []
    for name, feature in features.items():
        if not name.startswith("observation") or feature["dtype"] == "string":
            continue
        key, shape = name.removeprefix("observation.").removeprefix("images."), tuple(feature["shape"])
        if feature["dtype"] in ("image", "video"):
            sides = [n for n, what in zip(shape, feature["names"], strict=True) if not what.startswith("channel")]
            column = _Column(name, key, (*sides, 3), "uint8", 0)
            (videos if feature["dtype"] == "video" else numbers).append(column)
        else:
            numbers.append(_Column(name, key, shape, feature["dtype"]))
    if not numbers and not videos:
        raise InteropError(f"there is no feature observation.… among {sorted(features)}")
    return numbers, videos


def _outcome(table: Any, name: str) -> Array:
    """Rewards or successes of the rows; 0 where the dataset says nothing of them."""
    known = next((column for column in (f"next.{name}", name) if column in table.column_names), None)
    return np.zeros(len(table)) if known is None else np.asarray(table[known].to_pylist()).reshape(-1)


class _Film:
    """Frames of a feature, episode by episode, from video files that hold several one after the other."""

    def __init__(self, source: Path, info: Mapping[str, Any], feature: str) -> None:
        self.source, self.info, self.feature = source, info, feature
        self.path: Path | None = None
        self.left: Iterator[Array] = iter(())
        self.at = 0

    def frames(self, row: Mapping[str, Any]) -> Array:
        """Pictures `[T, H, W, 3]` of an episode."""
        import imageio.v3 as iio

        place = {name: row[f"videos/{self.feature}/{name}"] for name in ("chunk_index", "file_index")}
        path = self.source / self.info["video_path"].format(video_key=self.feature, **place)
        first = round(row[f"videos/{self.feature}/from_timestamp"] * self.info["fps"])
        if path != self.path or first < self.at:
            self.path, self.left, self.at = path, iter(iio.imiter(path, plugin="pyav")), 0
        wanted = list(islice(self.left, first - self.at, first - self.at + row["length"]))
        self.at = first + row["length"]
        return np.stack(wanted)
