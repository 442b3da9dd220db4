"""Planners of other packages behind our seam keep the contract, where these packages are installed."""

import importlib
import importlib.metadata
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from forethought.planners import HostedPlanner, PlannerEntry
from forethought.planners.contract import check_planner

PROJECT = Path(__file__).parents[1] / "examples" / "third_party_planners"
ENTRIES: dict[str, str] = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["entry-points"][
    "forethought.planners"
]
NEEDS = {"cma_es": "cma", "nevergrad": "nevergrad", "pytorch_mppi": "pytorch_mppi"}
SMALL: dict[str, dict[str, Any]] = {
    name: {"horizon": 4, "num_samples": 16, "iterations": 3, **({"topk": 6} if name.startswith("swm") else {})}
    for name in ENTRIES
}

# Warnings of their own making are their own.
pytestmark = pytest.mark.filterwarnings("ignore:")


@pytest.fixture(autouse=True)
def _on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROJECT))


def entry(name: str) -> PlannerEntry:
    pytest.importorskip(NEEDS.get(name, "stable_worldmodel"), reason=f"{name} is of another package")
    module, attribute = ENTRIES[name].split(":")
    found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, PlannerEntry)
    return found


@pytest.mark.parametrize("name", ENTRIES)
def test_it_keeps_the_contract(name: str) -> None:
    planner, options, lacks = entry(name)
    assert issubclass(planner, HostedPlanner)
    findings = check_planner(lambda low, high: planner(low, high, options(**SMALL[name])), lacks)
    assert [finding for finding in findings if finding.outcome == "failed"] == []


@pytest.mark.parametrize("name", ENTRIES)
def test_the_search_itself_learns(name: str) -> None:
    """The best of all iterations is better than that of as many samples of the first: what it is told has an effect."""
    planner, options, _ = entry(name)
    many = {**SMALL[name], "num_samples": 32, "iterations": 8}
    made = planner(-torch.ones(2), torch.ones(2), options(**many))

    def cost_fn(actions: torch.Tensor) -> torch.Tensor:
        return (actions - 0.6).square().sum(dim=(2, 3))

    plan, _ = made.plan(cost_fn, made.init(2), torch.Generator().manual_seed(0))
    assert plan.best_costs.shape == (2, 8)
    assert (plan.best_costs[:, -1] < 0.7 * plan.best_costs[:, 0]).all()


@pytest.mark.parametrize("name", ENTRIES)
def test_an_iteration_is_one_call_of_so_many_candidates(name: str) -> None:
    planner, options, _ = entry(name)
    made, calls = planner(-torch.ones(2), torch.ones(2), options(**SMALL[name])), list[tuple[int, ...]]()

    def cost_fn(actions: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(actions.shape))
        return actions.square().sum(dim=(2, 3))

    made.plan(cost_fn, made.init(3), torch.Generator().manual_seed(0))
    assert calls[0] == (3, 1, 4, 2)
    assert calls[1:4] == [(3, 16, 4, 2)] * 3
    assert calls[4:] in ([], [(3, 1, 4, 2)])


@pytest.mark.parametrize("name", ENTRIES)
def test_the_command_checks_it(name: str, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entry(name)
    offered = [importlib.metadata.EntryPoint(k, v, "forethought.planners") for k, v in ENTRIES.items()]
    found = importlib.metadata.EntryPoints(offered)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found.select(group=group))
    done = cli("check-planner", name, *(f"{key}={value}" for key, value in SMALL[name].items()), "--json", "-")
    report = json.loads(done.out)
    assert (done.code, report["passed"], report["planner"]) == (0, True, name)


def test_every_entry_has_its_extra_and_its_line() -> None:
    text = (PROJECT / "README.md").read_text()
    assert all(f"`{name}`" in text for name in ENTRIES)
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert all(f"`{extra}`" in text for extra in project["optional-dependencies"])
