"""The contract of planners as checks that any planner can be put through: `forethought check-planner NAME`.

A check plans for a few known cost functions and looks at what was asked and what came back; none looks at a clock. The
agent relies on what is required. What is optional, a planner may lack if it says so in `PlannerEntry.lacks`.
"""

import dataclasses
import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .. import UnknownNameError
from .base import CostFn, Plan, Planner, PlannerError

LOW, HIGH = torch.tensor([-1.0, 0.2, -30.0]), torch.tensor([3.0, 0.3, -10.0])
"""Bounds of the checks: asymmetric, of different widths, and not around zero."""

Outcome = Literal["passed", "failed", "absent"]


@dataclass(frozen=True)
class Check:
    """One promise of a planner, and how to see whether it is kept.

    Args:
        name: how it is called.
        promise: one sentence, of a planner that keeps it.
        advice: what to do where it is not kept.
        optional: whether a planner may declare that it does without.
        run: raises `Broken` with what was seen, where the promise is not kept.
    """

    name: str
    promise: str
    advice: str
    optional: bool
    run: Callable[["Subject"], None]


@dataclass(frozen=True)
class Finding:
    """What became of one check.

    Args:
        check: its name.
        required: whether a planner must keep this promise.
        outcome: `passed`, `failed`, or `absent` where the planner declares to do without.
        text: the promise, or what was seen instead and what to do.
    """

    check: str
    required: bool
    outcome: Outcome
    text: str


class Broken(Exception):  # noqa: N818 (caught here; nobody else sees it)
    """A promise was not kept; says what was seen."""


CHECKS: dict[str, Check] = {}
"""Every check by name, in the order in which they are run."""


def check_planner(make: Callable[[Tensor, Tensor], Planner[Any]], lacks: Collection[str] = ()) -> Iterator[Finding]:
    """Put a planner through every check.

    Args:
        make: makes the planner of bounds `[A]` and `[A]`.
        lacks: optional checks that it declares not to keep; they are not run.

    Yields:
        a finding per check. An error that a planner raises is a finding, too.

    Raises:
        UnknownNameError: `lacks` names no check.
        PlannerError: `lacks` names one that is required.
    """
    for name in lacks:
        if name not in CHECKS:
            raise UnknownNameError("planner check", name, CHECKS)
        if not CHECKS[name].optional:
            optional = ", ".join(check.name for check in CHECKS.values() if check.optional)
            raise PlannerError(f"lacks must name optional checks ({optional}), got {name!r}")
    return (_examine(check, make, check.name in lacks) for check in CHECKS.values())


def _examine(check: Check, make: Callable[[Tensor, Tensor], Planner[Any]], lacking: bool) -> Finding:
    outcome, text = "passed", check.promise
    if lacking:
        outcome, text = "absent", f"declared: {check.promise[0].lower()}{check.promise[1:]}"
    else:
        try:
            check.run(Subject(make))
        except Broken as seen:
            outcome, text = "failed", f"{seen}. {check.advice}"
        except Exception as error:  # whatever a planner raises says something about that planner
            outcome, text = "failed", f"raised {type(error).__name__}: {error}. {check.advice}"
    return Finding(check.name, not check.optional, outcome, text)  # type: ignore[arg-type]


class Recorder:
    """A cost function that remembers what it was asked, `[B, n, H, A]`, and what it answered, `[B, n]`."""

    def __init__(self, cost_fn: CostFn) -> None:
        self.cost_fn, self.asked, self.answered = cost_fn, list[Tensor](), list[Tensor]()

    def __call__(self, actions: Tensor) -> Tensor:
        """See `CostFn`."""
        self.asked.append(actions.detach().clone())
        costs = self.cost_fn(actions)
        self.answered.append(costs.detach().clone())
        return costs


