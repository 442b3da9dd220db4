"""Whether what was learned yesterday is still there when something else has been learned today.

    python benchmarks/continual.py                everything; an hour
    python benchmarks/continual.py --seeds 0      three trainings and six evaluations
    python benchmarks/continual.py --only-eval    evaluate the trainings of an earlier call again

A building has two wings with no way between them. Task A is to find one's way in the west wing, task B in the east one.
An agent learns A; then the same weights go on and learn B, on exploration of the east wing, by `init=`. Each arm is
evaluated on held-out starts and goals of both wings.

Arms: `a` has learned A alone. `replay` has learned B with the memory of A at hand, from whose episodes half of what it
trains on is drawn. `forget` has learned B in the same way, without the memory. Nobody sees the map or the simulator,
and plans go straight for the goal: what is measured is the world model.
"""

import argparse
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainings import finished, outcome, parse, wanted

from forethought.agent.files import write_json

RESULTS = Path(__file__).parent / "results" / "continual"
BUILDING = (
    "#####################",
    "#    #    #    #    #",
    "#    #    #    #    #",
    "#    #    #         #",
    "#    #    #    #    #",
    "#         #    #    #",
    "#####################",
)
ARMS = {"a": "after A", "replay": "after B, with the memory of A", "forget": "after B, without"}
"""Columns of the table."""
SEEDS = (0, 1, 2)


def wing(name: str) -> str:
    """The building as a layout whose episodes are in one of its wings."""
    west, east = ("S", " ") if name == "west" else (" ", "S")
    rows = [row[:10].replace(" ", west) + "#" + row[11:].replace(" ", east) for row in BUILDING]
    return "/".join(rows)


TASKS = {"west": "A: the west wing", "east": "B: the east wing"}
"""Rows of the table."""


@dataclass(frozen=True)
class Job:
    """One evaluation of one training."""

    task: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its result file."""
        return f"{self.task}-{self.arm}-{self.seed}"


def jobs(tasks: Sequence[str], seeds: Sequence[int] | None) -> Iterator[Job]:
    """What there is to do, in the order in which it is learned; `seeds=None` takes all."""
    for seed in SEEDS if seeds is None else seeds:
        for arm in ARMS:
            for task in tasks:
                yield Job(task, arm, seed)


def result_of(job: Job, run: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate; returns the content of the result file."""
    learned = arguments.runs / f"a-{job.seed}"
    where = f"env_options.kwargs.layout={wing('west' if job.arm == 'a' else 'east')}"
    train = ["forethought", "train", "preset=rooms", where, f"seed={job.seed}", f"out={run}", *arguments.extra]
    if job.arm != "a":
        train += [f"init={learned}"]
    if job.arm == "replay":
        memory = arguments.runs / f"memory-{job.seed}"
        train += [f"memory.path={memory}"]
        if not run.exists():  # a copy, so that the order of the arms does not matter
            shutil.rmtree(memory, ignore_errors=True)
            shutil.copytree(learned / "memory", memory)
    random = str(job.arm == "a").lower()
    evaluate = [
        "forethought", "eval", f"run={run}", f"episodes={arguments.episodes}", f"seed={job.seed}",
        f"env_options.kwargs.layout={wing(job.task)}", f"evaluation.random={random}", "evaluation.true_dynamics=false",
        "evaluation.video=false", *arguments.extra,
    ]  # fmt: skip
    return outcome(job, train, evaluate, run)


def main() -> None:
    """Carry out what is asked for and write one JSON file per evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments = parse(parser, TASKS, "held-out goals", least_episodes=100, results=RESULTS)
    for job in jobs(arguments.tasks, arguments.seeds):
        path, run = arguments.out / f"{job.name}.json", arguments.runs / f"{job.arm}-{job.seed}"
        if not wanted(path, run, arguments, borrowed=job.task != arguments.tasks[0]):
            continue
        if job.arm != "a" and not finished(arguments.runs / f"a-{job.seed}"):
            raise SystemExit(f"A must be learned first: {arguments.runs}/a-{job.seed} holds no finished training")
        result = result_of(job, run, arguments)
        write_json(path, result)
        print(f"{job.name}: {result['success_rate']:.1%} of {result['episodes']} goals")


if __name__ == "__main__":
    main()
