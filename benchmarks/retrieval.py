"""Planning with ever fewer candidates, alone and with what was done after moments like the present one.

    python benchmarks/retrieval.py                                  everything
    python benchmarks/retrieval.py --tasks reacher --samples 4 16
    python benchmarks/retrieval.py --only-eval                      evaluate the trainings of an earlier call again

One training per task and seed, then one `forethought eval` per number of candidates and arm, all on the same held-out
goals with the same seeds; a result file each, with the command lines that made it. What has a result file is left alone
(`--resume never` starts everything over). `python benchmarks/render_tables.py` then brings the numbers into the pages.

Arms: `alone` is the agent as it comes, `memory` the same with `agent.retrieval.seeds`, up to half of its candidates in
the first iteration: both score as many sequences in a decision.
"""

import argparse
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from goal_reaching import TASKS as GOALS
from trainings import outcome, parse, wanted

from forethought.agent.files import write_json

RESULTS = Path(__file__).parent / "results" / "retrieval"
TASKS = {name: GOALS[name] for name in ("reacher", "rooms", "cartpole")}
ARMS = ("alone", "memory")
SAMPLES = (4, 8, 16, 32, 64, 128)
"""Candidates in each iteration."""
MOST_SEEDS = 16
"""Sequences from memory among them, at most."""


@dataclass(frozen=True)
class Job:
    """One evaluation of one training."""

    task: str
    samples: int
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its result file."""
        return f"{self.task}-{self.samples}-{self.arm}-{self.seed}"

    @property
    def run(self) -> str:
        """Name of the run folder, which all evaluations of a training share."""
        return f"{self.task}-{self.seed}"

    def train_command(self, run: Path, extra: Sequence[str]) -> list[str]:
        """What trains the agent, or goes on with it."""
        return ["forethought", "train", *TASKS[self.task].overrides, f"seed={self.seed}", f"out={run}", *extra]

    def eval_command(self, run: Path, episodes: int, extra: Sequence[str]) -> list[str]:
        """What evaluates it with so many candidates."""
        switches = [f"evaluation.{name}=false" for name in ("random", "true_dynamics", "video")]
        seeds = min(self.samples // 2, MOST_SEEDS) if self.arm == "memory" else 0
        search = [
            f"planner.num_samples={self.samples}",
            f"planner.num_elites={max(2, self.samples // 8)}",
            f"agent.retrieval.seeds={seeds}",
        ]
        evaluate = ["forethought", "eval", f"run={run}", f"episodes={episodes}", f"seed={self.seed}"]
        return [*evaluate, *switches, "evaluation.probe_episodes=0", *search, *extra]


def jobs(tasks: Sequence[str], seeds: Sequence[int] | None, samples: Sequence[int]) -> Iterator[Job]:
    """What there is to do; without `seeds` the first of each task."""
    for task in tasks:
        for seed in TASKS[task].seeds[:1] if seeds is None else seeds:
            for count, arm in product(samples, ARMS):
                yield Job(task, count, arm, seed)


def result_of(job: Job, run: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train what is not trained yet and evaluate; returns the content of the result file."""
    train = job.train_command(run, arguments.extra)
    evaluate = job.eval_command(run, arguments.episodes, arguments.extra)
    result = outcome(job, train, evaluate, run)
    # Every decision before the goal costs 1: the mean over all episodes can be compared, that of the arrivals cannot.
    return {**result, "steps_mean_all": round(result["success_rate"] - result["return_mean"], 3)}


def main() -> None:
    """Carry out what is asked for and write one JSON file per evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--samples", nargs="+", type=int, choices=SAMPLES, default=list(SAMPLES), help="columns of the table"
    )
    arguments = parse(parser, TASKS, "held-out goals", least_episodes=100, results=RESULTS)
    todo = list(jobs(arguments.tasks, arguments.seeds, arguments.samples))
    if arguments.resume == "never":
        for job in todo:  # all at once: they share the trainings
            (arguments.out / f"{job.name}.json").unlink(missing_ok=True)
            shutil.rmtree(arguments.runs / job.run, ignore_errors=True)
        arguments.resume = "auto"
    for job in todo:
        path, run = arguments.out / f"{job.name}.json", arguments.runs / job.run
        if not wanted(path, run, arguments):
            continue
        result = result_of(job, run, arguments)
        write_json(path, result)
        success, steps, time = result["success_rate"], result["steps_mean_all"], result["decision_ms"]["p50"]
        print(f"{job.name}: {success:.1%} of {result['episodes']} goals in {steps:.1f} steps, {time:.1f} ms a decision")


if __name__ == "__main__":
    main()
