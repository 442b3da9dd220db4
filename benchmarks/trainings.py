"""What benchmarks share that train and evaluate by `forethought` processes: options, calls, what is done already."""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forethought.agent.files import read_json
from forethought.agent.runs import read_card
from forethought.agent.training.checkpoint import load_checkpoint
from forethought.agent.training.metrics import read_metrics

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def parse(
    parser: argparse.ArgumentParser, tasks: Iterable[str], what: str, *, least_episodes: int, results: Path
) -> argparse.Namespace:
    """Add the options of every such benchmark, parse the command line, and make the folder of results.

    Args:
        parser: with the benchmark's own options.
        tasks: rows of its table.
        what: is counted by `--episodes`.
        least_episodes: fewer would say too little; the default.
        results: default folder of the result files; run folders are under one of its name.

    Returns:
        the options, and as `extra` those that every process is told.
    """
    known, runs = list(tasks), Path("runs") / results.name
    add = parser.add_argument
    add("--tasks", nargs="+", choices=known, default=known, help="rows of the table")
    add("--seeds", nargs="+", type=int, help="trainings; by default those of each task")
    add("--episodes", type=int, default=least_episodes, help=f"{what} per training, at least {least_episodes}")
    add("--threads", type=int, help="CPU threads of each process; by default the configuration's")
    add("--runs", type=Path, default=runs, help="folder of the run folders")
    add("--out", type=Path, default=results, help="folder of the result files")
    add("--resume", choices=("auto", "never"), default="auto", help="never starts everything over")
    add("--only-eval", action="store_true", help="train nothing, evaluate what is there again")
    arguments = parser.parse_args()
    if arguments.episodes < least_episodes:
        parser.error(f"--episodes must be at least {least_episodes}, got {arguments.episodes}")
    if arguments.only_eval and arguments.resume == "never":
        parser.error("--only-eval needs the trainings that --resume never deletes")
    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.extra = [] if arguments.threads is None else [f"threads={arguments.threads}"]
    return arguments


def wanted(result: Path, run: Path, arguments: argparse.Namespace, *, borrowed: bool = False) -> bool:
    """Whether there is something to do for a result file and its run folder; says why not.

    A run that is `borrowed` from another result is not this one's to start over.
    """
    if arguments.resume == "never":
        result.unlink(missing_ok=True)
        if not borrowed:
            shutil.rmtree(run, ignore_errors=True)
    if result.exists() and not arguments.only_eval:
        print(f"{result} is there already")
        return False
    if arguments.only_eval and not finished(run):
        print(f"{run} holds no finished training")
        return False
    return True


def call(command: Sequence[str]) -> None:
    """Run a `forethought` command line with the script that belongs to this Python."""
    print("$", " ".join(command), flush=True)
    script = Path(sys.executable).with_name(command[0])
    with subprocess.Popen([str(script), *command[1:]], stdin=subprocess.DEVNULL) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:  # Ctrl-C has reached the process too: let it save
            status = process.wait() or 130
    if status:
        raise SystemExit(f"exit status {status}: {' '.join(command)}")


def carry_out(train: Sequence[str], evaluate: Sequence[str], run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train what is not trained yet, and evaluate.

    Returns:
        the content of eval.json, and what a result file says of how it was made.
    """
    if not finished(run):
        call(train)
    if not finished(run):
        raise SystemExit(f"the training in {run} was interrupted; call again to go on with it")
    call(evaluate)
    made_by = {
        "train_command": " ".join(train),
        "eval_command": " ".join(evaluate),
        "train_commit": read_json(run / "run.json")["commit"],
        "train_seconds": round(train_seconds(run), 1),
        "latents": latents(run),
    }
    return read_json(run / "eval.json"), made_by


def outcome(job: "DataclassInstance", train: Sequence[str], evaluate: Sequence[str], run: Path) -> dict[str, Any]:
    """Train what is not trained yet, and evaluate; returns what a result file holds: the job, and what was measured."""
    evaluation, made_by = carry_out(train, evaluate, run)
    measured = without_lists(evaluation)
    return {**measured, **asdict(job), "evaluation_seed": measured["seed"], **made_by}


def latents(run: Path) -> dict[str, float] | None:
    """Effective rank of the learned features at the end of a training, and how many there are; None where none are."""
    world_model = read_card(run, "last")["config"]["world_model"]
    ranks = [m["latent/effective_rank"] for m in read_metrics(run / "metrics.jsonl") if "latent/effective_rank" in m]
    if world_model["encoder"] == "identity" or not ranks:
        return None
    return {"effective_rank": round(ranks[-1], 2), "width": world_model["latent_dim"]}


def without_lists(measured: dict[str, Any]) -> dict[str, Any]:
    """The content of an eval.json without single values, and without what the commands already say."""
    left_out = ("values", "returns", "seeds", "command", "video", "video_reason")
    return {
        key: without_lists(value) if isinstance(value, dict) else value
        for key, value in measured.items()
        if key not in left_out
    }


def finished(run: Path) -> bool:
    """Whether a training was carried through to its end."""
    last = run / "last.safetensors"
    return last.exists() and bool(load_checkpoint(last).state["train"]["finished"])


def train_seconds(run: Path) -> float:
    """Wall-clock seconds from the first collection to the last validation, pauses between resumes left out."""
    last = (run / "metrics.jsonl").read_text().splitlines()[-1]
    return float(json.loads(last)["seconds"])
