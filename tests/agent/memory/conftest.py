"""Small environments and episodes that follow from a seed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from forethought.agent.memory.store import Episode
from forethought.envs.spec import ArraySpec, EnvSpec, GoalSpec

EpisodeMaker = Callable[..., Episode]


@pytest.fixture(scope="session")
def spec() -> EnvSpec:
    return EnvSpec(
        env_id="Toy-v0",
        obs={"image": ArraySpec((4, 4, 3), "uint8"), "state": ArraySpec((3,), "float32")},
        action_low=(-1.0, -2.0),
        action_high=(1.0, 2.0),
        control_dt=float("nan"),
        max_episode_steps=100,
        goal=GoalSpec("observation"),
    )


@pytest.fixture(scope="session")
def make_episode() -> EpisodeMaker:
    def make(spec: EnvSpec, length: int = 5, seed: int = 0, **changes: object) -> Episode:
        rng = np.random.default_rng(seed)

        def draw(shape: tuple[int, ...], image: bool = False) -> np.ndarray:
            if image:
                return rng.integers(0, 256, shape, dtype=np.uint8)
            return rng.normal(size=shape).astype(np.float32)

        parts = {
            "obs": {k: draw((length + 1, *a.shape), a.is_image) for k, a in spec.obs.items()},
            "actions": draw((length, spec.action_dim)),
            "rewards": draw((length,)),
            "success": rng.random(length) < 0.5,
            "terminated": bool(rng.random() < 0.5),
            "truncated": False,
            "meta": {"seed": seed},
        }
        return Episode(**{**parts, **changes})

    return make


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Episode, Episode], None]:
    def check(one: Episode, other: Episode) -> None:
        first, second = one.arrays(), other.arrays()
        assert first.keys() == second.keys()
        for name in first:
            assert first[name].dtype == second[name].dtype
            np.testing.assert_array_equal(first[name], second[name])
        assert (one.terminated, one.truncated, one.meta) == (other.terminated, other.truncated, other.meta)

    return check


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "memory"
