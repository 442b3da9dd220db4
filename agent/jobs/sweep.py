"""What `--multirun` does: `train`, `eval` or `bench planners` over and over, with varied options."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typing_extensions import override

from ... import ForethoughtError, UnknownNameError
from ...configs.register import load
from ...configs.schema import ConfigError, SweepConfig
from ...configs.sweeps import read_sweep
from ..bench.budget import contender
from ..bench.statistics import gain
from ..files import FileError
from ..runs import RESULTS
from ..sweep import METRICS_OF, Space, SweepError, Trial, run_sweep
from ..training.loop import Progress
from ..training.metrics import read_metrics
from .bench import bench_planners, bench_tasks
from .evaluate import evaluate
from .train import train

_SHOWN = 20
"""Trials that the table at the end shows; `sweep.json` has them all."""


Configure = Callable[[list[str]], Any]
Watch = Callable[[], AbstractContextManager[Progress]]


def run(
    command: str, overrides: Sequence[str], lists: Sequence[str], configure: Configure, watch: Watch, console: Console
) -> int:
    """Carry out a sweep; returns the exit code.

    Args:
        command: `train`, `eval` or `bench`.
        overrides: of the sweep (`sweep.*`, `out`) and of its trials, some of them varied.
        lists: keys in whose values commas do not mean a sweep.
        configure: composes the configuration of one trial from overrides.
        watch: makes the progress of one trial.
        console: for trials, and the table at the end.
    """
    own = [o for o in overrides if o.startswith(("sweep.", "out="))]
    config = load(SweepConfig, own)
    if config.sweep.metric not in METRICS_OF[command]:
        known = ", ".join(METRICS_OF[command])
        raise SweepError(f"sweep.metric of {command} must be one of {known}, got {config.sweep.metric!r}")
    fixed, space = read_sweep([o for o in overrides if o not in own], lists)
    out = Path(config.out).expanduser()
    job = _JOBS[command](fixed, configure, config.sweep.metric, out)
    job.check({key: values.first() for key, values in space.items()})
    teller = Teller(console)

    def play(folder: Path, values: dict[str, str]) -> float:
        with watch() as progress:
            return job.play(folder, values, progress)

    setup = {"command": command, "fixed": fixed}
    result = run_sweep(space, config.sweep, setup, out, play, teller)
    best = result["best"]
    console.print(_table(result, space))
    _say(console, f"best: trial {best['number']} with {best['value']:.4g}, in {out / 'trials'}/{best['number']:03d}")
    words = ["bench", "planners"] if command == "bench" else [command]
    _say(console, f"again: {shlex.join(['forethought', *words, *fixed, *_pairs(best['values'])])}")
    _say(console, f"in {config.out}: sweep.json, trials")
    return 0


def _pairs(values: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


class Teller:
    """Says a line before and after every trial."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds = list[float]()

    def begins(self, number: int, total: int, values: Mapping[str, str]) -> None:
        """See `Watcher`."""
        _say(self.console, f"trial {number} ({total} in all): {' '.join(_pairs(values))}")

    def ended(self, trial: Trial, best: Trial | None, left: int) -> None:
        """See `Watcher`."""
        self.seconds.append(trial.seconds)
        text = f"failed: {trial.error}" if trial.value is None else f"{trial.value:.4g}"
        if best is not None:
            text += f"; best {best.value:.4g} (trial {best.number})"
        seconds = left * sum(self.seconds) / len(self.seconds)
        if left:
            text += f"; about {seconds / 60:.0f} min left" if seconds >= 90 else f"; about {seconds:.0f} s left"
        _say(self.console, f"trial {trial.number}: {text}")


def _table(result: Mapping[str, Any], space: Space) -> Table:
    trials = sorted(result["trials"], key=lambda t: (t["value"] is None, -(t["value"] or 0.0), t["number"]))
    failed = sum(trial["value"] is None for trial in trials)
    notes = [f"{failed} failed"] if failed else []
    notes += [f"the best {_SHOWN} of {len(trials)}"] if len(trials) > _SHOWN else []
    table = Table(title=f"{len(trials)} trials", caption="; ".join(notes) or None)
    for column in ("trial", *space, "value", "seconds"):
        table.add_column(escape(column), justify="right")
    for trial in trials[:_SHOWN]:
        value = "failed" if trial["value"] is None else f"{trial['value']:.4g}"
        cells = (str(trial["number"]), *trial["values"].values(), value, f"{trial['seconds']:.1f}")
        table.add_row(*map(escape, cells))
    return table


# -- what is made in a trial -------------------------------------------------------------------------------------------


class Job:
    """A command as a trial of it is made.

    Args:
        fixed: overrides of all trials.
        configure: composes a configuration from overrides.
        metric: what is to be large.
        out: folder of the sweep.
    """

    def __init__(self, fixed: Sequence[str], configure: Configure, metric: str, out: Path) -> None:
        self.fixed, self.configure, self.metric, self.out = list(fixed), configure, metric, out

    def check(self, values: Mapping[str, str]) -> None:
        """Refuse before the first trial what would fail in all of them; values out of range are a trial's own."""
        raise NotImplementedError

    def play(self, folder: Path, values: Mapping[str, str], progress: Progress) -> float:
        """Make one trial; returns the metric."""
        raise NotImplementedError


