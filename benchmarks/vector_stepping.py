"""Steps per second of every way to step many environments, measured turn by turn in one process.

    python benchmarks/vector_stepping.py --num-envs 64

`forethought sync` and `forethought mujoco` are the two backends of `make_vector`; `gymnasium sync` and `gymnasium
async` are Gymnasium's own vector environments without autoreset, and without Forethought's checks. `batch` and
`rollout` are the bare physics of `mujoco.batch` and `mujoco.rollout` on the same model, without observations: what a
native backend could reach at best.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import mujoco.rollout
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from forethought.envs.simulator import find_physics, make_batch
from forethought.envs.tasks import TASK_IDS
from forethought.envs.vector import make_vector

# Advances every environment by one decision.
Stepper = Callable[[], Any]


def forethought_vector(env_id: str, num_envs: int, backend: Any) -> tuple[Stepper, Stepper, Callable[[], None]]:
    """A backend of `make_vector`, as (reset, step, close)."""
    env = make_vector(env_id, num_envs, backend=backend)
    actions = random_actions(env.env_spec.action_low, env.env_spec.action_high, num_envs)
    return lambda: env.reset(range(num_envs)), lambda: env.step(actions), env.close


def gymnasium_vector(env_id: str, num_envs: int, kind: type) -> tuple[Stepper, Stepper, Callable[[], None]]:
    """A vector environment of Gymnasium, as (reset, step, close)."""

    def make() -> gymnasium.Env[Any, Any]:
        return gymnasium.make(env_id, disable_env_checker=True)

    env = kind([make] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
    space = env.single_action_space
    actions = random_actions(space.low, space.high, num_envs)
    return lambda: env.reset(seed=0), lambda: env.step(actions), env.close


def bare_batch(env_id: str, num_envs: int) -> tuple[Stepper, Stepper, Callable[[], None]]:
    """Physics alone on `mujoco.batch`, as (reset, step, close)."""
    model, frame_skip = model_of(env_id)
    batch = make_batch(model, num_envs)
    low, high = model.actuator_ctrlrange.T
    batch.ctrl = random_actions(low, high, num_envs)
    return batch.reset, lambda: batch.step(nstep=frame_skip), lambda: None


def bare_rollout(env_id: str, num_envs: int) -> tuple[Stepper, Stepper, Callable[[], None]]:
    """Physics alone on `mujoco.rollout`, as (reset, step, close)."""
    model, frame_skip = model_of(env_id)
    threads = make_batch(model, num_envs).nthread
    pool = mujoco.rollout.Rollout(nthread=threads if threads > 1 else 0)
    data = [mujoco.MjData(model) for _ in range(threads)]
    first = np.empty((num_envs, mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)))
    mujoco.mj_getState(model, data[0], first[0], mujoco.mjtState.mjSTATE_FULLPHYSICS)
    first[:] = first[0]
    low, high = model.actuator_ctrlrange.T
    control = np.repeat(random_actions(low, high, num_envs)[:, None], frame_skip, axis=1)
    last = [first]

    def reset() -> None:
        last[0] = first

    def step() -> None:
        last[0] = pool.rollout(model, data, last[0], control)[0][:, -1]

    return reset, step, pool.close


def model_of(env_id: str) -> tuple[mujoco.MjModel, int]:
    """The MuJoCo model of an environment and its physics steps per decision."""
    env = gymnasium.make(env_id)
    physics = find_physics(env)
    assert physics is not None, f"{env_id} has no MuJoCo physics"
    return physics[0], env.unwrapped.frame_skip  # type: ignore[attr-defined]


def random_actions(low: Any, high: Any, num_envs: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """One action for every environment, the same in every run and for every way."""
    return np.random.default_rng(0).uniform(low, high, (num_envs, len(low))).astype(np.float32)


def measure(env_id: str, num_envs: int, decisions: int, rounds: int) -> dict[str, float]:
    """Median steps per second of each way, every round visiting all of them."""
    ways = {
        "forethought sync": forethought_vector(env_id, num_envs, "sync"),
        "gymnasium sync": gymnasium_vector(env_id, num_envs, SyncVectorEnv),
        "gymnasium async": gymnasium_vector(env_id, num_envs, AsyncVectorEnv),
        "batch": bare_batch(env_id, num_envs),
        "rollout": bare_rollout(env_id, num_envs),
    }
    if env_id in TASK_IDS:
        ways["forethought mujoco"] = forethought_vector(env_id, num_envs, "mujoco")
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (reset, step, _) in ways.items():
            reset()
            started = time.perf_counter()
            for _ in range(decisions):
                step()
            speeds[name].append(num_envs * decisions / (time.perf_counter() - started))
    for _, _, close in ways.values():
        close()
    return {name: statistics.median(values) for name, values in speeds.items()}


def provenance() -> dict[str, Any]:
    """Where the numbers come from."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    cpu = platform.processor()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {
        "command": " ".join(["python", "benchmarks/vector_stepping.py", *sys.argv[1:]]),
        "commit": commit.stdout.strip() if commit.returncode == 0 else None,
        "versions": {name: version(name) for name in ("mujoco", "gymnasium", "numpy")}
        | {"python": platform.python_version()},
        "machine": {"cpu": cpu, "cores": os.cpu_count(), "system": platform.system()},
    }


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--envs", nargs="+", default=["forethought/Reacher-v0", "HalfCheetah-v5"], help="environment ids"
    )
    parser.add_argument("--num-envs", type=int, default=64, help="environments stepped together")
    parser.add_argument("--decisions", type=int, default=40, help="decisions per round, within the episode limit")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the median is reported")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "vector_stepping.json")
    arguments = parser.parse_args()
    results = {}
    for env_id in arguments.envs:
        speeds = measure(env_id, arguments.num_envs, arguments.decisions, arguments.rounds)
        base = speeds["forethought sync"]
        results[env_id] = {name: {"steps_per_s": round(v), "ratio": round(v / base, 2)} for name, v in speeds.items()}
        print(f"{env_id}, {arguments.num_envs} environments")
        for name, speed in sorted(speeds.items(), key=lambda item: -item[1]):
            print(f"  {name:20s} {speed:10,.0f} steps/s   {speed / base:6.2f} x forethought sync")
    record = {**provenance(), "seed": 0, "num_envs": arguments.num_envs, "results": results}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
