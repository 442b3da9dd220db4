"""The examples run as a user would run them: as scripts, in a folder of their own."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from forethought.configs.register import load
from forethought.configs.schema import Config

EXAMPLES = Path(__file__).parents[1] / "examples"
CHECKED = ("plan_with_any_cost.py", "remember.py", "own_robot.py")


def run(example: str, folder: Path, *arguments: str) -> str:
    """Copy an example to `folder`, run it there, and return what it prints."""
    shutil.copy(EXAMPLES / example, folder)
    done = subprocess.run(
        [sys.executable, example, *arguments], cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_example_is_checked() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(CHECKED)


def test_plan_with_any_cost(tmp_path: Path) -> None:
    output = run("plan_with_any_cost.py", tmp_path)
    assert len(re.findall(r"^  \w+ +cost +\d", output, re.MULTILINE)) >= 6
    found = re.search(r"closed loop: ([\d.]+) m from the goal .* nearer than (-?[\d.]+) m", output)
    assert found is not None, output
    distance, clearance = map(float, found.groups())
    assert distance < 0.1
    assert clearance > -0.01


def test_remember(tmp_path: Path) -> None:
    first = run("remember.py", tmp_path, "memory")
    assert "remembered episodes 0 to 4" in first
    assert "found 5 episodes, 0 problems" in first
    assert "still 5 episodes" in first
    second = run("remember.py", tmp_path, "memory")
    assert "remembered episodes 5 to 9" in second
    assert "found 10 episodes, 0 problems" in second
    writer, reader = re.findall(r"process (\d+):", second)
    assert writer != reader


# -- the package with a robot of its own -------------------------------------------------------------------------------

ROVER = EXAMPLES / "rover"


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """An environment for processes in which the rover is as after `pip install`, which would need a network."""
    project = tomllib.loads((ROVER / "pyproject.toml").read_text())["project"]
    shutil.copytree(ROVER / "src", tmp_path / "site")
    info = tmp_path / "site" / f"forethought_rover-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n{name} = {value}\n"
        for group, names in project["entry-points"].items()
        for name, value in names.items()
    ]
    (info / "entry_points.txt").write_text("".join(lines))
    path = os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def python(code: str, env: dict[str, str], folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_rover_is_known_by_its_id_and_drives(installed: dict[str, str], tmp_path: Path) -> None:
    """A controller that knows how a rover turns reaches most goals; one seed is one episode."""
    code = """
import math
import numpy as np
from forethought import make_env
env = make_env("Rover-v0")
assert env.env_spec.control_dt == 0.1 and env.env_spec.goal.achieved_key == "achieved_goal"
reached = 0
for seed in range(20):
    obs, info = env.reset(seed=seed)
    again, _ = env.reset(seed=seed)
    assert all(np.array_equal(obs[k], again[k]) for k in obs)
    done = False
    while not done:
        x, y = info["goal"]["desired_goal"] - obs["achieved_goal"]
        c, s = obs["heading"]
        turn = math.atan2(c * y - s * x, c * x + s * y)
        forward = 8.0 if abs(turn) < 0.5 else 0.0
        obs, reward, terminated, truncated, info = env.step(np.float32([forward - 4 * turn, forward + 4 * turn]))
        done = terminated or truncated or info["success"]
    reached += info["success"]
print(reached)
"""
    assert int(python(code, installed, tmp_path)) >= 16


def test_the_rover_says_four_commands() -> None:
    (block,) = re.findall(r"^```\n(.*?)^```$", (ROVER / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line) for line in block.splitlines()]
    starts = [["pip", "install"], ["forethought", "check-env"], ["forethought", "train"], ["forethought", "eval"]]
    assert [words[:2] for words in commands] == starts
    load(Config, commands[2][2:])


@pytest.mark.slow
def test_the_rover_can_be_trained_and_evaluated(installed: dict[str, str], tmp_path: Path) -> None:
    def forethought(*arguments: str) -> None:
        code = f"from forethought.agent.cli import main; raise SystemExit(main({list(arguments)!r}))"
        python(code, installed, tmp_path)

    small = ["steps=2000", "training.updates=60", "training.rounds=0", "training.validation_episodes=0", "threads=1"]
    small += ["world_model.hidden_dim=32", "world_model.latent_dim=8", "world_model.ensemble_size=1"]
    small += ["planner.num_samples=16", "planner.num_elites=4", "planner.iterations=1", "planner.horizon=4"]
    forethought("train", "env=Rover-v0", "out=run", *small)
    forethought("eval", "run=run", "episodes=10", "threads=1", "evaluation.timed_episodes=1")
    result = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert result["episodes"] == 10
    assert (tmp_path / "run" / "report.html").exists()
    assert result["video"] == "rollout.mp4" or "OpenGL" in result["video_reason"]


@pytest.mark.slow
def test_own_robot(tmp_path: Path) -> None:
    output = run("own_robot.py", tmp_path)
    rates = {name: float(rate) for name, rate in re.findall(r"(planner|random) +\S +([\d.]+)%", output)}
    assert rates["planner"] >= 80, output
    assert rates["random"] <= 40
    assert re.search(r"own loop: (reached|missed) the goal", output)
