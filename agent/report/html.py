"""The page that tells what a run achieved: one HTML file with every figure and the video inside."""

import base64
import datetime
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jinja2

from ..files import FileError, read_json, write_bytes
from ..training.metrics import WARNING_KEY, read_metrics
from . import plots
from .references import reported_returns

_TRUE_DYNAMICS, _RANDOM = "Planner (true dynamics)", "Random actions"
_PERCENT = "\N{NO-BREAK SPACE}%"
_CI = f"95{_PERCENT}\N{NO-BREAK SPACE}CI"
_MS = "\N{NO-BREAK SPACE}ms"
_MAX_VIDEO_BYTES = 64 * 2**20  # beyond this the page would not open well


@dataclass(frozen=True)
class Picture:
    """A plot in both colour schemes, as data URIs."""

    light: str
    dark: str
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the result table, formatted; an empty string is shown as a dash."""

    name: str
    success: str = ""
    success_ci: str = ""
    return_mean: str = ""
    return_ci: str = ""
    steps: str = ""
    steps_p90: str = ""
    decision: str = ""
    decision_p99: str = ""
    note: str = ""


@dataclass
class Page:
    """All that the template shows; a text under a section's key in `missing` says why that section is empty."""

    title: str = "unnamed environment"
    verdict: str = "Not evaluated yet."
    facts: dict[str, str] = field(default_factory=dict)
    """The line under the title: date, episodes, seeds, commit."""
    tiles: list[tuple[str, str, str]] = field(default_factory=list)
    """The numbers to see first: label, value, detail."""
    command: str = ""
    rows: list[Row] = field(default_factory=list)
    video: str = ""
    figures: dict[str, list[Picture]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    warning: str = ""
    constant: str = ""
    """What the linear probe could not be asked for, because it did not vary."""
    training: str = ""
    config: str = ""
    machine: dict[str, str] = field(default_factory=dict)
    files: list[tuple[str, str]] = field(default_factory=list)


def write_report(run_dir: Path) -> Path:
    """Write `report.html`, a page that needs nothing else: figures and video inside, no script, no link.

    It shows what the folder holds of `eval.json`, `diagnostics.json`, `metrics.jsonl`, `run.json`, `config.yaml` or
    `config.json`, and `rollout.mp4`, and says what is missing and why.

    Args:
        run_dir: folder of the run.

    Returns:
        The path of the page.

    Raises:
        FileError: the folder is missing, one of the files is corrupt, or the page cannot be written.
    """
    if not run_dir.is_dir():
        raise FileError(f"run_dir must be the folder of a run, got {run_dir}")
    page = _read_run(run_dir)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("report.html").render(page=page)
    path = run_dir / "report.html"
    write_bytes(path, text.encode(errors="replace"))
    return path


def _read_run(run_dir: Path) -> Page:
    page = Page()
    run = read_json(run_dir / "run.json") if (run_dir / "run.json").exists() else {}
    result = _Block(run_dir / "eval.json")
    page.title = str(result.data.get("env") or run.get("env") or page.title)
    page.command = str(result.data.get("command") or run.get("command") or "")
    _add_results(page, result)
    _add_video(page, run_dir, result)
    _add_training(page, run_dir / "metrics.jsonl", page.title)
    _add_imagination(page, run_dir / "diagnostics.json")
    _add_knowledge(page, run_dir / "diagnostics.json")
    _add_config(page, run_dir)
    for source in (run, result.data):
        for key in ("versions", "machine"):
            if isinstance(source.get(key), dict):
                page.machine |= {str(name): _text(value) for name, value in source[key].items()}
    if not page.machine:
        page.missing["machine"] = "Neither run.json nor eval.json names the versions and the machine."
    when, commit = result.data.get("time") or run.get("started"), result.data.get("commit") or run.get("commit")
    facts = {"date": _date(when), "commit": str(commit or "")[:12], **page.facts}
    page.facts = {name: value for name, value in facts.items() if value}
    page.files = list(_list_files(run_dir))
    return page


class _Block:
    """A JSON object whose fields are read with their type checked; errors name file and field."""

    def __init__(self, path: Path, data: Mapping[str, Any] | None = None, where: str = "") -> None:
        self.path, self.where, self.exists = path, where, data is not None or path.exists()
        if data is None:
            data = read_json(path) if self.exists else {}
        self.data = data

    def __bool__(self) -> bool:
        return self.exists

    def number(self, name: str) -> float | None:
        value = self.data.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, "a number or null", value)
        return float(value)

    def numbers(self, name: str, length: int | None = None) -> list[float]:
        value = self.data.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(x, int | float | None) for x in value):
            raise self.error(name, "a list of numbers", value)
        if length is not None and len(value) != length:
            raise self.error(name, f"a list of {length} numbers", value)
        return [float(x) for x in value if x is not None]

    def block(self, name: str) -> "_Block":
        value = self.data.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.error(name, "an object or null", value)
        block = _Block(self.path, value or {}, f"{self.where}{name}.")
        block.exists = value is not None
        return block

    def error(self, name: str, rule: str, value: object) -> FileError:
        return FileError(f"cannot read {self.path}: {self.where}{name} must be {rule}, got {str(value)[:60]!r}")


