"""The benchmark of control by reward does what its table claims; nothing is trained here."""

import importlib
import json
import sys
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

import pytest
import torch

from forethought.agent.cli import build_parser
from forethought.agent.training.checkpoint import save_checkpoint
from forethought.configs.register import load, presets, with_preset
from forethought.configs.schema import Config, EvalConfig

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def script() -> ModuleType:
    return importlib.import_module("reward_control")


def eval_json(mean: float) -> dict[str, Any]:
    row = {"return_mean": mean, "return_ci": [mean - 10, mean + 10], "returns": [mean] * 10, "episodes": 10}
    return {
        **row,
        "random": {**row, "return_mean": 5.0},
        "arms": {"policy prior": {**row, "return_mean": mean / 2}},
        "decision_ms": {"p50": 9.6, "p99": 14.2, "values": [9.6] * 50},
        "seed": 0,
        "seeds": list(range(10)),
        "command": "forethought eval",
    }


CARD = {"run_id": "x", "spec": {}, "config": {"world_model": {"encoder": "augmented", "latent_dim": 4}}}


class Calls:
    """Stands in for `call`: trainings finish, and commands are noted."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str]) -> None:
        self.commands.append(command)
        run = Path(next(word.split("=", 1)[1] for word in command if word.startswith(("out=", "run="))))
        run.mkdir(parents=True, exist_ok=True)
        save_checkpoint(run / "last.safetensors", {"x": torch.zeros(1)}, {"train": {"finished": True}, "card": CARD})
        (run / "run.json").write_text(json.dumps({"commit": "of the training"}))
        shared = {"update": 0, "decisions": 0, "time": 0}
        lines = [
            {**shared, "phase": "collect", "frames": 1000, "seconds": 2.0},
            {**shared, "phase": "collect", "frames": 2000, "seconds": 4.0, "episode/return": 33.33},
            {**shared, "phase": "validation", "frames": 100_000, "seconds": 61.26},
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (run / "eval.json").write_text(json.dumps(eval_json(800.0)))


def test_every_task_has_a_preset_that_collects_as_many_frames_as_it_says(script: ModuleType) -> None:
    for name in script.TASKS:
        config = load(Config, [f"preset={name}"])
        assert config.steps * config.env_options.action_repeat == script.FRAMES
        assert config.objective.name == "reward"
        assert presets()[name]["env"] == config.env
        # and it is the one that a user gets who only names the environment
        assert with_preset([f"env={config.env}"])[1] == name
        assert with_preset([f"env={config.env}", "objective=reward"])[1] == name


def test_every_task_stands_beside_what_others_report(script: ModuleType) -> None:
    for name, task in script.TASKS.items():
        assert list(task.reported) == ["TD-MPC2", "SAC", "DreamerV3"]
        assert all(max(curve) == script.FRAMES for curve in task.reported.values())
        assert presets()[name]["env"] == f"dm_control/{task.env}-v0"


def test_a_training_is_carried_out_once(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = Calls()
    monkeypatch.setattr(importlib.import_module("trainings"), "call", calls)
    words = ["reward_control.py", "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", [*words, "--tasks", "cup_catch", "--threads", "1"])
    script.main()
    assert [command[1] for command in calls.commands] == ["train", "eval"]
    train, evaluate = (build_parser().parse_args(command[1:]).overrides for command in calls.commands)
    assert load(Config, train).seed == 0
    named = {"episodes=10": "evaluation.episodes=10", "seed=0": "evaluation.seed=0"}
    assert load(EvalConfig, [named.get(o, o) for o in evaluate]).checkpoint == "last"  # not the best on the way
    result = json.loads((tmp_path / "out" / "cup_catch-0.json").read_text())
    assert result["train_commit"] == "of the training"
    assert result["curve"] == [[2000, 4.0, 33.3]]
    assert (result["frames"], result["train_seconds"], result["return_mean"]) == (100_000, 61.3, 800.0)
    assert len(result["returns"]) == 10
    assert "values" not in result["decision_ms"]
    script.main()
    assert len(calls.commands) == 2
    assert "is there already" in capsys.readouterr().out


def test_the_table(script: ModuleType, tmp_path: Path) -> None:
    tables = importlib.import_module("render_tables")
    assert "No results yet" in tables.reward_control(tmp_path)
    folder = tmp_path / "reward_control"
    folder.mkdir()
    for name, seed, mean in (("reacher_easy", 0, 900.0), ("reacher_easy", 1, 1000.0), ("cheetah_run", 0, 600.0)):
        result = {**eval_json(mean), "task": name, "seed": seed, "train_seconds": 100.0 + seed}
        (folder / f"{name}-{seed}.json").write_text(json.dumps(result))
    lines = tables.reward_control(tmp_path).strip().splitlines()
    header, _, reacher, cheetah, mean = ([c.strip() for c in line.strip("|").split("|")] for line in lines)
    assert reacher[:5] == ["reacher-easy", "**950**", "900 (890 to 910), 1000 (990 to 1010)", "475", "5"]
    assert cheetah[:2] == ["cheetah-run", "**600**"]
    assert reacher[-1] == "1:41 min"
    column = header.index("TD-MPC2")
    assert (reacher[column], cheetah[column]) == ("937", "519")
    assert mean[:2] == ["mean of these 2", f"**{fmean((950, 600)):.0f}**"]
    assert mean[column] == f"{fmean((936.9, 519.1)):.0f}"


def test_the_picture(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plot = importlib.import_module("plot_reward_control")
    monkeypatch.setattr(plot, "RESULTS", tmp_path)
    monkeypatch.setattr(plot, "PICTURE", tmp_path / "curves.png")
    with pytest.raises(SystemExit, match="holds no results"):
        plot.main()
    for name in ("cup_catch", "finger_spin"):
        curve = [[1000 * i, 10.0 * i, 50.0 * i] for i in range(1, 12)]
        result = {**eval_json(700.0), "task": name, "curve": curve, "frames": 100_000, "train_seconds": 120.0}
        (tmp_path / f"{name}-0.json").write_text(json.dumps(result))
    plot.main()
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
