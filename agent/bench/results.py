"""The results of a comparison: one JSON object that everything shown is made of, and its Markdown table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import provenance
from ..report.comparison import budget_name, number
from ..training.evaluate import mean_interval, success_interval
from .arena import GRADIENT_EVALUATIONS, Arena
from .runner import RANDOM, BenchOptions, Cell, Refusal, budgets_of
from .statistics import as_good_as_best, interquartile_mean, normalise, rank

Floats = NDArray[np.float64]
_WARM_UP = 3
"""Plans of an episode whose times do not count."""


def summarise(
    arenas: Sequence[Arena],
    cells: Sequence[Cell],
    refusals: Sequence[Refusal],
    options: BenchOptions,
    command: str | None = None,
) -> dict[str, Any]:
    """What `results.json` holds.

    `tasks` by name; `cells`, a row per task, planner and budget; `rankings`, one per budget over all tasks that the
    planners named in it have all played, and a second one over fewer tasks where that lets more planners in; `refused`.
    """
    tasks = {arena.name: _task(arena, [c for c in cells if c.arena == arena.name]) for arena in arenas}
    rows = [_row(cell, tasks[cell.arena], options.replan_every) for cell in cells if cell.planner != RANDOM]
    for row in rows:
        rivals = {
            other["planner"]: np.asarray(other["normalised"])
            for other in rows
            if (other["task"], other["budget"]) == (row["task"], row["budget"])
        }
        moved = any(values.mean() > 0 for values in rivals.values())  # or nobody was any better than random actions
        row["as_good_as_best"] = moved and row["planner"] in as_good_as_best(rivals, options.seed)
    return {
        **provenance.of_result(command),
        "options": asdict(options),
        "gradient_evaluations": GRADIENT_EVALUATIONS,
        "tasks": tasks,
        "cells": rows,
        "rankings": [r for b in budgets_of(options) for r in _rankings(str(b), rows, list(tasks), options.seed)],
        "refused": [
            {"task": r.arena, "planner": r.planner, "budget": str(r.budget), "reason": r.reason} for r in refusals
        ],
    }


def _task(arena: Arena, cells: Sequence[Cell]) -> dict[str, Any]:
    random = next(float(np.mean([e.score for e in c.episodes])) for c in cells if c.planner == RANDOM)
    best = max(float(np.mean([e.score for e in c.episodes])) for c in cells)
    return {
        "summary": arena.summary,
        "source": arena.source,
        "action_dim": len(arena.action_low),
        "horizon": arena.horizon,
        "decisions": arena.decisions,
        "control_dt": None if math.isnan(arena.control_dt) else arena.control_dt,
        "gradients": arena.differentiable,
        "random": random,
        "best": best if arena.optimum is None else arena.optimum,
        "best_is": "the best of the planners" if arena.optimum is None else "the optimum",
    }


def _row(cell: Cell, task: Mapping[str, Any], replan_every: int) -> dict[str, Any]:
    scores = np.array([e.score for e in cell.episodes])
    solved = [e.solved for e in cell.episodes if e.solved is not None]
    normalised = normalise(scores, task["random"], task["best"])
    times = [t for e in cell.episodes for t in (e.milliseconds[_WARM_UP:] or e.milliseconds)]
    spent = [n for e in cell.episodes for n in e.evaluations]
    rate = sum(solved) / len(solved) if solved else None
    return {
        "task": cell.arena,
        "planner": cell.planner,
        "budget": str(cell.budget),
        "episodes": len(cell.episodes),
        "score": float(scores.mean()),
        "score_ci": mean_interval(scores.tolist()),
        "score_iqm": float(interquartile_mean(scores)),
        "success_rate": rate,
        "success_ci": success_interval(sum(solved), len(solved)) if solved else None,
        "normalised": normalised.tolist(),
        "regret": float(1 - normalised.mean()),
        "regret_ci": [1 - v for v in reversed(mean_interval(normalised.tolist()))],
        "evaluations_per_plan": float(np.mean(spent)),
        "model_steps_per_decision": float(np.mean(spent)) * task["horizon"] / replan_every,
        "decision_ms": {"p50": float(np.percentile(times, 50)), "p99": float(np.percentile(times, 99))},
        "scores": scores.tolist(),
        "options": cell.options,
    }


def _rankings(budget: str, rows: Sequence[Mapping[str, Any]], tasks: Sequence[str], seed: int) -> list[dict[str, Any]]:
    rows = [row for row in rows if row["budget"] == budget]
    planners = list(dict.fromkeys(row["planner"] for row in rows))
    played = {name: {row["task"] for row in rows if row["planner"] == name} for name in planners}
    everywhere = [name for name in planners if played[name] == set(tasks)]
    groups = [(everywhere, list(tasks))] if everywhere else []
    shared = [task for task in tasks if all(task in played[name] for name in planners)]
    if shared and (planners, shared) not in groups:
        groups.append((planners, shared))
    rankings = []
    for names, among in groups:
        by_key = {(row["planner"], row["task"]): np.asarray(row["normalised"]) for row in rows}
        ranking = rank({name: [by_key[name, task] for task in among] for name in names}, seed)
        rankings.append({"budget": budget, "tasks": among, **asdict(ranking)})
    return rankings


def markdown(results: Mapping[str, Any]) -> str:
    """The results as Markdown: rankings, a table of scores per budget, and how they came about."""
    options = results["options"]
    lines = [
        "# Planners compared",
        "",
        f"`{results['command']}`",
        "",
        f"forethought {results['versions']['forethought']}, commit {str(results['commit'] or 'unknown')[:12]}, "
        f"mujoco {results['versions'].get('mujoco', '-')}, torch {results['versions'].get('torch', '-')}; "
        f"{results['machine']['cpu']}, {results['machine']['cores']} cores; {results['time'][:10]}.",
        "",
        f"{options['episodes']} episodes of every task, the same for all planners. A normalised score is 0 for random "
        "actions and 1 for the best there is: the optimum where it is known, or the best planner here.",
    ]
    for ranking in results["rankings"]:
        lines += ["", f"## {budget_name(ranking['budget'])}, {_tasks(ranking, results)}", "", *_ranking_table(ranking)]
    for budget in dict.fromkeys(row["budget"] for row in results["cells"]):
        lines += ["", f"## Every task, {budget_name(budget)}", "", *_score_table(budget, results)]
    if results["refused"]:
        lines += ["", "Not played: " + "; ".join(refused_lines(results)) + "."]
    return "\n".join(lines) + "\n"


def _tasks(ranking: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    count = len(ranking["tasks"])
    if count == len(results["tasks"]):
        return "all tasks" if count > 1 else ranking["tasks"][0]
    return f"the {count} tasks that all of these have played" if count > 1 else ranking["tasks"][0]


def refused_lines(results: Mapping[str, Any]) -> list[str]:
    """What was not played and why, planner by planner."""
    groups: dict[tuple[str, str], list[str]] = {}
    for refusal in results["refused"]:
        tasks = groups.setdefault((refusal["planner"], refusal["reason"]), [])
        if refusal["task"] not in tasks:
            tasks.append(refusal["task"])
    return [f"{planner} on {', '.join(tasks)} ({reason})" for (planner, reason), tasks in groups.items()]


def _ranking_table(ranking: Mapping[str, Any]) -> list[str]:
    lines = [
        "| planner | IQM, 95 % CI | mean, 95 % CI | regret, 95 % CI | mean rank | first in |",
        "|---|---|---|---|---|---|",
    ]
    standings = ranking["standings"]
    for name in sorted(standings, key=lambda n: -standings[n]["iqm"]):
        s = standings[name]
        cells = [_with_interval(s[k], s[f"{k}_ci"]) for k in ("iqm", "mean", "regret")]
        lines.append(f"| {name} | {' | '.join(cells)} | {s['mean_rank']:.2f} | {100 * s['first']:.0f} % |")
    return [
        *lines,
        "",
        f"The leader stays first in {100 * ranking['leader_stays']:.0f} % of 2000 resamples of the episodes; mean "
        f"Kendall τ of the rankings {ranking['kendall_tau']:.2f}.",
    ]


def _score_table(budget: str, results: Mapping[str, Any]) -> list[str]:
    rows = {(r["task"], r["planner"]): r for r in results["cells"] if r["budget"] == budget}
    planners = list(dict.fromkeys(planner for _, planner in rows))
    lines = [f"| task | {' | '.join(planners)} | random |", "|---" * (len(planners) + 2) + "|"]
    for task, facts in results["tasks"].items():
        cells = []
        for planner in planners:
            row = rows.get((task, planner))
            if row is None:
                cells.append("\N{EN DASH}")
                continue
            text = _with_interval(row["score"], row["score_ci"])
            success = "" if row["success_rate"] is None else f", {100 * row['success_rate']:.0f} % solved"
            cells.append((f"**{text}**" if row["as_good_as_best"] else text) + success)
        lines.append(f"| {task} | {' | '.join(cells)} | {number(facts['random'])} |")
    times = [
        f"{planner} {np.median([r['decision_ms']['p50'] for r in rows.values() if r['planner'] == planner]):.1f} / "
        f"{np.max([r['decision_ms']['p99'] for r in rows.values() if r['planner'] == planner]):.1f}"
        for planner in planners
    ]
    return [
        *lines,
        "",
        "Mean reward of a decision with its 95 % interval; bold: not to be told from the best at 95 %.",
        f"Milliseconds per plan, median task / slowest 1 % of the slowest task: {', '.join(times)}.",
    ]


def _with_interval(value: float, interval: Sequence[float]) -> str:
    return f"{number(value)} [{number(interval[0])}, {number(interval[1])}]"
