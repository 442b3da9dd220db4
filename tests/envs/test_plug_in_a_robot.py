"""The guide for users with a robot of their own, carried out to the letter."""

import re
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from forethought.envs.examination import examine
from forethought.envs.registry import make_env
from forethought.envs.spec import GoalSpec

GUIDE = Path(__file__).parents[2] / "docs" / "plug-in-a-robot.md"


@pytest.fixture
def use(tmp_path, monkeypatch):
    robot, use = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (tmp_path / "my_robot.py").write_text(robot)
    monkeypatch.syspath_prepend(tmp_path)
    yield use
    gymnasium.registry.pop("MyArm-v0", None)
    sys.modules.pop("my_robot", None)


def test_the_robot_of_the_guide(use, capsys):
    names = {}
    exec(use, names)
    assert "my_robot:MyArm-v0" in capsys.readouterr().out
    spec = names["env"].env_spec
    assert spec.action_high == pytest.approx((1.0, 0.5))
    assert spec.goal == GoalSpec("observation")
    assert (spec.max_episode_steps, spec.control_dt) == (40, pytest.approx(0.2))
    assert sorted(names["info"]) == ["frames", "goal", "success"]


def test_its_goal_can_be_reached(use):
    env = make_env("my_robot:MyArm-v0")
    obs, info = env.reset(seed=1)
    for _ in range(env.env_spec.max_episode_steps):
        error = info["goal"]["observation"] - obs["observation"]
        obs, _, _, _, info = env.step((error / env.env_spec.control_dt).astype(np.float32))
        if info["success"]:
            return
    pytest.fail("the goal was not reached")


def test_the_doctor_finds_only_that_it_cannot_be_drawn(use):
    findings = examine("my_robot:MyArm-v0", steps=200, clock=iter(np.arange(1e6) / 1e3).__next__)
    assert [(f.name, f.level) for f in findings if f.level != "ok"] == [
        ("rendering", "warning"),
        ("picture speed", "skipped"),
    ]
