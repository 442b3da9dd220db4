"""Search over action sequences: planners know tensors and a cost function, nothing else."""

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from .. import UnknownNameError
from .base import CostFn, Plan, Planner, PlannerError, PlannerOptions
from .cem import CEM, CEMOptions
from .gaussian import GaussianOptions, GaussianPlanner
from .gradient import Gradient, GradientOptions, SampleGradient, SampleGradientOptions
from .hosted import HostedOptions, HostedPlanner, Trial, WarmStart, seeds_for
from .icem import ICEM, ICEMOptions
from .mppi import MPPI, MPPIOptions
from .random_shooting import RandomShooting, RandomShootingOptions
from .risk import RiskOptions, aggregate
from .sampling import SamplingPlanner, SearchState

__all__ = [
    "CEM",
    "ICEM",
    "MPPI",
    "PLANNERS",
    "CEMOptions",
    "CostFn",
    "GaussianOptions",
    "GaussianPlanner",
    "Gradient",
    "GradientOptions",
    "HostedOptions",
    "HostedPlanner",
    "ICEMOptions",
    "MPPIOptions",
    "Plan",
    "Planner",
    "PlannerEntry",
    "PlannerError",
    "PlannerOptions",
    "RandomShooting",
    "RandomShootingOptions",
    "RiskOptions",
    "SampleGradient",
    "SampleGradientOptions",
    "SamplingPlanner",
    "SearchState",
    "Trial",
    "WarmStart",
    "aggregate",
    "find_planner",
    "make_planner",
    "planner_names",
    "seeds_for",
]

ENTRY_POINTS = "forethought.planners"
"""Group of entry points under which other packages offer planners, each naming a `PlannerEntry`."""


class PlannerEntry(NamedTuple):
    """A planner and what to know about it; what an entry point names."""

    planner: type[Any]
    """The class, called as `planner(action_low, action_high, options)`."""
    options: type[Any]
    """The dataclass of its options."""
    lacks: tuple[str, ...] = ()
    """Optional promises of the contract that it does not keep, as `forethought check-planner` names them."""


PLANNERS: Mapping[str, PlannerEntry] = MappingProxyType(
    {
        "random_shooting": PlannerEntry(RandomShooting, RandomShootingOptions),
        "cem": PlannerEntry(CEM, CEMOptions),
        "icem": PlannerEntry(ICEM, ICEMOptions),
        "mppi": PlannerEntry(MPPI, MPPIOptions),
        "gradient": PlannerEntry(Gradient, GradientOptions),
        "sample_gradient": PlannerEntry(SampleGradient, SampleGradientOptions),
    }
)
"""The built-in planners by name."""


def planner_names() -> list[str]:
    """Every planner that can be made here: the built-in ones, then those of installed packages by name."""
    return [*PLANNERS, *sorted(importlib.metadata.entry_points(group=ENTRY_POINTS).names - PLANNERS.keys())]


def find_planner(name: str) -> PlannerEntry:
    """The planner of that name: a built-in one, or else one that an installed package offers.

    Raises:
        UnknownNameError: there is none.
        PlannerError: a package offers one that is no `PlannerEntry`, or that cannot be imported.
    """
    if name in PLANNERS:
        return PLANNERS[name]
    offered = importlib.metadata.entry_points(group=ENTRY_POINTS)
    if name not in offered.names:
        raise UnknownNameError("planner", name, [*PLANNERS, *offered.names])
    try:
        entry = offered[name].load()
    except (ImportError, AttributeError) as error:
        raise PlannerError(f"entry point {name!r} must be importable, got {type(error).__name__}: {error}") from error
    lacks = entry[2] if isinstance(entry, tuple) and len(entry) == 3 else ()
    is_entry = isinstance(entry, tuple) and len(entry) in (2, 3) and dataclasses.is_dataclass(entry[1])
    if not (is_entry and isinstance(lacks, tuple)):
        raise PlannerError(f"entry point {name!r} must name a PlannerEntry(planner, options), got {entry!r}")
    return PlannerEntry(*entry)


def make_planner(
    name: str, action_low: Tensor, action_high: Tensor, options: object = None, **changes: Any
) -> Planner[Any]:
    """Make a planner by name.

    Args:
        name: one of `PLANNERS`, or offered by an installed package.
        action_low: lower bounds `[A]`; the planner computes in their dtype and on their device.
        action_high: upper bounds `[A]`.
        options: options of this planner; None for the defaults.
        changes: single options that differ from these, by name.

    Raises:
        UnknownNameError: no such planner or option.
        PlannerError: options or bounds out of range, or options of another planner.
    """
    entry = find_planner(name)
    if options is None:
        options = entry.options()
    if not isinstance(options, entry.options):
        raise PlannerError(
            f"options of planner {name!r} must be {entry.options.__name__}, got {type(options).__name__}"
        )
    known = [field.name for field in dataclasses.fields(entry.options)]
    for change in changes:
        if change not in known:
            raise UnknownNameError("planner option", change, known)
    planner: Planner[Any] = entry.planner(action_low, action_high, dataclasses.replace(options, **changes))
    return planner
