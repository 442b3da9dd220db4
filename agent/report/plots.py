"""The figures of a report as PNG bytes, light or dark.

Drawn with Matplotlib's objects alone: no pyplot, no global state. One inch is a hundred CSS pixels of the page.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from numpy.typing import ArrayLike, NDArray

from ... import ForethoughtError
from ..training.metrics import COLLAPSE_STD


class PlotError(ForethoughtError):
    """Data that cannot be drawn."""


@dataclass(frozen=True)
class Theme:
    """Colours of a figure. The series are colour-blind safe (Okabe and Ito, "Color Universal Design", 2008)."""

    background: str
    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]


LIGHT = Theme("#ffffff", "#1f2933", "#5f6b7a", "#e6e9ee", ("#0072b2", "#d55e00", "#009e73", "#b5579a", "#b58500"))
DARK = Theme("#161b22", "#e6edf3", "#9aa7b5", "#2a313b", ("#5bb8f5", "#ff8a4c", "#2fc79a", "#e29bc4", "#e6b422"))


@dataclass(frozen=True)
class Interval:
    """One bar: a name, a value, and its 95 % confidence interval where there is one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


_DPI = 200
_HALF, _WIDE = 4.3, 8.8  # inches: two figures beside each other, or one across the page
_TEXT, _SMALL = 9.0, 8.0  # points
_MAX_LOSSES, _MAX_SCORES, _MAX_DIMS, _MAX_EPISODES = 6, 3, 6, 3
_MAX_POINTS = 200
_MAX_NAME = 26
_FIRST_UNPRINTED = 0x0500  # the built-in font has Latin, Greek and Cyrillic, and warns of every glyph it lacks

FloatArray = NDArray[np.float64]


def success_bars(rows: Sequence[Interval], theme: Theme = LIGHT) -> bytes:
    """Success rates (0 to 1) as horizontal bars with whiskers; the first row is the one to look at.

    Raises:
        PlotError: no rows.
    """
    figure, axes = _interval_bars(rows, theme, lambda value: f"{100 * value:.3g} %")
    axes.set_xlim(0, 1.2)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_xlabel("success rate, 95 % CI")
    return _png(figure)


def return_bars(rows: Sequence[Interval], theme: Theme = LIGHT) -> bytes:
    """Mean returns as horizontal bars with whiskers; the first row is the one to look at.

    Raises:
        PlotError: no rows.
    """
    figure, axes = _interval_bars(rows, theme, lambda value: f"{value:.4g}".replace("-", "\N{MINUS SIGN}"))
    axes.margins(x=0.25)
    axes.axvline(0, color=theme.muted, linewidth=0.8)
    axes.set_xlabel("mean return, 95 % CI")
    return _png(figure)


