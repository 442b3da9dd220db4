"""The examples run as a user would run them: as scripts, in a folder of their own."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_own_robot(tmp_path: Path) -> None:
    output = run("own_robot.py", tmp_path)
    rates = {name: float(rate) for name, rate in re.findall(r"(planner|random) +\S +([\d.]+)%", output)}
    assert rates["planner"] >= 80, output
    assert rates["random"] <= 40
    assert re.search(r"own loop: (reached|missed) the goal", output)
