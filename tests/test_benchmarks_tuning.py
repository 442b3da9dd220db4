"""The search for options asks for what it says, chooses on other episodes than it checks on, and keeps all."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from forethought.agent.bench.budget import contender
from forethought.agent.cli import _BENCH_LISTS, with_brackets
from forethought.agent.training.evaluate import episode_seeds
from forethought.configs.register import load, tuned_options
from forethought.configs.schema import BenchConfig
from forethought.configs.sweeps import read_sweep

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("tuning")


def fake(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, better: float) -> list[list[str]]:
    """Play nothing: trial i has value i, options other than the defaults score `better` more."""
    called = list[list[str]]()

    def call(command: list[str]) -> None:
        called.append(command)
        given = dict(word.split("=", 1) for word in command[3:] if "=" in word)
        out = Path(given["out"])
        out.mkdir(parents=True, exist_ok=True)
        if "-m" in command:
            space = read_sweep([w for w in command if w.startswith("options.")])[1]
            values = {key: v.first() for key, v in space.items()}
            trials = [
                {
                    "values": {**values, "options.icem.noise_beta": str(i)},
                    "value": float(i),
                    "error": None,
                    "seconds": 1,
                }
                for i in range(5)
            ]
            trials.append({"values": values, "value": None, "error": "no", "seconds": 1})
            (out / "sweep.json").write_text(json.dumps({"trials": trials}))
            return
        planners = given["planners"].split(",")
        tuned = [any(key.startswith(f"options.{name}.noise") for key in given) for name in planners]
        scores = [[1.0 + better * t, 2.0 + better * t] for t in tuned]
        cells = [{"score": sum(s) / 2, "scores": s} for s in scores]
        (out / "results.json").write_text(json.dumps({"cells": cells, "tasks": {"lqr": {"random": -3.0}}}))

    monkeypatch.setattr(benchmark, "call", call)
    return called


def given(tmp_path: Path) -> list[str]:
    paths = {"runs": tmp_path / "runs", "out": tmp_path / "out", "presets": tmp_path / "presets"}
    return ["--tasks", "lqr", "--trials", "6", *(word for k, v in paths.items() for word in (f"--{k}", str(v)))]


def test_the_best_is_kept_with_where_it_comes_from(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = fake(benchmark, monkeypatch, better=0.5)
    benchmark.main(given(tmp_path))
    assert len(called) == 1 + 4 + 1  # the search, the defaults and three finalists, the check
    result = json.loads((tmp_path / "out" / "lqr.json").read_text())
    assert {"command", "commit", "versions", "machine", "time", "budget"} <= result.keys()
    found = result["planners"]["icem"]
    assert [final["options"].get("noise_beta") for final in found["finals"]] == [None, 4, 3, 2]
    assert found["options"]["noise_beta"] == 4
    assert (found["default_score"], found["tuned_score"]) == (1.5, 2.0)
    assert found["held_out"]["difference"] == 0.5
    assert found["held_out"]["difference_ci"] == [0.5, 0.5]
    assert len(found["trials"]) == 6
    (file,) = (tmp_path / "presets").iterdir()
    preset = yaml.safe_load(file.read_text())["icem"]
    assert preset["options"] == found["options"]
    assert (preset["seed"], preset["trials"], preset["command"]) == (1000, 6, found["command"])
    benchmark.main(given(tmp_path))
    assert len(called) == 6  # nothing is searched for twice
    monkeypatch.setattr("sys.argv", ["tuning.py"])
    tables = importlib.import_module("render_tables")
    assert "No results yet" in tables.tuning(tmp_path)
    (tmp_path / "tuning").symlink_to(tmp_path / "out")
    row = tables.tuning(tmp_path).splitlines()[2]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "lqr", "icem", "6 x 5", "20", "\N{MINUS SIGN}3.00", "1.50", "2.00", "0.50 [0.50, 0.50]", "better",
    ]  # fmt: skip


def test_where_nothing_is_better_the_defaults_stay(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(benchmark, monkeypatch, better=-0.5)
    benchmark.main(given(tmp_path))
    found = json.loads((tmp_path / "out" / "lqr.json").read_text())["planners"]["icem"]
    assert found["options"] == {}
    assert found["held_out"]["difference"] == 0


def test_every_command_can_be_carried_out(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = fake(benchmark, monkeypatch, better=0.5)
    benchmark.main(given(tmp_path))
    for command in called[1:]:
        config = load(BenchConfig, with_brackets(command[3:]))
        for label in config.planners:
            contender(label, config.options.get(label, {}))
        assert config.budgets == [64]
    searched, checked = ({w for w in command if w.startswith("seed=")} for command in (called[0], called[-1]))
    assert (searched, checked) == ({"seed=1000"}, {"seed=0"})
    assert BenchConfig().seed == 0  # what is checked on is what is compared on
    assert not set(episode_seeds("test", 1000, 0, 200)) & set(episode_seeds("test", 0, 0, 200))


@pytest.mark.parametrize("planner", ["icem", "cem", "mppi"])
def test_what_is_searched_are_options_of_the_planner(benchmark: ModuleType, planner: str) -> None:
    job = benchmark.Job("lqr", planner, Path("runs"), 1)
    command = job.search(20, 5)
    fixed, space = read_sweep([w for w in command[4:] if not w.startswith(("sweep.", "out="))], _BENCH_LISTS)
    assert len(space) == 5
    for end in ("low", "high"):
        chosen = {key: v.text(getattr(v, end)) for key, v in space.items() if hasattr(v, end)}
        config = load(BenchConfig, with_brackets([*fixed, *(f"{k}={v}" for k, v in chosen.items())]))
        assert len(config.options[planner]) == 5
        contender(planner, config.options[planner])


def test_options_that_are_kept_are_those_of_the_results() -> None:
    for planner, tasks in tuned_options().items():
        for task, options in tasks.items():
            result = json.loads((ROOT / "benchmarks" / "results" / "tuning" / f"{task}.json").read_text())
            found: dict[str, Any] = result["planners"][planner]
            assert options == found["options"], task
            contender(planner, options)
