"""Train and evaluate control by reward on eight tasks of DeepMind Control, from nothing to 100,000 frames each.

    python benchmarks/reward_control.py                               everything; hours
    python benchmarks/reward_control.py --tasks finger_spin --seeds 0 one training and its evaluation
    python benchmarks/reward_control.py --only-eval                   evaluate the trainings of an earlier call again

Each training and each evaluation is a `forethought` process of its own, with the preset of the task and nothing else;
the result file holds both command lines, every evaluation episode, and the return of every training episode by frames
and seconds. Evaluated is the agent as it is at the last frame, not the best on the way. A training that was interrupted
goes on where it was; what has a result file is left alone (`--resume never` starts everything over).
`python benchmarks/render_tables.py` then brings the numbers into the pages that show them, and
`python benchmarks/plot_reward_control.py` draws the learning curves.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainings import carry_out, parse, wanted

from forethought.agent.files import write_json
from forethought.agent.report.references import reported_returns
from forethought.agent.training.metrics import read_metrics

RESULTS = Path(__file__).parent / "results" / "reward_control"
FRAMES = 100_000
"""What every training may use, action repeat counted."""


@dataclass(frozen=True)
class Task:
    """One row of the table; its name is that of the preset."""

    env: str
    """Its environment, `dm_control/<env>-v0`."""
    seeds: tuple[int, ...] = (0,)
    """Trainings."""

    @property
    def reported(self) -> dict[str, dict[int, float]]:
        """What others reach, by method and frames up to `FRAMES`."""
        found = reported_returns(f"dm_control/{self.env}-v0")
        return {name: {f: r for f, r in curve.items() if f <= FRAMES} for name, curve in found.items()}


TASKS = {
    "cartpole_swingup": Task("cartpole-swingup", (0, 1, 2)),
    "pendulum_swingup": Task("pendulum-swingup"),
    "cup_catch": Task("ball_in_cup-catch"),
    "finger_spin": Task("finger-spin"),
    "reacher_easy": Task("reacher-easy", (0, 1, 2)),
    "walker_walk": Task("walker-walk"),
    "cheetah_run": Task("cheetah-run"),
    "hopper_stand": Task("hopper-stand"),
}


def learning_curve(run: Path) -> list[list[float]]:
    """Frames, seconds since the start, and mean return of the episodes of each collection (with exploration noise)."""
    lines = [m for m in read_metrics(run / "metrics.jsonl") if m["phase"] == "collect" and "episode/return" in m]
    return [[m["frames"], m["seconds"], round(m["episode/return"], 1)] for m in lines]


def result_of(name: str, seed: int, run: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate; returns the content of the result file."""
    train = ["forethought", "train", f"preset={name}", f"seed={seed}", f"out={run}", *arguments.extra]
    evaluate = ["forethought", "eval", f"run={run}", "checkpoint=last", f"episodes={arguments.episodes}"]
    evaluate += [f"seed={seed}", "evaluation.video=false", *arguments.extra]
    measured, made_by = carry_out(train, evaluate, run)
    left_out = ("seeds", "command", "video", "video_reason", "steps_to_goal")
    kept = {k: v for k, v in measured.items() if k not in left_out}
    kept["decision_ms"] = {k: v for k, v in measured["decision_ms"].items() if k != "values"}
    frames = read_metrics(run / "metrics.jsonl")[-1]["frames"]
    return {**kept, "task": name, "seed": seed, "frames": frames, **made_by, "curve": learning_curve(run)}


def main() -> None:
    """Carry out what is asked for and write one JSON file per training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments = parse(parser, TASKS, "held-out episodes", least_episodes=10, results=RESULTS)
    for name in arguments.tasks:
        for seed in arguments.seeds or TASKS[name].seeds:
            path, run = arguments.out / f"{name}-{seed}.json", arguments.runs / f"{name}-{seed}"
            if not wanted(path, run, arguments):
                continue
            result = result_of(name, seed, run, arguments)
            write_json(path, result)
            print(f"{name}-{seed}: return {result['return_mean']:.1f}, trained in {result['train_seconds']:.0f} s")


if __name__ == "__main__":
    main()
