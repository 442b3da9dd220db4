"""LeRobot datasets, format v3.0 (huggingface/lerobot, `lerobot.datasets`), without that library.

`interop_lerobot_write` writes them, this reads them.

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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from ...envs.spec import ArraySpec, EnvSpec
from .episode import Array, Episode, stored_dtype
from .interop import OURS, Dataset, InteropError, bounds_of, digest_of, spec_of

VERSION: Final = "v3.0"
OURS_FILE: Final = Path("meta") / f"{OURS}.parquet"


@dataclass(frozen=True)
class Column:
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
        """What the format says of it."""
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


def _columns_of(key: str, array: ArraySpec) -> list[Column]:
    """The features of an observation: pictures one by one, everything else as a vector."""
    name, dtype = key.replace("/", "."), stored_dtype(array)
    if not array.is_image or array.shape[-1] % 3:
        return [Column(f"observation.{name}", key, array.shape, dtype)]
    frames, shape = array.shape[-1] // 3, (*array.shape[:2], 3)
    names = [f"observation.images.{name}" + (f".{k}" if frames > 1 else "") for k in range(frames)]
    return [Column(feature, key, shape, dtype, k) for k, feature in enumerate(names)]


def obs_columns(spec: EnvSpec) -> list[Column]:
    """The features of what is seen."""
    columns = [column for key, array in spec.obs.items() for column in _columns_of(key, array)]
    names = [column.name for column in columns]
    if len(set(names)) < len(names):
        raise InteropError(f"two observations would have the same name among {sorted(names)}")
    return columns


def goal_columns(spec: EnvSpec) -> list[Column]:
    """The same of a goal; none without goals."""
    if spec.goal is None:
        return []
    if spec.goal.kind == "observation":
        return obs_columns(spec)
    return [Column("desired_goal", "desired_goal", (spec.goal.dim or 0,), "float32")]


def _read_arrays(columns: Sequence[Column], table: Any, prefix: str = "") -> dict[str, Array]:
    """The arrays that columns of a table hold, by key."""
    parts: dict[str, list[Array]] = {}
    for column in columns:
        parts.setdefault(column.key, []).append(column.decode(table[prefix + column.name]))
    return {key: arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1) for key, arrays in parts.items()}


# -- reading ----------------------------------------------------------------------------------------------------------


def read(source: Path) -> Dataset:
    """A dataset, of ours or of others."""
    import pyarrow.parquet as pq

    info = json.loads((source / "meta" / "info.json").read_text())
    if info["codebase_version"] != VERSION:
        raise InteropError(f"the format is {info['codebase_version']!r}, this release reads {VERSION!r}")
    prefix = f"import/{digest_of(source / 'meta' / 'info.json', source / 'meta' / 'stats.json')}"
    if OURS not in info:
        return _foreign(source, info, prefix)
    spec = spec_of(info[OURS])
    extras = pq.read_table(source / OURS_FILE)
    if len(extras) != info["total_episodes"]:
        raise InteropError(f"{OURS_FILE} tells of {len(extras)} episodes, the dataset holds {info['total_episodes']}")

    def episodes() -> Iterator[tuple[str | None, Episode]]:
        seen, goals = obs_columns(spec), goal_columns(spec)
        for number, table in enumerate(_tables(source)):
            extra = extras.slice(number, 1)
            record = json.loads(extra["record"][0].as_py())
            obs, last = _read_arrays(seen, table), _read_arrays(seen, extra, "last.")
            known = bool(goals) and extra[f"goal.{goals[0].name}"][0].is_valid
            goal = {key: rows[0] for key, rows in _read_arrays(goals, extra, "goal.").items()} if known else None
            episode = Episode(
                obs={key: np.concatenate([rows, last[key]]) for key, rows in obs.items()},
                actions=Column("action", "action", (spec.action_dim,), "float32").decode(table["action"]),
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
            action = Column("action", "action", (len(low),), "float32").decode(table["action"])
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


def _features(features: Mapping[str, Any]) -> tuple[list[Column], list[Column]]:
    """Observations in the rows, and those in videos."""
    numbers: list[Column] = []
    videos: list[Column] = []
    for name, feature in features.items():
        if not name.startswith("observation") or feature["dtype"] == "string":
            continue
        key, shape = name.removeprefix("observation.").removeprefix("images."), tuple(feature["shape"])
        if feature["dtype"] in ("image", "video"):
            sides = [n for n, what in zip(shape, feature["names"], strict=True) if not what.startswith("channel")]
            column = Column(name, key, (*sides, 3), "uint8", 0)
            (videos if feature["dtype"] == "video" else numbers).append(column)
        else:
            numbers.append(Column(name, key, shape, feature["dtype"]))
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
