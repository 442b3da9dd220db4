"""Logs of drives, read back by what others read them with."""

import builtins
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forethought.agent.realtime import Tick
from forethought.agent.report.run_log import LogError, RunLog, row_of

HEADER = {"env": "Arm-v0", "options": {"steps": 2}}


def tick(number: int, **changes: Any) -> Tick:
    values: dict[str, Any] = {
        "tick": number, "time_s": 0.02 * number, "episode": 0,
        "obs": {"grid": np.float32([[1, 2], [3, number]]), "camera": np.zeros((4, 4, 3), np.uint8)},
        "asked": np.array([0.5, 0.25]), "command": np.float32([0.5, 0.25]), "fallback": None,
        "decision_s": 0.008, "iterations": 3, "cost": 1.5, "surprise": None, "reward": -1.0,
    }  # fmt: skip
    return Tick(**{**values, **changes})


FAILED = {"fallback": "error", "asked": None, "iterations": None, "cost": float("inf"), "observation_age": 0.02}


def write(path: Path) -> None:
    with RunLog(path, HEADER) as log:
        log.add(tick(0))
        log.flush()
        log.add(tick(1, **FAILED))


def test_a_row_is_plain_and_leaves_out_what_is_unknown() -> None:
    assert row_of(tick(1, **FAILED)) == {
        "tick": 1, "time_s": 0.02, "episode": 0, "obs": {"grid": [1, 2, 3, 1]}, "command": [0.5, 0.25],
        "fallback": "error", "decision_s": 0.008, "cost": None, "reward": -1.0, "success": False, "overrun": False,
        "behind_s": 0.0, "observation_age": 0.02, "sent_s": 0.0, "late": False,
    }  # fmt: skip


def test_lines_of_json(tmp_path: Path) -> None:
    path = tmp_path / "new" / "drive.jsonl"
    write(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [HEADER, row_of(tick(0)), row_of(tick(1, **FAILED))]


def test_nothing_is_written_while_driving(tmp_path: Path) -> None:
    path = tmp_path / "drive.jsonl"
    with RunLog(path, HEADER) as log:
        log.flush()
        before = path.read_text()
        log.add(tick(0))
        assert path.read_text() == before
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.skipif(importlib.util.find_spec("mcap") is None, reason="needs the extra logs")
def test_mcap_is_read_by_its_own_library(tmp_path: Path) -> None:
    from mcap.reader import make_reader

    path = tmp_path / "drive.mcap"
    write(path)
    with path.open("rb") as file:
        reader = make_reader(file)
        found = list(reader.iter_messages(topics=["/forethought"]))
        metadata = list(reader.iter_metadata())
        summary = reader.get_summary()
    rows = [json.loads(message.data) for _, _, message in found]
    assert rows == [row_of(tick(0)), {k: v for k, v in row_of(tick(1, **FAILED)).items() if v is not None}]
    assert [message.log_time for _, _, message in found] == [0, 20_000_000]
    schema = found[0][0]
    assert (schema.name, schema.encoding) == ("forethought.Tick", "jsonschema")
    described = json.loads(schema.data)["properties"]
    assert all(key in described for row in rows for key in row)
    assert {k: json.loads(v) for k, v in metadata[0].metadata.items()} == HEADER
    assert summary.statistics.message_count == 2


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("mcap"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(LogError, match=r"needs mcap, which is not installed: pip install 'forethought\[logs\]'"):
        RunLog(tmp_path / "drive.mcap", HEADER)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"log must end in .jsonl or .mcap, got .*drive.bag"):
        RunLog(tmp_path / "drive.bag", HEADER)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LogError, match="cannot write log="):
        RunLog(tmp_path / "file" / "drive.jsonl", HEADER)
