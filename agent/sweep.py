"""Sweeps: the same job with varied options, trial after trial, on a grid or searched with Optuna.

`sweep.json` holds every trial and is all there is to go on from: the same call continues a sweep that was killed, and
comes to the same as if it had not been.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from .. import ForethoughtError, UnknownNameError
from . import provenance
from .files import FileError, read_json, write_json

_DIGITS = 4
"""Significant digits of numbers that a search draws from an interval; more say nothing and cannot be read."""


class SweepError(ForethoughtError):
    """A sweep that cannot be made as asked."""


@dataclass(frozen=True)
class Choices:
    """Values without an order, as they stand in overrides."""

    options: tuple[str, ...]

    def values(self) -> tuple[str, ...]:
        """All of them."""
        return self.options

    def first(self) -> str:
        """One of them."""
        return self.options[0]

    def text(self, value: Any) -> str:
        """A value as it stands in an override."""
        return str(value)

    def number(self, text: str) -> Any:
        """The value that a text stands for."""
        return text


@dataclass(frozen=True)
class Numbers:
    """Numbers from `low` to `high`, both included.

    Args:
        low: at least.
        high: at most.
        integer: whole numbers only.
        log: searched by their logarithm.
        step: between neighbours; None is an interval, which only a search can draw from.
    """

    low: float
    high: float
    integer: bool = False
    log: bool = False
    step: float | None = None

    def values(self) -> tuple[str, ...]:
        """All of them; none of an interval, which has no end of them."""
        if self.step is None:
            return ()
        count = round((self.high - self.low) / self.step) + 1
        return tuple(self.text(self.low + i * self.step) for i in range(count))

    def first(self) -> str:
        """The least."""
        return self.text(self.low)

    def text(self, value: float) -> str:
        """A value as it stands in an override."""
        if self.integer:
            return str(round(value))
        digits = _DIGITS if self.step is None else 12
        return repr(min(max(float(f"{value:.{digits}g}"), self.low), self.high))

    def number(self, text: str) -> float:
        """The value that a text stands for."""
        return int(text) if self.integer else float(text)


Space = dict[str, Choices | Numbers]
"""What is varied, by key."""


@dataclass
class SweepOptions:
    """How a sweep goes through what is varied."""

    trials: int | None = None
    """Trials of a search by Optuna's TPE, which learns from those before; None tries every combination of values. More
    can be added later."""
    seed: int = 0
    """Of the search."""
    metric: str = "auto"
    """What is made as large as possible: `success` or `return` (train, by the best validation; eval), `score` (bench);
    `auto` takes success where there are goals."""

    def __post_init__(self) -> None:
        if self.trials is not None and self.trials < 1:
            raise SweepError(f"sweep.trials must be at least 1, got {self.trials}")
        if self.seed < 0:
            raise SweepError(f"sweep.seed must be 0 or more, got {self.seed}")
        if self.metric not in METRICS:
            raise UnknownNameError("sweep.metric", self.metric, METRICS)


METRICS_OF = {"train": ("auto", "success", "return"), "eval": ("auto", "success", "return"), "bench": ("auto", "score")}
"""What may be made as large as possible, by what is swept."""
METRICS = tuple(dict.fromkeys(itertools.chain.from_iterable(METRICS_OF.values())))


@dataclass(frozen=True)
class Trial:
    """One job of a sweep.

    Args:
        number: its place, from 0; its folder is `trials/<number>`.
        values: what is varied, as it stands in overrides.
        value: of the metric; None where it failed.
        error: why it failed.
        seconds: that it took.
    """

    number: int
    values: dict[str, str]
    value: float | None
    error: str | None
    seconds: float


class Watcher(Protocol):
    """Is told of every trial."""

    def begins(self, number: int, total: int, values: Mapping[str, str]) -> None:
        """A trial is about to be played."""
        ...

    def ended(self, trial: Trial, best: Trial | None, left: int) -> None:
        """A trial is over and on file; `best` is the best of all so far, if any succeeded, `left` are to be played."""
        ...


def run_sweep(
    space: Space,
    options: SweepOptions,
    setup: Mapping[str, Any],
    out: Path,
    play: Callable[[Path, dict[str, str]], float],
    watcher: Watcher,
) -> dict[str, Any]:
    """Play every trial that is not on file yet, and those again that failed.

    Args:
        space: what is varied.
        options: how it is gone through.
        setup: JSON values that say what else the sweep is; a folder that holds another one is refused.
        out: folder of `sweep.json` and of the trials.
        play: makes a trial in a folder, with these values, and returns what is to be large.
        watcher: is told of every trial.

    Returns:
        the content of `sweep.json`.

    Raises:
        SweepError: nothing is varied, a grid cannot be made, Optuna is missing, `out` holds another sweep, or every
            trial failed.
    """
    if not space:
        raise SweepError(
            "a sweep must vary something, got no key with several values: seed=0,1,2, planner.horizon='range(5,20,5)', "
            "or learner.learning_rate='interval(1e-4,1e-2)' with sweep.trials=20"
        )
    if options.trials is None:
        for key, values in space.items():
            if not values.values():
                raise SweepError(f"{key} is an interval, which has no end of values: say sweep.trials=20 to search it")
        total = math.prod(len(values.values()) for values in space.values())
    else:
        _optuna()
        total = options.trials
    # A list, because the order of the keys says which combination has which number.
    described = [{"key": key, "kind": type(v).__name__.lower(), **dataclasses.asdict(v)} for key, v in space.items()]
    search = None if options.trials is None else {"sampler": "TPE", "seed": options.seed}
    whole = _plain({**setup, "space": described, "search": search, "metric": options.metric})
    trials = _recorded(out / "sweep.json", whole)
    total = max(total, len(trials))  # of a search that was longer before
    result = _written(out, whole, trials, total)
    missing = [t.number for t in trials if t.error is not None] + list(range(len(trials), total))
    for played, number in enumerate(missing):
        known = trials[number].values if number < len(trials) else None
        chosen = known or (_proposed(space, options.seed, trials) if search else _combination(space, number))
        watcher.begins(number, total, chosen)
        trial = _played(number, chosen, out / "trials" / f"{number:03d}", play)
        trials[number : number + 1] = [trial]
        result = _written(out, whole, trials, total)
        watcher.ended(trial, best_of(trials), len(missing) - played - 1)
    if result["best"] is None:
        raise SweepError(f"all {total} trials failed, the first one with: {trials[0].error}")
    return result


def best_of(trials: list[Trial]) -> Trial | None:
    """The trial of the highest value, the first one where several share it."""
    return max((t for t in trials if t.value is not None), key=lambda t: (t.value, -t.number), default=None)


def _played(number: int, values: dict[str, str], folder: Path, play: Callable[[Path, dict[str, str]], float]) -> Trial:
    began, value, error = perf_counter(), None, None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        value = float(play(folder, values))
        if not math.isfinite(value):
            value, error = None, f"the metric must be finite, got {value}"
    except ForethoughtError as reason:
        error = " ".join(str(reason).split())
    except Exception as reason:  # of an environment, say: the other trials are none the worse for it
        error = " ".join(f"{type(reason).__name__}: {reason}".split())
    return Trial(number, values, value, error, round(perf_counter() - began, 2))


def _written(out: Path, setup: Mapping[str, Any], trials: list[Trial], total: int) -> dict[str, Any]:
    best = best_of(trials)
    rows = [dataclasses.asdict(trial) for trial in trials]
    result = {
        **provenance.of_result(), "setup": setup, "total": total, "trials": rows,
        "best": None if best is None else dataclasses.asdict(best),
    }  # fmt: skip
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make {out}: {error.strerror or error}") from error
    write_json(out / "sweep.json", result)
    return result


def _recorded(path: Path, setup: Mapping[str, Any]) -> list[Trial]:
    """Trials on file."""
    if not path.exists():
        return []
    stored = read_json(path)
    try:
        trials = [Trial(**trial) for trial in stored["trials"]]
        before = dict(stored["setup"])
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"cannot read {path}: it is not a sweep") from error
    if before != setup:
        changed = ", ".join(sorted(k for k in {*before, *setup} if before.get(k) != setup.get(k)))
        raise SweepError(f"{path} holds a sweep of another {changed}: choose another out=, or delete what is there")
    return trials


def _plain(data: Any) -> Any:
    """As JSON gives it back."""
    if isinstance(data, Mapping):
        return {key: _plain(value) for key, value in data.items()}
    return [_plain(value) for value in data] if isinstance(data, list | tuple) else data


def _combination(space: Space, number: int) -> dict[str, str]:
    """One of all combinations; the last key varies fastest, as in Hydra's sweeps."""
    combinations: Iterator[tuple[str, ...]] = itertools.product(*(values.values() for values in space.values()))
    return dict(zip(space, next(itertools.islice(combinations, number, None)), strict=True))