def _add_results(page: Page, result: _Block) -> None:
    if not result:
        why = "There is no eval.json in the run folder: the agent has not been evaluated yet."
        page.missing |= {"results": why, "success": why, "timing": why}
        return
    arms = result.block("arms")
    contenders = {
        "Planner (learned model)": result,
        **{name: arms.block(name) for name in arms.data},
        _TRUE_DYNAMICS: result.block("true_dynamics"),
        _RANDOM: result.block("random"),
    }
    for name, block in contenders.items():
        if block:
            page.rows.append(_row(name, block, "; ".join(filter(None, (_about_way(block), _about_modes(block))))))
        elif name == _TRUE_DYNAMICS and (reason := result.data.get("reason_true_dynamics")):
            page.rows.append(Row(name, note=str(reason)))
    episodes = result.number("episodes")
    page.facts["episodes"] = "" if episodes is None else f"{episodes:.0f}"
    if seeds := result.numbers("seeds"):
        page.facts["seeds"] = f"{len(seeds)} held out"
    page.verdict = _verdict(result)
    page.tiles = list(_tiles(page.rows))

    draw = partial(_draw, page)
    for key, rate, interval, plot in (
        ("success", "success_rate", "success_ci", plots.success_bars),
        ("success", "return_mean", "return_ci", plots.return_bars),
    ):
        bars = [_interval(name, block, rate, interval) for name, block in contenders.items() if block]
        known = [bar for bar in bars if bar is not None]
        if known:
            draw(key, "Bars are means over the same held-out episodes; whiskers are 95 % CI.", plot, known)
    if goals := result.data.get("per_goal"):
        blocks = [(f"goal {k}", _Block(result.path, row, f"per_goal.{k}.")) for k, row in enumerate(goals, start=1)]
        bars = [_interval(name, block, "success_rate", "success_ci") for name, block in blocks]
        caption = "Success at the first, second, … goal of an episode, of those that reached all before it."
        draw("success", caption, plots.success_bars, [bar for bar in bars if bar is not None])
    for kind, quantity in (("steps", "predicted steps to the goal"), ("latent", "distance in goal space (RMS)")):
        curves = {n: b.block("distance").block(kind).data for n, b in contenders.items() if b.block("distance")}
        if curves:
            caption = (
                "Distance from the goal that was given, as the model sees it: medians, and 10 to 90 % of episodes."
            )
            draw("success", caption, plots.goal_distance_plot, curves, quantity)
    steps = result.block("steps_to_goal").numbers("values")
    if steps:
        chance = result.block("random").block("steps_to_goal").numbers("values")
        draw("timing", "How long success took, over successful episodes.", plots.steps_to_goal_hist, steps, chance)
    else:
        page.missing["steps"] = "eval.json has no steps_to_goal.values: no goal was reached."
    decisions = result.block("decision_ms").numbers("values")
    if decisions:
        draw("timing", "Wall-clock time from observation to action.", plots.decision_time_hist, decisions)
    else:
        page.missing["timing"] = "eval.json has no decision_ms.values: decisions were not timed."
    if "success" not in page.figures:
        page.missing["success"] = "eval.json has neither success_rate nor return_mean."


def _about_way(block: _Block) -> str:
    """How near a goal came that the environment does not know; empty without one."""
    steps = block.block("distance").block("steps")
    start, final, least = (steps.number(name) for name in ("start", "final", "least"))
    if start is None or final is None or least is None:
        return ""
    way = f"{_digits(start)} at the start, {_digits(final)} at the end, {_digits(least)} at the least"
    return f"predicted steps to the goal: {way} (medians)"


