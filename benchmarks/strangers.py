"""Environments of packages that the project has never seen: each examined, trained on and evaluated, or refused.

    pip install panda-gym highway-env 'gymnasium[box2d]'                whatever is not installed is left out
    pip install --no-deps metaworld                                     which asks for mujoco 3.3.0 exactly
    python benchmarks/strangers.py                                      everything; half an hour on two idle cores
    python benchmarks/strangers.py --tasks panda_reach --resume never   one of them, from scratch

Nothing is tuned: the options of each are what a stranger would type after the first page of the documentation, and the
trainings are short. What counts is whether it works, and whether a refusal says why. Success or return stands beside
that of random actions in the same evaluation.
"""

import argparse
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from trainings import finished, outcome, parse, wanted

from forethought.agent.files import read_json, write_json
from forethought.agent.provenance import commit, machine, versions

RESULTS = Path(__file__).parent / "results" / "strangers"
_SHORT = ("training.rounds=1", "training.num_envs=4", "training.validation_episodes=5")
_REWARD = ("objective=reward", "learner.compile=never", "agent.compile=never", "training.validation_episodes=2")


@dataclass(frozen=True)
class Stranger:
    """An environment, and what a stranger would tell `forethought train` about it."""

    package: str
    """Its name on PyPI."""
    env: str
    overrides: tuple[str, ...]


TASKS = {
    "panda_reach": Stranger(
        "panda-gym",
        "panda_gym:PandaReach-v3",
        ("steps=2000", "training.updates=800", "learner.batch_size=128", *_SHORT),
    ),
    "lunar_lander": Stranger(
        "box2d", "LunarLanderContinuous-v3", (*_REWARD, "steps=20000", "training.updates=16000", "training.rounds=20")
    ),
    "highway": Stranger("highway-env", "highway_env:highway-v0", ("objective=reward", "steps=1000")),
    "parking": Stranger(
        "highway-env",
        "highway_env:parking-v0",
        ("steps=6000", "env_options.max_episode_steps=50", "training.updates=3000", "learner.batch_size=128", *_SHORT),
    ),
    "adroit_door": Stranger(
        "gymnasium-robotics",
        "AdroitHandDoor-v1",
        (*_REWARD, "steps=3000", "training.updates=3000", "training.rounds=10"),
    ),
    "metaworld_reach": Stranger(
        "metaworld",
        "metaworld:Meta-World/MT1",
        (*_REWARD, "env_options.kwargs.env_name=reach-v3", "steps=3000", "training.updates=3000", "training.rounds=10"),
    ),
}
"""Rows of the table."""


@dataclass(frozen=True)
class Job:
    """One environment, examined, trained on and evaluated."""

    task: str
    package: str
    env: str
    seed: int

    def options(self) -> list[str]:
        """Options of the environment among those of the run."""
        return [o for o in TASKS[self.task].overrides if o.startswith("env_options.")]

    def check_command(self, found: Path) -> list[str]:
        """What examines it."""
        return ["forethought", "check-env", self.env, *self.options(), "--steps", "300", "--json", str(found)]

    def train_command(self, run: Path, extra: list[str]) -> list[str]:
        """What trains on it, or goes on with it."""
        overrides = [f"env={self.env}", *TASKS[self.task].overrides, f"seed={self.seed}", f"out={run}"]
        return ["forethought", "train", *overrides, *extra]

    def eval_command(self, run: Path, episodes: int, extra: list[str]) -> list[str]:
        """What evaluates it, and random actions beside it."""
        switches = ["evaluation.true_dynamics=false", "evaluation.video=false"]
        return ["forethought", "eval", f"run={run}", f"episodes={episodes}", f"seed={self.seed}", *switches, *extra]


def attempt(command: list[str]) -> tuple[int, str]:
    """Run a `forethought` command line; returns its exit status and its line of error, if there is one."""
    print("$", " ".join(command), flush=True)
    script = Path(sys.executable).with_name(command[0])
    done = subprocess.run(
        [str(script), *command[1:]], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return done.returncode, lines[-1].removeprefix("error: ") if lines else done.stderr.strip()[-300:]


def examined(job: Job, run: Path) -> dict[str, Any]:
    """What `forethought check-env` finds, without what is as it should be."""
    found = run.with_name(f"{run.name}-check.json")
    found.parent.mkdir(parents=True, exist_ok=True)
    command = job.check_command(found)
    status, error = attempt(command)
    if status not in (0, 1):
        raise SystemExit(f"exit status {status}: {' '.join(command)}: {error}")
    report = read_json(found)
    return {
        "command": " ".join(command),
        "worst": report["worst"],
        "counts": dict(Counter(finding["level"] for finding in report["findings"])),
        "findings": [finding for finding in report["findings"] if finding["level"] in ("warning", "error")],
    }


def result_of(job: Job, run: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Examine, train and evaluate; returns the content of the result file. `refusal` says why nothing was trained."""
    origin = {"package_version": _version(job.package), "check": examined(job, run)}
    train = job.train_command(run, arguments.extra)
    evaluate = job.eval_command(run, arguments.episodes, arguments.extra)
    if not finished(run):
        status, error = attempt(train)
        if status == 2:
            here = {"train_command": " ".join(train), "commit": commit(), "versions": versions(), "machine": machine()}
            return {**asdict(job), **origin, "refusal": error, **here}
        if status:
            raise SystemExit(f"exit status {status}: {' '.join(train)}: {error}")
    return {**outcome(job, train, evaluate, run), **origin, "refusal": None}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Carry out what is asked for and write one JSON file per environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments = parse(parser, TASKS, "held-out episodes", least_episodes=20, results=RESULTS)
    for name in arguments.tasks:
        stranger = TASKS[name]
        path, run = arguments.out / f"{name}.json", arguments.runs / name
        if _version(stranger.package) is None:
            print(f"{name}: {stranger.package} is not installed")
        elif wanted(path, run, arguments):
            job = Job(name, stranger.package, stranger.env, (arguments.seeds or (0,))[0])
            write_json(path, result_of(job, run, arguments))


if __name__ == "__main__":
    main()
