"""Tasks in which what decides is not seen any more, for an agent with a working memory and for one without.

    python benchmarks/working_memory.py                         everything; an hour
    python benchmarks/working_memory.py --tasks cue --seeds 0   both agents, one training each
    python benchmarks/working_memory.py --only-eval             evaluate the trainings of an earlier call again

Arms: `gru` is the task with a recurrent belief, `none` the same without recurrence, so that a decision follows from
what is seen right then. Calls, resume and result files are as for `goal_reaching.py`.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainings import outcome, parse, wanted

from forethought.agent.files import write_json

RESULTS = Path(__file__).parent / "results" / "working_memory"
ARMS = ("gru", "none")
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Task:
    """A row of the table."""

    title: str
    overrides: tuple[str, ...]


TASKS = {
    "cue": Task("Cue: a flag in one of four corners, gone before the ball may move", ("preset=cue",)),
    "screen": Task("Screen: a ball rolls behind a screen and is to be caught where it comes out", ("preset=screen",)),
    "blind": Task(
        "Cartpole: a pole is to be swung up and held while velocities are hidden",
        ("preset=cartpole", "env_options.hide=[velocity]"),
    ),
}


@dataclass(frozen=True)
class Job:
    """One training and its evaluation."""

    task: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its result file and of its run folder."""
        return f"{self.task}-{self.arm}-{self.seed}"

    def train_command(self, run: Path, extra: Sequence[str]) -> list[str]:
        """What trains it, or goes on with it."""
        overrides = [
            *TASKS[self.task].overrides,
            f"world_model.recurrence={self.arm}",
            f"seed={self.seed}",
            f"out={run}",
        ]
        return ["forethought", "train", *overrides, *extra]

    def eval_command(self, run: Path, episodes: int, extra: Sequence[str]) -> list[str]:
        """What evaluates it; luck does not depend on the agent and is measured beside one of them."""
        luck = str(self.arm == ARMS[0]).lower()
        switches = [f"evaluation.random={luck}", "evaluation.true_dynamics=false", "evaluation.video=false"]
        return ["forethought", "eval", f"run={run}", f"episodes={episodes}", f"seed={self.seed}", *switches, *extra]


def jobs(tasks: Sequence[str], seeds: Sequence[int] | None, arms: Sequence[str] = ARMS) -> Iterator[Job]:
    """What there is to do; `seeds=None` takes all of them."""
    for task in tasks:
        for seed in SEEDS if seeds is None else seeds:
            for arm in arms:
                yield Job(task, arm, seed)


def result_of(job: Job, run: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate; returns the content of the result file."""
    train = job.train_command(run, arguments.extra)
    evaluate = job.eval_command(run, arguments.episodes, arguments.extra)
    return outcome(job, train, evaluate, run)


def main() -> None:
    """Carry out what is asked for and write one JSON file per training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="columns of the table")
    arguments = parse(parser, TASKS, "held-out episodes", least_episodes=100, results=RESULTS)
    for job in jobs(arguments.tasks, arguments.seeds, arguments.arms):
        path, run = arguments.out / f"{job.name}.json", arguments.runs / job.name
        if not wanted(path, run, arguments):
            continue
        result = result_of(job, run, arguments)
        write_json(path, result)
        success, seconds = result["success_rate"], result["train_seconds"]
        print(f"{job.name}: {success or 0:.1%} of {result['episodes']} episodes, trained in {seconds:.0f} s")


if __name__ == "__main__":
    main()