def _about_modes(block: _Block) -> str:
    """What its decisions were for, by share; empty where nothing chose."""
    plan = block.block("plan")
    names = [name for name in plan.data if name.startswith("mode/") and plan.number(name)]
    shares = [f"{name.removeprefix('mode/')} {_percent(plan.number(name) or 0.0)}" for name in names]
    return f"decisions by mode: {', '.join(shares)}" if shares else ""


def _row(name: str, block: _Block, note: str = "") -> Row:
    success, mean = block.number("success_rate"), block.number("return_mean")
    steps, times = block.block("steps_to_goal"), block.block("decision_ms")
    return Row(
        name,
        success="" if success is None else _percent(success),
        success_ci=_range(block.numbers("success_ci", 2), _percent_digits, _PERCENT),
        return_mean="" if mean is None else _digits(mean),
        return_ci=_range(block.numbers("return_ci", 2), _digits),
        steps=_optional(steps.number("median")),
        steps_p90=_optional(steps.number("p90")),
        decision=_optional(times.number("p50")),
        decision_p99=_optional(times.number("p99")),
        note=note,
    )


def _verdict(result: _Block) -> str:
    rate, episodes, mean = result.number("success_rate"), result.number("episodes"), result.number("return_mean")
    chance = result.block("random")
    if result.data.get("goal") is not None:
        return (
            f"Toward the goal of {result.data['goal']}, {_about_way(result)}. "
            "The environment does not know this goal, so there is no success rate."
        )
    if rate is not None:
        number, all_of_them = result.number("goals_per_episode") or 1, ""
        goals = "goals" if result.data.get("objective", "goal") == "goal" and number == 1 else "episodes"
        if number > 1:
            all_of_them = f"all {number:.0f} goals in "
        count = f"{_percent(rate)} of" if episodes is None else f"{round(rate * episodes)} of {episodes:.0f}"
        interval = _range(result.numbers("success_ci", 2), _percent_digits, _PERCENT)
        baseline = chance.number("success_rate")
        text = f"Reached {all_of_them}{count} held-out {goals}" + (f" ({_CI} {interval})" if interval else "")
        return text + (f"; random actions reach {_percent(baseline)}." if baseline is not None else ".")
    if mean is not None:
        interval = _range(result.numbers("return_ci", 2), _digits)
        baseline = chance.number("return_mean")
        text = f"Mean return {_digits(mean)}" + (f" ({_CI} {interval})" if interval else "")
        text += "" if episodes is None else f" over {episodes:.0f} held-out episodes"
        return text + (f"; random actions get {_digits(baseline)}." if baseline is not None else ".")
    return "Evaluated, but eval.json has neither success_rate nor return_mean."


def _tiles(rows: list[Row]) -> Iterator[tuple[str, str, str]]:
    planner, chance = rows[0], next((row for row in rows if row.name == _RANDOM), None)
    if planner.success:
        yield "Success", planner.success, f"{_CI} {planner.success_ci}" if planner.success_ci else ""
    elif planner.return_mean:
        yield "Mean return", planner.return_mean, f"{_CI} {planner.return_ci}" if planner.return_ci else ""
    if chance is not None and (chance.success or chance.return_mean):
        yield _RANDOM, chance.success or chance.return_mean, "same episodes"
    if planner.steps:
        tail = f"; 90{_PERCENT} within {planner.steps_p90}" if planner.steps_p90 else ""
        yield "Steps to goal", planner.steps, f"median{tail}"
    if planner.decision:
        tail = f"; 99{_PERCENT} within {planner.decision_p99}{_MS}" if planner.decision_p99 else ""
        yield "Decision time", planner.decision + _MS, f"median{tail}"


def _interval(name: str, block: _Block, value: str, interval: str) -> plots.Interval | None:
    mean, bounds = block.number(value), block.numbers(interval, 2)
    if mean is None:
        return None
    return plots.Interval(name, mean, *(bounds if len(bounds) == 2 else ()))


