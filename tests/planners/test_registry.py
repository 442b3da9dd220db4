import importlib.metadata
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from forethought import UnknownNameError
from forethought.planners import (
    CEM,
    ICEM,
    PLANNERS,
    CEMOptions,
    ICEMOptions,
    MPPIOptions,
    PlannerEntry,
    PlannerError,
    find_planner,
    make_planner,
    planner_names,
)

LOW, HIGH = torch.zeros(1), torch.ones(1)
OTHER = PlannerEntry(CEM, CEMOptions)


def offer(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    found = importlib.metadata.EntryPoints([importlib.metadata.EntryPoint(name, value, "forethought.planners")])
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found.select(group=group))


def test_options_come_as_object_or_by_name() -> None:
    planner = make_planner("icem", LOW, HIGH, ICEMOptions(horizon=3), num_samples=64)
    assert isinstance(planner, ICEM)
    assert planner.options == ICEMOptions(horizon=3, num_samples=64)
    assert make_planner("icem", LOW, HIGH).horizon == ICEMOptions().horizon


def test_later_changes_of_the_options_do_not_reach_the_planner() -> None:
    options = ICEMOptions(horizon=3)
    planner = make_planner("icem", LOW, HIGH, options)
    options.horizon = 5
    assert planner.horizon == 3


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown planner 'icemm': did you mean icem"):
        make_planner("icemm", LOW, HIGH)
    with pytest.raises(UnknownNameError, match="unknown planner option 'horizn': did you mean horizon"):
        make_planner("icem", LOW, HIGH, horizn=3)


def test_options_of_another_planner_are_refused() -> None:
    with pytest.raises(PlannerError, match="options of planner 'icem' must be ICEMOptions, got MPPIOptions"):
        make_planner("icem", LOW, HIGH, MPPIOptions())


@pytest.mark.parametrize("name", PLANNERS)
def test_options_are_a_hydra_schema(name: str) -> None:
    options: Any = PLANNERS[name].options
    assert OmegaConf.to_object(OmegaConf.structured(options)) == options()


def test_other_packages_can_offer_planners(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "their_cem", "theirs:entry")
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: OTHER)
    assert find_planner("their_cem") == OTHER
    assert isinstance(make_planner("their_cem", LOW, HIGH, horizon=2), CEM)
    with pytest.raises(UnknownNameError, match="did you mean their_cem"):
        make_planner("ther_cem", LOW, HIGH)


def test_built_in_names_do_not_look_for_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(group: str) -> None:
        raise AssertionError("looked up entry points")

    monkeypatch.setattr(importlib.metadata, "entry_points", fail)
    make_planner("cem", LOW, HIGH)


@dataclass
class NoOptions:
    pass


@pytest.mark.parametrize("value", [3, CEM, (CEM, 3), (CEM, NoOptions, 1), (CEM, NoOptions, (), 2)])
def test_entry_points_that_are_no_planner_are_refused(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    offer(monkeypatch, "theirs", "theirs:entry")
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: value)
    with pytest.raises(PlannerError, match=r"entry point 'theirs' must name a PlannerEntry\(planner, options\), got"):
        find_planner("theirs")


def test_entry_points_that_cannot_be_imported_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "theirs", "not_installed_here:entry")
    with pytest.raises(PlannerError, match="entry point 'theirs' must be importable, got ModuleNotFoundError"):
        find_planner("theirs")


def test_every_planner_has_a_name_built_in_ones_first(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "a_planner", "theirs:entry")
    assert planner_names() == [*PLANNERS, "a_planner"]
