"""How fast the environments of stable-worldmodel are, and what policies without a model reach in LeWM's protocol.

    python benchmarks/worldmodel_baselines.py --episodes 100

Goals 25 environment steps ahead, budget 50, success is the environment's own. Policies: `idle` takes the middle of the
action range, `random` uniform actions, `held` the same held for up to eight steps, `expert` what the package ships,
seeing the goal (TwoRoom's without noise; PushT's `WeakPolicy` does not look at goals; the Reacher has none).
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forethought import EnvOptions, make_env
from forethought.envs.goal_ahead import MAX_HOLD
from forethought.envs.worldmodel_adapter import GOAL_WORLDS
from forethought.envs.wrappers import ForethoughtEnv

Policy = Callable[[], NDArray[Any]]


def main() -> None:
    """Measure and print one JSON object for each environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--envs", nargs="+", default=list(GOAL_WORLDS), choices=list(GOAL_WORLDS))
    arguments = parser.parse_args()
    for env_id in arguments.envs:
        result: dict[str, Any] = {"env": env_id, "episodes": arguments.episodes}
        for observation in ("state", "pixels"):
            result[f"{observation}_steps_per_s"] = round(speed(env_id, observation), 1)
        for policy in ("idle", "random", "held", "expert"):
            result[policy] = success(env_id, policy, arguments.episodes)
        print(json.dumps(result), flush=True)


def speed(env_id: str, observation: str, steps: int = 500) -> float:
    """Environment steps per second of processor time, random actions, resets not counted."""
    env = make_env(env_id, EnvOptions(observation=observation, frame_stack=1))
    rng, spent, over = np.random.default_rng(0), 0.0, True
    for step in range(steps):
        if over:
            env.reset(seed=step)
        action = uniform(env, rng)
        started = time.process_time()
        _, _, terminated, truncated, _ = env.step(action)
        spent += time.process_time() - started
        over = terminated or truncated
    env.close()
    return steps / spent


def success(env_id: str, policy: str, episodes: int) -> float | None:
    """Share of episodes in which a policy reaches the goal within the budget; None without such a policy."""
    env = make_env(env_id, EnvOptions(goal_ahead=25))
    reached = 0
    for seed in range(episodes):
        env.reset(seed=seed)
        act = make_policy(env, policy, seed)
        if act is None:
            return None
        over = False
        while not over:
            _, _, terminated, truncated, info = env.step(act())
            over = terminated or truncated
        reached += info["success"]
    env.close()
    return reached / episodes


def make_policy(env: ForethoughtEnv, policy: str, seed: int) -> Policy | None:
    """A policy for the running episode."""
    rng = np.random.default_rng(seed)
    if policy == "expert":
        own: Policy | None = env.get_wrapper_attr("behaviour")(seed, noise=False)
        return own
    if policy == "idle":
        middle = np.add(env.env_spec.action_low, env.env_spec.action_high).astype(np.float32) / 2
        return lambda: middle
    longest = MAX_HOLD if policy == "held" else 1
    draws = [
        np.tile(uniform(env, rng), (int(rng.integers(1, longest + 1)), 1))
        for _ in range(env.env_spec.max_episode_steps)
    ]
    actions = iter(np.concatenate(draws))
    return lambda: next(actions)


def uniform(env: ForethoughtEnv, rng: np.random.Generator) -> NDArray[np.float32]:
    """One action, uniform within its bounds."""
    return rng.uniform(env.env_spec.action_low, env.env_spec.action_high).astype(np.float32)


if __name__ == "__main__":
    main()
