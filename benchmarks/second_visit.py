"""What memory on disk is worth: an agent comes to a maze that it has never seen, leaves, and comes back.

    python benchmarks/second_visit.py                            everything
    python benchmarks/second_visit.py --tasks medium --seeds 0   one training, one maze

The agent learns how the ball rolls in an empty arena, by one training per seed. Then each pair of a start and a goal
has a memory of its own, empty at first, and every visit is a `forethought eval` process of its own that goes by that
memory and keeps what it lives through there. Weights do not change; nobody sees the map, the walls or the simulator.

Tasks: `medium` and `large` are visited twice, and a third time with the memory cleared. `moved_door` is visited twice;
then the door that the way leads through is walled up and another one opened, and it is visited twice again.

The shortest way is that through the middles of cells at the ball's speed along an axis.
"""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from trainings import call, finished, parse, train_seconds, wanted

from forethought.agent import provenance
from forethought.agent.files import read_json, write_json
from forethought.agent.training.evaluate import episode_seeds, mean_interval
from forethought.envs.registry import make_env
from forethought.envs.spec import EnvOptions

RESULTS = Path(__file__).parent / "results" / "second_visit"
ENV = "forethought/Maze-v0"
TRAINED = ("preset=maze", "env_options.kwargs.layout=open")
VISITING = ("agent.configurator.look_ahead=1.5",)
"""How the agent goes: it does not plan beyond what is near, where a model of an empty arena errs most."""
METRES_PER_DECISION = 0.1
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Task:
    """What is visited."""

    title: str
    layouts: tuple[str, ...]
    """The maze as it is at each visit."""
    cleared: bool = True
    """Whether to come back once more with the memory cleared."""


TASKS = {
    "medium": Task("unknown medium maze", ("medium", "medium")),
    "large": Task("unknown large maze", ("large", "large")),
    "moved_door": Task("moved door", ("upper_door", "upper_door", "lower_door", "lower_door"), cleared=False),
}


def visit(run: Path, memory: Path, layout: str, pair: int, extra: Sequence[str]) -> dict[str, Any]:
    """One visit in a process of its own: whether the goal was reached, and decisions."""
    command = [
        "forethought", "eval", f"run={run}", f"memory={memory}", "evaluation.remember=true", "episodes=1",
        f"seed={pair}", f"env_options.kwargs.layout={layout}", "evaluation.report=false", *VISITING, *extra,
    ]  # fmt: skip
    call(command)
    result = read_json(run / "eval.json")
    reached = bool(result["success_rate"])
    limit = read_limit()
    return {
        "layout": layout,
        "success": reached,
        "decisions": result["steps_to_goal"]["values"][0] if reached else limit,
        "shortest": shortest(layout, pair),
        "plan": result["plan"],
        "command": " ".join(command),
    }


def read_limit() -> int:
    """Decisions after which a visit ends without success."""
    env = make_env(ENV, EnvOptions())
    limit = env.env_spec.max_episode_steps
    env.close()
    return limit


def shortest(layout: str, pair: int) -> float:
    """Decisions that the shortest way takes."""
    env = make_env(ENV, EnvOptions(kwargs={"layout": layout}))
    maze: Any = env.unwrapped
    obs, info = env.reset(seed=episode_seeds("test", pair, 0, 1)[0])
    metres = float(maze.distance(obs, info["goal"]))
    env.close()
    return metres / METRES_PER_DECISION


def result_of(task: str, seed: int, run: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, and make all visits; returns the content of the result file."""
    train = ["forethought", "train", *TRAINED, f"seed={seed}", f"out={run}", *arguments.extra]
    if not finished(run):
        call(train)
    pairs = []
    for pair in range(arguments.episodes):
        memory = arguments.runs / f"memory-{task}-{seed}-{pair}"
        shutil.rmtree(memory, ignore_errors=True)
        visits = [visit(run, memory, layout, 1000 * seed + pair, arguments.extra) for layout in TASKS[task].layouts]
        again = None
        if TASKS[task].cleared:
            shutil.rmtree(memory)
            again = visit(run, memory, TASKS[task].layouts[-1], 1000 * seed + pair, arguments.extra)
        pairs.append({"pair": pair, "visits": visits, "cleared": again})
        print(f"{task} {pair}: {[v['decisions'] for v in visits]}", flush=True)
    return {
        "task": task,
        "seed": seed,
        "pairs": pairs,
        "summary": summary(pairs),
        "train_command": " ".join(train),
        "train_seconds": round(train_seconds(run), 1),
        **provenance.of_result(f"python benchmarks/{provenance.command()}"),
    }


def summary(pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each visit, the cleared one last: successes, decisions with interval, and how they compare."""
    rows = []
    count = len(pairs[0]["visits"])
    for number in range(count + (pairs[0]["cleared"] is not None)):
        visits = [pair["visits"][number] if number < count else pair["cleared"] for pair in pairs]
        decisions = np.array([v["decisions"] for v in visits], np.float64)
        first = np.array([pair["visits"][0]["decisions"] for pair in pairs], np.float64)
        rows.append(
            {
                "visit": f"visit {number + 1}" if number < count else "memory cleared",
                "layout": visits[0]["layout"],
                "successes": sum(v["success"] for v in visits),
                "of": len(visits),
                "decisions_mean": float(decisions.mean()),
                "decisions_ci": mean_interval(decisions.tolist()),
                "decisions_median": float(np.median(decisions)),
                "of_first": float(decisions.sum() / first.sum()),
                "of_shortest_median": float(np.median(decisions / np.array([v["shortest"] for v in visits]))),
            }
        )
    return rows


def main() -> None:
    """Carry out what is asked for and write one JSON file per task and training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments = parse(parser, TASKS, "pairs of start and goal", least_episodes=10, results=RESULTS)
    for task in arguments.tasks:
        for seed in SEEDS if arguments.seeds is None else arguments.seeds:
            path, run = arguments.out / f"{task}-{seed}.json", arguments.runs / f"open-{seed}"
            if wanted(path, run, arguments, borrowed=True):
                result = result_of(task, seed, run, arguments)
                write_json(path, result)
                for row in result["summary"]:
                    print(row)


if __name__ == "__main__":
    main()
