"""The code in docs/planners.md runs and does what it says."""

import re
from pathlib import Path
from typing import Any

import torch

import forethought
from forethought.planners import PLANNERS
from forethought.planners.contract import CHECKS, check_planner

DOCS = Path(forethought.__file__).parent / "docs" / "planners.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)


def test_first_example_plans() -> None:
    names: dict[str, Any] = {}
    exec(blocks()[0], names)
    assert names["action"].shape == (1, 2)
    assert names["plan"].cost < 0.2


def test_own_planner_plans(monkeypatch: Any) -> None:
    names: dict[str, Any] = {"__name__": "docs_example"}
    monkeypatch.setitem(__import__("sys").modules, "docs_example", type(forethought)("docs_example"))
    exec(blocks()[1], names)
    entry = names["HILL_CLIMB"]
    planner = entry.planner(-torch.ones(2), torch.ones(2), entry.options(horizon=4, iterations=20, num_knots=2))
    plan, _ = planner.plan(
        lambda actions: (actions - 0.4).square().sum(dim=(2, 3)), planner.init(3), torch.Generator().manual_seed(0)
    )
    assert (plan.cost < 0.01).all()
    assert (plan.best_costs.diff(dim=1) <= 0).all()


def test_own_loop_keeps_the_contract() -> None:
    names: dict[str, Any] = {"__name__": "docs_example"}
    exec(blocks()[2], names)
    entry = names["LOCAL_SEARCH"]
    findings = check_planner(lambda low, high: entry.planner(low, high, entry.options(horizon=4, num_samples=16)))
    assert [finding for finding in findings if finding.outcome != "passed"] == []


def test_optional_promises_are_named() -> None:
    (named,) = re.findall(r"What is \*optional\* \(([^)]*)\)", DOCS.read_text())
    assert re.findall(r"`(\w+)`", named) == [check.name for check in CHECKS.values() if check.optional]


def test_every_planner_is_in_the_table() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", DOCS.read_text(), flags=re.MULTILINE)) == set(PLANNERS)
