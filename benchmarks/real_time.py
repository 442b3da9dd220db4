"""A robot that does not wait: an arm driven at 50 Hz in wall-clock time, ideal and over a bad link.

    python benchmarks/real_time.py                        trains an arm, then drives it for 10,000 decisions, four times
    python benchmarks/real_time.py --run runs/arm         drives the agent of that training again
    python benchmarks/real_time.py --steps 1000 --priority 50

Writes results/real_time.json: decision times and when commands went out (median, p99, p99.9), late decisions, overruns,
fallbacks and successes, for an agent that decides at once and for one that thinks ahead (`_ahead`). `ideal` is the
simulated arm in physics steps of 5 ms; `bad_link` is the same with commands that come 10 ms late, observations that are
10 ms old, 5 ms of jitter on both, and 5 % of each lost. In both it goes on while the agent thinks. A drive of 10,000
decisions takes 200 seconds, whatever the machine; nothing else should run beside it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainings import call

from forethought.agent.files import read_json, write_json

RESULT = Path(__file__).parent / "results" / "real_time.json"
ARM = (
    "env=forethought/Reacher-v0", "preset=reacher", "env_options.action_repeat=4", "env_options.max_episode_steps=200",
    "env_options.kwargs.timestep=0.005", "env_options.kwargs.frame_skip=1", "steps=48000", "training.updates=3000",
    "training.rounds=0", "training.max_hold=24", "training.validation_episodes=10", "planner.horizon=12",
    "planner.num_knots=4", "planner.num_samples=64",
)  # fmt: skip
"""What is trained: the two-link arm at 50 Hz."""
LINKS: dict[str, dict[str, float]] = {
    # Not nothing: the link is where the simulated robot's own time is kept, by which it goes on while the agent thinks.
    "ideal": {"command_latency": 1e-6},
    "bad_link": {
        "command_latency": 0.01, "observation_latency": 0.01, "jitter": 0.005, "command_loss": 0.05,
        "observation_loss": 0.05,
    },
}  # fmt: skip
ARMS = {f"{link}{suffix}": (link, bool(suffix)) for link in LINKS for suffix in ("", "_ahead")}
"""What is driven: over which link, and whether the agent thinks ahead."""


def train_command(run: Path) -> list[str]:
    """What trains the agent."""
    return ["forethought", "train", *ARM, f"out={run}"]


def drive_command(run: Path, arm: str, steps: int, priority: int, extra: Sequence[str]) -> list[str]:
    """What drives it."""
    name, ahead = ARMS[arm]
    link = [f"env_options.link.{key}={value:.6f}" for key, value in LINKS[name].items()]
    options = [f"steps={steps}", f"drive.priority={priority}", f"drive.ahead={str(ahead).lower()}"]
    return ["forethought", "drive", f"run={run}", *options, *link, *extra]


def row(result: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a drive."""
    left_out = ("planner", "agent", "env_options", "options", "versions", "machine", "commit", "time")
    kept = {k: v for k, v in result.items() if k not in left_out}
    mode = {name: result["options"][name] for name in ("ahead", "priority")}
    return kept | mode | {"link": result["env_options"]["link"]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, unless a run is given, and drive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/real_time"))
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--priority", type=int, default=0, help="real-time priority to ask the operating system for")
    parser.add_argument("--out", type=Path, default=RESULT)
    parsed, extra = parser.parse_known_args(arguments)
    if not (parsed.run / "best.safetensors").exists():
        call(train_command(parsed.run))
    rows: dict[str, Any] = {}
    for arm in ARMS:
        call(drive_command(parsed.run, arm, parsed.steps, parsed.priority, extra))
        result = read_json(parsed.run / "drive.json")
        rows[arm] = row(result)
        print(f"{arm}: {rows[arm]['decision_ms']}, {rows[arm]['late']} late, {rows[arm]['overruns']} overruns")
    shared = {name: result[name] for name in ("versions", "machine", "commit", "time")}
    given = sys.argv[1:] if arguments is None else arguments
    write_json(parsed.out, {"command": " ".join(["python benchmarks/real_time.py", *given]), **shared, **rows})


if __name__ == "__main__":
    main()
