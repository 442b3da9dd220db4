"""Equal budgets: as many evaluations, or as many milliseconds, for every planner and every plan."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import UnknownNameError
from ...planners import Planner, PlannerError, find_planner
from .arena import GRADIENT_EVALUATIONS, Arena, BenchError, Meter, Settings

_SHARE_OF_DEADLINE = 0.9
"""A plan is made to end by itself before its deadline, which cuts off what takes unusually long."""
_FIRST_TRIAL, _LARGEST_TRIAL = 16, 2**20


@dataclass(frozen=True)
class Contender:
    """A planner in the comparison.

    Args:
        label: by which results are shown.
        planner: name in the registry.
        options: single options that differ from its defaults.
        tuned: more of them, by the name of the arena, of which those that are not named are not played; None is the
            same everywhere.
    """

    label: str
    planner: str
    options: Mapping[str, Any]
    tuned: Mapping[str, Mapping[str, Any]] | None = None

    def on(self, arena: str) -> "Contender":
        """The contender on an arena; what was given for it counts before what was tuned.

        Raises:
            BenchError: nothing was tuned for this arena.
        """
        if self.tuned is None:
            return self
        if arena not in self.tuned:
            raise BenchError("no options are tuned for it")
        return Contender(self.label, self.planner, {**self.tuned[arena], **self.options})


@dataclass(frozen=True)
class Fitted:
    """A planner made for an arena and a budget.

    Args:
        planner: ready to plan.
        options: all of them.
        evaluations: that a plan spends.
        allowed: the budget that it was made for.
        uses_gradients: whether it needs costs that are differentiable.
    """

    planner: Planner[Any]
    options: dict[str, Any]
    evaluations: int
    allowed: int
    uses_gradients: bool


def contender(label: str, given: Mapping[str, Any]) -> Contender:
    """A contender from its label and the options given for it, among them `planner` where the label is another.

    Raises:
        UnknownNameError: no such planner or option.
        BenchError: an option that the comparison itself sets.
    """
    options = dict(given)
    name = str(options.pop("planner", label))
    known = [field.name for field in dataclasses.fields(find_planner(name).options)]
    for option in options:
        if option in ("horizon", "num_samples"):
            source = "horizon=" if option == "horizon" else "budgets="
            raise BenchError(f"options.{label}.{option} cannot be set: it follows from {source}, equal for all")
        if option not in known:
            raise UnknownNameError(f"option of planner {name!r}", option, known)
    return Contender(label, name, options)


def tuned_contenders(
    entries: Sequence[Contender], known: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> list[Contender]:
    """Those of the contenders for which options were tuned, with these, as `<label>_tuned`.

    Args:
        entries: contenders as they are.
        known: tuned options by planner and arena.

    Raises:
        BenchError: there are none for any of them, or a label is taken.
    """
    labels = [entry.label for entry in entries]
    tuned = [
        Contender(f"{entry.label}_tuned", entry.planner, entry.options, known[entry.planner])
        for entry in entries
        if entry.planner in known
    ]
    if not tuned:
        raise BenchError(
            f"tuned must be false for {', '.join(labels)}: options are tuned for {', '.join(known) or 'none'}"
        )
    for entry in tuned:
        if entry.label in labels:
            raise BenchError(f"planners must not name {entry.label!r} with tuned=true, which adds it")
    return [*entries, *tuned]


def shape(name: str, budget: int) -> dict[str, Any]:
    """How a built-in planner spends a budget where the user does not say: rounds of candidates, steps of descent.

    More evaluations go into larger rounds first and into more of them later, from 3 rounds of some 20 candidates to 6
    of hundreds. Gradient descent takes some 10 to 30 steps, of as many sequences as that leaves.
    """
    rounds = int(np.clip(round(np.log2(max(budget, 1))) - 3, 2, 6))
    match name:
        case "cem" | "icem" | "mppi":
            return {"iterations": rounds}
        case "gradient":
            return {"iterations": int(np.clip(budget // (2 * GRADIENT_EVALUATIONS), 1, 30))}
        case "sample_gradient":
            return {"iterations": max(1, rounds - 1), "refine_iterations": int(np.clip(budget // 64, 1, 10))}
    return {}


def fit(entry: Contender, arena: Arena, budget: int) -> Fitted:
    """The planner with as many samples as a budget of evaluations allows.

    What a plan spends is not computed but counted, on a trial cost function: that holds for populations that shrink,
    for gradients (`GRADIENT_EVALUATIONS` each) and for planners of others. `num_elites` keeps its proportion to
    `num_samples`, at least an eighth and four, where it is not given.

    Raises:
        BenchError: the budget does not suffice for a single round.
    """
    low, high, too_few, too_many = 1, budget, "", ""
    best: Fitted | None = None
    fixed = "num_samples" not in {f.name for f in dataclasses.fields(find_planner(entry.planner).options)}
    while low <= high:
        samples = (low + high) // 2
        try:
            trial = _make(entry, arena, budget, None if fixed else samples)
        except PlannerError as error:  # too few samples for its elites
            low, too_few = samples + 1, str(error)
            continue
        if trial.evaluations > budget:
            high, too_many = samples - 1, f"it spends {trial.evaluations}"
        else:
            low, best = samples + 1, trial
        if fixed:
            break
    if best is None:
        raise BenchError(f"budget={budget} is too small for {entry.label}: {too_many or too_few}")
    return best


def _make(entry: Contender, arena: Arena, budget: int, samples: int | None) -> Fitted:
    registered = find_planner(entry.planner)
    default = registered.options()
    known = {field.name for field in dataclasses.fields(default)}
    chosen: dict[str, Any] = {"horizon": arena.horizon, **shape(entry.planner, budget), **entry.options}
    if samples is not None:
        chosen["num_samples"] = samples
        elites = getattr(default, "num_elites", None)
        if "num_elites" not in entry.options and isinstance(elites, int):
            share = max(elites / default.num_samples, 1 / 8)
            chosen["num_elites"] = min(max(4, round(share * samples)), samples)
    try:
        options = dataclasses.replace(default, **{k: v for k, v in chosen.items() if k in known})
    except TypeError as error:
        raise BenchError(f"options.{entry.label}: {error}") from None
    planner = registered.planner(arena.action_low, arena.action_high, options)
    spent, uses_gradients = _count(registered.planner, arena, options)
    return Fitted(planner, dataclasses.asdict(options), spent, budget, uses_gradients)


def _count(planner: type[Any], arena: Arena, options: Any) -> tuple[int, bool]:
    """Evaluations of the first or second plan of an episode, whichever are more, and whether they took gradients."""
    never = {name: None for name in ("early_stop_tolerance", "early_stop_std") if hasattr(options, name)}
    meter: Meter[Any] = Meter(planner(arena.action_low, arena.action_high, dataclasses.replace(options, **never)))
    generator, state = torch.Generator().manual_seed(0), meter.init(1)
    for _ in range(2):
        _, state = meter.plan(_trial_cost, state, generator)
        state = meter.advance(state, 1)
    return max(meter.evaluations), meter.used_gradients


def _trial_cost(actions: Tensor) -> Tensor:
    return actions.square().sum(dim=(2, 3))


def fit_time(entry: Contender, arena: Arena, milliseconds: float, seed: int) -> Fitted:
    """The planner with as many samples as a plan has time for, measured on plans of the arena itself.

    Raises:
        BenchError: there is no time for the smallest plan.
    """
    settings = Settings(decisions=3)
    evaluations, known = _FIRST_TRIAL, dict[int, float]()
    while evaluations <= _LARGEST_TRIAL:
        try:
            fitted = fit(entry, arena, evaluations)
        except BenchError:
            evaluations *= 2
            continue
        episode = arena.play(fitted.planner, seed, torch.Generator().manual_seed(seed), settings)
        known[evaluations] = min(episode.milliseconds[1:] or episode.milliseconds)
        if known[evaluations] > milliseconds:
            break
        evaluations *= 2
    target, counts = _SHARE_OF_DEADLINE * milliseconds, sorted(known)
    if not counts or known[counts[0]] > milliseconds:
        took = f"the smallest takes {known[counts[0]]:.1f} ms" if counts else "it makes no plan at all"
        raise BenchError(f"budget of {milliseconds:g} ms is too small for {entry.label} on {arena.name}: {took}")
    suffices = int(np.interp(target, np.maximum.accumulate([known[c] for c in counts]), counts))
    return fit(entry, arena, max(suffices, counts[0]))
