"""Control by reward on Gymnasium's MuJoCo tasks at 100,000 steps, beside SAC of stable-baselines3 at as many.

    pip install -e '.[bench]'
    python benchmarks/gymnasium_control.py                                 everything; hours
    python benchmarks/gymnasium_control.py --tasks hopper --arms ours      one training and its evaluation

Ours is a `forethought` run with the preset of the task; SAC has the defaults of stable-baselines3. Both are evaluated
as they are after the last step, without exploration noise, on the same held-out episodes. Steps count the action repeat
of our presets. A training of ours that was interrupted goes on where it was, SAC's starts over.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from reward_control import result_of
from trainings import parse, wanted

from forethought.agent.files import write_json
from forethought.agent.provenance import command, commit, machine, versions
from forethought.agent.training.evaluate import episode_seeds, mean_interval
from forethought.configs.schema import Config

RESULTS = Path(__file__).parent / "results" / "gymnasium_control"
STEPS = 100_000
TASKS = {
    "halfcheetah": "HalfCheetah-v5",
    "hopper": "Hopper-v5",
    "walker2d": "Walker2d-v5",
    "double_pendulum": "InvertedDoublePendulum-v5",
}
"""Environments, by the names of their presets."""
ARMS = ("ours", "sac")


def sac(env_id: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate SAC; returns the content of its result file."""
    from importlib.metadata import version

    from stable_baselines3 import SAC
    from stable_baselines3.common.monitor import Monitor

    torch.set_num_threads(arguments.threads or Config().threads)
    env = Monitor(gymnasium.make(env_id))
    model, began = SAC("MlpPolicy", env, seed=seed, device="cpu"), time.perf_counter()
    model.learn(STEPS)
    seconds = time.perf_counter() - began
    frames = np.cumsum(env.get_episode_lengths())
    episodes = zip(frames.tolist(), env.get_episode_times(), env.get_episode_rewards(), strict=True)
    curve = [[int(f), round(s, 1), round(r, 1)] for f, s, r in episodes]
    returns, milliseconds = [], []
    for episode in episode_seeds("test", seed, 0, arguments.episodes):
        obs, total, over = env.reset(seed=episode)[0], 0.0, False
        while not over:
            asked = time.perf_counter()
            action, _ = model.predict(obs, deterministic=True)
            milliseconds.append(1e3 * (time.perf_counter() - asked))
            obs, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return {
        "env": env_id,
        "seed": seed,
        "frames": STEPS,
        "return_mean": float(np.mean(returns)),
        "return_ci": mean_interval(returns),
        "returns": [round(value, 3) for value in returns],
        "episodes": len(returns),
        "decision_ms": {p: float(np.percentile(milliseconds, q)) for p, q in (("p50", 50), ("p99", 99))},
        "train_seconds": round(seconds, 1),
        "curve": curve,
        "command": f"python benchmarks/{command()}",
        "commit": commit(),
        "versions": {**versions(), "stable-baselines3": version("stable-baselines3")},
        "machine": machine(),
    }


def main() -> None:
    """Carry out what is asked for and write one JSON file per training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS, help="whose trainings")
    arguments = parse(parser, TASKS, "held-out episodes", least_episodes=10, results=RESULTS)
    for name in arguments.tasks:
        for seed in arguments.seeds or (0,):
            for arm in arguments.arms:
                label = f"{name}-{arm}-{seed}"
                path, run = arguments.out / f"{label}.json", arguments.runs / label
                if not wanted(path, run, arguments):
                    continue
                ours = arm == "ours"
                result = result_of(name, seed, run, arguments) if ours else sac(TASKS[name], seed, arguments)
                write_json(path, {**result, "task": name, "arm": arm})
                print(f"{label}: return {result['return_mean']:.1f}, trained in {result['train_seconds']:.0f} s")


if __name__ == "__main__":
    main()
