"""The benchmark of real time asks for what it says, and keeps what was measured; nothing is driven here."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from forethought.agent.cli import _SHORT_DRIVE, build_parser
from forethought.configs.register import load
from forethought.configs.schema import Config, DriveConfig
from forethought.envs.registry import make_env


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("real_time")


def test_the_arm_is_driven_at_50_hz(benchmark: ModuleType) -> None:
    command = benchmark.train_command(Path("run"))
    config = load(Config, build_parser().parse_args(command[1:]).overrides)
    assert make_env(config.env, config.env_options).env_spec.control_dt == pytest.approx(0.02)


def test_the_links_are_not_the_same(benchmark: ModuleType) -> None:
    links, modes = [], []
    for arm in benchmark.ARMS:
        command = benchmark.drive_command(Path("run"), arm, 100, 0, ["threads=1"])
        pairs = [o.partition("=") for o in build_parser().parse_args(command[1:]).overrides]
        config = load(DriveConfig, [f"{_SHORT_DRIVE.get(k, k)}={v}" for k, _, v in pairs])
        links.append(config.env_options.link)
        modes.append(config.drive.ahead)
    assert list(benchmark.ARMS) == ["ideal", "ideal_ahead", "bad_link", "bad_link_ahead"]
    assert modes == [False, True, False, True]
    assert links[0] == links[1]
    assert links[2] == links[3]
    assert links[0].command_latency < 1e-5 < 0.01 == links[2].command_latency
    assert links[2].command_loss == links[2].observation_loss == 0.05


def test_results_are_kept(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, called = tmp_path / "run", list[list[str]]()

    def call(command: list[str]) -> None:
        called.append(command)
        run.mkdir(exist_ok=True)
        if command[1] == "train":
            (run / "best.safetensors").write_text("")
            return
        drive: dict[str, Any] = {
            "steps": 5, "decision_ms": {"p99.9": 9.0}, "late": 0, "overruns": len(called),
            "options": {"priority": 3, "ahead": "drive.ahead=true" in command},
            "env_options": {"link": {}}, "versions": {}, "machine": {"cpu": "x"}, "commit": None, "time": "now",
        }  # fmt: skip
        (run / "drive.json").write_text(json.dumps(drive))

    monkeypatch.setattr(benchmark, "call", call)
    for _ in range(2):
        benchmark.main(["--run", str(run), "--steps", "5", "--out", str(tmp_path / "result.json")])
    assert [command[1] for command in called] == ["train", *["drive"] * 8]  # trained once
    result = json.loads((tmp_path / "result.json").read_text())
    assert [result[arm]["overruns"] for arm in benchmark.ARMS] == [6, 7, 8, 9]
    assert [result[arm]["ahead"] for arm in benchmark.ARMS] == [False, True, False, True]
    assert result["machine"] == {"cpu": "x"}
    assert result["command"].startswith("python benchmarks/real_time.py --run")
    assert "versions" not in result["ideal"]


def test_the_table(benchmark: ModuleType, tmp_path: Path) -> None:
    tables = importlib.import_module("render_tables")
    assert "No results yet" in tables.real_time(tmp_path)
    times = {"p50": 9.04, "p99": 14.0, "p99.9": 17.0, "max": 18.0}
    drive = {"decision_ms": times, "steps": 10000, "overruns": 3, "fallbacks": {"late": 3, "error": 1}}
    drive |= {"successes": 7, "episodes": 9}
    ahead = {**drive, "sent_ms": {**times, "max": 9.5}, "late": 21, "overruns": 0}
    arms = {"ideal": drive, "ideal_ahead": ahead, "bad_link": {**drive, "overruns": 8}}
    (tmp_path / "real_time.json").write_text(json.dumps(arms))
    _, _, ideal, thought, bad = tables.real_time(tmp_path).strip().splitlines()
    assert [c.strip() for c in ideal.strip("|").split("|")] == [
        "ideal, at once", "10,000", "9.0 / 14.0 / 17.0 / 18.0", tables.NONE, tables.NONE, "3", "4", "7 of 9",
    ]  # fmt: skip
    assert "| 9.0 / 14.0 / 17.0 / 9.5 | 21 | 0 | 4 |" in thought
    assert bad.startswith("| bad link, at once")
    assert "| 8 |" in bad


def test_the_table_of_planners_is_that_of_the_comparison_without_its_head(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = importlib.import_module("render_tables")
    assert "No results yet" in tables.planners(tmp_path)
    (tmp_path / "planners.json").write_text(json.dumps({"rows": ["| a |", "| b |"]}))
    monkeypatch.setattr(
        tables, "comparison", lambda r: "# Title\n\nhead\n\n" + "\n".join(f"## {x}\n" for x in r["rows"])
    )
    assert tables.planners(tmp_path) == "#### | a |\n\n#### | b |\n\n"
