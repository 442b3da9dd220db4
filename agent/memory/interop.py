"""Exchange with other tools: Minari datasets, and by `interop_lerobot` LeRobot datasets.

What is exported is whole: observations, actions, rewards, ends, success, goals, metadata and the `EnvSpec`, so that
importing it again gives the same episodes. What others made is imported with a spec that is derived from theirs.
"""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from ... import ForethoughtError
from ...envs.spec import ArraySpec, EnvError, EnvSpec, GoalSpec
from .episode import Array, Episode, stored_dtype
from .store import EpisodeStore

Format: TypeAlias = Literal["minari", "lerobot"]
FORMATS: Final[tuple[Format, ...]] = ("minari", "lerobot")
OURS: Final = "forethought"
"""Under this name stands in other formats what only we know of."""
_BATCH_BYTES: Final = 1 << 24


class InteropError(ForethoughtError):
    """A dataset that cannot be written or read; the message says why."""


@dataclass(frozen=True)
class Dataset:
    """Episodes on their way in or out, all of one environment, with the key of each or None."""

    spec: EnvSpec
    episodes: Iterable[tuple[str | None, Episode]]


def export_episodes(store: EpisodeStore, ids: Sequence[int], out: Path, format: Format) -> None:
    """Write these episodes as a dataset into the new folder `out`, which is there as a whole or not at all.

    For Minari the folder bears the name of the dataset, such as `arm-v0`, and stands in `MINARI_DATASETS_PATH`.

    Raises:
        InteropError: the episodes are none or of several environments, the folder exists, or a package is missing.
        StoreError: an episode cannot be read.
    """
    specs = [store.spec_of(i) for i in ids]
    different = [spec for spec in specs if spec.to_json() != specs[0].to_json()]
    if not specs or different:
        found = "none" if not specs else _difference(specs[0], different[0])
        raise InteropError(f"a dataset holds episodes of one environment and time limit, got {found}")
    if out.exists():
        raise InteropError(f"{out} exists already; a dataset is written into a folder of its own")
    if format == "minari" and not re.fullmatch(r"[\w.-]+-v\d+", out.name):
        raise InteropError(f"a Minari dataset has a name and a version, such as {out.name}-v0, got {out.name!r}")
    temporary = out.absolute().with_name(f".{out.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)  # what an export that was killed has left
    dataset = Dataset(specs[0], ((store.info(i)["key"], store.get(i)) for i in ids))
    try:
        with _explained(f"cannot export to {out}"):
            temporary.mkdir(parents=True)
            if format == "minari":
                _write_minari(temporary, out.name, dataset)
            else:
                from . import interop_lerobot_write

                interop_lerobot_write.write(temporary, dataset)
            temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_dataset(source: Path, format: Format) -> Dataset:
    """A dataset that was exported or made by others; its episodes are read as they are asked for.

    Raises:
        InteropError: there is no such dataset, it cannot be brought into our form, or a package is missing.
    """
    with _explained(f"cannot import {source}"):
        if format == "minari":
            return _read_minari(source.absolute())
        from . import interop_lerobot

        return interop_lerobot.read(source.absolute())


def import_episodes(dataset: Dataset, store: EpisodeStore) -> tuple[int, int]:
    """Append the episodes of a dataset; returns how many it holds, and how many of them are new to the store.

    Each comes under the key it had when it was exported, or one made of the dataset and its number, so that importing
    again, also after an import that was interrupted, appends only what is missing.

    Raises:
        InteropError: an episode cannot be brought into our form.
        EpisodeError: an episode holds numbers that are not finite.
        StoreError: an episode cannot be appended.
    """
    before, count = store.next_id, 0
    with _explained("cannot import an episode"):
        for batch in _batches(dataset.episodes):
            store.append_many([episode for _, episode in batch], [key for key, _ in batch], spec=dataset.spec)
            count += len(batch)
    return count, store.next_id - before


def ours(spec: EnvSpec) -> dict[str, Any]:
    """What a dataset says of us: the environment, and the version of what we add."""
    return {"version": 1, "spec": spec.to_json()}


def record_of(key: str | None, episode: Episode) -> str:
    """What other formats have no place for, as JSON."""
    ends = {"terminated": bool(episode.terminated), "truncated": bool(episode.truncated)}
    return json.dumps({"key": key, **ends, "meta": episode.meta}, allow_nan=False)


def spec_of(data: Mapping[str, Any]) -> EnvSpec:
    """The environment that `ours` has told of."""
    if data.get("version") != 1:
        raise InteropError(f"the dataset was exported in version {data.get('version')!r}; this release reads 1")
    return EnvSpec.from_json(data["spec"])


def _difference(one: EnvSpec, other: EnvSpec) -> str:
    """What two environments differ in, in words."""
    if one.env_id != other.env_id:
        return f"{one.env_id} and {other.env_id}"
    first, second = one.to_json(), other.to_json()
    fields = [f"{k}={first[k]!r} and {second[k]!r}" for k in first if first[k] != second.get(k)]
    return f"{one.env_id} with {', '.join(fields)}; --episodes chooses among them"


def content_of(episode: Episode) -> str:
    """What tells an episode from others: what happened in it."""
    arrays = [episode.actions, episode.rewards, *(episode.obs[k] for k in sorted(episode.obs))]
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()[:16]


def digest_of(*files: Path) -> str:
    """What tells a dataset from others: the files that describe it."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.exists())).hexdigest()[:16]


def bounds_of(low: Array, high: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Bounds of actions from the least and greatest that occur; around one that never changes there is some room."""
    room = np.where(high > low, 0.0, np.maximum(np.abs(low), 1.0))
    return tuple((low - room).tolist()), tuple((high + room).tolist())


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise InteropError(f"{what}: {error.name or error} is missing: pip install 'forethought[interop]'") from error
    except (OSError, KeyError, ValueError, TypeError, AssertionError, NotImplementedError, EnvError) as error:
        raise InteropError(f"{what}: {error!r}" if isinstance(error, KeyError) else f"{what}: {error}") from error


def _batches(episodes: Iterable[tuple[str | None, Episode]]) -> Iterator[list[tuple[str | None, Episode]]]:
    """The same in lists, each a commit, because every commit waits for the disk."""
    batch: list[tuple[str | None, Episode]] = []
    size = 0
    for item in episodes:
        batch.append(item)
        size += sum(array.nbytes for array in item[1].arrays().values())
        if size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


# -- Minari; spaces go through its JSON for them, so that gymnasium stays outside -------------------------------------


def _write_minari(folder: Path, name: str, dataset: Dataset) -> None:
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage
    from minari.serialization import deserialize_space

    spec = dataset.spec
    obs = {key: _box(array.shape, stored_dtype(array)) for key, array in spec.obs.items()}
    actions = {**_box((spec.action_dim,), "float32"), "low": spec.action_low, "high": spec.action_high}
    (folder / "data").mkdir()
    storage = MinariStorage.new(
        folder / "data",
        observation_space=deserialize_space(json.dumps(_nested(obs, _dict))),
        action_space=deserialize_space(json.dumps(actions)),
        jpeg_encoding=False,  # which would lose
    )
    about = {"dataset_id": name, "minari_version": metadata.version("minari"), "algorithm_name": "forethought"}
    storage.update_metadata({**about, OURS: ours(spec)})
    records: list[dict[str, str]] = []

    def buffers() -> Iterator[Any]:
        for key, episode in dataset.episodes:
            last = np.arange(len(episode)) == len(episode) - 1
            infos: dict[str, Any] = {"success": np.concatenate([[False], episode.success])}
            if episode.goal is not None:  # an info has a row for every observation
                rows = {k: np.repeat(v[None], len(episode) + 1, axis=0) for k, v in episode.goal.items()}
                infos["goal"] = _nested(rows, dict)
            records.append({OURS: record_of(key, episode)})
            yield EpisodeBuffer(
                observations=_nested(episode.obs, dict),
                actions=episode.actions,
                rewards=episode.rewards,
                terminations=last & episode.terminated,
                truncations=last & episode.truncated,
                infos=infos,
            )

    storage.update_episodes(buffers())
    storage.update_episode_metadata(records)


def _read_minari(source: Path) -> Dataset:
    from minari.dataset.minari_storage import METADATA_FILE_NAME, MinariStorage
    from minari.serialization import serialize_space

    folder = source if (source / METADATA_FILE_NAME).exists() else source / "data"
    storage, about = MinariStorage.read(folder), MinariStorage.read_raw_metadata(folder)
    count = int(about["total_episodes"])
    if OURS in about:
        spec = spec_of(about[OURS])
    else:
        obs, actions = (json.loads(serialize_space(s)) for s in (storage.observation_space, storage.action_space))
        spec = _derived_spec(about, obs, actions, lambda: storage.get_episodes(range(count)))
    prefix = f"import/{digest_of(folder / METADATA_FILE_NAME)}"

    def episodes() -> Iterator[tuple[str | None, Episode]]:
        raw = zip(storage.get_episodes(range(count)), storage.get_episode_metadata(range(count)), strict=True)
        for number, (data, of_episode) in enumerate(raw):
            episode = _minari_episode(spec, data)
            # What describes the dataset tells nothing of what is in it.
            key = f"{prefix}/{number}/{content_of(episode)}"
            if OURS in of_episode:
                record = json.loads(of_episode[OURS])
                yield record["key"] or key, replace(episode, meta=record["meta"])
            else:
                seed = {} if of_episode.get("seed") is None else {"seed": int(of_episode["seed"])}
                yield key, replace(episode, meta={"dataset": about.get("dataset_id"), "episode": number, **seed})

    return Dataset(spec, episodes())


def _minari_episode(spec: EnvSpec, data: Mapping[str, Any]) -> Episode:
    """An episode of Minari, without metadata."""
    rewards = np.asarray(data["rewards"], np.float32).reshape(-1)
    steps = len(rewards)
    seen = _flat(data["observations"]) if isinstance(data["observations"], Mapping) else None
    seen = {"observation": data["observations"]} if seen is None else seen
    infos = data.get("infos") or {}
    success = np.asarray(infos.get("success", infos.get("is_success", np.zeros(steps)))).reshape(-1)
    goal = None
    if spec.goal is not None and "goal" in infos:
        goal = {key: np.asarray(value)[0] for key, value in _flat(infos["goal"]).items()}
    elif any(key.partition("/")[0] == "desired_goal" for key in seen):
        goal = {"desired_goal": _joined(seen, "desired_goal")[0]}
        seen["achieved_goal"] = _joined(seen, "achieved_goal")
    obs = {k: np.asarray(seen[k]).reshape(steps + 1, *a.shape).astype(stored_dtype(a)) for k, a in spec.obs.items()}
    return Episode(
        obs=obs,
        actions=np.asarray(data["actions"], np.float32).reshape(steps, spec.action_dim),
        rewards=rewards,
        success=success[len(success) - steps :].astype(np.bool_),
        terminated=bool(np.asarray(data["terminations"]).reshape(-1)[-1]),
        truncated=bool(np.asarray(data["truncations"]).reshape(-1)[-1]),
        goal=goal,
    )


def _derived_spec(
    about: Mapping[str, Any], obs: dict[str, Any], actions: dict[str, Any], raw: Callable[[], Iterable[Any]]
) -> EnvSpec:
    """The spec of a dataset that others made, from the JSON of its spaces, under the names our adapters would give."""
    arrays, goal = dict(_leaves(obs)), None
    if any(key.partition("/")[0] == "desired_goal" for key in arrays):
        dim = sum(array.size for key, array in arrays.items() if key.partition("/")[0] == "desired_goal")
        arrays = {k: a for k, a in arrays.items() if k.partition("/")[0] not in ("achieved_goal", "desired_goal")}
        arrays["achieved_goal"], goal = ArraySpec((dim,), "float32"), GoalSpec("achieved", "achieved_goal", dim)
    if actions["type"] != "Box":
        raise InteropError(f"actions must be a Box, got {actions['type']}")
    low, high = (np.asarray(actions[name], np.float64).reshape(-1) for name in ("low", "high"))
    longest = max(len(data["rewards"]) for data in raw())
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        taken = np.concatenate([np.asarray(data["actions"], np.float64).reshape(-1, len(low)) for data in raw()])
        low, high = map(np.asarray, bounds_of(taken.min(axis=0), taken.max(axis=0)))
    env = json.loads(about["env_spec"]) if about.get("env_spec") else {}
    return EnvSpec(
        env_id=str(env.get("id") or about.get("dataset_id")),
        obs=dict(sorted(arrays.items())),
        action_low=tuple(low.tolist()),
        action_high=tuple(high.tolist()),
        control_dt=math.nan,
        max_episode_steps=int(env.get("max_episode_steps") or longest),
        goal=goal,
    )


def _leaves(space: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, ArraySpec]]:
    if space["type"] == "Dict":
        for key, inner in space["subspaces"].items():
            yield from _leaves(inner, f"{path}/{key}" if path else key)
    elif space["type"] == "Box":
        shape = tuple(space["shape"]) or (1,)
        yield path or "observation", ArraySpec(shape, "uint8" if _is_image(space) else "float32")
    else:
        raise InteropError(f"observations must be built of Box and Dict, got {space['type']} for {path!r}")