# -- search ------------------------------------------------------------------------------------------------------------


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise SweepError("sweep.trials needs Optuna: pip install 'forethought[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _proposed(space: Space, seed: int, trials: list[Trial]) -> dict[str, str]:
    """Values for the next trial, by the tree-structured Parzen estimator (Bergstra et al. 2011) of Optuna.

    The study is made anew from the trials on file, with a generator that follows from seed and number alone. So there
    is no second record that could disagree with `sweep.json`, and no state that is lost when a sweep is killed.
    """
    optuna = _optuna()
    digest = hashlib.blake2b(repr((seed, len(trials))).encode(), digest_size=4).digest()
    sampler = optuna.samplers.TPESampler(seed=int.from_bytes(digest, "big"))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions = {key: _distribution(values) for key, values in space.items()}
    for trial in trials:
        params = {key: space[key].number(text) for key, text in trial.values.items()}
        state = optuna.trial.TrialState.FAIL if trial.value is None else optuna.trial.TrialState.COMPLETE
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=distributions, value=trial.value, state=state)
        )
    asked = study.ask(distributions)
    return {key: space[key].text(asked.params[key]) for key in space}


def _distribution(values: Choices | Numbers) -> Any:
    distributions = _optuna().distributions
    if isinstance(values, Choices):
        return distributions.CategoricalDistribution(values.options)
    if values.integer:
        step = 1 if values.step is None else int(values.step)
        return distributions.IntDistribution(int(values.low), int(values.high), log=values.log, step=step)
    return distributions.FloatDistribution(values.low, values.high, log=values.log, step=values.step)
