"""The doctor says what works, what does not, and what to do about it."""

import re
from pathlib import Path

import pytest

from forethought.agent import doctor
from forethought.agent.doctor import Finding, examine
from forethought.envs import rendering


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
        ("/usr/bin/g++", "no Python.h", None, r"/usr/bin/g\+\+ cannot be used, .*: no Python"),
        (None, None, None, r"install g\+\+"),
    ],
)
def test_a_compiler_helps_and_is_not_needed(
    monkeypatch: pytest.MonkeyPatch, path: str | None, fault: str | None, ok: bool | None, text: str
) -> None:
    monkeypatch.setattr(doctor, "cpp_compiler", lambda: path)
    monkeypatch.setattr(doctor, "fault_of_compiler", lambda device: fault)
    finding = by_name(examine())["compiler"]
    assert finding.ok is ok
    assert re.search(text, finding.text)


def test_a_folder_that_cannot_be_written_is_a_fault() -> None:
    finding = doctor._disk(Path("/proc"))
    assert finding.ok is False
    assert "/proc cannot be written" in finding.text


@pytest.mark.parametrize("env_id", ["forethought/Cartpole-v0", "Pendulum-v1"])
def test_an_environment_is_made_and_stepped(env_id: str) -> None:
    finding = by_name(examine(env_id))[env_id]
    assert finding.ok is True
    assert finding.text.startswith("20 steps; observations ")
    assert ("no goals" in finding.text) == (env_id == "Pendulum-v1")


def test_an_environment_that_cannot_be_made_is_a_fault() -> None:
    assert by_name(examine("no_module:Arm-v0"))["no_module:Arm-v0"].ok is False
    assert by_name(examine("CartPole-v1"))["CartPole-v1"].ok is False  # discrete actions