class Subject:
    """A planner under examination: it is made afresh for every check."""

    batch_size = 3

    def __init__(self, make: Callable[[Tensor, Tensor], Planner[Any]]) -> None:
        self.make = make

    @cached_property
    def planner(self) -> Planner[Any]:
        """The planner with the bounds of the checks."""
        return self.make(LOW, HIGH)

    @property
    def horizon(self) -> int:
        """Actions of its plans, `H`."""
        return self.planner.horizon

    def targets(self, outside: float = 0.0, seed: int = 7, batch_size: int | None = None) -> Tensor:
        """Sequences `[B, H, A]` inside the bounds, or up to `outside` ranges beyond them."""
        shape = (self.batch_size if batch_size is None else batch_size, self.horizon, len(LOW))
        unit = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        return LOW + (HIGH - LOW) * ((1 + 2 * outside) * unit - outside)

    def plan(
        self, cost_fn: CostFn, state: Any = None, *, seed: int = 0, seeds: Tensor | None = None,
        deadline_s: float | None = None, batch_size: int | None = None,
    ) -> tuple[Plan, Any]:  # fmt: skip
        """A plan from that state, or from the start."""
        if state is None:
            state = self.planner.init(self.batch_size if batch_size is None else batch_size)
        return self.planner.plan(cost_fn, state, torch.Generator().manual_seed(seed), seeds, deadline_s)


def quadratic(target: Tensor) -> CostFn:
    """The squared distance from a target `[B, H, A]`, in ranges of the actions."""
    low, high = LOW.to(target), HIGH.to(target)
    return lambda actions: (((actions - target[:, None]) / (high - low)) ** 2).sum(dim=(2, 3))


