"""An environment of one's own that goes wrong when it is told to."""

import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest

FAULTY = '''
import time
import gymnasium, numpy as np

class Faulty(gymnasium.Env):
    """A walk on a line that goes wrong at one step of its third episode; the first is the trial reset."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, fault="none", goals=True):
        self.fault, self.goals, self.episode = fault, goals, -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.time, self.x = 0, self.np_random.uniform(-1, 1, 2).astype(np.float32)
        goal = {"goal": self.np_random.uniform(-1, 1, 2).astype(np.float32)} if self.goals else {}
        return self.x.copy(), {"success": False, **goal}

    def step(self, action):
        self.time += 1
        self.x = self.x + 0.1 * action
        if self.episode == 3 and self.time == 5:
            if self.fault == "raises":
                raise RuntimeError("motor 3 is hot")
            if self.fault == "hangs":
                time.sleep(60)
            if self.fault == "not finite":
                self.x[0] = np.nan
        return self.x.copy(), 0.0, False, self.time >= 20, {"success": bool(abs(self.x).max() < 0.1)}

class Painted(Faulty):
    """A walk that draws itself: brightness is where it is."""

    def render_pixels(self, size):
        return self.picture(self.x, size)

    def render_goal_pixels(self, size):
        return self.picture(np.zeros(2), size)

    def picture(self, x, size):
        left_and_right = np.repeat(np.clip(128 + 40 * x, 0, 255).astype(np.uint8), size // 2)
        return np.broadcast_to(left_and_right[None, :, None], (size, size, 3)).copy()

gymnasium.register("Faulty-v0", Faulty, max_episode_steps=20)
gymnasium.register("Painted-v0", Painted, max_episode_steps=20)
'''


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: list[str]) -> Iterator[list[str]]:
    """Overrides of a run in an environment of one's own, one episode at a time."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "faulty_env.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.delitem(sys.modules, "faulty_env", raising=False)
    yield [*small, "env=faulty_env:Faulty-v0", "training.num_envs=1", "training.validation_episodes=0"]
    gymnasium.registry.pop("Faulty-v0", None)
    gymnasium.registry.pop("Painted-v0", None)
