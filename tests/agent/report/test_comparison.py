"""The page that compares planners, from results as they are on file."""

import re
from pathlib import Path
from typing import Any

import pytest

from forethought.agent.report import comparison_plots
from forethought.agent.report.comparison import number, write_comparison
from forethought.agent.report.plots import DARK, LIGHT, Interval, PlotError

PLANNERS = ("cem", "icem", "<mine>")


def cell(task: str, planner: str, budget: str, score: float) -> dict[str, Any]:
    return {
        "task": task, "planner": planner, "budget": budget, "episodes": 2, "score": score,
        "score_ci": [score - 1, score],
        "success_rate": 0.5 if task == "reach" else None, "success_ci": [0.1, 0.9],
        "normalised": [0.5, 0.6], "regret": 0.4, "regret_ci": [0.3, 0.5], "evaluations_per_plan": 60.0,
        "model_steps_per_decision": 600.0, "decision_ms": {"p50": 1.5, "p99": 9.5},
        "as_good_as_best": planner == "icem", "options": {"num_samples": 20, "horizon": 10},
    }  # fmt: skip


def ranking(budget: str, tasks: list[str]) -> dict[str, Any]:
    standing = {"iqm": 0.5, "iqm_ci": [0.4, 0.6], "mean": 0.5, "mean_ci": [0.4, 0.6], "regret": 0.4}
    standing |= {"regret_ci": [0.3, 0.5], "mean_rank": 2.0, "first": 0.1}
    standings = {name: standing | {"iqm": 0.9 if name == "icem" else 0.5} for name in PLANNERS}
    ranks = {name: [0.5, 0.25, 0.25] for name in PLANNERS}
    return {
        "budget": budget, "tasks": tasks, "standings": standings, "ranks": ranks, "leader_stays": 0.87,
        "kendall_tau": 0.7,
    }  # fmt: skip


@pytest.fixture
def results() -> dict[str, Any]:
    tasks = {
        name: {
            "summary": f"what {name} is", "source": "a paper", "action_dim": 2, "horizon": 10, "decisions": 20,
            "control_dt": None, "gradients": True, "random": -3.0, "best": 0.0, "best_is": "the optimum",
        }
        for name in ("reach", "swing")
    }  # fmt: skip
    budgets = ("32", "64", "5ms")
    return {
        "command": "forethought bench planners tasks=reach,swing", "commit": "abc", "time": "2026-01-02T03:04:05",
        "versions": {"forethought": "0.1.0", "mujoco": "3.17.0"}, "machine": {"cpu": "some", "cores": 2},
        "options": {"episodes": 2, "seed": 0}, "tasks": tasks, "refused": [],
        "cells": [cell(t, p, b, -1.0) for t in tasks for p in PLANNERS for b in budgets],
        "rankings": [ranking(b, list(tasks)) for b in budgets],
    }  # fmt: skip


def test_the_page_needs_nothing_else_and_says_it_all(results: dict[str, Any], tmp_path: Path) -> None:
    video = tmp_path / "reach.mp4"
    video.write_bytes(b"film")
    page = write_comparison(tmp_path, results, ["gradient on reach (why)"], {"reach": video}, "").read_text()
    assert "icem leads at 5 ms per plan, on 2 tasks: first in 87 % of resamples" in page
    for text in (results["command"], "abc", "3.17.0", "what reach is", "gradient on reach (why)", "data:video/mp4"):
        assert text in page
    assert "&lt;mine&gt;" in page
    assert "<mine>" not in page
    assert "Score against budget" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "<script" not in page
    # Standings, map, curves (overall and by task; two budgets of one kind), ranks and times, of each budget.
    assert page.count('<img src="data:image/png') == 3 + 3 + 2 + 3 + 3


def test_without_pictures_it_says_why(results: dict[str, Any], tmp_path: Path) -> None:
    page = write_comparison(tmp_path, results, [], {}, "cannot draw: no OpenGL").read_text()
    assert "cannot draw: no OpenGL" in page
    assert "<video" not in page


def test_one_budget_has_no_curves_and_one_planner_no_race(results: dict[str, Any], tmp_path: Path) -> None:
    results["cells"] = [c for c in results["cells"] if c["budget"] == "64" and c["planner"] == "icem"]
    results["rankings"] = results["rankings"][1:2]
    only = results["rankings"][0]
    for key in ("standings", "ranks"):
        only[key] = {"icem": only[key]["icem"]}
    page = write_comparison(tmp_path, results, [], {}, "").read_text()
    assert "Score against budget" not in page
    assert "icem at 64 evaluations per plan, on 2 tasks." in page


def test_a_planner_that_has_not_played_a_task_has_a_dash(results: dict[str, Any], tmp_path: Path) -> None:
    results["cells"] = [c for c in results["cells"] if (c["task"], c["planner"]) != ("swing", "cem")]
    results["rankings"] = []
    page = write_comparison(tmp_path, results, [], {}, "").read_text()
    assert "No planner has played every task." in page
    assert "<td>\N{EN DASH}</td>" in page


def test_numbers_have_as_many_digits_as_they_need() -> None:
    printed = [number(v) for v in (0.0, 0.0123, 0.456, -1.234, 123.45)]
    assert printed == ["0.00", "0.012", "0.46", "\N{MINUS SIGN}1.23", "123.5"]


POINTS = {"cem": [(32.0, 0.1, 0.0, 0.2), (64.0, 0.5, 0.4, 0.6)], "icem": [(64.0, 0.9, 0.8, 1.0)]}


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("plot", "data", "other"),
    [
        (comparison_plots.standings_plot, ([Interval("a", 0.5, 0.4, 0.6)], "x"), ([Interval("a", 0.5, 0.1, 0.6)], "x")),
        (comparison_plots.budget_curves, ({"t": POINTS}, "x", "y"), ({"t": POINTS, "u": POINTS}, "x", "y")),
        (comparison_plots.score_map, (["t"], ["a", "b"], [[0.5, None]]), (["t"], ["a", "b"], [[0.5, 1.0]])),
        (comparison_plots.rank_plot, ({"a": [1.0, 0.0], "b": [0.0, 1.0]},), ({"a": [0.5, 0.5], "b": [0.5, 0.5]},)),
        (comparison_plots.time_plot, ({"t": {"a": (1.0, 2.0)}},), ({"t": {"a": (1.0, 9.0)}},)),
    ],
)
def test_figures_show_their_data(plot: Any, data: tuple[Any, ...], other: tuple[Any, ...], theme: Any) -> None:
    image = plot(*data, theme=theme)
    assert image.startswith(b"\x89PNG")
    assert plot(*data, theme=theme) == image
    assert plot(*other, theme=theme) != image


@pytest.mark.parametrize(
    ("plot", "data"),
    [
        (comparison_plots.standings_plot, ([], "x")),
        (comparison_plots.budget_curves, ({}, "x", "y")),
        (comparison_plots.score_map, ([], [], [])),
        (comparison_plots.rank_plot, ({},)),
        (comparison_plots.time_plot, ({},)),
    ],
)
def test_nothing_is_not_drawn(plot: Any, data: tuple[Any, ...]) -> None:
    with pytest.raises(PlotError, match="must hold at least one"):
        plot(*data)
