"""The package itself: importing it does nothing else, and its public names are there."""

import subprocess
import sys
from pathlib import Path

import pytest

import forethought
from forethought import ForethoughtError, UnknownNameError


def test_importing_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, forethought; "
        "print(*sorted({'torch', 'numpy', 'gymnasium', 'mujoco', 'hydra'} & set(sys.modules)), "
        "*sorted(name for name in sys.modules if name.startswith('forethought.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", forethought.__all__)
def test_public_names_are_there(name: str) -> None:
    value = getattr(forethought, name)
    if name != "__version__":
        assert callable(value)
        assert value.__name__ == name
        assert value.__doc__


def test_unknown_attributes_are_unknown() -> None:
    assert not hasattr(forethought, "Agnet")
    with pytest.raises(AttributeError, match="module 'forethought' has no attribute 'Agnet'"):
        _ = forethought.Agnet


def test_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert version("forethought") == forethought.__version__


def test_unknown_names_offer_the_nearest() -> None:
    error = UnknownNameError("planner", "icme", ["mppi", "icem", "cem", "icem"])
    assert isinstance(error, ForethoughtError)
    assert str(error).startswith("unknown planner 'icme': did you mean icem")
    assert (error.kind, error.name, error.known) == ("planner", "icme", ["cem", "icem", "mppi"])


def test_a_few_names_are_listed_and_many_are_counted() -> None:
    assert str(UnknownNameError("key", "zzz", ["b", "a"])) == "unknown key 'zzz': known: a, b"
    many = [f"name_{i}" for i in range(21)]
    assert str(UnknownNameError("key", "zzz", many)) == "unknown key 'zzz': 21 are known"