def learning_curves(metrics: Sequence[Mapping[str, Any]], theme: Theme = LIGHT) -> bytes:
    """Losses against updates, then success and return of episodes against decisions, one small panel each.

    Lines are medians of equal groups of points (means for success and return), bands their 10 to 90 % quantiles.

    Args:
        metrics: records of `read_metrics`; the first six of `loss/*` and the first
            three of `*/success` and `*/return` are drawn.
        theme: colours.

    Raises:
        PlotError: there is none of them.
    """
    names = list(dict.fromkeys(name for record in metrics for name in record))
    losses = [name for name in names if name.startswith("loss/")][:_MAX_LOSSES]
    scores = [name for name in names if name.endswith(("/success", "/return"))][:_MAX_SCORES]
    panels = [*[(name, "update") for name in losses], *[(name, "decisions") for name in scores]]
    drawn = [(name, x, y) for name, axis in panels for x, y in [_series(metrics, name, axis)] if len(x)]
    if not drawn:
        raise PlotError("metrics must hold loss/*, */success or */return, got none")
    columns = 2 if len(drawn) in (2, 4) else min(3, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    figure, grid = _figure(theme, _WIDE, 0.25 + 1.95 * rows, rows, columns)
    for axes, (name, x, y) in zip(grid, drawn, strict=False):
        is_loss = name.startswith("loss/")
        colour = theme.series[0] if is_loss else theme.series[2]
        centre, bins = (np.median, _MAX_POINTS) if is_loss else (np.mean, 30)
        middle_x, middle, low, high = _trend(x, y, bins, centre)
        if is_loss:
            axes.fill_between(middle_x, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(middle_x, middle, color=colour, linewidth=1.5, marker="." if len(middle_x) == 1 else "")
        if is_loss and float(low.min()) > 0:
            _log_scale(axes, float(low.min()), float(high.max()))
        if name.endswith("/success"):
            axes.set_ylim(-0.03, 1.03)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.set_title(_plain(name), loc="left", fontsize=_TEXT, color=theme.ink)
        _count_axis(axes, "updates" if is_loss else "decisions")
    for axes in grid[len(drawn) :]:
        axes.set_visible(False)
    return _png(figure)


def return_curves(
    metrics: Sequence[Mapping[str, Any]], reported: Mapping[str, Mapping[int, float]], theme: Theme = LIGHT
) -> bytes:
    """Return of collected episodes and of validations, against frames and against minutes of wall clock.

    Args:
        metrics: records of `read_metrics` with `episode/return` (with exploration noise) or `validation/return`.
        reported: what others reach, by name and frames; drawn as far as the run goes, and beside frames only.
        theme: colours.

    Raises:
        PlotError: there is no return.
    """
    named = {"episode/return": "exploring", "validation/return": "validated"}
    drawn = [name for name in named if len(_series(metrics, name, "frames")[0])]
    if not drawn:
        raise PlotError("metrics must hold episode/return or validation/return, got none")
    figure, (left, right) = _figure(theme, _WIDE, 2.8, 1, 2)
    end = max(float(_series(metrics, name, "frames")[0].max()) for name in drawn)
    for axes, axis, unit in ((left, "frames", 1.0), (right, "seconds", 60.0)):
        for name in drawn:
            x, y = _series(metrics, name, axis)
            if name == "episode/return":
                x, y = _trend(x, y, 30, np.mean)[:2]
            style = {"linewidth": 1.5} if name == "episode/return" else {"linewidth": 0, "marker": "s", "markersize": 4}
            axes.plot(x / unit, y, color=theme.series[2], label=named[name], **style)
    for (name, curve), colour in zip(reported.items(), (theme.series[1], theme.series[0], theme.muted), strict=False):
        frames = [f for f in sorted(curve) if f <= 1.01 * end]
        left.plot(frames, [curve[f] for f in frames], "o--", color=colour, markersize=3, linewidth=1, label=name)
    left.set_title("mean return", loc="left", fontsize=_TEXT, color=theme.ink)
    _count_axis(left, "frames")
    for line in left.get_lines()[len(drawn) :]:  # named on the right, where there is room
        right.plot([], [], "o--", color=line.get_color(), markersize=3, linewidth=1, label=line.get_label())
    _legend(right, theme, loc="lower right")
    right.set_xlabel("minutes")
    right.set_xlim(left=0)
    return _png(figure)


def latent_health_plot(metrics: Sequence[Mapping[str, Any]], theme: Theme = LIGHT) -> bytes:
    """Standard deviation and effective rank of the latents against updates.

    Args:
        metrics: records of `read_metrics` with `latent/std`, `latent/std_min` or `latent/effective_rank`.
        theme: colours.

    Raises:
        PlotError: there is none of them.
    """
    std, std_min, rank = (_series(metrics, f"latent/{name}", "update") for name in ("std", "std_min", "effective_rank"))
    if not len(std[0]) and not len(std_min[0]) and not len(rank[0]):
        raise PlotError("metrics must hold latent/std, latent/std_min or latent/effective_rank, got none")
    figure, (left, right) = _figure(theme, _WIDE, 2.5, 1, 2)
    for (x, y), label, colour in ((std, "mean", theme.series[0]), (std_min, "least", theme.series[1])):
        if len(x):
            left.plot(*_trend(x, y, _MAX_POINTS, np.median)[:2], color=colour, linewidth=1.5, label=label)
    left.axhline(COLLAPSE_STD, color=theme.muted, linewidth=1, linestyle=":", label="collapse")
    left.set_ylim(bottom=0)
    left.set_title("standard deviation", loc="left", fontsize=_TEXT, color=theme.ink)
    _legend(left, theme, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3)
    if len(rank[0]):
        right.plot(*_trend(*rank, _MAX_POINTS, np.median)[:2], color=theme.series[2], linewidth=1.5)
    right.set_ylim(bottom=0)
    right.set_title("effective rank (dimensions in use)", loc="left", fontsize=_TEXT, color=theme.ink)
    for axes in (left, right):
        _count_axis(axes, "updates")
    return _png(figure)


def imagination_plot(real: ArrayLike, imagined: ArrayLike, names: Sequence[str], theme: Theme = LIGHT) -> bytes:
    """Open-loop imagination against reality: one column per episode, one row per dimension.

    The first three episodes are drawn, and of the dimensions the six that vary most in reality.

    Args:
        real: what happened, `[E, T, D]`, one entry per decision.
        imagined: what the model foresaw from the first observation and the actions alone, `[E, T, D]`.
        names: what the `D` dimensions are, with units.
        theme: colours.

    Raises:
        PlotError: shapes do not fit.
    """
    truth, dream = _array("real", real, 3), _array("imagined", imagined, 3)
    if truth.shape != dream.shape or len(names) != truth.shape[2]:
        raise PlotError(
            f"real and imagined must both be [E, T, D] with D = {len(names)} names, "
            f"got {list(truth.shape)} and {list(dream.shape)}"
        )
    episodes = min(_MAX_EPISODES, len(truth))
    spread = np.nan_to_num(truth).std(axis=1).mean(axis=0)
    dims = sorted(np.argsort(-spread, kind="stable")[:_MAX_DIMS].tolist())
    figure, grid = _figure(theme, _WIDE, 0.7 + 1.25 * len(dims), len(dims), episodes, sharex=True, sharey="row")
    for index, axes in enumerate(grid):
        row, episode = divmod(index, episodes)
        axes.plot(truth[episode, :, dims[row]], color=theme.ink, linewidth=1.4, label="real")
        colour = theme.series[row % len(theme.series)]
        axes.plot(dream[episode, :, dims[row]], color=colour, linewidth=1.6, linestyle=(0, (4, 1.6)), label="imagined")
        if row == 0:
            axes.set_title(f"episode {episode + 1}", loc="left", fontsize=_TEXT, color=theme.ink)
        if row == len(dims) - 1:
            axes.set_xlabel("decisions ahead")
        if episode == 0:
            axes.set_ylabel(_plain(names[dims[row]]))
    figure.align_ylabels()
    _legend(grid[episodes - 1], theme, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    return _png(figure)


def imagination_error(
    horizon: ArrayLike, model: ArrayLike, persistence: ArrayLike | None = None, theme: Theme = LIGHT
) -> bytes:
    """Error of open-loop imagination by horizon, against the baseline that nothing ever moves.

    Args:
        horizon: decisions ahead, `[K]`.
        model: mean error of the model at each, `[K]`.
        persistence: mean error of predicting the first observation for ever, `[K]`.
        theme: colours.

    Raises:
        PlotError: the lengths differ.
    """
    x, y = _array("horizon", horizon, 1), _array("model", model, 1)
    still = None if persistence is None else _array("persistence", persistence, 1)
    if len(x) != len(y) or (still is not None and len(still) != len(x)):
        raise PlotError(f"horizon, model and persistence must be equally long, got {len(x)} and {len(y)}")
    figure, (axes,) = _figure(theme, _HALF, 3.0)
    if still is not None:
        axes.plot(x, still, color=theme.muted, linewidth=1.5, linestyle="--", label="nothing moves")
    axes.plot(x, y, color=theme.series[0], linewidth=1.8, marker="o", markersize=3, label="world model")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("decisions ahead")
    axes.set_ylabel("mean prediction error")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes, theme, loc="upper left")
    return _png(figure)


def decision_time_hist(ms: ArrayLike, theme: Theme = LIGHT) -> bytes:
    """Histogram of the time per decision in milliseconds, with median and 99th percentile; outliers are counted.

    Raises:
        PlotError: no values.
    """
    values = _finite("ms", ms)
    median, tail = np.quantile(values, [0.5, 0.99])
    limit = max(float(1.5 * tail), 1e-3)
    figure, (axes,) = _figure(theme, _HALF, 3.0)
    axes.hist(values[values <= limit], bins=40, color=theme.series[0], alpha=0.85)
    for value, name, style in ((median, "median", "-"), (tail, "99 %", "--")):
        axes.axvline(value, color=theme.ink, linewidth=1.2, linestyle=style, label=f"{name}  {value:.3g} ms")
    axes.set_xlim(left=0 if values.min() < limit / 3 else None)
    axes.set_xlabel("time per decision (ms)")
    axes.set_ylabel("decisions")
    slow = int((values > limit).sum())
    if slow:
        note = f"{slow} beyond {limit:.3g} ms, longest {values.max():.3g} ms"
        axes.set_title(note, loc="right", fontsize=_SMALL, color=theme.muted)
    _legend(axes, theme, loc="upper left")
    return _png(figure)


def steps_to_goal_hist(steps: ArrayLike, random: ArrayLike | None = None, theme: Theme = LIGHT) -> bytes:
    """Histogram of the decisions until success, over the successful episodes, against random actions.

    Raises:
        PlotError: no values.
    """
    values = _finite("steps", steps)
    chance = None if random is None or not np.size(random) else _finite("random", random)
    everything = values if chance is None else np.concatenate([values, chance])
    low, high = math.floor(everything.min()), math.ceil(everything.max())
    edges = np.arange(low, high + 2, max(1, math.ceil((high - low + 1) / 30))) - 0.5
    edges = np.append(edges, edges[-1] + (edges[1] - edges[0])) if edges[-1] < high else edges
    figure, (axes,) = _figure(theme, _HALF, 3.0)
    axes.hist(values, bins=edges.tolist(), color=theme.series[0], alpha=0.85, label="planner")
    if chance is not None:
        axes.hist(chance, bins=edges.tolist(), color=theme.series[1], alpha=0.6, label="random actions")
    axes.axvline(float(np.median(values)), color=theme.ink, linewidth=1.2, label=f"median  {np.median(values):.4g}")
    axes.set_xlabel("decisions until the goal")
    axes.set_ylabel("successful episodes")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes, theme, loc="upper right")
    return _png(figure)


def calibration_plot(predicted: ArrayLike, true: ArrayLike, quantity: str, theme: Theme = LIGHT) -> bytes:
    """What was predicted against what came true: binned median with the 10 to 90 % band, and the diagonal.

    Args:
        predicted: what the model said, `[K]`.
        true: what it was, `[K]`.
        quantity: what it is, with its unit.
        theme: colours.

    Raises:
        PlotError: the lengths differ, or there are no values.
    """
    x, y, _ = _pairs(predicted, true)
    figure, axes = _against(x, y, f"predicted {quantity}", f"true {quantity}", theme)
    _legend(axes, theme, loc="upper left")
    return _png(figure)


def distance_plot(
    predicted: ArrayLike, true: ArrayLike, disagreement: ArrayLike | None = None, theme: Theme = LIGHT
) -> bytes:
    """Predicted steps to a goal against the steps taken: binned median with the 10 to 90 % band, and the diagonal.

    Args:
        predicted: what the model said, `[K]`.
        true: what it took, `[K]`.
        disagreement: standard deviation between the members of an ensemble, `[K]`; None without one.
        theme: colours.

    Raises:
        PlotError: the lengths differ, or there are no values.
    """
    said, taken, spread = _pairs(predicted, true, disagreement)
    figure, axes = _against(taken, said, "steps taken", "predicted steps", theme)
    if spread is not None:
        x, middle = _trend(taken, spread, _bins(taken), np.median)[:2]
        axes.plot(x, middle, color=theme.series[1], linewidth=1.5, linestyle="--", label="members differ by (SD)")
    _legend(axes, theme, loc="upper left")
    return _png(figure)


def goal_distance_plot(
    curves: Mapping[str, Mapping[str, Sequence[float]]], quantity: str, theme: Theme = LIGHT
) -> bytes:
    """Distance to a goal by decision: medians over episodes, with the 10 to 90 % band.

    Args:
        curves: by name `median`, `low` and `high`, `[T]` each.
        quantity: which distance, with its unit.
        theme: colours.

    Raises:
        PlotError: there is nothing to draw, or lengths differ.
    """
    if not curves:
        raise PlotError("curves must hold at least one, got none")
    figure, (axes,) = _figure(theme, _HALF, 3.0)
    for (name, curve), colour in zip(curves.items(), theme.series, strict=False):
        middle, low, high = (_array(key, curve.get(key, ()), 1) for key in ("median", "low", "high"))
        if not len(middle) == len(low) == len(high):
            raise PlotError(f"median, low and high must be equally long, got {len(middle)}, {len(low)}, {len(high)}")
        decisions = np.arange(len(middle))
        axes.fill_between(decisions, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(decisions, middle, color=colour, linewidth=1.8, label=_plain(name))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("decisions")
    axes.set_ylabel(quantity)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes, theme, loc="upper right")
    return _png(figure)


def _pairs(
    predicted: ArrayLike, true: ArrayLike, disagreement: ArrayLike | None = None
) -> tuple[FloatArray, FloatArray, FloatArray | None]:
    """The pairs of which both numbers are finite, and what stands beside them, if anything does."""
    x, y = _array("predicted", predicted, 1), _array("true", true, 1)
    z = None if disagreement is None else _array("disagreement", disagreement, 1)
    if len(x) != len(y):
        raise PlotError(f"predicted and true must be equally long, got {len(x)} and {len(y)}")
    if z is not None and len(z) != len(x):
        raise PlotError(f"predicted and disagreement must be equally long, got {len(x)} and {len(z)}")
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        raise PlotError("predicted and true must hold a pair of finite numbers, got none")
    return x[known], y[known], None if z is None else z[known]


def _bins(x: FloatArray) -> int:
    return min(12, max(1, len(x) // 5))


def _against(x: FloatArray, y: FloatArray, x_label: str, y_label: str, theme: Theme) -> tuple[Figure, Axes]:
    """Axes of one scale with the trend of y over x and the diagonal."""
    middle_x, middle, low, high = _trend(x, y, _bins(x), np.median)
    figure, (axes,) = _figure(theme, _HALF, 3.0)
    limit = 1.05 * max(float(middle_x.max()), float(high.max()), 1.0)
    least = min(0.0, float(middle_x.min()), float(low.min()))
    axes.plot([least, limit], [least, limit], color=theme.muted, linewidth=1, linestyle=":", label="perfect")
    axes.fill_between(middle_x, low, high, color=theme.series[0], alpha=0.2, linewidth=0, label="10 to 90 %")
    axes.plot(middle_x, middle, color=theme.series[0], linewidth=1.8, marker="o", markersize=3, label="median")
    axes.set_xlim(least, limit)
    axes.set_ylim(least, limit)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def probe_bars(names: Sequence[str], r2: ArrayLike, learned: ArrayLike | None = None, theme: Theme = LIGHT) -> bytes:
    """How much of each quantity a linear probe reads from the latents: R^2 as bars, its value beside them.

    Bars begin at 0 and end at 1; a probe that is worse than the mean has none, and its value says so.

    Args:
        names: of the `D` quantities.
        r2: from the whole of z, `[D]`, none of them NaN.
        learned: from the learned features alone, `[D]`.
        theme: colours.

    Raises:
        PlotError: the lengths differ, or there are no values.
    """
    series = [_array("r2", r2, 1)] + ([] if learned is None else [_array("learned", learned, 1)])
    if any(len(values) != len(names) for values in series):
        raise PlotError(f"r2 and learned must have a value for each of {len(names)} names, got {len(series[-1])}")
    if not all(np.isfinite(values).all() for values in series):
        raise PlotError("r2 and learned must hold finite numbers only")
    columns = min(3, math.ceil(len(names) / 4))
    groups = np.array_split(np.arange(len(names)), columns)
    height = 0.62 / len(series)
    figure, grid = _figure(theme, _WIDE, max(1.6, 0.8 + 0.22 * len(series) * len(groups[0])), 1, columns)
    for axes, group in zip(grid, groups, strict=True):
        rows = np.arange(len(group))
        for index, (values, label) in enumerate(zip(series, ("z", "learned features alone"), strict=False)):
            middle = rows + height * (index - (len(series) - 1) / 2)
            axes.barh(middle, values[group].clip(0, 1), height, color=theme.series[index], alpha=0.9, label=label)
            for y, value in zip(middle, values[group], strict=True):
                text = f"{value:.2f}" if value > -10 else "< \N{MINUS SIGN}10"
                at = (float(np.clip(value, 0, 1)), float(y))
                axes.annotate(
                    text.replace("-", "\N{MINUS SIGN}"), at, xytext=(3, 0), textcoords="offset points", va="center",
                    fontsize=_SMALL, color=theme.ink,
                )  # fmt: skip
        axes.set_yticks(rows, [_plain(names[i]) for i in group])
        axes.tick_params(axis="y", labelcolor=theme.ink, length=0)
        axes.set_ylim(len(groups[0]) - 0.5, -0.5)
        axes.set_xlim(0, 1.2)
        axes.set_xticks([0, 0.5, 1.0])
        axes.set_xlabel("R², held out")
        axes.grid(visible=False, axis="y")
    if len(series) > 1:
        _legend(grid[-1], theme, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    return _png(figure)


def landmark_plot(
    places: ArrayLike,
    edges: ArrayLike,
    walked: ArrayLike,
    failed: ArrayLike,
    names: Sequence[str],
    theme: Theme = LIGHT,
) -> bytes:
    """Landmarks in a plane, and the ways between them: those that were walked, are only believed, or failed last.

    Args:
        places: of the landmarks `[N, 2]`.
        edges: landmarks from and to, `[E, 2]`.
        walked: how often each was walked, `[E]`; 0 where it is only believed.
        failed: how often each was tried in vain since it was last walked, `[E]`.
        names: of the two numbers that make the plane.
        theme: colours.

    Raises:
        PlotError: no landmarks, or shapes that do not fit each other.
    """
    at = _array("places", places, 2)
    pairs, counts = np.asarray(edges, np.int64).reshape(-1, 2), [np.asarray(x, np.float64) for x in (walked, failed)]
    if at.shape[1] != 2 or len(names) != 2:
        raise PlotError(f"places and names must be of 2 numbers, got {at.shape[1]} and {len(names)}")
    if any(len(values) != len(pairs) for values in counts):
        raise PlotError(f"walked and failed must have a value for each of {len(pairs)} edges")
    figure, (axes,) = _figure(theme, _WIDE, 0.75 * _WIDE)
    bad, often = counts[1] > 0, counts[0] > 0
    thin = min(1.0, (2000 / max(len(pairs), 1)) ** 0.5)  # so that thousands can be told apart
    for label, chosen, colour, width in (  # what matters most comes last, on top
        ("believed", ~often & ~bad, theme.muted, 0.4),
        ("walked", often & ~bad, theme.series[0], 1.0),
        ("failed", bad, theme.series[1], 1.4),
    ):
        if chosen.any():
            name = f"{label} ({int(chosen.sum())})"
            lines = LineCollection(
                at[pairs[chosen]].tolist(), colors=colour, linewidths=thin * width, alpha=0.6, label=name
            )
            axes.add_collection(lines)
    axes.scatter(at[:, 0], at[:, 1], s=10, color=theme.ink, zorder=3, label=f"landmarks ({len(at)})")
    axes.margins(0.03)
    axes.autoscale_view()
    axes.set_xlabel(_plain(names[0]))
    axes.set_ylabel(_plain(names[1]))
    if names[0].split("[")[0] == names[1].split("[")[0]:  # of one array, so in one unit
        axes.set_aspect("equal", adjustable="datalim")
    _legend(axes, theme, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
    return _png(figure)


def _interval_bars(rows: Sequence[Interval], theme: Theme, text: Callable[[float], str]) -> tuple[Figure, Axes]:
    if not rows:
        raise PlotError("rows must hold at least one bar, got none")
    figure, (axes,) = _figure(theme, _HALF, max(3.0, 0.75 + 0.42 * len(rows)))
    for position, row in enumerate(rows):
        axes.barh(position, row.value, height=0.62, color=theme.series[0] if position == 0 else theme.muted, alpha=0.9)
        end = row.value
        if row.low is not None and row.high is not None:
            end = max(end, row.high)
            # Rounding may leave the value a hair outside its interval, and Matplotlib refuses negative whiskers.
            error = [[max(0.0, row.value - row.low)], [max(0.0, row.high - row.value)]]
            axes.errorbar(row.value, position, xerr=error, color=theme.ink, capsize=3, linewidth=1.2)
        axes.annotate(
            text(row.value),
            (max(end, 0.0), position),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=_TEXT,
            color=theme.ink,
            fontweight="bold" if position == 0 else "normal",
        )
    axes.set_yticks(range(len(rows)), [_plain(row.name) for row in rows])
    axes.tick_params(axis="y", labelsize=_TEXT, labelcolor=theme.ink, length=0)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    return figure, axes


def _figure(
    theme: Theme, width: float, height: float, rows: int = 1, columns: int = 1, **shared: Any
) -> tuple[Figure, list[Axes]]:
    figure = Figure(
        figsize=(width, height),
        dpi=_DPI,
        facecolor=theme.background,
        layout=ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.06),
    )
    FigureCanvasAgg(figure)
    grid: list[Axes] = figure.subplots(rows, columns, squeeze=False, **shared).ravel().tolist()
    for axes in grid:
        axes.set_facecolor(theme.background)
        axes.set_axisbelow(True)
        axes.grid(color=theme.grid, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(theme.grid)
        axes.tick_params(which="both", colors=theme.grid, labelcolor=theme.muted, labelsize=_SMALL)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=theme.muted, fontsize=_SMALL)
    return figure, grid


def _legend(axes: Axes, theme: Theme, loc: Any, **placement: Any) -> None:
    """A legend in a place that is said: to look for the best one takes a second where there is much to look at."""
    axes.legend(frameon=False, fontsize=_SMALL, labelcolor=theme.ink, loc=loc, **placement)


def _log_scale(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis whose labels are plain numbers, also where it spans less than a decade."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 30 * low else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _count_axis(axes: Axes, name: str) -> None:
    axes.set_xlabel(name)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()


def _series(metrics: Sequence[Mapping[str, Any]], name: str, axis: str) -> tuple[FloatArray, FloatArray]:
    points = [(record[axis], record[name]) for record in metrics if axis in record and name in record]
    numbers = [(x, y) for x, y in points if isinstance(y, int | float) and math.isfinite(y)]
    pairs = np.asarray(numbers, dtype=np.float64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _trend(
    x: FloatArray, y: FloatArray, bins: int, centre: Callable[..., Any]
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Sort by `x`, cut into at most `bins` groups of equal size, and return x, centre, 10 % and 90 % of each."""
    order = np.argsort(x, kind="stable")
    groups = np.array_split(order, min(bins, len(order)))
    quantiles = np.asarray([np.quantile(y[group], [0.1, 0.9]) for group in groups])
    middle = np.asarray([float(centre(y[group])) for group in groups])
    return np.asarray([x[group].mean() for group in groups]), middle, quantiles[:, 0], quantiles[:, 1]


def _array(name: str, values: ArrayLike, ndim: int) -> FloatArray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PlotError(f"{name} must be an array of {ndim} dimensions: {error}") from error
    if array.ndim != ndim or not array.size:
        raise PlotError(f"{name} must be an array of {ndim} dimensions, not empty, got shape {list(array.shape)}")
    return array


def _finite(name: str, values: ArrayLike) -> FloatArray:
    array = _array(name, values, 1)
    finite = array[np.isfinite(array)]
    if not len(finite):
        raise PlotError(f"{name} must hold a finite number, got none")
    return finite


def _plain(text: str) -> str:
    """Text as it is: no mathematics, no glyph the font lacks, not longer than there is room for."""
    short = text if len(text) <= _MAX_NAME else text[: _MAX_NAME - 1] + "…"
    printed = "".join(c if (c.isprintable() and ord(c) < _FIRST_UNPRINTED) or c == "…" else "?" for c in short)
    return printed.replace("\\", "/").replace("$", r"\$")