def _is_image(space: Mapping[str, Any]) -> bool:
    return ArraySpec(tuple(space["shape"]), space["dtype"]).is_image


def _box(shape: Sequence[int], dtype: str) -> dict[str, Any]:
    low, high = (0, 255) if dtype == "uint8" else (-math.inf, math.inf)
    return {"type": "Box", "dtype": dtype, "shape": list(shape), **{
        name: np.full(shape, value).tolist() for name, value in (("low", low), ("high", high))
    }}  # fmt: skip


def _dict(subspaces: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "Dict", "subspaces": subspaces}


def _nested(flat: Mapping[str, Any], make: Callable[[Mapping[str, Any]], Any]) -> Any:
    """`a/b` as `b` in `a`, where `make` makes the levels."""
    levels: dict[str, dict[str, Any]] = {}
    found: dict[str, Any] = {}
    for key, value in flat.items():
        first, _, rest = key.partition("/")
        if rest:
            levels.setdefault(first, {})[rest] = value
        else:
            found[key] = value
    if levels.keys() & found.keys():
        raise InteropError(f"observation {min(levels.keys() & found.keys())!r} is both an array and a group of them")
    return make({**found, **{key: _nested(inner, make) for key, inner in levels.items()}})


def _flat(nested: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The inverse of `_nested`."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{path}/{key}" if path else key
        found |= _flat(value, name) if isinstance(value, Mapping) else {name: value}
    return found


def _joined(seen: Mapping[str, Any], name: str) -> Array:
    """All arrays under `name` as vectors, `[T+1, G]`, in the order of their keys."""
    parts = [np.asarray(seen[k], np.float32) for k in sorted(seen) if k.partition("/")[0] == name]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
