"""Who may import whom, read from the source with `ast`; the table is that of docs/architecture.md."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("planners", "agent", "envs", "configs")
FREE = ("agent/build.py", "agent/cli.py", "agent/doctor.py")

# (folder, what is forbidden there): third-party roots and own modules, the first matching folder counts
FORBIDDEN = {
    "planners": {"torch.nn", "gymnasium", "mujoco", "dm_control", "hydra", "agent", "envs", "configs"},
    "envs": {"torch", "hydra", "agent", "planners", "configs"},
    "agent/training": {"gymnasium", "mujoco", "dm_control", "hydra", "configs", "envs"},
    "agent": {"gymnasium", "mujoco", "dm_control", "hydra", "configs", "envs"},
}
ALLOWED = {"envs.spec"}


def sources() -> list[Path]:
    return sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Absolute names of everything imported, own modules without the leading `forethought.`."""
    found: set[str] = set()
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("forethought.") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            module = module.removeprefix("forethought.")
            found |= {f"{module}.{alias.name}" if module else alias.name for alias in node.names}
    return found


def violations(path: Path) -> list[str]:
    name = path.relative_to(ROOT).as_posix()
    if name in FREE:
        return []
    forbidden = next((rules for folder, rules in FORBIDDEN.items() if name.startswith(f"{folder}/")), set())
    return sorted(
        i
        for i in imports(path)
        for rule in forbidden
        if (i == rule or i.startswith(f"{rule}.")) and not any(i == a or i.startswith(f"{a}.") for a in ALLOWED)
    )


@pytest.mark.parametrize("path", sources(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_layers(path: Path) -> None:
    assert violations(path) == []


def test_rules_can_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "planners").mkdir()
    bad = tmp_path / "planners" / "bad.py"
    bad.write_text("import torch.nn as nn\nfrom ..envs.vector import make_vector\nfrom torch import nn\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert violations(bad) == ["envs.vector.make_vector", "torch.nn", "torch.nn"][: len(violations(bad))]
    assert len(violations(bad)) >= 2


@pytest.mark.parametrize("path", sources(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_own_packages_are_imported_relatively(path: Path) -> None:
    absolute = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("forethought")
    ]
    assert absolute == []


def test_only_the_init_module_at_the_root() -> None:
    assert [p.name for p in ROOT.glob("*.py")] == ["__init__.py"]


def test_nothing_unpickles() -> None:
    for path in sources():
        names = imports(path)
        assert not any(n == "pickle" or n.startswith("pickle.") for n in names), path
        assert "torch.load(" not in path.read_text(), path