class _Training(Job):
    @override
    def check(self, values: Mapping[str, str]) -> None:
        config, _ = _composed(self.configure, [*self.fixed, *_pairs(values), f"out={self.out}"]) or (None, None)
        if config is not None and not config.training.validation_episodes:
            raise SweepError("training.validation_episodes must be at least 1: validation says which trial is best")

    @override
    def play(self, folder: Path, values: Mapping[str, str], progress: Progress) -> float:
        config, _ = self.configure([*self.fixed, *_pairs(values), f"out={folder}"])
        train(config, progress)
        records = [r for r in read_metrics(folder / "metrics.jsonl") if r["phase"] == "validation"]
        names = ["success", "return"] if self.metric == "auto" else [self.metric]
        for name in names:
            found = [float(r[f"validation/{name}"]) for r in records if f"validation/{name}" in r]
            if found:
                return max(found)
        raise SweepError(f"sweep.metric={self.metric}: the validations of {config.env} have none")


class _Evaluation(Job):
    @override
    def check(self, values: Mapping[str, str]) -> None:
        given = [*self.fixed, *_pairs(values)]
        self.configure([o for o in given if o.startswith("run=")])  # without a run there is nothing to try
        config = _composed(self.configure, given)
        if config is not None:
            self._refuse_to_remember(config)

    def _refuse_to_remember(self, config: Any) -> None:
        if config.evaluation.remember:
            raise SweepError("evaluation.remember must be false in a sweep, or every trial knows what those before met")

    @override
    def play(self, folder: Path, values: Mapping[str, str], progress: Progress) -> float:
        given = [*self.fixed, *_pairs(values)]
        config = self.configure(given)
        self._refuse_to_remember(config)  # once more: the values of this trial are its own
        link_run(Path(config.run).expanduser(), folder)
        result = evaluate(dataclasses.replace(config, run=str(folder)), progress)
        names = {"success": "success_rate", "return": "return_mean"}
        for name in names if self.metric == "auto" else [self.metric]:
            value = result.get(names[name])
            if value is not None:
                return float(value)
        raise SweepError(f"sweep.metric={self.metric}: this evaluation of {result['env']} has none")


def link_run(run: Path, folder: Path) -> None:
    """Make a folder that reads as a run, without a copy of it, and that holds the results of an evaluation itself.

    Raises:
        FileError: links cannot be made there.
    """
    for path in sorted(run.iterdir()):
        link = folder / path.name
        if path.name in RESULTS or path.name.startswith(".") or link.is_symlink():
            continue
        try:
            link.symlink_to(path.resolve(), target_is_directory=path.is_dir())
        except OSError as error:
            raise FileError(f"cannot link {link} to the run: {error.strerror or error}") from error


class _Comparison(Job):
    """One planner; on several tasks, by how much it gains on itself without what is varied, whatever the units."""

    @override
    def check(self, values: Mapping[str, str]) -> None:
        config = _composed(self.configure, [*self.fixed, *_pairs(values), f"out={self.out}"])
        if config is None:
            return
        if config.tuned:
            raise SweepError("tuned must be false in a sweep, got true")
        if len(config.planners) != 1:
            raise SweepError(f"planners must name one in a sweep, planners=icem, got {', '.join(config.planners)}")
        if len(config.budgets) + len(config.budgets_ms) != 1:
            raise SweepError(f"a sweep takes one budget, got budgets={config.budgets}, budgets_ms={config.budgets_ms}")
        for label in config.planners:
            contender(label, config.options.get(label) or {})
        bench_tasks(config.tasks)

    @override
    def play(self, folder: Path, values: Mapping[str, str], progress: Progress) -> float:
        results = self._results(folder, values, progress)
        scores = {cell["task"]: float(cell["score"]) for cell in results["cells"]}
        missing = [task for task in results["tasks"] if task not in scores]
        if missing:
            reasons = "; ".join(row["reason"] for row in results["refused"])
            raise SweepError(f"not played: {', '.join(missing)} ({reasons})")
        if len(scores) == 1:
            return next(iter(scores.values()))
        without = self._results(self.out / "default", {}, progress)
        default = {cell["task"]: float(cell["score"]) for cell in without["cells"]}
        gains = [gain(scores[t], default[t], results["tasks"][t]["random"]) for t in scores]
        return sum(gains) / len(gains)

    def _results(self, folder: Path, values: Mapping[str, str], progress: Progress) -> dict[str, Any]:
        # Pictures of every trial would take longer than many a trial; the user's own `video=` comes later and counts.
        given = ["video=false", *self.fixed, *_pairs(values), f"out={folder}"]
        return bench_planners(self.configure(given), progress)


_JOBS: dict[str, type[Job]] = {"train": _Training, "eval": _Evaluation, "bench": _Comparison}


def _composed(configure: Configure, overrides: list[str]) -> Any:
    """A configuration, or None where a component refuses values that other trials may not have."""
    try:
        return configure(overrides)
    except (ConfigError, UnknownNameError):
        raise
    except ForethoughtError:
        return None
