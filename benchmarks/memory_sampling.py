"""How fast the memory appends, opens and samples.

Fills a store with episodes of a made-up arm (observations of 25 and 3 numbers, 4 actions, 50 steps each), then draws
batches from it, with all arrays cached in memory and with none.

    python benchmarks/memory_sampling.py --transitions 10000 100000 1000000

With torchrl (`pip install -e '.[bench]'`) its SliceSampler draws windows of the same data from a memory map, turn by
turn with ours.
"""

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speed import turn_by_turn

from forethought.agent.files import write_json
from forethought.agent.memory.sampler import SequenceSampler
from forethought.agent.memory.store import Episode, EpisodeStore, MemoryOptions
from forethought.agent.provenance import command, commit, machine, versions
from forethought.envs.spec import ArraySpec, EnvSpec

EPISODE_LENGTH = 50
SPEC = EnvSpec(
    "Arm-v0",
    {"achieved_goal": ArraySpec((3,), "float32"), "observation": ArraySpec((25,), "float32")},
    action_low=(-1.0,) * 4,
    action_high=(1.0,) * 4,
    control_dt=0.04,
    max_episode_steps=EPISODE_LENGTH,
)


def episode(rng: np.random.Generator) -> Episode:
    """One random episode."""
    return Episode(
        obs={k: rng.standard_normal((EPISODE_LENGTH + 1, *a.shape), dtype=np.float32) for k, a in SPEC.obs.items()},
        actions=rng.uniform(-1, 1, (EPISODE_LENGTH, SPEC.action_dim)).astype(np.float32),
        rewards=np.zeros(EPISODE_LENGTH, np.float32),
        success=np.zeros(EPISODE_LENGTH, np.bool_),
        terminated=False,
        truncated=True,
    )


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of one call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def torchrl_buffer(folder: Path, store: EpisodeStore, arguments: argparse.Namespace, *, cache: bool) -> Any:
    """torchrl's replay buffer over a memory map that holds the episodes of the store, in torchrl's own layout.

    Args:
        folder: of the memory map.
        store: what to copy.
        arguments: size of the windows.
        cache: keep where the episodes are, which torchrl means for data that do not grow.
    """
    from tensordict import TensorDict
    from torchrl.data import LazyMemmapStorage, ReplayBuffer, SliceSampler

    buffer = ReplayBuffer(
        storage=LazyMemmapStorage(store.num_transitions, scratch_dir=folder),
        sampler=SliceSampler(slice_len=arguments.length, traj_key="episode", cache_values=cache),
        batch_size=arguments.batch_size * arguments.length,
    )
    with store.reading() as reader:
        for i in store.ids():
            obs = {k: torch.from_numpy(reader.array(i, f"obs/{k}").copy()) for k in SPEC.obs}
            steps = len(obs["observation"]) - 1
            done = torch.zeros(steps, 1, dtype=torch.bool)
            done[-1] = True
            after: dict[str, Any] = {k: v[1:] for k, v in obs.items()}
            after |= {"reward": torch.from_numpy(reader.array(i, "rewards").copy())[:, None], "done": done}
            before: dict[str, Any] = {k: v[:-1] for k, v in obs.items()}
            before |= {"action": torch.from_numpy(reader.array(i, "actions").copy()), "next": after}
            buffer.extend(TensorDict({**before, "episode": torch.full((steps,), int(i))}, [steps]))
    return buffer


def beside_torchrl(store: EpisodeStore, folder: Path, arguments: argparse.Namespace) -> dict[str, float] | None:
    """Milliseconds of a batch of windows, ours and torchrl's turn by turn; None without torchrl."""
    if importlib.util.find_spec("torchrl") is None:
        return None
    rng = np.random.default_rng(arguments.seed)
    sampler = SequenceSampler(store, SPEC, arguments.length, 0, cache_bytes=1 << 34)
    works: dict[str, Callable[[], object]] = {"ours": partial(sampler.sample, arguments.batch_size, rng)}
    for name, cache in (("torchrl", False), ("torchrl_cached", True)):
        works[name] = torchrl_buffer(folder / name, store, arguments, cache=cache).sample
    times = turn_by_turn(works, arguments.repeats, warmup=1)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {f"{name}_ratio": round(medians[name] / medians["ours"], 1) for name in works if name != "ours"}
    return {f"{name}_ms": round(value, 3) for name, value in medians.items()} | ratios


def measure(folder: Path, transitions: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """All numbers for a store of that many transitions."""
    rng = np.random.default_rng(arguments.seed)
    count = transitions // EPISODE_LENGTH
    with EpisodeStore.open(folder, "a", SPEC) as store:
        single = [episode(rng) for _ in range(min(100, count // 2))]
        synced = seconds(lambda: store.append(single.pop()), len(single))
    with EpisodeStore.open(folder, "a", SPEC, MemoryOptions(sync=False)) as store:
        single = [episode(rng) for _ in range(min(100, count - len(store)))]
        unsynced = seconds(lambda: store.append(single.pop()), len(single))
        while len(store) < count:
            store.append_many([episode(rng) for _ in range(min(500, count - len(store)))])
    opened = seconds(lambda: EpisodeStore.open(folder).close(), 9)
    store = EpisodeStore.open(folder)
    result: dict[str, Any] = {
        "transitions": store.num_transitions,
        "bytes": store.stats()["bytes"],
        "append_synced_transitions_per_s": round(EPISODE_LENGTH / synced),
        "append_unsynced_transitions_per_s": round(EPISODE_LENGTH / unsynced),
        "open_ms": round(opened * 1e3, 2),
    }
    with store:
        for name, cache_bytes in (("cached", 1 << 34), ("in_place", 0)):
            start = time.perf_counter()
            sampler = SequenceSampler(store, SPEC, arguments.length, arguments.num_goals, cache_bytes=cache_bytes)
            fill = time.perf_counter() - start
            each = seconds(partial(sampler.sample, arguments.batch_size, rng), arguments.repeats)
            result[f"sample_{name}_ms"] = round(each * 1e3, 3)
            result[f"sample_{name}_windows_per_s"] = round(arguments.batch_size / each)
            result[f"make_{name}_sampler_s"] = round(fill, 3)
        result["beside_torchrl"] = beside_torchrl(store, folder.with_name("torchrl"), arguments)
    return result


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--batch-size", type=int, default=256, help="windows per batch")
    parser.add_argument("--length", type=int, default=4, help="transitions per window")
    parser.add_argument("--num-goals", type=int, default=2, help="goal pairs per window")
    parser.add_argument("--repeats", type=int, default=200, help="batches; the median counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "memory_sampling.json")
    arguments = parser.parse_args()
    if min(arguments.transitions) < 10 * EPISODE_LENGTH:
        parser.error(f"--transitions must be at least {10 * EPISODE_LENGTH}, got {min(arguments.transitions)}")
    results = []
    for transitions in arguments.transitions:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(Path(folder) / "memory", transitions, arguments))
        print(results[-1])
    options = {k: v for k, v in vars(arguments).items() if k != "out"}
    write_json(
        arguments.out,
        {
            "command": f"python benchmarks/{command()}",
            "commit": commit(),
            "options": options,
            "results": results,
            "versions": versions(),
            "machine": machine(),
        },
    )


if __name__ == "__main__":
    main()
