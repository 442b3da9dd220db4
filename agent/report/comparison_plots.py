"""The figures of a comparison of planners as PNG bytes, light or dark."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from .plots import _SMALL, _TEXT, _WIDE, LIGHT, Interval, PlotError, Theme, _figure, _legend, _plain, _png

Curve = Sequence[tuple[float, float, float, float]]
"""Points `(x, y, low, high)`."""

_MARKERS = "osD^vPX*<>"
_EXTRA = {LIGHT.background: ("#4d5b6b", "#00838f", "#8c510a")}
_EXTRA_DARK = ("#9aa7b5", "#4dd0e1", "#d7a86e")
_COLUMNS = 4


def _colour(number: int, theme: Theme) -> str:
    colours = (*theme.series, *_EXTRA.get(theme.background, _EXTRA_DARK))
    return colours[number % len(colours)]


def standings_plot(rows: Sequence[Interval], name: str, theme: Theme = LIGHT) -> bytes:
    """One point with its interval per planner, the best on top.

    Args:
        rows: values with intervals.
        name: of the axis.
        theme: colours.

    Raises:
        PlotError: no rows.
    """
    if not rows:
        raise PlotError("rows must hold at least one planner, got none")
    figure, (axes,) = _figure(theme, _WIDE, 0.7 + 0.33 * len(rows))
    for place, row in enumerate(sorted(rows, key=lambda r: r.value)):
        colour = _colour([r.name for r in rows].index(row.name), theme)
        low, high = row.value if row.low is None else row.low, row.value if row.high is None else row.high
        axes.plot([low, high], [place, place], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
        axes.plot([row.value], [place], "o", color=colour, markersize=6)
    axes.set_yticks(range(len(rows)), [_plain(r.name) for r in sorted(rows, key=lambda r: r.value)])
    axes.tick_params(axis="y", labelcolor=theme.ink)
    axes.set_xlabel(name)
    axes.margins(y=0.12)
    return _png(figure)


def budget_curves(panels: Mapping[str, Mapping[str, Curve]], x_name: str, y_name: str, theme: Theme = LIGHT) -> bytes:
    """Scores against budgets, a small panel per task and a line per planner; intervals as bands.

    Args:
        panels: by task, by planner, points over budgets.
        x_name: unit of the budgets.
        y_name: what the scores are.
        theme: colours.

    Raises:
        PlotError: there is nothing to draw.
    """
    if not panels:
        raise PlotError("panels must hold at least one task, got none")
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, grid = _figure(theme, _WIDE, 0.5 + (1.75 if len(panels) > 1 else 2.8) * rows, rows, columns)
    for axes, (task, curves) in zip(grid, panels.items(), strict=False):
        for name, points in curves.items():
            number = names.index(name)
            x, y, low, high = (np.asarray(values, np.float64) for values in zip(*points, strict=True))
            # Planners beside each other rather than on top of each other.
            x = x * 1.015 ** (number - (len(names) - 1) / 2)
            style: dict[str, Any] = {"color": _colour(number, theme), "linewidth": 1.3, "markersize": 3.5}
            axes.plot(x, y, marker=_MARKERS[number % len(_MARKERS)], label=_plain(name), **style)
            axes.vlines(x, low, high, color=_colour(number, theme), linewidth=1.2, alpha=0.6)
        axes.set_title(_plain(task), loc="left", fontsize=_SMALL, color=theme.ink)
        _budget_axis(axes, sorted({p[0] for points in curves.values() for p in points}))
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[max(0, len(panels) - columns) : len(panels)]:
        axes.set_xlabel(x_name)
    for axes in grid[: len(panels) : columns]:
        axes.set_ylabel(y_name)
    handles: dict[str, Artist] = {}
    for axes in grid[: len(panels)]:
        found, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(map(str, labels), found, strict=True))
    place: dict[str, Any] = {"loc": "outside upper left", "ncols": len(handles)}
    style = {"frameon": False, "fontsize": _SMALL, "labelcolor": theme.ink}
    figure.legend(list(handles.values()), list(handles), **place, **style)
    return _png(figure)


def _budget_axis(axes: Axes, budgets: Sequence[float]) -> None:
    if max(budgets) > min(budgets):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.minorticks_off()
    axes.set_xticks(list(budgets))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))


def score_map(
    tasks: Sequence[str], planners: Sequence[str], scores: Sequence[Sequence[float | None]], theme: Theme = LIGHT
) -> bytes:
    """Normalised scores of all planners on all tasks as coloured cells; what was not played is left empty.

    Args:
        tasks: rows.
        planners: columns.
        scores: by task and planner, 0 as random actions and 1 as the best.
        theme: colours.

    Raises:
        PlotError: there is nothing to draw.
    """
    if not tasks or not planners:
        raise PlotError("tasks and planners must hold at least one, got none")
    values = np.array([[np.nan if v is None else v for v in row] for row in scores], np.float64)
    colours = LinearSegmentedColormap.from_list("score", [theme.background, theme.series[0]])
    figure, (axes,) = _figure(theme, _WIDE, 0.8 + 0.27 * len(tasks))
    axes.grid(visible=False)
    axes.imshow(np.clip(values, 0, 1), cmap=colours, vmin=-0.05, vmax=1.15, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        text = "\N{EN DASH}" if np.isnan(value) else f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
        best = not np.isnan(value) and value >= np.nanmax(values[row]) - 1e-9
        colour = theme.muted if np.isnan(value) else theme.background if value > 0.75 else theme.ink
        weight = "bold" if best else "normal"
        axes.text(column, row, text, ha="center", va="center", fontsize=_SMALL, color=colour, fontweight=weight)
    axes.set_xticks(range(len(planners)), [_plain(p) for p in planners])
    axes.set_yticks(range(len(tasks)), [_plain(t) for t in tasks])
    axes.tick_params(labelcolor=theme.ink, length=0)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    return _png(figure)


def rank_plot(ranks: Mapping[str, Sequence[float]], theme: Theme = LIGHT) -> bytes:
    """How often each planner has each rank when episodes are drawn anew, as stacked bars.

    Raises:
        PlotError: no planners.
    """
    if not ranks:
        raise PlotError("ranks must hold at least one planner, got none")
    figure, (axes,) = _figure(theme, _WIDE, 0.9 + 0.3 * len(ranks))
    count = max(map(len, ranks.values()))
    shades = LinearSegmentedColormap.from_list("rank", [theme.series[0], theme.grid])(np.linspace(0, 1, max(count, 2)))
    ordered = sorted(ranks, key=lambda name: -sum(r * p for r, p in enumerate(ranks[name])))
    for place, name in enumerate(ordered):
        left = 0.0
        for number, share in enumerate(ranks[name]):
            axes.barh(place, share, left=left, color=shades[number], height=0.7)
            if share > 0.06:
                colour = theme.background if number < count / 2 else theme.ink
                middle = left + share / 2
                axes.text(middle, place, f"{number + 1}", ha="center", va="center", fontsize=_SMALL, color=colour)
            left += share
    axes.set_yticks(range(len(ordered)), [_plain(name) for name in ordered])
    axes.tick_params(axis="y", labelcolor=theme.ink)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of 2000 resamples of the episodes in which the planner has this rank")
    axes.grid(visible=False)
    return _png(figure)


def time_plot(times: Mapping[str, Mapping[str, tuple[float, float]]], theme: Theme = LIGHT) -> bytes:
    """Median and 99th percentile of decision times per task, a row each, one mark per planner.

    Args:
        times: by task, by planner, milliseconds `(p50, p99)`.
        theme: colours.

    Raises:
        PlotError: there is nothing to draw.
    """
    if not times:
        raise PlotError("times must hold at least one task, got none")
    names = list(dict.fromkeys(name for row in times.values() for name in row))
    figure, (axes,) = _figure(theme, _WIDE, 0.9 + 0.3 * len(times))
    for place, row in enumerate(reversed(list(times.values()))):
        for name, (median, p99) in row.items():
            number = names.index(name)
            y = place + 0.6 * ((number + 0.5) / len(names) - 0.5)
            axes.plot([median, p99], [y, y], color=_colour(number, theme), linewidth=1.2, alpha=0.7)
            marker = _MARKERS[number % len(_MARKERS)]
            axes.plot([median], [y], marker, color=_colour(number, theme), markersize=3.5)
    for number, name in enumerate(names):
        axes.plot([], [], _MARKERS[number % len(_MARKERS)], color=_colour(number, theme), label=_plain(name))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_yticks(range(len(times)), [_plain(task) for task in reversed(list(times))])
    axes.tick_params(axis="y", labelcolor=theme.ink)
    axes.set_xlabel("milliseconds per plan: median (mark) to 99th percentile (end of the line)")
    _legend(axes, theme, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(names))
    axes.set_title(" ", fontsize=_TEXT)
    return _png(figure)
