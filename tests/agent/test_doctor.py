"""The doctor says what works, what does not, and what to do about it."""

import json
import re
from pathlib import Path

import pytest

from forethought.agent import doctor
from forethought.agent.doctor import Finding, examine
from forethought.agent.world_model import fused
from forethought.envs import examination, rendering
from forethought.envs.spec import EnvOptions


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_every_check_says_something() -> None:
    findings = examine()
    assert {"versions", "processor", "compiler", "accelerator", "rendering", "disk"} <= by_name(findings).keys()
    assert all(finding.text for finding in findings)
    assert "torch" in by_name(findings)["versions"].text
    assert "cores" in by_name(findings)["processor"].text


def test_without_opengl_it_is_a_note_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "available", lambda: None)
    finding = by_name(examine())["rendering"]
    assert finding.ok is None
    assert "libosmesa6" in finding.text


@pytest.mark.parametrize(
    ("path", "fault", "ok", "text"),
    [
        ("/usr/bin/g++", None, True, r"/usr/bin/g\+\+, for"),
        ("/usr/bin/g++", "no Python.h", None, r"/usr/bin/g\+\+ cannot be used for everything, .*: no Python"),
        (None, None, None, r"install g\+\+"),
    ],
)
def test_a_compiler_helps_and_is_not_needed(
    monkeypatch: pytest.MonkeyPatch, path: str | None, fault: str | None, ok: bool | None, text: str
) -> None:
    monkeypatch.setattr(doctor, "cpp_compiler", lambda: path)
    monkeypatch.setattr(doctor, "fault_of_compiler", lambda device: fault)
    monkeypatch.setattr(fused, "compiler", lambda: None)
    finding = by_name(examine())["compiler"]
    assert finding.ok is ok
    assert re.search(text, finding.text)


def test_a_package_brings_a_compiler_for_some_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "cpp_compiler", lambda: None)
    monkeypatch.setattr(fused, "compiler", lambda: ["python", "-m", "ziglang", "c++"])
    monkeypatch.setattr(fused, "fault", lambda: None)
    assert by_name(examine())["compiler"].text.startswith("ziglang, for agent.fused;")


def test_a_folder_that_cannot_be_written_is_a_fault() -> None:
    finding = doctor._disk(Path("/proc"))
    assert finding.ok is False
    assert "/proc cannot be written" in finding.text


def test_a_report_holds_what_is_needed_to_find_it_again() -> None:
    findings = [
        examination.Finding("goals", "warning", "the same goal", "draw it"),
        examination.Finding("x", "ok", "y"),
    ]
    content = doctor.report("Arm-v0", EnvOptions(action_repeat=3), 4, 50, findings)
    assert json.loads(json.dumps(content)) == content
    assert (content["env"], content["seed"], content["steps"], content["worst"]) == ("Arm-v0", 4, 50, "warning")
    assert EnvOptions.from_json(content["env_options"]) == EnvOptions(action_repeat=3)
    assert content["findings"][0] == {
        "name": "goals",
        "level": "warning",
        "found": "the same goal",
        "advice": "draw it",
    }
    assert {"command", "versions", "machine"} <= content.keys()
