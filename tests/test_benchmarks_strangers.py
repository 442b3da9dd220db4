"""The benchmark of unknown environments: its commands exist, refusals are results, the table says what was measured."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from forethought.agent.cli import build_parser
from forethought.configs.register import load
from forethought.configs.schema import Config

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
REASON = "my_env:Menu-v0: the action space must be a Box, got Discrete(5); wrap it, for example"
FINDINGS = [
    {"name": "speed", "level": "warning", "found": "9 steps per second", "advice": "draw nothing"},
    {"name": "reset", "level": "ok", "found": "25 resets", "advice": ""},
]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("strangers")


def measured(success: float | None, mean: float) -> dict[str, Any]:
    return {"episodes": 20, "success_rate": success, "return_mean": mean, "return_ci": [mean - 1, mean + 1]}


class Calls:
    """Stands in for the processes: examinations find something, trainings of `refused` environments are refused."""

    def __init__(self, refused: str = "", status: int = 0) -> None:
        self.commands: list[list[str]] = []
        self.refused, self.status = refused, status

    def __call__(self, command: list[str], **options: Any) -> SimpleNamespace:
        command = ["forethought", *command[1:]]
        self.commands.append(command)
        if command[1] == "check-env":
            found = Path(command[command.index("--json") + 1])
            found.write_text(json.dumps({"worst": "warning", "findings": FINDINGS}))
            return SimpleNamespace(returncode=self.status, stderr="a note\n")
        if f"env={self.refused}" in command:
            return SimpleNamespace(returncode=2, stderr=f"a note\nerror: {REASON}\n")
        return SimpleNamespace(returncode=0, stderr="")


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, calls: Calls, folder: Path, *tasks: str) -> None:
    processes = SimpleNamespace(run=calls, DEVNULL=subprocess.DEVNULL, PIPE=subprocess.PIPE)
    monkeypatch.setattr(script, "subprocess", processes)
    monkeypatch.setattr(script, "_version", lambda package: "1.2")
    monkeypatch.setattr(script, "finished", lambda run: False)
    monkeypatch.setattr(script, "commit", lambda: "abc")
    done = {**measured(0.8, -9.0), "random": measured(0.1, -50.0), "objective": "goal", "train_seconds": 61.0}
    monkeypatch.setattr(
        script, "outcome", lambda job, train, *_: {**vars(job), **done, "train_command": " ".join(train)}
    )
    words = ["strangers.py", "--tasks", *tasks, "--out", str(folder / "strangers"), "--runs", str(folder / "runs")]
    monkeypatch.setattr(sys, "argv", words)
    script.main()


def test_every_command_exists(script: ModuleType, tmp_path: Path) -> None:
    for name, stranger in script.TASKS.items():
        job = script.Job(name, stranger.package, stranger.env, 3)
        check = build_parser().parse_args(job.check_command(tmp_path / "x.json")[1:])
        assert (check.command, check.env) == ("check-env", stranger.env)
        train = job.train_command(tmp_path, ["threads=1"])
        assert load(Config, build_parser().parse_args(train[1:]).overrides).seed == 3
        assert set(check.overrides) <= set(train)
        assert build_parser().parse_args(job.eval_command(tmp_path, 20, [])[1:]).command == "eval"


def test_one_is_trained_on_and_one_refused(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = importlib.import_module("render_tables")
    assert "No results yet" in tables.strangers(tmp_path)
    calls = Calls(refused=script.TASKS["highway"].env)
    run(script, monkeypatch, calls, tmp_path, "panda_reach", "highway")
    assert [command[1] for command in calls.commands] == ["check-env", "train"] * 2
    trained, refused = (json.loads((tmp_path / f"strangers/{n}.json").read_text()) for n in ("panda_reach", "highway"))
    assert (trained["refusal"], trained["package_version"]) == (None, "1.2")
    assert trained["check"]["counts"] == {"warning": 1, "ok": 1}
    assert trained["check"]["findings"] == FINDINGS[:1]
    assert refused["refusal"] == REASON
    assert {"train_command", "commit", "versions", "machine"} <= refused.keys()
    lines = tables.strangers(tmp_path).strip().splitlines()
    header, _, panda, highway = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    panda, highway = dict(zip(header, panda, strict=True)), dict(zip(header, highway, strict=True))
    assert panda["agent (95 % CI)"].startswith("success 80 % (")
    assert panda["random actions"].startswith("success 10 % (")
    assert (panda["check-env"], panda["training"], panda["steps"]) == ("1 warning", "1:01 min", "2,000")
    assert highway["agent (95 % CI)"].startswith("refused: ")
    assert "| warning | speed | 9 steps per second | draw nothing |" in tables.strangers_found(tmp_path)
    run(script, monkeypatch, calls, tmp_path, "panda_reach")
    assert len(calls.commands) == 4
    assert "is there already" in capsys.readouterr().out


def test_what_is_not_installed_is_left_out_and_what_crashes_stops(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script._version("no-such-package-at-all") is None
    with pytest.raises(SystemExit, match="exit status 139: forethought check-env"):
        run(script, monkeypatch, Calls(status=139), tmp_path, "panda_reach")
    monkeypatch.setattr(script, "_version", lambda package: None)
    script.main()
    assert "panda-gym is not installed" in capsys.readouterr().out