def tensors(state: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a state by name, those of dataclasses inside it included."""
    for field in dataclasses.fields(state):
        value, name = getattr(state, field.name), prefix + field.name
        if isinstance(value, Tensor):
            yield name, value
        elif dataclasses.is_dataclass(value):
            yield from tensors(value, f"{name}.")


def same(one: Plan, two: Plan) -> bool:
    """Whether two plans are the same to the bit, time aside."""
    fields = ("actions", "cost", "best_costs", "num_invalid")
    return all(torch.equal(getattr(one, field), getattr(two, field)) for field in fields)


def _expect(condition: object, seen: str) -> None:
    if not condition:
        raise Broken(seen)


def _inside(actions: Tensor, what: str) -> None:
    over = torch.maximum(LOW - actions, actions - HIGH)
    _expect(not over.isnan().any(), f"{what} have NaN in them")
    _expect((over <= 0).all(), f"{what} are up to {float(over.max()):.3g} outside the bounds")


def _check(promise: str, advice: str, *, optional: bool = False) -> Callable[[Callable[[Subject], None]], None]:
    def register(run: Callable[[Subject], None]) -> None:
        name = run.__name__.removeprefix("_check_")
        CHECKS[name] = Check(name, promise, advice, optional, run)

    return register


# -- required ----------------------------------------------------------------------------------------------------------


@_check(
    "It has a horizon, `init`, `plan` and `advance`, and its state is a dataclass.",
    "Follow the protocol forethought.planners.Planner",
)
def _check_protocol(subject: Subject) -> None:
    planner = subject.planner
    for name in ("init", "plan", "advance"):
        _expect(callable(getattr(planner, name, None)), f"there is no method {name}")
    horizon = getattr(planner, "horizon", None)
    _expect(isinstance(horizon, int) and horizon >= 1, f"horizon is {horizon!r}, no integer of at least 1")
    start = planner.init(subject.batch_size)
    result = subject.plan(quadratic(subject.targets()), start)
    _expect(isinstance(result, tuple) and len(result) == 2, f"plan returns {type(result).__name__}, no (Plan, state)")
    _expect(isinstance(result[0], Plan), f"plan returns {type(result[0]).__name__} first, no Plan")
    for name, state in {"init": start, "plan": result[1], "advance": planner.advance(result[1], 1)}.items():
        is_state = dataclasses.is_dataclass(state) and not isinstance(state, type)
        _expect(is_state, f"the state from {name} is {type(state).__name__}, no dataclass")


@_check(
    "Candidates are [B, n, H, A]; a plan has actions [B, H, A], costs [B], and best costs [B, I] by iteration.",
    "See the shapes in the docstring of forethought.planners.Plan; B may be 1",
)
def _check_shapes(subject: Subject) -> None:
    h, a = subject.horizon, len(LOW)
    for b in (subject.batch_size, 1):
        recorder = Recorder(quadratic(subject.targets(batch_size=b)))
        plan, _ = subject.plan(recorder, batch_size=b)
        _expect(recorder.asked, "the cost function was never asked")
        for call in recorder.asked:
            shape = list(call.shape)
            fits = call.ndim == 4 and (shape[0], *shape[2:]) == (b, h, a)
            _expect(fits, f"asked with {shape} where [B={b}, n, H={h}, A={a}] is due")
        due = {"actions": [b, h, a], "cost": [b], "num_invalid": [b], "std": [b], "best_costs": [b, "I"]}
        for name, shape_due in due.items():
            got = list(getattr(plan, name).shape)
            as_due = len(got) == 2 and got[0] == b and got[1] >= 1 if name == "best_costs" else got == shape_due
            _expect(as_due, f"Plan.{name} is {got} where {shape_due} is due")
            _expect(getattr(plan, name).isfinite().all(), f"Plan.{name} is not finite though all costs are")
        _expect(plan.iterations_run >= 1, f"Plan.iterations_run is {plan.iterations_run}")
        _expect(plan.elapsed_s >= 0, f"Plan.elapsed_s is {plan.elapsed_s}")


@_check(
    "Candidates and plans are inside the bounds, wherever the lowest cost and the seeds are.",
    "Clamp to action_low and action_high, per dimension, before the cost function is asked",
)
def _check_bounds(subject: Subject) -> None:
    recorder = Recorder(quadratic(subject.targets(outside=5.0)))
    first, state = subject.plan(recorder, seeds=subject.targets(outside=50.0)[:, None])
    second, _ = subject.plan(recorder, subject.planner.advance(state, 2))
    for plan in (first, second):
        _inside(plan.actions, "the actions of the plan")
    for call in recorder.asked:
        _inside(call, "candidates")


@_check(
    "The same state, generator state and cost function give the same plan.",
    "Draw from the generator that is given, and keep nothing in the planner between calls",
)
def _check_determinism(subject: Subject) -> None:
    cost_fn = quadratic(subject.targets())
    first, _ = subject.plan(cost_fn, seed=3)
    again, _ = subject.plan(cost_fn, seed=3)
    _expect(same(first, again), "two plans from equal generators differ")
    fresh, _ = Subject(subject.make).plan(cost_fn, seed=3)
    _expect(same(first, fresh), "a planner that has planned before plans differently from a new one")


@_check(
    "It leaves the global generators of torch, numpy and Python alone.",
    "Draw from the generator that is given; seed what another package draws from by a number drawn from it, "
    "inside torch.random.fork_rng() if it must be the global one",
)
def _check_global_random(subject: Subject) -> None:
    numpy_state = np.random.get_state(legacy=False)
    before = torch.random.get_rng_state(), random.getstate(), _numpy_draws(numpy_state)
    _, state = subject.plan(quadratic(subject.targets()), seeds=subject.targets(seed=8)[:, None])
    subject.planner.advance(state, 1)
    after = torch.random.get_rng_state(), random.getstate(), _numpy_draws(np.random.get_state(legacy=False))
    _expect(torch.equal(before[0], after[0]), "the global generator of torch has moved")
    _expect(before[1] == after[1], "the global generator of Python has moved")
    _expect(before[2] == after[2], "the global generator of numpy has moved")


def _numpy_draws(state: Any) -> tuple[bytes, int]:
    return state["state"]["key"].tobytes(), state["state"]["pos"]


@_check(
    "`Plan.cost` is the cost of exactly `Plan.actions`.",
    "Score what is returned, or return what was scored: clamped, rounded and interpolated as in the plan",
)
def _check_cost(subject: Subject) -> None:
    for outside in (0.0, 2.0):
        cost_fn = quadratic(subject.targets(outside))
        plan, _ = subject.plan(cost_fn)
        due = cost_fn(plan.actions[:, None])[:, 0]
        close = torch.allclose(plan.cost, due, rtol=1e-4, atol=1e-5)
        _expect(close, f"Plan.cost is {_numbers(plan.cost)} where its actions cost {_numbers(due)}")


@_check(
    "It finds plans of lower cost than the middle of the bounds.",
    "Lower is better: see that the search does not maximise",
)
def _check_search(subject: Subject) -> None:
    target = LOW + 0.9 * (HIGH - LOW)

    def first_action(actions: Tensor) -> Tensor:  # few dimensions, in which uniform candidates find something, too
        return (((actions[:, :, 0] - target) / (HIGH - LOW)) ** 2).sum(dim=2)

    plan, _ = subject.plan(first_action)
    middle = first_action(((LOW + HIGH) / 2).expand(subject.batch_size, 1, subject.horizon, len(LOW)))[:, 0]
    _expect((plan.cost < middle).all(), f"costs are {_numbers(plan.cost)}, those of the middle {_numbers(middle)}")


@_check(
    "A candidate whose cost is NaN or infinite, minus infinity included, never wins; where none has a finite cost, the "
    "plan's is inf and its actions can still be used.",
    "Take every cost that is not finite for +inf, and learn nothing from its candidate",
)
def _check_invalid_costs(subject: Subject) -> None:
    cost_fn = quadratic(subject.targets())
    middle = float(LOW[0] + HIGH[0]) / 2
    for value in (torch.nan, torch.inf, -torch.inf):

        def half(actions: Tensor, value: float = value) -> Tensor:
            return torch.where(actions[:, :, 0, 0] > middle, value, cost_fn(actions))

        plan, state = subject.plan(half)
        plan_after, _ = subject.plan(half, subject.planner.advance(state, 1), seed=1)
        for found in (plan, plan_after):
            _inside(found.actions, f"where some costs are {value}, the actions of the plan")
            _expect(found.cost.isfinite().all(), f"where some costs are {value}, Plan.cost is {_numbers(found.cost)}")
            _expect((found.actions[:, 0, 0] <= middle).all(), f"a candidate whose cost is {value} was chosen")
    first = torch.arange(subject.batch_size)[:, None] == 0
    plan, state = subject.plan(lambda actions: torch.where(first, torch.nan, cost_fn(actions)))
    _inside(plan.actions, "where a problem has no valid candidate, the actions of the plan")
    infinite = plan.cost.isinf().tolist()
    _expect(infinite == first[:, 0].tolist(), f"where the first problem alone has only NaN, costs are {plan.cost}")
    plan, _ = subject.plan(cost_fn, subject.planner.advance(state, 1))
    _expect(plan.cost.isfinite().all(), "it does not recover from a plan whose costs were all NaN")


@_check(
    "The problems of a batch do not see each other's costs.",
    "Rank and average along dimension 1 alone, and let no problem's costs decide how many numbers another draws",
)
def _check_problems(subject: Subject) -> None:
    target = subject.targets()
    plan, _ = subject.plan(quadratic(target))
    other = torch.cat((target[:1], subject.targets(outside=3.0, seed=9)[1:]))
    changed, _ = subject.plan(quadratic(other))
    alike = torch.allclose(plan.actions[0], changed.actions[0], rtol=1e-4, atol=1e-4)
    _expect(alike, "the plan of the first problem changes with the costs of the others")
    _expect(not torch.allclose(plan.actions[1:], changed.actions[1:]), "costs do not change the plan")


@_check(
    "With `deadline_s` it returns the best so far when time is over, after something was scored in any case.",
    "Look at the time between iterations, after the first",
)
def _check_deadline(subject: Subject) -> None:
    cost_fn = quadratic(subject.targets(batch_size=1))
    patient, hurried = Recorder(cost_fn), Recorder(cost_fn)
    expected, _ = subject.plan(patient, batch_size=1)
    plan, state = subject.plan(hurried, deadline_s=0.0, batch_size=1)
    _expect(hurried.asked, "without time nothing was scored")
    early = len(hurried.asked) < len(patient.asked) or len(patient.asked) == 1
    _expect(early, f"without time the cost function was asked {len(hurried.asked)} times, as often as with all of it")
    _inside(plan.actions, "without time, the actions of the plan")
    _expect(plan.cost.isfinite().all(), f"without time, Plan.cost is {_numbers(plan.cost)}")
    due = cost_fn(plan.actions[:, None])[:, 0]
    _expect(torch.allclose(plan.cost, due, rtol=1e-4, atol=1e-5), "without time, Plan.cost is not that of its actions")
    subject.plan(cost_fn, subject.planner.advance(state, 1))
    generous, _ = subject.plan(cost_fn, deadline_s=1e6, batch_size=1)
    _expect(same(generous, expected), "a deadline that is days away changes the plan")


@_check(
    "It computes in the dtype of the bounds, whatever the dtype of costs.",
    "Make every tensor with the dtype and device of action_low",
)
def _check_dtype(subject: Subject) -> None:
    planner, target = subject.make(LOW.double(), HIGH.double()), subject.targets().double()
    recorder = Recorder(quadratic(target))
    plan, _ = planner.plan(
        lambda actions: recorder(actions).float(), planner.init(subject.batch_size), torch.Generator().manual_seed(0)
    )
    found = {"candidates are": recorder.asked[0], "Plan.actions is": plan.actions, "Plan.cost is": plan.cost}
    for what, tensor in found.items():
        _expect(tensor.dtype == torch.float64, f"{what} {tensor.dtype} where the bounds are torch.float64")


@_check(
    "Nothing that it returns or leaves behind hangs on a graph of gradients.",
    "Search under torch.no_grad(), and clone what comes out of torch.inference_mode()",
)
def _check_gradients(subject: Subject) -> None:
    weight, cost_fn = torch.ones((), requires_grad=True), quadratic(subject.targets())
    plan, state = subject.plan(lambda actions: weight * cost_fn(actions))
    returned = {"Plan.actions": plan.actions, "Plan.cost": plan.cost, "Plan.best_costs": plan.best_costs}
    returned |= {f"{name} of the state": tensor for name, tensor in tensors(state)}
    for name, tensor in returned.items():
        _expect(not tensor.requires_grad, f"{name} requires gradients")
        _expect(not tensor.is_inference(), f"{name} is a tensor of inference mode, which autograd refuses")
    _expect(weight.grad is None, "the gradient of a weight of the cost function was written")


@_check(
    "A state that was passed is not changed, and can be planned from again.",
    "Return a new state (dataclasses.replace) and clone before writing in place",
)
def _check_state(subject: Subject) -> None:
    cost_fn = quadratic(subject.targets())
    _, start = subject.plan(cost_fn)
    kept = {name: tensor.clone() for name, tensor in tensors(start)}
    first, after = subject.plan(cost_fn, start, seed=3)
    other = quadratic(subject.targets(outside=5.0))
    subject.plan(other, subject.planner.advance(after, 1), seed=5, seeds=subject.targets(seed=8)[:, None])
    subject.planner.advance(start, 2)
    again, _ = subject.plan(cost_fn, start, seed=3)
    for name, tensor in tensors(start):
        _expect(torch.equal(kept[name], tensor), f"{name} of a state that was passed has changed")
    _expect(same(first, again), "a second plan from the same state differs")


@_check(
    "Tensors of a state have the batch first and keep their shapes, so that problems can be taken out and put back.",
    "Keep what differs between problems in tensors [B, ...], and nothing in lists or objects",
)
def _check_selection(subject: Subject) -> None:
    planner, b = subject.planner, subject.batch_size
    start = planner.init(b)
    _, state = subject.plan(quadratic(subject.targets()), start)
    state = planner.advance(state, 1)
    shapes = {name: list(tensor.shape) for name, tensor in tensors(start)}
    for name, tensor in tensors(state):
        as_begun = shapes.get(name) == list(tensor.shape)
        _expect(as_begun, f"{name} of the state is {list(tensor.shape)} and was {shapes.get(name)} at the start")
        _expect(tensor.ndim == 0 or len(tensor) == b, f"{name} of the state is {list(tensor.shape)} with B={b}")
    rows = torch.tensor([2, 0])
    recorder = Recorder(quadratic(subject.targets()[rows]))
    plan, _ = subject.plan(recorder, _select(state, rows))
    shape = [2, subject.horizon, len(LOW)]
    _expect(list(plan.actions.shape) == shape, f"of two problems, Plan.actions is {list(plan.actions.shape)}")
    due = recorder.cost_fn(plan.actions[:, None])[:, 0]
    _expect(
        torch.allclose(plan.cost, due, rtol=1e-4, atol=1e-5), "of two problems, Plan.cost is not that of its actions"
    )


def _select(state: Any, rows: Tensor) -> Any:
    """The problems `rows` of a state, as an agent takes them when episodes end."""
    kept: dict[str, Any] = {}
    for field in dataclasses.fields(state):
        value = getattr(state, field.name)
        if isinstance(value, Tensor) and value.ndim:
            kept[field.name] = value[rows]
        elif dataclasses.is_dataclass(value):
            kept[field.name] = _select(value, rows)
    return dataclasses.replace(state, **kept)


@_check(
    "Seeds are tried, and win where they are best; one with NaN in it is never tried.",
    "Score seeds [B, S, H, A], clamped to the bounds, beside the first candidates",
)
def _check_seeds(subject: Subject) -> None:
    # Constant over the horizon, so that knots can tell them; a needle that a search does not find by itself.
    inside = subject.targets(seed=11)[:, :1].expand(-1, subject.horizon, -1)
    base = quadratic(subject.targets())

    def needle(actions: Tensor) -> Tensor:
        distance = ((actions - inside[:, None]).abs() / (HIGH - LOW)).amax(dim=(2, 3))
        return base(actions) - torch.where(distance < 1e-4, 1e4, 0.0)

    seeds = torch.stack((subject.targets(seed=12), inside), dim=1)
    plan, _ = subject.plan(needle, seeds=seeds)
    _expect(
        (plan.cost < -5e3).all(), f"a seed that costs {_numbers(needle(seeds)[:, 1])} lost to {_numbers(plan.cost)}"
    )
    absent = seeds.clone()
    absent[:, 0, 0, 0] = torch.nan
    recorder = Recorder(base)
    plan, _ = subject.plan(recorder, seeds=absent)
    _expect(not any(call.isnan().any() for call in recorder.asked), "a seed with NaN in it was scored")
    _inside(plan.actions, "with a seed of NaN, the actions of the plan")
    _expect(plan.cost.isfinite().all(), f"with a seed of NaN, Plan.cost is {_numbers(plan.cost)}")


@_check(
    "The state can be advanced by none, one, or more steps than the plan is long.",
    "Shift the warm start and fill its end; beyond the horizon nothing of it is left",
)
def _check_advance(subject: Subject) -> None:
    cost_fn = quadratic(subject.targets())
    _, state = subject.plan(cost_fn)
    for steps in (0, 1, subject.horizon, subject.horizon + 3):
        plan, _ = subject.plan(cost_fn, subject.planner.advance(state, steps))
        _inside(plan.actions, f"after {steps} steps, the actions of the plan")
        _expect(plan.cost.isfinite().all(), f"after {steps} steps, Plan.cost is {_numbers(plan.cost)}")


@_check(
    "Seeds and costs of the wrong shape are refused with a `PlannerError`.",
    "Compare shapes with [B, S, H, A] and [B, n] before they are used; broadcasting hides the fault",
)
def _check_refusals(subject: Subject) -> None:
    b, h, a = subject.batch_size, subject.horizon, len(LOW)
    cost_fn = quadratic(subject.targets())
    for shape in ((b, 2, h, a + 1), (b, 2, h + 1, a), (b + 1, 2, h, a), (b, h, a)):
        _refused(lambda shape=shape: subject.plan(cost_fn, seeds=torch.zeros(shape)), f"seeds of shape {list(shape)}")  # type: ignore[misc]
    _refused(lambda: subject.plan(lambda actions: actions.sum(dim=-1)), "costs of shape [B, n, H]")


def _refused(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except PlannerError:
        return
    except Exception as error:
        raise Broken(f"{what} led to {type(error).__name__}: {error}") from error
    raise Broken(f"{what} were taken")


# -- optional ----------------------------------------------------------------------------------------------------------


@_check(
    "`Plan.num_invalid` counts the candidates whose cost is not finite, and seeds with NaN in them.",
    "Count them by problem",
    optional=True,
)
def _check_counts(subject: Subject) -> None:
    cost_fn, middle = quadratic(subject.targets()), float(LOW[0] + HIGH[0]) / 2
    recorder = Recorder(lambda actions: torch.where(actions[:, :, 0, 0] > middle, torch.nan, cost_fn(actions)))
    plan, _ = subject.plan(recorder)
    due = sum((~answer.isfinite()).sum(dim=1) for answer in recorder.answered)
    _expect(plan.num_invalid.tolist() == due.tolist(), f"it is {plan.num_invalid.tolist()}, due is {due.tolist()}")  # type: ignore[union-attr]
    seeds = subject.targets(seed=12)[:, None].repeat(1, 2, 1, 1)
    seeds[1, 1, 0, 0] = torch.nan
    plan, _ = subject.plan(cost_fn, seeds=seeds)
    counted = plan.num_invalid.tolist()
    _expect(counted == [0, 1, 0], f"it is {counted} where the second problem has a seed with NaN in it")


@_check(
    "`Plan.best_costs` is the lowest cost up to each iteration.",
    "Note the lowest cost so far after every iteration, and repeat the last value for those not run",
    optional=True,
)
def _check_curve(subject: Subject) -> None:
    recorder = Recorder(quadratic(subject.targets()))
    plan, _ = subject.plan(recorder)
    _expect((plan.best_costs.diff(dim=1) <= 0).all(), f"it rises: {_numbers(plan.best_costs[0])}")
    lowest = torch.cat(recorder.answered, dim=1).amin(dim=1)
    last = plan.best_costs[:, -1]
    seen = torch.isclose(torch.cat(recorder.answered, dim=1), last[:, None], rtol=1e-4, atol=1e-5).any(dim=1)
    _expect(seen.all(), f"it ends at {_numbers(last)}, which nothing cost; the lowest was {_numbers(lowest)}")


@_check(
    "A second plan for the same problem begins where the first one ended.",
    "Try what the state holds of the last plan among the first candidates",
    optional=True,
)
def _check_warm_start(subject: Subject) -> None:
    b = 6  # so many that a cold start does not pass by luck
    cost_fn = quadratic(subject.targets(batch_size=b))
    cold, state = subject.plan(cost_fn, batch_size=b)
    warm, _ = subject.plan(cost_fn, subject.planner.advance(state, 0), seed=1)
    first, second = cold.best_costs[:, 0], warm.best_costs[:, 0]
    _expect(
        (second <= first + 1e-4).all(), f"its first costs are {_numbers(second)}, those of the first {_numbers(first)}"
    )


@_check(
    "Another generator gives other candidates.",
    "Draw from the generator that is given; a fixed seed inside makes every plan fail alike",
    optional=True,
)
def _check_exploration(subject: Subject) -> None:
    one, other = Recorder(quadratic(subject.targets())), Recorder(quadratic(subject.targets()))
    subject.plan(one, seed=3)
    subject.plan(other, seed=4)
    alike = len(one.asked) == len(other.asked) and all(map(torch.equal, one.asked, other.asked))
    _expect(not alike, "two generators give the same candidates")


def _numbers(values: Tensor) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values.tolist()) + "]"