def _add_video(page: Page, run_dir: Path, result: _Block) -> None:
    named = result.data.get("video", "rollout.mp4")
    path = (run_dir / str(named or "")).resolve()
    if not path.is_relative_to(run_dir.resolve()):  # an eval.json from elsewhere must not pull in other files
        page.missing["video"] = f"eval.json names a video outside the run folder: {named}."
    elif not path.is_file():
        reason = result.data.get("video_reason") or f"there is no {path.name} in the run folder"
        page.missing["video"] = f"No video: {reason}."
    elif path.stat().st_size > _MAX_VIDEO_BYTES:
        page.missing["video"] = f"{path.name} has {_size(path.stat().st_size)}, too much for this page: open the file."
    else:
        page.video = _data_uri("video/mp4", _read(path))


def _add_training(page: Page, path: Path, env_id: str) -> None:
    if not path.exists():
        why = "There is no metrics.jsonl in the run folder: training has not logged anything."
        page.missing |= {"learning": why, "latents": why}
        return
    metrics = read_metrics(path)
    if metrics:
        last = metrics[-1]
        amounts = f"{last['update']:,} updates, {last['decisions']:,} decisions, {last['frames']:,} frames"
        page.training = f"{amounts} in {_duration(last['seconds'])}."
    warnings = [record for record in metrics if record.get(WARNING_KEY)]
    if warnings:
        first, final = warnings[0]["update"], warnings[-1]
        span = f"at update {first:,}" if first == final["update"] else f"from update {first:,} to {final['update']:,}"
        times = "once" if len(warnings) == 1 else f"{len(warnings)} times"
        page.warning = f"{final[WARNING_KEY]} (Logged {times}, {span}.)"
        measured = [record["update"] for record in metrics if "latent/std" in record]
        if measured and measured[-1] > final["update"]:
            page.warning += f" The last measurement, at update {measured[-1]:,}, was healthy again."
    others = reported_returns(env_id)
    caption = "Return of episodes with exploration noise (a running mean) and of validations, without it."
    if others:
        caption += f" Dashed: what {', '.join(others)} are reported to reach, means over their seeds."
    with suppress(plots.PlotError):  # a run for goals may know of no return
        _draw(page, "learning", caption, plots.return_curves, metrics, others, wide=True)
    curves = "Median of logged values, band from 10 to 90 %; losses on a logarithmic axis."
    health = "Latents that collapse lose their standard deviation, or use few of their dimensions."
    for key, caption, plot in (
        ("learning", curves, plots.learning_curves),
        ("latents", health, plots.latent_health_plot),
    ):
        try:
            _draw(page, key, caption, plot, metrics, wide=True)
        except plots.PlotError as error:
            page.missing[key] = f"metrics.jsonl has nothing to draw here: {error}."


def _add_imagination(page: Page, path: Path) -> None:
    diagnostics = _Block(path)
    if not diagnostics:
        page.missing["imagination"] = "There is no diagnostics.json in the run folder: imagination was not examined."
        return
    dream, errors = (diagnostics.block(name) for name in ("imagination", "imagination_error"))
    draw = partial(_draw, page, "imagination")
    try:
        if dream:
            names = dream.data.get("names")
            if not isinstance(names, list):
                raise dream.error("names", "a list of names", names)
            caption = "The model sees the first observation and the actions alone, and foresees the rest."
            arrays = dream.data.get("real"), dream.data.get("imagined")
            draw(caption, plots.imagination_plot, *arrays, [str(name) for name in names], wide=True)
        if errors:
            caption = "The model is of use where its error stays below that of assuming that nothing moves."
            curves = (errors.numbers(name) for name in ("horizon", "model", "persistence"))
            horizon, model, still = curves
            draw(caption, plots.imagination_error, horizon, model, still or None)
        if steps := diagnostics.block("calibration"):
            said, taken, spread = (steps.numbers(name) for name in ("predicted", "true", "disagreement"))
            draw(_about_distances(steps), plots.distance_plot, said, taken, spread or None)
        if values := diagnostics.block("value_calibration"):
            caption = "Values of the states that the agent met, against what it then got."
            pairs = values.numbers("predicted"), values.numbers("true")
            draw(caption, plots.calibration_plot, *pairs, "discounted return")
    except plots.PlotError as error:
        raise FileError(f"cannot read {path}: {error}") from error
    if "imagination" not in page.figures:
        page.missing["imagination"] = "diagnostics.json has neither imagination, imagination_error nor calibration."


