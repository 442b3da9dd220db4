"""Who may import whom and other rules of the house, read from the source with `ast`; see docs/architecture.md."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("planners", "agent", "envs", "configs")
FREE = ("agent/build.py", "agent/jobs/", "agent/cli.py", "agent/doctor.py", "agent/hub.py", "agent/skill.py")
TOP = {"agent.build", "agent.jobs", "agent.cli", "agent.doctor", "agent.hub", "agent.skill"}

# (folder, what is forbidden there): third-party roots and own modules, the first matching folder counts
FORBIDDEN = {
    "planners": {"torch.nn", "gymnasium", "mujoco", "dm_control", "hydra", "omegaconf", "agent", "envs", "configs"},
    "envs": {"torch", "hydra", "omegaconf", "agent", "planners", "configs"},
    "configs": {"gymnasium", "mujoco", "dm_control", "envs"} | TOP,
    "agent": {"gymnasium", "mujoco", "dm_control", "hydra", "omegaconf", "configs", "envs"} | TOP,
}
ALLOWED = {"envs.spec"}
GLOBAL_RNG = ("random", "numpy.random", "torch")
DRAWS = {"seed", "rand", "randn", "randint", "random", "uniform", "normal", "choice", "shuffle", "permutation"}


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


def within(name: str, roots: set[str]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def violations(path: Path) -> list[str]:
    name = path.relative_to(ROOT).as_posix()
    if name.startswith(FREE):
        return []
    forbidden = next((rules for folder, rules in FORBIDDEN.items() if name.startswith(f"{folder}/")), set())
    return sorted(i for i in imports(path) if within(i, forbidden) and not within(i, ALLOWED))


def global_draws(path: Path) -> list[str]:
    """Calls such as `np.random.rand()`, `torch.randn(3)` and `random.shuffle(x)` that take no generator."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name = ast.unparse(node.func)
        owner = ast.unparse(node.func.value).replace("np.", "numpy.")
        explicit = any(k.arg == "generator" for k in node.keywords)
        if owner in GLOBAL_RNG and node.func.attr in DRAWS and not explicit:
            found.append(name)
    return sorted(found)


@pytest.mark.parametrize("path", sources(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_layers(path: Path) -> None:
    assert violations(path) == []


@pytest.mark.parametrize("path", sources(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_draw_takes_a_generator(path: Path) -> None:
    assert global_draws(path) == []


def test_the_global_generator_of_torch_is_only_seeded_inside_a_fork_of_it() -> None:
    seeding = {p.relative_to(ROOT).as_posix() for p in sources() if "torch.manual_seed(" in p.read_text()}
    assert seeding <= {"agent/world_model/model.py"}
    for name in seeding:
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            if isinstance(node, ast.With) and "torch.manual_seed(" in ast.unparse(node):
                assert "fork_rng" in ast.unparse(node.items[0])
                break
        else:
            pytest.fail(f"{name} seeds the global generator")


def test_rules_can_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    code = {
        "planners/bad.py": "import torch.nn as nn\nfrom ..envs.vector import make_vector\nfrom torch import nn\n",
        "envs/bad.py": "import torch\nfrom forethought.agent.agent import Agent\nfrom . import spec\n",
        "agent/training/bad.py": "from ...envs import vector\nfrom ...envs.spec import EnvSpec\nimport hydra.utils\n",
        "agent/bad.py": "from .jobs.train import train\nfrom .runs import read_card\n",
        "agent/build.py": "import hydra\n",
        "agent/jobs/train.py": "from ...envs import vector\n",
    }
    found = {}
    for name, text in code.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        found[name] = violations(tmp_path / name)
    assert found == {
        "planners/bad.py": ["envs.vector.make_vector", "torch.nn"],
        "envs/bad.py": ["agent.agent.Agent", "torch"],
        "agent/training/bad.py": ["envs.vector", "hydra.utils"],
        "agent/bad.py": ["agent.jobs.train.train"],
        "agent/build.py": [],
        "agent/jobs/train.py": [],
    }
    bad = tmp_path / "planners" / "bad.py"
    bad.write_text("np.random.rand(3)\ntorch.randn(3, generator=g)\ntorch.randn(3)\nrng.random(3)\nrandom.shuffle(x)\n")
    assert global_draws(bad) == ["np.random.rand", "random.shuffle", "torch.randn"]


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


def test_no_drawer_for_odds_and_ends() -> None:
    assert not [p for p in sources() if p.stem in ("utils", "util", "common", "helpers", "misc")]


def test_nothing_unpickles_or_evaluates() -> None:
    for path in sources():
        assert not [n for n in imports(path) if within(n, {"pickle", "cloudpickle", "dill", "joblib", "shelve"})], path
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        assert not {ast.unparse(c.func) for c in calls} & {"torch.load", "eval", "exec", "np.load"}, path
