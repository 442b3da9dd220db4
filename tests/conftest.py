"""A run that takes a second, and the command line without a new process."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin slow shared cores down; before torch is loaded


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]

SMALL = [
    "preset=default",
    "env=forethought/PointMass-v0",
    "steps=160",
    "env_options.max_episode_steps=20",
    "threads=1",
    "world_model.hidden_dim=32",
    "world_model.latent_dim=8",
    "learner.batch_size=32",
    "training.updates=30",
    "training.log_every=5",
    "training.checkpoint_every=4",
    "training.num_envs=2",
    "training.validation_episodes=2",
    "planner.horizon=3",
    "planner.num_samples=16",
    "planner.num_elites=4",
    "planner.iterations=2",
]


@pytest.fixture(scope="session")
def small() -> list[str]:
    """Overrides of a run with 3 phases, 4 + 2 + 2 episodes and 30 updates."""
    return list(SMALL)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process; gives exit code, stdout and stderr."""
    from forethought.agent.cli import main

    def run(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as stop:  # --help and --version
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> Path:
    """The folder of a finished small run; only read it, or copy it."""
    from forethought.agent.cli import main

    folder = tmp_path_factory.mktemp("runs") / "small"
    assert main(["train", *small, f"out={folder}"]) == 0
    return folder
