"""The page that compares planners: one HTML file with every table, figure and video inside."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from ..files import write_bytes
from . import comparison_plots, plots
from .html import Picture, _data_uri

_MAX_PAGE_VIDEO_BYTES = 64 * 2**20  # beyond this, all together, the page would not open well


@dataclass
class Page:
    """All that the template shows."""

    verdict: str
    facts: dict[str, str]
    command: str
    scale: str
    rankings: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    tasks: list[dict[str, Any]]
    refused: list[str]
    options: str
    machine: dict[str, str]
    figures: dict[str, list[Picture]] = field(default_factory=dict)
    videos: list[tuple[str, str]] = field(default_factory=list)
    video_missing: str = ""


def write_comparison(
    out: Path,
    results: Mapping[str, Any],
    refused: Sequence[str],
    videos: Mapping[str, Path],
    video_missing: str,
) -> Path:
    """Write `report.html` into `out`, a page that needs nothing else.

    Args:
        out: folder of the comparison.
        results: content of `results.json`.
        refused: what was not played, in words.
        videos: by task.
        video_missing: why there are none, or fewer; empty if there are.

    Returns:
        the path of the page.
    """
    page = _page(results, refused)
    _draw_all(page, results)
    left = _MAX_PAGE_VIDEO_BYTES
    for task, path in videos.items():
        data = path.read_bytes()
        if len(data) <= left:
            left -= len(data)
            page.videos.append((task, _data_uri("video/mp4", data)))
    page.video_missing = video_missing
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    path = out / "report.html"
    write_bytes(path, environment.get_template("comparison.html").render(page=page).encode(errors="replace"))
    return path


def _page(results: Mapping[str, Any], refused: Sequence[str]) -> Page:
    options, facts = results["options"], {}
    facts["date"] = results["time"][:10]
    facts["tasks"] = str(len(results["tasks"]))
    facts["episodes of each"] = str(options["episodes"])
    facts["seed"] = str(options["seed"])
    facts["commit"] = str(results["commit"] or "unknown")[:12]
    flat = {**results["versions"], **{k: str(v) for k, v in results["machine"].items()}}
    return Page(
        verdict=_verdict(results),
        facts=facts,
        command=results["command"],
        scale="Scores are normalised: 0 for random actions, 1 for the best there is, which is the optimum where it is "
        "known and the best planner here elsewhere. IQM is the interquartile mean over all episodes of all tasks; "
        "intervals are 95 % of a bootstrap that resamples episodes within each task.",
        rankings=[_ranking(r, results) for r in results["rankings"]],
        scores=[_scores(b, results) for b in dict.fromkeys(c["budget"] for c in results["cells"])],
        tasks=[
            {
                "name": name,
                **task,
                "control_dt": "\N{EN DASH}" if task["control_dt"] is None else f"{task['control_dt']:.3g}",
            }
            for name, task in results["tasks"].items()
        ],
        refused=list(refused),
        options=_options(results),
        machine={str(k): str(v) for k, v in flat.items()},
    )


def number(value: float) -> str:
    """A score in two or three digits."""
    text = (
        f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3f}"
    )
    return text.replace("-", "\N{MINUS SIGN}")


def budget_name(budget: str) -> str:
    """A budget in words."""
    return f"{budget.removesuffix('ms')} ms per plan" if budget.endswith("ms") else f"{budget} evaluations per plan"


def _verdict(results: Mapping[str, Any]) -> str:
    if not results["rankings"]:
        return "No planner has played every task."
    whole = [r for r in results["rankings"] if len(r["tasks"]) == len(results["tasks"])]
    ranking = (whole or results["rankings"])[-1]
    leader = max(ranking["standings"], key=lambda n: ranking["standings"][n]["iqm"])
    among = f"{len(ranking['tasks'])} tasks" if len(ranking["tasks"]) > 1 else ranking["tasks"][0]
    if len(ranking["standings"]) == 1:
        return f"{leader} at {budget_name(ranking['budget'])}, on {among}."
    stays = f"first in {100 * ranking['leader_stays']:.0f} % of resamples"
    return f"{leader} leads at {budget_name(ranking['budget'])}, on {among}: {stays}."


def _ranking(ranking: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    standings = ranking["standings"]
    rows = []
    for name in sorted(standings, key=lambda n: -standings[n]["iqm"]):
        s = standings[name]
        numbers = [(number(s[key]), _between(s[f"{key}_ci"])) for key in ("iqm", "mean", "regret")]
        numbers += [(f"{s['mean_rank']:.2f}", ""), (f"{100 * s['first']:.0f} %", "")]
        rows.append({"name": name, "numbers": numbers})
    count = len(ranking["tasks"])
    among = "all tasks" if count == len(results["tasks"]) else f"only {', '.join(ranking['tasks'])}"
    return {
        "title": f"{budget_name(ranking['budget'])}, {among}",
        "rows": rows,
        "stability": f"The leader stays first in {100 * ranking['leader_stays']:.0f} % of the resamples; their "
        f"rankings agree with this one by a mean Kendall τ of {ranking['kendall_tau']:.2f}.",
    }


def _scores(budget: str, results: Mapping[str, Any]) -> dict[str, Any]:
    cells = {(c["task"], c["planner"]): c for c in results["cells"] if c["budget"] == budget}
    planners = list(dict.fromkeys(planner for _, planner in cells))
    rows = []
    for task, facts in results["tasks"].items():
        shown = []
        for planner in planners:
            cell = cells.get((task, planner))
            if cell is None:
                shown.append({"text": "\N{EN DASH}", "detail": "", "best": False})
                continue
            solved = "" if cell["success_rate"] is None else f", {100 * cell['success_rate']:.0f} %"
            detail = _between(cell["score_ci"]) + solved
            shown.append({"text": number(cell["score"]), "detail": detail, "best": cell["as_good_as_best"]})
        rows.append({"name": task, "cells": shown, "random": number(facts["random"])})
    return {"title": budget_name(budget), "planners": planners, "rows": rows}


def _options(results: Mapping[str, Any]) -> str:
    shown: dict[str, Any] = {}
    for cell in results["cells"]:
        shown.setdefault(
            f"{cell['planner']}, {budget_name(cell['budget'])}", cell["options"] | {"horizon": "the task's"}
        )
    return "\n".join(f"{name}\n  {json.dumps(options)}" for name, options in shown.items())


def _between(interval: Sequence[float]) -> str:
    return f"{number(interval[0])} to {number(interval[1])}"


def _draw_all(page: Page, results: Mapping[str, Any]) -> None:
    def draw(key: str, caption: str, plot: Callable[..., bytes], *data: Any) -> None:
        light, dark = (_data_uri("image/png", plot(*data, theme=theme)) for theme in (plots.LIGHT, plots.DARK))
        page.figures.setdefault(key, []).append(Picture(light, dark, caption, wide=True))

    for ranking in results["rankings"]:
        title = _ranking(ranking, results)["title"]
        rows = [plots.Interval(name, s["iqm"], *s["iqm_ci"]) for name, s in ranking["standings"].items()]
        draw(
            "standings",
            title,
            comparison_plots.standings_plot,
            rows,
            "interquartile mean of normalised scores, 95 % CI",
        )
        draw("ranks", title, comparison_plots.rank_plot, ranking["ranks"])
    cells, tasks = results["cells"], list(results["tasks"])
    planners = list(dict.fromkeys(c["planner"] for c in cells))
    for budget in dict.fromkeys(c["budget"] for c in cells):
        found = {(c["task"], c["planner"]): c for c in cells if c["budget"] == budget}
        scores = [[1 - found[t, p]["regret"] if (t, p) in found else None for p in planners] for t in tasks]
        caption = f"Mean normalised score, {budget_name(budget)}; bold: the highest"
        draw("map", caption, comparison_plots.score_map, tasks, planners, scores)
        times = {
            task: {
                p: (found[task, p]["decision_ms"]["p50"], found[task, p]["decision_ms"]["p99"])
                for p in planners
                if (task, p) in found
            }
            for task in tasks
        }
        draw("time", budget_name(budget), comparison_plots.time_plot, {k: v for k, v in times.items() if v})
    for in_ms, unit in ((False, "evaluations per plan"), (True, "ms per plan")):
        chosen = [c for c in cells if c["budget"].endswith("ms") == in_ms]
        if len({c["budget"] for c in chosen}) < 2:
            continue
        overall = _overall(results["rankings"], in_ms)
        if overall:
            caption = "Interquartile mean of normalised scores with its 95 % interval"
            draw("budgets", caption, comparison_plots.budget_curves, overall, unit, "normalised IQM")
        panels = curves_by_task(results, in_ms)
        caption = "Mean reward of a decision with its 95 % interval"
        draw("budgets", caption, comparison_plots.budget_curves, panels, unit, "score")


def curves_by_task(results: Mapping[str, Any], in_ms: bool = False) -> dict[str, dict[str, comparison_plots.Curve]]:
    """Scores of every planner over budgets, with their intervals, by task and planner.

    Args:
        results: of a comparison.
        in_ms: over budgets of milliseconds, in place of those of evaluations.
    """
    panels: dict[str, dict[str, list[tuple[float, float, float, float]]]] = {task: {} for task in results["tasks"]}
    for cell in results["cells"]:
        if cell["budget"].endswith("ms") == in_ms:
            low, high = cell["score_ci"]
            point = (float(cell["budget"].removesuffix("ms")), cell["score"], low, high)
            panels[cell["task"]].setdefault(cell["planner"], []).append(point)
    return {task: {planner: sorted(points) for planner, points in panel.items()} for task, panel in panels.items()}


def _overall(rankings: Sequence[Mapping[str, Any]], in_ms: bool) -> dict[str, dict[str, list[tuple[float, ...]]]]:
    """Curves of the interquartile mean over budgets, a panel for each group of tasks."""
    panels: dict[str, dict[str, list[tuple[float, ...]]]] = {}
    for ranking in rankings:
        if ranking["budget"].endswith("ms") != in_ms:
            continue
        panel = panels.setdefault(f"{len(ranking['tasks'])} tasks", {})
        for name, s in ranking["standings"].items():
            point = (float(ranking["budget"].removesuffix("ms")), s["iqm"], *s["iqm_ci"])
            panel.setdefault(name, []).append(point)
    return panels
