"""The benchmarks of working memory and of learning one thing after the other; nothing is trained here."""

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from forethought.agent.cli import build_parser
from forethought.agent.training.checkpoint import save_checkpoint
from forethought.configs.register import load, presets
from forethought.configs.schema import Config, EvalConfig
from forethought.envs.registry import make_env
from forethought.envs.spec import EnvOptions

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CARD = {"run_id": "x", "spec": {}, "config": {"world_model": {"encoder": "augmented", "latent_dim": 4}}}


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def script() -> ModuleType:
    return importlib.import_module("working_memory")


def row(success: float | None) -> dict[str, Any]:
    return {"episodes": 100, "success_rate": success, "success_ci": None, "return_mean": 3.0, "returns": [3.0] * 100}


def eval_json(success: float | None, luck: bool) -> dict[str, Any]:
    return {
        **row(success),
        "random": row(0.0) if luck else None,
        "arms": {"policy prior": row(success)},
        "decision_ms": {"p50": 9.6, "p99": 14.2, "values": [9.6] * 50},
        "seed": 0,
        "seeds": list(range(100)),
        "command": "forethought eval",
    }


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
        line = {"update": 0, "decisions": 0, "time": 0, "phase": "validation", "frames": 100, "seconds": 61.26}
        (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        (run / "eval.json").write_text(json.dumps(eval_json(0.9, luck="evaluation.random=true" in command)))


def test_the_arms_differ_in_nothing_but_memory(script: ModuleType) -> None:
    for job in script.jobs(script.TASKS, (0,)):
        train = build_parser().parse_args(job.train_command(Path("run"), [])[1:]).overrides
        config = load(Config, train)
        assert config.world_model.recurrence == job.arm
        as_it_is = load(Config, [*script.TASKS[job.task].overrides, "seed=0", "out=run"])
        as_it_is.world_model.recurrence = job.arm
        assert asdict(config) == asdict(as_it_is)
    assert {presets()[name]["world_model"]["recurrence"] for name in ("cue", "screen")} == {"gru"}


def test_everything_is_trained_with_both_arms_and_three_seeds(script: ModuleType) -> None:
    names = [job.name for job in script.jobs(script.TASKS, None)]
    assert len(names) == len(set(names)) == len(script.TASKS) * 2 * 3
    assert [job.name for job in script.jobs(["cue"], [5])] == ["cue-gru-5", "cue-none-5"]


def test_a_training_is_carried_out_once(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = Calls()
    monkeypatch.setattr(importlib.import_module("trainings"), "call", calls)
    words = ["working_memory.py", "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", [*words, "--tasks", "cue", "--seeds", "1", "--threads", "1"])
    script.main()
    assert [command[1] for command in calls.commands] == ["train", "eval"] * 2
    evaluate = build_parser().parse_args(calls.commands[1][1:]).overrides
    named = {"episodes=100": "evaluation.episodes=100", "seed=1": "evaluation.seed=1"}
    config = load(EvalConfig, [named.get(o, o) for o in evaluate])
    assert (config.evaluation.episodes, config.evaluation.random) == (100, True)
    results = [json.loads((tmp_path / "out" / f"cue-{arm}-1.json").read_text()) for arm in ("gru", "none")]
    assert [r["random"] is None for r in results] == [False, True]
    assert (results[0]["task"], results[0]["arm"], results[0]["train_seconds"]) == ("cue", "gru", 61.3)
    assert "returns" not in results[0]
    script.main()
    assert len(calls.commands) == 4
    assert "is there already" in capsys.readouterr().out


def test_the_table(script: ModuleType, tmp_path: Path) -> None:
    tables = importlib.import_module("render_tables")
    assert "No results yet" in tables.working_memory(tmp_path)
    folder = tmp_path / "working_memory"
    folder.mkdir()
    for arm, seed, success in (("gru", 0, 1.0), ("gru", 1, 0.9), ("none", 0, None)):
        result = {**eval_json(success, arm == "gru"), "task": "cue", "arm": arm, "seed": seed, "train_seconds": 61.0}
        (folder / f"cue-{arm}-{seed}.json").write_text(json.dumps(result))
    lines = tables.working_memory(tmp_path).strip().splitlines()
    header, _, cue = ([c.strip() for c in line.strip("|").split("|")] for line in lines)
    assert cue[0].startswith("Cue")
    assert cue[1].startswith("95 % (91")
    assert cue[1].endswith("; seeds 100, 90")
    assert cue[2] == "0 % (0 to 3.7)"  # not a single success is none, not unknown
    assert cue[3].startswith("0 %")
    assert cue[header.index("training")] == "1:01 min"


# -- one task after the other ------------------------------------------------------------------------------------------


def test_b_is_learned_after_a_from_its_weights_and_a_copy_of_its_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    continual, calls = importlib.import_module("continual"), Calls()
    monkeypatch.setattr(importlib.import_module("trainings"), "call", calls)
    out, runs = tmp_path / "out", tmp_path / "runs"
    (runs / "a-1" / "memory").mkdir(parents=True)
    (runs / "a-1" / "memory" / "data").write_text("of A")
    monkeypatch.setattr(sys, "argv", ["continual.py", "--out", str(out), "--runs", str(runs), "--seeds", "1"])
    continual.main()
    assert [command[1] for command in calls.commands] == ["train", "eval", "eval"] * 3
    first, replay, forget = (
        load(Config, build_parser().parse_args(command[1:]).overrides) for command in calls.commands[::3]
    )
    assert (first.init, replay.init, forget.init) == (None, str(runs / "a-1"), str(runs / "a-1"))
    assert (first.memory.path, replay.memory.path, forget.memory.path) == (None, str(runs / "memory-1"), None)
    assert (runs / "memory-1" / "data").read_text() == "of A"
    assert first.env_options.kwargs != replay.env_options.kwargs == forget.env_options.kwargs
    names = {f"{wing}-{arm}-1.json" for wing in ("west", "east") for arm in ("a", "replay", "forget")}
    assert {path.name for path in out.iterdir()} == names
    results = [json.loads((out / name).read_text()) for name in sorted(names)]
    assert sum(r["random"] is not None for r in results) == 2
    tables = importlib.import_module("render_tables")
    assert "No results yet" in tables.continual(tmp_path)
    out.rename(tmp_path / "continual")
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in tables.continual(tmp_path).splitlines()]
    assert lines[0][1:] == [*continual.ARMS.values(), "random"]
    assert [line[1][:5] for line in lines[2:]] == ["90 % ", "90 % "]


def test_the_wings_are_apart_and_the_building_is_the_same() -> None:
    continual = importlib.import_module("continual")
    west, east = (continual.wing(name) for name in ("west", "east"))
    assert west.replace("S", " ") == east.replace("S", " ") == "/".join(continual.BUILDING)
    for layout, side in ((west, -1), (east, 1)):
        env = make_env("forethought/Rooms-v0", EnvOptions(kwargs={"layout": layout}))
        for seed in range(10):
            obs, info = env.reset(seed=seed)
            assert side * obs["position"][0] > 0
            assert side * info["goal"]["position"][0] > 0
        env.close()
