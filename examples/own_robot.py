"""A robot of your own, from a Gymnasium class to an agent that reaches goals with it, in a few seconds.

    python own_robot.py

The robot is a cart on a rail with a motor; a goal is a place at which to stand still. Nothing here is known to
Forethought: it learns how the cart moves from what it tries, and plans with that.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from forethought import load_agent, make_env
from forethought.agent.cli import main as forethought

Vector = NDArray[np.float32]


class Cart(gymnasium.Env[Vector, Vector]):
    """Observation: place in metres, speed in m/s. Action: acceleration in m/s^2, stronger forward than backward."""

    dt = 0.1
    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(-1.5, 2.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Vector, dict[str, Any]]:
        """Start somewhere at rest; the goal is another place, at rest."""
        super().reset(seed=seed)
        start, goal = self.np_random.uniform(-1.0, 1.0, 2)
        self.state, self.goal = np.array([[start, 0.0], [goal, 0.0]], np.float32)
        return self.state, {"goal": self.goal}

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """A cart with friction, on a rail with soft ends."""
        place, speed = self.state
        speed = 0.8 * speed + self.dt * action[0]
        self.state = np.array([np.clip(place + self.dt * speed, -1.2, 1.2), speed], np.float32)
        success = bool(abs(self.state - self.goal).max() < 0.1)
        return self.state, float(success), False, False, {"success": success}


gymnasium.register("Cart-v0", entry_point=f"{__name__}:Cart", max_episode_steps=40)


def main() -> None:
    """Train, evaluate on held-out goals, then drive from your own loop."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "cart"
        # The same words as on the command line; there the id would be `own_robot:Cart-v0`.
        tiny = ["steps=4000", "training.updates=600", "training.rounds=0", "training.validation_episodes=0"]
        tiny += ["world_model.hidden_dim=64", "world_model.latent_dim=8", "world_model.ensemble_size=1"]
        tiny += ["learner.batch_size=64", "planner.num_samples=128", "planner.iterations=3", "threads=1"]
        if forethought(["train", "env=Cart-v0", f"out={run}", *tiny]):
            sys.exit("training failed")
        if forethought(["eval", f"run={run}", "episodes=50", "threads=1"]):
            sys.exit("evaluation failed")

        agent = load_agent(run)
        env = make_env("Cart-v0")
        obs, info = env.reset(seed=7)
        goal = agent.embed_goal({key: value[None] for key, value in info["goal"].items()})
        carry = agent.init(batch_size=1)
        done = False
        while not done:
            action, carry, _ = agent.act({key: value[None] for key, value in obs.items()}, carry, goal)
            obs, _, terminated, truncated, info = env.step(action[0].numpy())
            done = terminated or truncated or info["success"]
        print(f"own loop: {'reached' if info['success'] else 'missed'} the goal, at {obs['observation'][0]:.2f} m")


if __name__ == "__main__":
    main()
