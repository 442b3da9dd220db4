"""Script: trains runs that are killed (SIGKILL) at chosen moments and started again, each time in a forked child.

`kill_runs.py '{"<folder>": [["<moment>", n], ...], ...}' override...` kills the n-th occurrence of a moment within each
child in turn and lets a last child finish; it prints the exit status of every child as JSON.
"""

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch._dynamo  # noqa: F401  (slow to load, and needed: loaded once, before the forks)
from torch.utils import tensorboard  # noqa: F401

from forethought.agent import cli
from forethought.agent.jobs import train  # noqa: F401
from forethought.agent.memory.store import EpisodeStore
from forethought.agent.training import checkpoint, rollout
from forethought.agent.training.learner import Learner
from forethought.agent.training.metrics import MetricsLogger
from forethought.configs.register import load
from forethought.configs.schema import Config

MOMENTS: dict[str, tuple[Any, str]] = {
    "episodes": (rollout, "run_episodes"),
    "append": (EpisodeStore, "append_many"),
    "update": (Learner, "update"),
    "log": (MetricsLogger, "log"),
    "save": (checkpoint, "write_bytes"),
    "rename": (os, "replace"),
}


def watch(owner: Any, name: str, moment: str, tick: Callable[[str], None]) -> None:
    """Tick before and after every call of `owner.name`."""
    original = getattr(owner, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        tick(f"before {moment}")
        result = original(*args, **kwargs)
        tick(f"after {moment}")
        return result

    setattr(owner, name, watched)


def child(folder: str, overrides: list[str], moment: str, occurrence: int) -> int:
    seen: Counter[str] = Counter()

    def tick(name: str) -> None:
        for kind in (name, "anything"):
            seen[kind] += 1
            if kind == moment and seen[kind] == occurrence:
                os.kill(os.getpid(), signal.SIGKILL)

    for name, (owner, function) in MOMENTS.items():
        watch(owner, function, name, tick)
    return cli.main(["train", *overrides, f"out={folder}"])


def main() -> None:
    """Run the plan given on the command line."""
    plans: dict[str, list[tuple[str, int]]] = json.loads(sys.argv[1])
    statuses: dict[str, list[int]] = {}
    load(Config, sys.argv[2:])
    for folder, kills in plans.items():
        statuses[folder] = []
        for moment, occurrence in [*kills, ("", 0)]:
            pid = os.fork()
            if pid == 0:
                sys.stdout = sys.stderr
                os._exit(child(folder, sys.argv[2:], moment, occurrence))
            statuses[folder].append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(json.dumps(statuses))


if __name__ == "__main__":
    main()
