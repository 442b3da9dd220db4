"""What is installed: the wheel holds every module and data file of the packages, and nothing else."""

import importlib
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import forethought

ROOT = Path(__file__).parents[1]
PACKAGES = ("planners", "agent", "envs", "configs")
IGNORED = shutil.ignore_patterns(
    "__pycache__", ".*", "build", "dist", "*.egg-info", "tests", "benchmarks", "docs", "runs"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in a wheel that is built from a copy of the source, by the backend and without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = Path(shutil.copytree(ROOT, folder / "source", ignore=IGNORED))
    code = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(path).namelist())


def shipped() -> set[str]:
    """Everything in the packages that is not a by-product."""
    files = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    names = {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}
    return {f"forethought/{name}" for name in names | {"__init__.py", "py.typed"}}


def test_the_wheel_holds_all_of_the_packages_and_nothing_else(wheel: set[str]) -> None:
    content = {name for name in wheel if ".dist-info/" not in name}
    assert content == shipped()
    assert {"forethought/py.typed", "forethought/configs/preset/default.yaml"} <= content
    assert "forethought/agent/report/report.html" in content
    assert "forethought/envs/tasks/push.xml" in content


def test_the_wheel_brings_licence_and_command(wheel: set[str]) -> None:
    (information,) = {name.split("/")[0] for name in wheel if ".dist-info/" in name}
    assert information == f"forethought-{forethought.__version__}.dist-info"
    assert f"{information}/licenses/LICENSE" in wheel
    assert f"{information}/entry_points.txt" in wheel


def test_every_folder_with_modules_is_a_declared_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = set(project["tool"]["setuptools"]["packages"])
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert declared == {"forethought"} | {
        f"forethought.{p.relative_to(ROOT).as_posix().replace('/', '.')}" for p in folders
    }
    assert all((folder / "__init__.py").exists() for folder in folders)
    assert project["project"]["scripts"] == {"forethought": "forethought.agent.cli:main"}


def modules() -> list[str]:
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    names = [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in paths]
    return [f"forethought.{name.removesuffix('.__init__')}" for name in names]


def test_every_module_imports_and_says_what_it_is_for() -> None:
    for name in modules():
        assert (importlib.import_module(name).__doc__ or "").strip(), name


def test_importing_everything_has_no_effect(tmp_path: Path) -> None:
    code = (
        "import importlib, os, random, sys, threading, numpy, torch, gymnasium, rich.style  # which draws a number\n"
        "before = dict(os.environ), random.getstate(), torch.get_rng_state(), torch.get_num_threads()\n"
        "numbers, ids = numpy.random.get_state()[1].copy(), set(gymnasium.registry)\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "after = dict(os.environ), random.getstate(), torch.get_rng_state(), torch.get_num_threads()\n"
        "assert before[:2] == after[:2] and before[3] == after[3], (before[0], after[0])\n"
        "assert torch.equal(before[2], after[2]) and (numbers == numpy.random.get_state()[1]).all()\n"
        "assert threading.active_count() == 1\n"
        "new = {i for i in gymnasium.registry if i not in ids}\n"
        "assert all(i.startswith('forethought/') for i in new), new\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *modules()], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_help_is_quick_because_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys\nfrom forethought.agent.cli import build_parser\nbuild_parser()\n"
        "print(*sorted({'torch', 'numpy', 'gymnasium', 'mujoco', 'hydra', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
