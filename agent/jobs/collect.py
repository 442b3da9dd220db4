"""Fill a memory with episodes of random held actions."""

import contextlib
import dataclasses
import hashlib
import json
import math
from functools import partial
from pathlib import Path

from ...configs.schema import Config
from ...envs.spec import EnvOptions
from ...envs.vector import make_vector
from ..memory.store import EpisodeStore
from ..training.evaluate import episode_seeds
from ..training.loop import Progress, Silent, first_policy, first_policy_name
from ..training.rollout import live_or_recall


def collect(config: Config, progress: Progress | None = None) -> tuple[Path, int, int]:
    """Fill a memory with episodes of random held actions, or of the policy that the environment brings.

    An interrupted collection goes on where it was.

    Returns:
        the folder of the memory, its episodes, and its transitions.
    """
    progress = progress or Silent()
    folder = Path(config.memory.path or Path(config.out) / "memory").expanduser()
    with contextlib.closing(
        make_vector(config.env, config.training.num_envs, collection_options(config))
    ) as environments:
        spec, length = environments.env_spec, environments.env_spec.max_episode_steps
        total, done, first = config.steps, 0, 0
        how = "behaviour" if config.training.behaviour else config.training.max_hold
        made = dataclasses.asdict(collection_options(config)) | {"step_timeout_s": None}
        del made["skill"]  # where it lies; the spec says which it is
        source = json.dumps([spec.to_json(), made, how, config.seed], default=str).encode()
        policy = partial(first_policy, environments, config.training)
        meta = {"policy": first_policy_name(config.training)}
        prefix = f"collect/{hashlib.sha256(source).hexdigest()[:16]}"
        with EpisodeStore.open(folder, "a", spec, config.memory) as store:
            while done < total:  # episodes may end early: there are more of them then
                count = min(config.training.num_envs, math.ceil((total - done) / length))
                keys = [f"{prefix}/{first + i}" for i in range(count)]
                seeds = episode_seeds("collect", config.seed, first, count)
                ids, _ = live_or_recall(store, environments, policy, seeds, keys, meta)
                first, done = first + count, done + int(store.lengths(ids).sum())
                progress.advance("collect", min(done, total), total)
            return folder, len(store), store.num_transitions


def collection_options(config: Config) -> EnvOptions:
    """How environments are made to collect in: with episodes of `training.episode_steps`."""
    steps = config.training.episode_steps or config.env_options.max_episode_steps
    return dataclasses.replace(config.env_options, max_episode_steps=steps)
