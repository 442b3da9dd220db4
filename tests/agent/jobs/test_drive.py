"""`forethought drive`: a run drives its robot, on a clock that stands still while the agent thinks."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from forethought.agent.jobs import drive as job
from forethought.agent.limits import ActionLimits
from forethought.agent.memory.store import EpisodeStore
from forethought.agent.runs import RunError, overrides_of_run, read_card
from forethought.agent.thinking import DriveError
from forethought.agent.training.rollout import RandomPolicy, run_episodes
from forethought.configs.register import load
from forethought.configs.schema import DriveConfig
from forethought.envs.realtime import RealTime
from forethought.envs.registry import make_env
from forethought.envs.vector import make_vector


@dataclass
class Clock:
    time: float = 0.0

    def now(self) -> float:
        return self.time

    def sleep_until(self, moment_s: float) -> None:
        self.time = max(self.time, moment_s)


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_run, tmp_path / "run")


@pytest.fixture
def drive(run: Path) -> Any:
    def make(*overrides: str) -> dict[str, Any]:
        config = read_card(run, "best")["config"]
        given = [f"run={run}", "threads=1", "drive.steps=12", *overrides]
        pairs = dict(o.split("=", 1) for o in given)
        loaded = load(DriveConfig, [*overrides_of_run(config, pairs, limits=True), *given])
        return job.drive(loaded, clock=Clock())

    return make


def test_a_drive_says_all_about_itself(run: Path, drive: Any) -> None:
    result = drive()
    assert json.loads((run / "drive.json").read_text()) == result
    assert {"command", "commit", "versions", "machine", "planner", "agent", "env", "threads"} <= result.keys()
    assert (result["steps"], result["overruns"]) == (12, 0)
    assert result["decision_ms"]["max"] == 0.0  # by this clock
    assert result["fallbacks"] == {"error": 0, "not_finite": 0, "late": 0, "surprise": 0, "overrun": 0}
    assert result["surprise"]["p50"] > 0


def test_the_same_seed_drives_the_same(drive: Any) -> None:
    first, second, other = drive(), drive(), drive("drive.seed=5")
    assert first["surprise"] == second["surprise"]
    assert first["surprise"] != other["surprise"]


@pytest.mark.parametrize(
    "override",
    [
        "env_options.link.command_latency=0.4",
        "env_options.link.observation_loss=0.5",
        "env_options.action_rate=[0.5]",
        "env_options.action_acceleration=[2.0]",
        "env_options.shift.mass=5.0",
        "drive.surprise=0.0001",
        "period_s=0.5",
    ],
)
def test_options_reach_the_robot(run: Path, drive: Any, override: str) -> None:
    def rows(*overrides: str) -> list[dict[str, Any]]:
        drive(f"log={run / 'log.jsonl'}", *overrides)
        return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()][1:]

    plain, changed = rows(), rows(override)
    assert len(plain) == len(changed) == 12
    assert plain != changed


def test_what_is_usual_is_told_by_episodes_of_the_same_environment(run: Path, drive: Any, tmp_path: Path) -> None:
    memory = tmp_path / "shared"
    shutil.copytree(run / "memory", memory)
    usual = drive("drive.surprise=5", f"memory={memory}")["usual_error"]
    environments = make_vector("forethought/Reacher-v0", 1)
    other = environments.env_spec
    (episode,) = run_episodes(environments, RandomPolicy(other), [0])
    with EpisodeStore.open(memory, "a", other) as store:
        store.append(episode, spec=other)
    assert drive("drive.surprise=5", f"memory={memory}")["usual_error"] == usual
    with EpisodeStore.open(tmp_path / "others", "a", other) as store:
        store.append(episode, spec=other)
    with pytest.raises(DriveError, match=r"drive.surprise needs episodes of forethought/PointMass-v0 in the memory"):
        drive("drive.surprise=5", f"memory={tmp_path / 'others'}")


def test_limits_are_kept_at_the_period_of_the_drive(drive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    of = ActionLimits.of

    def spy(spec: Any, period_s: float | None = None, device: Any = None) -> Any:
        seen.append((period_s, device))
        return of(spec, period_s, device)

    monkeypatch.setattr(job.ActionLimits, "of", spy)
    drive("env_options.action_rate=[20]", "period_s=0.2")
    assert (0.2, torch.device("cpu")) in seen


def test_limits_of_the_run_can_be_lifted(drive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    agents, load_agent = [], job.load_agent

    def kept(*args: Any, **options: Any) -> Any:
        agents.append(load_agent(*args, **options))
        agents[-1].limits = ActionLimits.of(replace(agents[-1].model.spec, action_rate=(20.0,) * 2))
        return agents[-1]

    monkeypatch.setattr(job, "load_agent", kept)
    drive()
    assert agents[-1].limits is None
    drive("env_options.action_rate=[30]")
    assert agents[-1].limits.rate.tolist() == [30.0, 30.0]


def test_a_drive_that_thinks_ahead_ends(drive: Any) -> None:
    """By a clock that no thinking can keep up with, most decisions are late: the robot is driven all the same."""
    result = drive("drive.ahead=true")
    assert (result["steps"], result["overruns"], result["options"]["ahead"]) == (12, 0, True)
    assert result["sent_ms"]["max"] == 0.0


def test_the_command_prints_and_writes(run: Path, cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(job, "RealTime", lambda env, period_s, clock: RealTime(env, period_s, Clock()))
    done = cli("drive", f"run={run}", "steps=60", "fallback=hold", f"log={tmp_path / 'drive.jsonl'}", "threads=1")
    assert (done.code, done.err) == (0, "")
    assert "60 decisions" in done.out
    assert "overruns" in done.out
    result = json.loads((run / "drive.json").read_text())
    assert result["options"]["fallback"] == "hold"
    assert len((tmp_path / "drive.jsonl").read_text().splitlines()) == 61


def test_a_drive_needs_a_run(cli: Any) -> None:
    done = cli("drive", "steps=10")
    assert done.code == 2
    assert "drive needs the folder of a run" in done.err


def test_options_are_listed(cli: Any) -> None:
    done = cli("drive", "--options")
    assert done.code == 0
    assert "drive.deadline_share=0.6  # Share of the control period" in done.out
    assert "env_options.link.command_loss=0.0" in done.out


def test_a_changed_robot_is_refused(run: Path, drive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = make_env

    def other(env_id: str, options: Any) -> Any:
        return real("forethought/Cartpole-v0", options)

    monkeypatch.setattr(job, "make_env", other)
    with pytest.raises(RunError, match="must be that of the run"):
        drive()
