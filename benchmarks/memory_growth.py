"""How the memory's times grow with what is in it.

One store grows to each of the sizes in turn, with episodes of 1000 transitions of a made-up arm (8 numbers seen, 2
actions). At each size: opening the store, drawing 256 windows of 4 transitions, with the arrays cached in memory and
read in place, looking up the 64 of as many latents (8 numbers, drawn at random) that are nearest to one, as retrieval
does it and by comparing with all, and then appending an episode, flushed to the disk and not. Medians, and how they
compare with the smallest.

    python benchmarks/memory_growth.py --transitions 10000 100000 1000000 10000000
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.ticker import EngFormatter
from memory_sampling import seconds

from forethought.agent.files import write_json
from forethought.agent.memory.index import ExactSearch, make_search
from forethought.agent.memory.sampler import SequenceSampler
from forethought.agent.memory.store import Episode, EpisodeStore, MemoryOptions
from forethought.agent.provenance import command, commit, machine, versions
from forethought.envs.spec import ArraySpec, EnvSpec

LENGTH = 1000
SPEC = EnvSpec("Arm-v0", {"state": ArraySpec((8,), "float32")}, (-1.0,) * 2, (1.0,) * 2, 0.05, LENGTH)
TIMES = {
    "open_ms": "opening the store",
    "append_synced_ms": "appending an episode of 1000, on disk",
    "append_unsynced_ms": "appending an episode of 1000, left to the system",
    "sample_cached_ms": "256 windows of 4, cached",
    "sample_in_place_ms": "256 windows of 4, in place",
    "query_ms": "64 nearest moments",
    "query_exact_ms": "64 nearest moments, compared with all",
}
NEIGHBOURS = 64


def episode(rng: np.random.Generator) -> Episode:
    """One random episode."""
    return Episode(
        obs={"state": rng.standard_normal((LENGTH + 1, 8), dtype=np.float32)},
        actions=rng.uniform(-1, 1, (LENGTH, 2)).astype(np.float32),
        rewards=rng.standard_normal(LENGTH, dtype=np.float32),
        success=np.zeros(LENGTH, np.bool_),
        terminated=False,
        truncated=True,
    )


def measure(folder: Path, transitions: int, arguments: argparse.Namespace, rng: np.random.Generator) -> dict[str, Any]:
    """Fill the store up to that many transitions, then take the times."""
    quick = MemoryOptions(sync=False)
    with EpisodeStore.open(folder, "a", SPEC, quick) as store:
        while store.num_transitions < transitions:
            left = transitions // LENGTH - len(store)
            store.append_many([episode(rng) for _ in range(min(100, left))])
        stored = store.num_transitions
    row: dict[str, Any] = {"transitions": stored, "bytes": (folder / "data.mdb").stat().st_size}
    row["open_ms"] = seconds(lambda: EpisodeStore.open(folder).close(), arguments.repeats)
    with EpisodeStore.open(folder) as store:
        for name, cache_bytes in (("cached", 1 << 34), ("in_place", 0)):
            start = time.perf_counter()
            sampler = SequenceSampler(store, SPEC, 4, num_goals=2, cache_bytes=cache_bytes)
            row[f"make_{name}_sampler_s"] = round(time.perf_counter() - start, 4)
            sampler.sample(256, rng)
            row[f"sample_{name}_ms"] = seconds(partial(sampler.sample, 256, rng), arguments.repeats)
            del sampler
    row |= look_up(transitions, arguments.repeats, rng)
    for name, options in (("synced", MemoryOptions()), ("unsynced", quick)):
        with EpisodeStore.open(folder, "a", SPEC, options) as store:
            new = [episode(rng) for _ in range(arguments.appends)]
            row[f"append_{name}_ms"] = seconds(lambda: store.append(new.pop()), len(new))  # noqa: B023
    return {name: round(1e3 * value, 4) if name in TIMES else value for name, value in row.items()}


def look_up(moments: int, repeats: int, rng: np.random.Generator) -> dict[str, float]:
    """Times of finding neighbours, making the searches left out, and how many of the nearest ones are found."""
    points = torch.from_numpy(rng.standard_normal((moments, 8), dtype=np.float32))
    start = time.perf_counter()
    search, exact = make_search(points), ExactSearch(points)
    row = {"make_search_s": round(time.perf_counter() - start, 3)}
    places = torch.from_numpy(rng.standard_normal((20, 8), dtype=np.float32))
    (found, _), (nearest, _) = (one.nearest(places, NEIGHBOURS) for one in (search, exact))
    shares = [len(set(x) & set(y)) / len(y) for x, y in zip(found.tolist(), nearest.tolist(), strict=True)]
    row["recall"] = round(sum(shares) / len(shares), 4)
    for name, one in (("query_ms", search), ("query_exact_ms", exact)):
        row[name] = seconds(partial(one.nearest, places[:1], NEIGHBOURS), repeats)
    return row


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Times against size, both logarithmic."""
    figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
    sizes = [row["transitions"] for row in rows]
    for name, label in TIMES.items():
        axes.plot(sizes, [row[name] for row in rows], "o-", label=label)
    axes.set(xscale="log", yscale="log", xlabel="transitions in the memory", ylabel="median time (ms)")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Measure, print, and write results and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--repeats", type=int, default=101, help="batches and openings; the median counts")
    parser.add_argument("--appends", type=int, default=15, help="episodes appended, of each kind; the median counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "memory_growth.json")
    arguments = parser.parse_args()
    if min(arguments.transitions) < LENGTH:
        parser.error(f"--transitions must be at least {LENGTH}, got {min(arguments.transitions)}")
    rng = np.random.default_rng(arguments.seed)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for transitions in sorted(arguments.transitions):
            rows.append(measure(Path(folder) / "memory", transitions, arguments, rng))
            rows[-1]["ratios"] = {name: round(rows[-1][name] / rows[0][name], 2) for name in TIMES}
            print(rows[-1])
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    plot(rows, arguments.out.with_suffix(".png"))
    write_json(
        arguments.out,
        {
            "command": f"python benchmarks/{command()}",
            "commit": commit(),
            "options": {k: v for k, v in vars(arguments).items() if k != "out"},
            "results": rows,
            "versions": versions(),
            "machine": machine(),
        },
    )


if __name__ == "__main__":
    main()