def _about_distances(steps: _Block) -> str:
    goals, text = steps.number("goals"), "Steps to a goal as the model predicts them, against those that it took"
    if goals is not None:
        whose = "reached its goal" if steps.data.get("reached") else "ended without reaching its goal"
        text += f" the agent: from every state on its way to the one where it {whose}, {goals:.0f} times"
    text += ". What it took is an upper bound of the shortest way."
    correlation, error = steps.number("rank_correlation"), steps.number("mean_absolute_error")
    if correlation is not None:
        text += f" Rank correlation {_digits(correlation)}."
    return text if error is None else f"{text} Mean absolute error {_digits(error)} steps."


def _add_knowledge(page: Page, path: Path) -> None:
    """What a linear probe reads from the latents."""
    probe = _Block(path).block("linear_probe")
    if not probe:
        page.missing["knowledge"] = "There is no diagnostics.json with a linear_probe in the run folder."
        return
    names, r2, learned = (probe.data.get(name) for name in ("names", "r2", "r2_learned"))
    if not isinstance(names, list):
        raise probe.error("names", "a list of names", names)
    if not names:
        page.missing["knowledge"] = f"There is no linear probe: {probe.data.get('reason')}."
        return
    for name, values in (("r2", r2), ("r2_learned", learned)):
        probe.numbers(name, len(names))
        if values is None and name == "r2":
            raise probe.error(name, "a list of numbers", values)
    varied = [i for i, value in enumerate(r2 or []) if value is not None]
    constant = [str(name) for i, name in enumerate(names) if i not in varied]
    if constant:
        page.constant = f"Not shown, because they did not vary: {', '.join(constant)}."
    if not varied:
        return
    caption = (
        "How much of each true quantity a linear map of the latents explains in held-out episodes of random held "
        f"actions: 1 is all, 0 no more than their mean. Fitted to {probe.number('states') or 0:.0f} states of "
        f"{probe.number('episodes') or 0:.0f} other episodes."
    )
    shown = [str(names[i]) for i in varied]
    parts = [values and [values[i] for i in varied] for values in (r2, learned)]
    try:
        _draw(page, "knowledge", caption, plots.probe_bars, shown, *parts, wide=True)
    except plots.PlotError as error:
        raise FileError(f"cannot read {path}: {error}") from error


def _add_config(page: Page, run_dir: Path) -> None:
    for name in ("config.yaml", "config.json"):
        if (run_dir / name).exists():
            page.config = _read(run_dir / name).decode(errors="replace")
            return
    page.missing["config"] = "There is no config.yaml or config.json in the run folder."


def _draw(page: Page, key: str, caption: str, plot: Callable[..., bytes], *data: Any, wide: bool = False) -> None:
    light, dark = (_data_uri("image/png", plot(*data, theme=theme)) for theme in (plots.LIGHT, plots.DARK))
    page.figures.setdefault(key, []).append(Picture(light, dark, caption, wide))


def _list_files(run_dir: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(run_dir.iterdir()):
        if path.name.startswith(".") or path.name == "report.html" or path.is_symlink():
            continue
        try:
            files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
            size = _size(sum(file.lstat().st_size for file in files))
        except FileNotFoundError:  # the run is still going and has just replaced a file
            continue
        many = "1 file" if len(files) == 1 else f"{len(files)} files"
        yield (path.name, size) if path.is_file() else (f"{path.name}/", f"{size} in {many}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _percent_digits(rate: float) -> str:
    return f"{100 * rate:.1f}".removesuffix(".0")


def _percent(rate: float) -> str:
    return _percent_digits(rate) + _PERCENT


def _digits(value: float) -> str:
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _optional(value: float | None) -> str:
    return "" if value is None else _digits(value)


def _range(bounds: list[float], text: Callable[[float], str], unit: str = "") -> str:
    if len(bounds) != 2:
        return ""
    between = " to " if bounds[0] < 0 else "\N{EN DASH}"
    return f"{text(bounds[0])}{between}{text(bounds[1])}{unit}"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _date(when: object) -> str:
    try:
        if isinstance(when, int | float):
            moment = datetime.datetime.fromtimestamp(when, tz=datetime.UTC)
        else:
            moment = datetime.datetime.fromisoformat(str(when))
    except (ValueError, OverflowError, OSError):
        return str(when or "")
    return moment.strftime("%Y-%m-%d %H:%M %Z").strip()


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
