import json
import platform
import re
import shlex
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

import forethought
from forethought.agent import provenance


def git(folder: Path, *args: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", str(folder), *identity, *args], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that the package pretends to lie in."""
    root = tmp_path / "checkout"
    (root / "agent").mkdir(parents=True)
    (root / "agent" / "provenance.py").write_text("one")
    monkeypatch.setattr(provenance, "__file__", str(root / "agent" / "provenance.py"))
    return root


def test_versions_name_what_results_depend_on() -> None:
    found = provenance.versions()
    assert found["forethought"] == forethought.__version__
    assert found["python"] == platform.python_version()
    assert found["torch"] == metadata.version("torch")


def test_packages_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_PACKAGES", ("torch", "no-such-package"))
    assert set(provenance.versions()) == {"forethought", "python", "torch"}


def test_machine_is_plain_json_without_a_host_name() -> None:
    machine = provenance.machine()
    assert set(machine) == {"cpu", "cores", "memory_gib", "system"}
    text = json.dumps(machine, allow_nan=False)
    assert platform.node() == "" or platform.node() not in text
    assert machine["cores"] >= 1
    if machine["system"] == "Linux":
        assert machine["memory_gib"] > 0


def test_commit_of_a_clean_and_of_a_changed_checkout(checkout: Path) -> None:
    git(checkout, "init", "-q")
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "one")
    head = provenance.commit()
    assert head == git(checkout, "rev-parse", "HEAD")
    assert re.fullmatch("[0-9a-f]{40}", head or "")
    (checkout / "notes.txt").write_text("not part of the source")
    assert provenance.commit() == head
    (checkout / "agent" / "provenance.py").write_text("two")
    assert provenance.commit() == f"{head}+changes"


def test_no_commit_outside_a_checkout_of_its_own(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(checkout.parent))
    assert provenance.commit() is None
    git(checkout.parent, "init", "-q")  # somebody else's repository around the installed package
    (checkout.parent / "x").write_text("")
    git(checkout.parent, "add", "x")
    git(checkout.parent, "commit", "-q", "-m", "other")
    assert provenance.commit() is None


def test_no_commit_without_git(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() is None


def test_the_command_can_be_pasted_into_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["train", "env=forethought/Reacher-v0", "learner.window=8", "out=my runs/one", "channels=[1,2]"]
    monkeypatch.setattr("sys.argv", ["/usr/bin/forethought", *arguments])
    command = provenance.command()
    assert command.startswith("forethought train env=forethought/Reacher-v0 learner.window=8 ")
    assert shlex.split(command) == ["forethought", *arguments]
