"""Trained agents in worlds that differ from the one they learned, as they come and adapting while they act.

    python benchmarks/adaptation.py                                 everything
    python benchmarks/adaptation.py --tasks reacher --shifts none gear_2
    python benchmarks/adaptation.py --only-eval                     evaluate the trainings of an earlier call again

One training per task and seed, then one `forethought eval` per shift, decisions per plan and arm, all on the same
held-out goals with the same seeds; a result file each, with the command lines that made it. What has a result file is
left alone (`--resume never` starts everything over). `python benchmarks/render_tables.py` then brings the numbers into
the pages.

Arms: `plain` plans with the model as it was learned, `adapted` with `agent.adapt_rate`. Beside them stands the planner
on the true dynamics of the shifted world, one decision per plan: nothing is lost that it cannot reach either.
"""

import argparse
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from goal_reaching import TASKS as GOALS
from trainings import carry_out, parse, wanted, without_lists

from forethought.agent.files import write_json

RESULTS = Path(__file__).parent / "results" / "adaptation"
PHYSICS = ("none", "gear_0.5", "gear_2", "mass_3", "damping_3")
SHIFTED = {
    "pointmass": PHYSICS,
    "reacher": PHYSICS,
    "push": ("none", "mass_3", "friction_3"),
    "reacher_pixels": ("none", "gear_2", "camera_0.02", "camera_0.05"),
}
"""The worlds of each task. Nothing touches anything in the first two, and they do not look: friction or a camera would
change nothing."""
TASKS = {name: GOALS[name] for name in SHIFTED}
ADAPT_RATE = 0.5
ARMS: dict[str, tuple[str, ...]] = {"plain": (), "adapted": (f"agent.adapt_rate={ADAPT_RATE}",)}

SHIFTS: dict[str, dict[str, float]] = {
    "none": {},
    "gear_0.5": {"gear": 0.5},
    "gear_2": {"gear": 2.0},
    "mass_3": {"mass": 3.0},
    "damping_3": {"damping": 3.0},
    "friction_3": {"friction": 3.0},
    "camera_0.02": {"camera": 0.02},
    "camera_0.05": {"camera": 0.05},
}
"""What is changed, by its name: factors, and for a camera metres to its right, of a view half a metre wide."""

REPLAN = (1, 5)
"""Decisions per plan: who looks often forgives the model much."""


@dataclass(frozen=True)
class Job:
    """One evaluation of one training."""

    task: str
    shift: str
    replan_every: int
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its result file."""
        return f"{self.task}-{self.shift}-{self.replan_every}-{self.arm}-{self.seed}"

    @property
    def run(self) -> str:
        """Name of the run folder, which all evaluations of a training share."""
        return f"{self.task}-{self.seed}"

    def train_command(self, run: Path, extra: Sequence[str]) -> list[str]:
        """What trains the agent, or goes on with it."""
        return ["forethought", "train", *TASKS[self.task].overrides, f"seed={self.seed}", f"out={run}", *extra]

    def eval_command(self, run: Path, episodes: int, extra: Sequence[str]) -> list[str]:
        """What evaluates it in the shifted world."""
        shift = [f"env_options.shift.{key}={value}" for key, value in SHIFTS[self.shift].items()]
        ceiling = str(self.arm == "plain" and self.replan_every == 1).lower()
        switches = ["evaluation.random=false", f"evaluation.true_dynamics={ceiling}", "evaluation.video=false"]
        evaluate = ["forethought", "eval", f"run={run}", f"episodes={episodes}", f"seed={self.seed}"]
        return [*evaluate, *switches, *shift, f"agent.replan_every={self.replan_every}", *ARMS[self.arm], *extra]


def jobs(tasks: Sequence[str], seeds: Sequence[int] | None, shifts: Sequence[str]) -> Iterator[Job]:
    """What there is to do; without `seeds` the first of each task."""
    for task in tasks:
        for seed in TASKS[task].seeds[:1] if seeds is None else seeds:
            for shift, replan_every, arm in product(shifts, REPLAN, ARMS):
                if shift not in SHIFTED[task]:
                    continue
                yield Job(task, shift, replan_every, arm, seed)


def result_of(job: Job, run: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train what is not trained yet and evaluate; returns the content of the result file."""
    train = job.train_command(run, arguments.extra)
    evaluate = job.eval_command(run, arguments.episodes, arguments.extra)
    evaluation, made_by = carry_out(train, evaluate, run)
    measured = without_lists(evaluation)
    # Every decision before the goal costs 1: the mean over all episodes can be compared, that of the arrivals cannot.
    steps_all = measured["success_rate"] - measured["return_mean"]
    changes = {"shift_options": measured.pop("shift"), "steps_mean_all": round(steps_all, 3)}
    return {**measured, **changes, **asdict(job), "evaluation_seed": measured["seed"], **made_by}


def main() -> None:
    """Carry out what is asked for and write one JSON file per evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shifts", nargs="+", choices=SHIFTS, default=list(SHIFTS), help="rows of the table")
    arguments = parse(parser, TASKS, "held-out goals", least_episodes=100, results=RESULTS)
    todo = list(jobs(arguments.tasks, arguments.seeds, arguments.shifts))
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
        success, steps = result["success_rate"], result["steps_mean_all"]
        error = result["prediction_error"]["model"]
        print(f"{job.name}: {success:.1%} of {result['episodes']} goals in {steps:.1f} steps, error {error:.3f}")


if __name__ == "__main__":
    main()
