"""Far goals with and without memory: landmarks on the way, in mazes that are too large for a plan.

    python benchmarks/memory_planning.py                                everything; hours
    python benchmarks/memory_planning.py --tasks medium --seeds 0       one training and its evaluations
    python benchmarks/memory_planning.py --only-eval                    evaluate the trainings of an earlier call again

One training per maze and seed, on exploration of its own, then one `forethought eval` per arm on the same held-out
episodes, and a result file each. What has a result file is left alone (`--resume never` starts everything over).
`python benchmarks/render_tables.py` then brings the numbers into the pages.

Arms: `memory` is the agent as it comes. `flat` has the same model and planner, without memory. `never_closed` goes by
memory and closes no way that it is stuck on. `retrieval` goes by memory, and tries in every plan what was done in four
moments like the present one. `macro` needs no memory while it plans: sub-goals are jumps of a macro-action model, which
is given to a copy of the finished run by `macro_model.py`. Nobody sees the simulator or the map.

Above a skill, that is trained first, by reward and in another place: its commands are the actions of all arms.
"""

import argparse
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from macro_model import fit
from trainings import call, finished, outcome, parse, train_seconds, wanted

from forethought.agent.files import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "memory_planning"


@dataclass(frozen=True)
class Task:
    """One row of the table."""

    title: str
    overrides: tuple[str, ...]
    """What `forethought train` is told, beside seed and folder."""
    bar: float | None
    """Success rate of `memory` that counts as solved."""
    reported: str = ""
    """What others report."""
    skill: str = ""
    """Preset of the skill that acts below, one training of its own per seed."""


TASKS = {
    "medium": Task("OGBench pointmaze-medium", ("preset=pointmaze",), 0.95, "QRL 82 %, TTGS 91 %"),
    "large": Task("OGBench pointmaze-large", ("preset=pointmaze_large",), 0.95, "QRL 86 %, TTGS 88 %"),
    "giant": Task("OGBench pointmaze-giant", ("preset=pointmaze_giant",), 0.90, "QRL 68 %, TTGS 92 %"),
    "pixels": Task(
        "own medium maze from 64x64 pixels",
        ("preset=maze", "env_options.observation=pixels", "learner.even_share=0.5"),
        0.85,
    ),
    "antmaze_skill": Task(
        "OGBench antmaze-medium, above an ant that learned to walk",
        ("preset=antmaze_skill",),
        0.50,
        "HIQL 96 %, with data of an ant that can walk",
        skill="ant_walk",
    ),
    "antmaze": Task("OGBench antmaze-medium, from its own trials", ("preset=antmaze_medium",), 0.50),
}
ARMS: dict[str, tuple[str, ...]] = {
    "memory": (),
    "flat": ("agent.configurator.mode=plan",),
    "never_closed": ("agent.configurator.patience=1000000",),
    "retrieval": ("agent.retrieval.seeds=4",),
    "macro": ("agent.configurator.guide=macro",),
}
"""What each arm overrides, by its name."""
SEEDS = (0, 1, 2)


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


def jobs(tasks: Sequence[str], seeds: Sequence[int] | None, arms: Sequence[str]) -> Iterator[Job]:
    """What there is to do; `seeds=None` takes all."""
    for task in tasks:
        for seed in SEEDS if seeds is None else seeds:
            for arm in arms:
                yield Job(task, arm, seed)


def learned_skill(preset: str, job: Job, arguments: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """Train the skill that acts below, unless it is there; returns its folder, and what the result file says of it."""
    folder = arguments.runs / f"{preset}-{job.seed}"
    train = ["forethought", "train", f"preset={preset}", f"seed={job.seed}", f"out={folder}", *arguments.extra]
    if arguments.resume == "never" and job.arm == "memory":
        shutil.rmtree(folder, ignore_errors=True)
    if not finished(folder):
        if arguments.only_eval:
            raise SystemExit(f"{folder} holds no finished training")
        call(train)
    return folder, {
        "skill_command": " ".join(train),
        "skill_seconds": round(train_seconds(folder), 1),
        "skill_commit": read_json(folder / "run.json")["commit"],
    }


def result_of(job: Job, run: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate; returns the content of the result file."""
    overrides, learned = [*TASKS[job.task].overrides], dict[str, Any]()
    if preset := TASKS[job.task].skill:
        below, learned = learned_skill(preset, job, arguments)
        overrides.append(f"env_options.skill={below}")
    train = ["forethought", "train", *overrides, f"seed={job.seed}", f"out={run}", *arguments.extra]
    random, seen = str(job.arm == "memory").lower(), run
    if job.arm == "macro":
        if not finished(run):
            call(train)
        seen = run.with_name(f"{run.name}-macro")
        if arguments.resume == "never":
            shutil.rmtree(seen, ignore_errors=True)
        if not seen.exists():
            print(f"{seen}: jumps miss by {fit(run, seen, job.seed):.0%} of what they cover")
    evaluate = [
        "forethought", "eval", f"run={seen}", f"episodes={arguments.episodes}", f"seed={job.seed}", *ARMS[job.arm],
        f"evaluation.random={random}", "evaluation.true_dynamics=false", "evaluation.video=false", *arguments.extra,
    ]  # fmt: skip
    return {**outcome(job, train, evaluate, seen), **learned}


def main() -> None:
    """Carry out what is asked for and write one JSON file per evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="columns of the table")
    arguments = parse(parser, TASKS, "held-out goals", least_episodes=100, results=RESULTS)
    for job in jobs(arguments.tasks, arguments.seeds, arguments.arms):
        path, run = arguments.out / f"{job.name}.json", arguments.runs / f"{job.task}-{job.seed}"
        if not wanted(path, run, arguments, borrowed=job.arm != "memory"):
            continue
        result = result_of(job, run, arguments)
        write_json(path, result)
        print(f"{job.name}: {result['success_rate']:.1%} of {result['episodes']} goals")


if __name__ == "__main__":
    main()
