"""What going by landmarks adds to a decision, for graphs of a hundred to four thousand of them.

    python benchmarks/graph_speed.py

Landmarks lie in a square, as the untrained quasimetric of a small model sees them; each knows some sixteen others.
Timed are a decision toward the goal of the last one (`lookup`), one toward another goal, for which all ways are found
anew (`new goal`), and noting the moment at hand with all that may follow from it (`notice`). Medians and 99th
percentiles in milliseconds, one thread, warm-up left out; of five rounds the one with the least median, as `timeit`
does it: what makes others slower is what else the machine does. The file has all rounds, and says on which machine.
"""

import argparse
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from forethought.agent import provenance
from forethought.agent.configurator import Configurator, ConfiguratorOptions
from forethought.agent.files import write_json
from forethought.agent.memory.graph import GraphOptions, LandmarkGraph
from forethought.agent.world_model.model import WorldModel, WorldModelOptions
from forethought.envs.spec import ArraySpec, EnvSpec, GoalSpec

SIZES = (100, 1000, 4000)
RESULTS = Path(__file__).parent / "results" / "graph_speed.json"


def graph_of(size: int) -> LandmarkGraph:
    """A graph of that many landmarks."""
    spec = EnvSpec("Square-v0", {"state": ArraySpec((2,), "float32")}, (-1.0,) * 2, (1.0,) * 2, 0.1, 1000,
                   GoalSpec("observation"))  # fmt: skip
    model = WorldModel(spec, WorldModelOptions(latent_dim=4, hidden_dim=128, distance="quasimetric")).eval()
    model.requires_grad_(requires_grad=False)
    states = torch.rand(size, 2, generator=torch.Generator().manual_seed(0)) * 4 - 2
    latents = model.encode({"state": states})
    graph = LandmarkGraph(model, GraphOptions(spacing=0.5, reach=1e6))
    moments = np.stack([np.zeros(size, np.int64), np.arange(size)], axis=-1)
    graph.place(moments, latents, latents)
    graph.believe()
    return graph


def timed(calls: int, call: Any) -> dict[str, float]:
    """Median and 99th percentile in milliseconds of a call that is given its number."""
    times = []
    for number in range(calls + 3):
        began = perf_counter()
        call(number)
        times.append(1e3 * (perf_counter() - began))
    return {"p50_ms": float(np.percentile(times[3:], 50)), "p99_ms": float(np.percentile(times[3:], 99))}


def cases(size: int) -> dict[str, Any]:
    """What is timed with so many landmarks, as calls that are given their number; and how many ways there are."""
    graph = graph_of(size)
    guide = Configurator(graph, ConfiguratorOptions(mode="auto", patience=10**6), learns=True)
    z, goals = graph.latents[:1], graph.goals
    still = torch.zeros(1, graph.model.spec.action_dim)
    _, course = guide.aim(z, goals[1:2], None)
    course = guide.notice(z, still, z, goals[:1], course)  # where it is, from where walked ways are asked for
    _, course = guide.aim(z, goals[1:2], course)
    calls = {
        "lookup": lambda number: guide.aim(z, goals[1:2], course),
        "new goal": lambda number: guide.aim(z, goals[2 + number % 90 : 3 + number % 90], course),
        "notice": lambda number: guide.notice(z, still, z, goals[:1], course),
    }
    return {"edges": len(graph.edges), "calls": calls}


def main() -> None:
    """Measure all sizes and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200, help="calls that are timed in a round")
    parser.add_argument("--rounds", type=int, default=5, help="of all that")
    parser.add_argument("--out", type=Path, default=RESULTS, help="result file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    prepared = {size: cases(size) for size in SIZES}
    rounds = [
        {(size, name): timed(arguments.calls, call) for size in SIZES for name, call in prepared[size]["calls"].items()}
        for _ in range(arguments.rounds)
    ]
    rows = []
    for size, case in prepared.items():
        row: dict[str, Any] = {"landmarks": size, "edges": case["edges"]}
        for name in case["calls"]:
            times = [each[size, name] for each in rounds]
            row[name] = {**min(times, key=lambda each: each["p50_ms"]), "rounds": times}
        rows.append(row)
    write_json(
        arguments.out,
        {
            "results": rows,
            **provenance.of_result(f"python benchmarks/{provenance.command()}"),
        },
    )
    for row in rows:
        print(row["landmarks"], {name: row[name]["p50_ms"] for name in ("lookup", "new goal", "notice")})


if __name__ == "__main__":
    main()
