"""Bring the numbers of `benchmarks/results/` into the pages that show them; nobody types figures by hand.

    python benchmarks/render_tables.py              rewrite the tables
    python benchmarks/render_tables.py --check      exit status 1 if a page does not show what the results say

A page asks for a table by a pair of comments, and everything between them belongs to this script:

    <!-- results:goal_reaching -->
    <!-- /results -->
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any

from ablations import ROWS as ABLATIONS
from adaptation import ARMS as ADAPTATION_ARMS
from adaptation import REPLAN, SHIFTS
from adaptation import TASKS as ADAPTATION_TASKS
from continual import ARMS as LIVES
from continual import TASKS as WINGS
from goal_reaching import TASKS, Task
from gymnasium_control import ARMS as GYMNASIUM_ARMS
from gymnasium_control import TASKS as GYMNASIUM_TASKS
from memory_planning import ARMS as PLANNING_ARMS
from memory_planning import TASKS as PLANNING_TASKS
from retrieval import ARMS as RETRIEVAL_ARMS
from retrieval import SAMPLES
from retrieval import TASKS as RETRIEVAL_TASKS
from reward_control import FRAMES
from reward_control import TASKS as REWARD_TASKS
from second_visit import TASKS as VISITS
from second_visit import summary as visits_summary
from strangers import TASKS as STRANGERS
from working_memory import ARMS as MEMORY_ARMS
from working_memory import TASKS as MEMORY_TASKS

from forethought.agent.bench.results import markdown as comparison
from forethought.agent.files import read_json
from forethought.agent.jobs.bench import bench_tasks
from forethought.agent.report.comparison import number
from forethought.agent.report.references import METHODS
from forethought.agent.training.evaluate import success_interval

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "benchmarks/README.md",
    "docs/memory.md",
    "docs/performance.md",
    "docs/strangers.md",
    "docs/adr/0006-vectorised-stepping.md",
)
_BLOCK = re.compile(r"(<!-- results:(\w+) -->\n).*?(<!-- /results -->)", re.DOTALL)

Result = dict[str, Any]
NONE, GE = "\N{EN DASH}", "\N{GREATER-THAN OR EQUAL TO}"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# -- goal reaching -----------------------------------------------------------------------------------------------------


def goal_reaching(results: Path) -> str:
    """One row per task of its own that has results, in the order of `goal_reaching.TASKS`."""
    header = [
        "task", "success (95 % CI)", "latent L2 cost", "learned z alone", "z = state", "random", "true dynamics",
        "steps to goal", "decision p50 / p99", "training", "bar",
    ]  # fmt: skip
    return _goals(results, "goal_reaching", header, ("learned", "identity"))


def ways(results: Path) -> str:
    """The same for tasks on which straight-line distance leads astray."""
    header = [
        "task", "success (95 % CI)", "latent L2 cost", "pairwise distance", "random", "ceiling",
        "steps to goal", "rank", "decision p50 / p99", "training", "bar", "others report",
    ]  # fmt: skip
    return _goals(results, "ways", header, ("pairwise",))


def _goals(results: Path, table: str, header: Sequence[str], arms: Sequence[str]) -> str:
    found = [read_json(path) for path in sorted((results / "goal_reaching").glob("*.json"))]
    rows = []
    for name, task in TASKS.items():
        ours = _of(found, name, "default")
        if ours and task.table == table:
            script = results / "ceilings" / f"{name}.json"
            ceiling = f"{_pooled([read_json(script)])}, script" if script.exists() else None
            ranks = [_ranks(ours)] if "rank" in header else []
            row = _row(task, ours, [_of(found, name, arm) for arm in arms], ceiling, ranks)
            rows.append([*row, task.reported or NONE] if table == "ways" else row)
    return markdown(header, rows) if rows else "No results yet: `python benchmarks/goal_reaching.py` makes them.\n"


def again(results: Path) -> str:
    """One row per task that was trained once more, by a later commit, in the order of `goal_reaching.TASKS`."""
    found = [read_json(path) for path in sorted((results / "goal_reaching_again").glob("*.json"))]
    rows = [
        [task.title, _pooled(ours), _pooled([r["random"] for r in ours]), _ranks(ours),
         ", ".join(_duration(r["train_seconds"]) for r in ours)]
        for name, task in TASKS.items() if (ours := _of(found, name, "default"))
    ]  # fmt: skip
    header = ["task", "success (95 % CI)", "random", "rank", "training"]
    return markdown(header, rows) if rows else "No results yet.\n"


def ablations(results: Path) -> str:
    """One row per ablation that has results, in the order of `ablations.ROWS`."""
    found = [read_json(path) for path in sorted((results / "ablations").glob("*.json"))]
    rows = []
    for name, row in ABLATIONS.items():
        ours = sorted((r for r in found if r["row"] == name), key=lambda r: int(r["seed"]))
        if not ours:
            continue
        steps = [r["steps_to_goal"]["median"] for r in ours if r["steps_to_goal"]["median"] is not None]
        rows.append([
            row.title,
            _pooled(ours),
            ", ".join(_percent(r["success_rate"]) for r in ours),
            f"{median(steps):.0f}" if steps else NONE,
            _ranks(ours),
            f"{median(r['decision_ms']['p50'] for r in ours):.0f} ms",
            _duration(max(r["train_seconds"] for r in ours)) if row.training or name == "default" else NONE,
        ])  # fmt: skip
    if not rows:
        return "No results yet: `python benchmarks/ablations.py` makes them.\n"
    header = ["", "success (95 % CI)", "by seed", "steps to goal", "effective rank", "decision", "training"]
    return markdown(header, rows)


def _ranks(trainings: Sequence[Result]) -> str:
    """Smallest effective rank of the learned features at the end of training, and how many features there are."""
    known = [r["latents"] for r in trainings if r.get("latents")]
    return f"{min(k['effective_rank'] for k in known):.1f} of {known[0]['width']}" if known else NONE


def _of(found: Sequence[Result], task: str, arm: str) -> list[Result]:
    return sorted((r for r in found if (r["task"], r["arm"]) == (task, arm)), key=lambda r: int(r["seed"]))


def _row(
    task: Task, ours: Sequence[Result], others: Sequence[Sequence[Result]], ceiling: str | None, ranks: Sequence[str]
) -> list[str]:
    steps = [r["steps_to_goal"]["median"] for r in ours if r["steps_to_goal"]["median"] is not None]
    times = [r["decision_ms"] for r in ours]
    slowest = max(r["train_seconds"] for r in ours)
    baselines = [
        [r["arms"].get("latent_l2") for r in ours],
        *others,
        [r["random"] for r in ours],
    ]
    return [
        task.title,
        _by_seed(ours),
        *(_pooled([r for r in rows if r is not None]) for rows in baselines),
        ceiling or _pooled([r["true_dynamics"] for r in ours if r["true_dynamics"] is not None]),
        f"{median(steps):.0f}" if steps else NONE,
        *ranks,
        f"{median(t['p50'] for t in times):.0f} / {max(t['p99'] for t in times):.0f} ms",
        _duration(slowest),
        _bar(task, ours, slowest),
    ]


def _pooled(rows: Sequence[Result]) -> str:
    """Success over all episodes of `rows`, with its Wilson interval."""
    if not rows:
        return NONE
    episodes = sum(r["episodes"] for r in rows)
    successes = sum(round(r["success_rate"] * r["episodes"]) for r in rows)
    low, high = success_interval(successes, episodes)
    return f"{_percent(successes / episodes)} % ({_percent(low)} to {_percent(high)})"


def _bar(task: Task, trainings: Sequence[Result], slowest: float) -> str:
    """Whether the task counts as solved: by success over all trainings, and by the longest of them."""
    if task.bar is None:
        return NONE
    success = fmean(r["success_rate"] for r in trainings)
    if success < task.bar or slowest > task.limit_s:
        verdict = "missed"
    else:
        verdict = (
            "met" if len(trainings) >= len(task.seeds) else f"{len(trainings)} of {len(task.seeds)} trainings so far"
        )
    return f"{verdict} (≥ {_percent(task.bar)} %, ≤ {_duration(task.limit_s)})"


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f}".removesuffix(".0")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min"


# -- adaptation --------------------------------------------------------------------------------------------------------


def adaptation(results: Path) -> str:
    """One row per task, shift and decisions per plan that both arms have results of, in the benchmark's order."""
    found = [read_json(path) for path in sorted((results / "adaptation").glob("*.json"))]
    rows = []
    for name, shift, every in product(ADAPTATION_TASKS, SHIFTS, REPLAN):
        of_row = [r for r in found if (r["task"], r["shift"]) == (name, shift)]
        arms = [[r for r in of_row if (r["replan_every"], r["arm"]) == (every, arm)] for arm in ADAPTATION_ARMS]
        if not all(arms):
            continue
        worlds = (f"camera {1e3 * v:g} mm off" if k == "camera" else f"{k} x {v:g}" for k, v in SHIFTS[shift].items())
        world = ", ".join(worlds) or "as learned"
        true = [r["true_dynamics"] for r in of_row if r["true_dynamics"] is not None]
        rows.append([
            f"{ADAPTATION_TASKS[name].title}, {world}",
            str(every),
            *(_pooled(arm) for arm in arms),
            *(f"{fmean(r['steps_mean_all'] for r in arm):.1f}" for arm in arms),
            f"{fmean(r['success_rate'] - r['return_mean'] for r in true):.1f}" if true else NONE,
            *(f"{fmean(r['prediction_error']['model'] for r in arm):.3f}" for arm in arms),
        ])  # fmt: skip
    if not rows:
        return "No results yet: `python benchmarks/adaptation.py` makes them.\n"
    header = [
        "task, world", "decisions per plan", "success (95 % CI)", "adapting", "steps", "adapting", "true dynamics",
        "error", "adapting",
    ]  # fmt: skip
    return markdown(header, rows)


# -- retrieval ---------------------------------------------------------------------------------------------------------


def retrieval(results: Path) -> str:
    """Two rows per task that has results, one for each arm; one column per number of candidates."""
    found = [read_json(path) for path in sorted((results / "retrieval").glob("*.json"))]
    rows = []
    for name, task in RETRIEVAL_TASKS.items():
        arms = {
            arm: {n: [r for r in found if (r["task"], r["samples"], r["arm"]) == (name, n, arm)] for n in SAMPLES}
            for arm in RETRIEVAL_ARMS
        }
        alone = {n: _success_and_steps(of) for n, of in arms["alone"].items() if of}
        for arm, of_arm in arms.items():
            here = {n: _success_and_steps(of) for n, of in of_arm.items() if of}
            if not here or not alone:
                continue
            best, least = max(s for s, _ in alone.values()), min(t for _, t in alone.values())
            rows.append([
                f"{task.title}, {'with memory' if arm == 'memory' else 'alone'}",
                *(f"{_percent(here[n][0])}; {here[n][1]:.1f}" if n in here else NONE for n in SAMPLES),
                _enough({n: success >= 0.95 * best for n, (success, _) in here.items()}),
                _enough({n: steps <= 1.05 * least for n, (_, steps) in here.items()}),
                _as_good_as_twice(here, alone),
                f"{median(r['decision_ms']['p50'] for r in of_arm[max(here)]):.0f} ms",
            ])  # fmt: skip
    if not rows:
        return "No results yet: `python benchmarks/retrieval.py` makes them.\n"
    header = [
        "candidates", *map(str, SAMPLES),
        "enough for success", "enough for steps", "as good as twice as many alone", "decision",
    ]  # fmt: skip
    return markdown(header, rows)


def _as_good_as_twice(here: dict[int, tuple[float, float]], alone: dict[int, tuple[float, float]]) -> str:
    """Candidates that do as well as twice as many alone, within 5 % in success and in steps."""
    doubled = {n: (*here[n], *alone[2 * n]) for n in here if 2 * n in alone}
    good = [n for n, (s, t, other_s, other_t) in doubled.items() if s >= 0.95 * other_s and t <= 1.05 * other_t]
    return ", ".join(map(str, good)) or NONE


def _success_and_steps(trainings: Sequence[Result]) -> tuple[float, float]:
    return fmean(r["success_rate"] for r in trainings), fmean(r["steps_mean_all"] for r in trainings)


def _enough(good: dict[int, bool]) -> str:
    """The least number from which on all are good."""
    bad = max((n for n, is_good in good.items() if not is_good), default=0)
    return str(min((n for n in good if n > bad), default=NONE))


# -- going by memory ---------------------------------------------------------------------------------------------------


def memory_planning(results: Path) -> str:
    """One row per maze that has results, in the order of `memory_planning.TASKS`."""
    found = [read_json(path) for path in sorted((results / "memory_planning").glob("*.json"))]
    rows = []
    for name, task in PLANNING_TASKS.items():
        arms = {arm: _of(found, name, arm) for arm in PLANNING_ARMS}
        ours = arms["memory"]
        if not ours:
            continue
        steps = [r["steps_to_goal"]["median"] for r in ours if r["steps_to_goal"]["median"] is not None]
        reached = sum(round(r["success_rate"] * r["episodes"]) for r in ours) / sum(r["episodes"] for r in ours)
        verdict = "met" if task.bar is None or reached >= task.bar else "missed"
        rows.append([
            task.title,
            f"{_pooled(ours)}; seeds {', '.join(_percent(r['success_rate']) for r in ours)}",
            *(_pooled(arms[arm]) if arms[arm] else NONE for arm in ("flat", "never_closed", "retrieval")),
            _pooled([r["random"] for r in ours]),
            f"{median(steps):.0f}" if steps else NONE,
            f"{median(r['graph']['landmarks'] for r in ours):.0f}",
            f"{median(r['decision_ms']['p50'] for r in ours):.0f} ms",
            _duration(max(r["train_seconds"] + r.get("skill_seconds", 0.0) for r in ours)),
            NONE if task.bar is None else f"{verdict} ({GE} {_percent(task.bar)} %)",
            task.reported or NONE,
        ])  # fmt: skip
    if not rows:
        return "No results yet: `python benchmarks/memory_planning.py` makes them.\n"
    header = [
        "maze", "by memory (95 % CI)", "flat", "no way closed", "and retrieval", "random", "steps to goal", "landmarks",
        "plan", "training", "bar", "others report",
    ]  # fmt: skip
    return markdown(header, rows)


def memory_ablations(results: Path) -> str:
    """One row per way to go by memory, or without; one column per maze that has results, known or not."""
    known = [read_json(path) for path in sorted((results / "memory_planning").glob("*.json"))]
    mazes = [name for name in PLANNING_TASKS if _of(known, name, "memory")]
    visits = {}
    for name, task in VISITS.items():
        found = [read_json(path) for path in sorted((results / "second_visit").glob(f"{name}-*.json"))]
        pairs = [pair for result in found for pair in result["pairs"]]
        if pairs and task.cleared:
            visits[name] = {row["visit"]: row for row in visits_summary(pairs)}
    if not mazes and not visits:
        return "No results yet: `python benchmarks/memory_planning.py` makes them.\n"
    rows = [
        [title, *(_pooled(of) if (of := _of(known, name, arm)) else NONE for name in mazes), *(NONE for _ in visits)]
        for arm, title in _WITHOUT.items()
    ]
    for visit, title in (("visit 2", "a second visit, in decisions"), ("memory cleared", "the same, memory cleared")):
        cells = [f"{of[visit]['decisions_mean']:.0f}" if visit in of else NONE for of in visits.values()]
        rows.append([title, *(NONE for _ in mazes), *cells])
    titles = [PLANNING_TASKS[name].title for name in mazes] + [VISITS[name].title for name in visits]
    return markdown(["", *titles], rows)


_WITHOUT = {
    "memory": "by memory",
    "flat": "no graph: plans alone",
    "never_closed": "no edge feedback: no way closed",
    "retrieval": "with retrieval of moments",
    "macro": "macro-actions instead of the graph",
}


def second_visit(results: Path) -> str:
    """One row per visit of each task that has results, all trainings together."""
    rows = []
    for name, task in VISITS.items():
        found = [read_json(path) for path in sorted((results / "second_visit").glob(f"{name}-*.json"))]
        pairs = [pair for result in found for pair in result["pairs"]]
        for row in visits_summary(pairs) if pairs else ():
            low, high = row["decisions_ci"]
            rows.append([
                f"{task.title}, {row['visit']}",
                f"{row['successes']} of {row['of']}",
                f"{row['decisions_mean']:.0f} ({low:.0f} to {high:.0f})",
                f"{row['decisions_median']:.0f}",
                f"{100 * row['of_first']:.0f} %",
                f"{100 * row['of_shortest_median']:.0f} %",
            ])  # fmt: skip
    if not rows:
        return "No results yet: `python benchmarks/second_visit.py` makes them.\n"
    header = [
        "", "reached", "decisions (95 % CI)", "median", "of the first visit", "of the shortest way, median",
    ]  # fmt: skip
    return markdown(header, rows)


def planner_speed(results: Path) -> str:
    """One row per planner, a column per number of actions."""
    path = results / "planner_speed.json"
    if not path.exists():
        return "No results yet: `python benchmarks/planner_speed.py` makes them.\n"
    record = read_json(path)
    sizes = record["rows"]
    rows = []
    for name, first in sizes[0]["planners"].items():
        found = [size["planners"][name] for size in sizes]
        times = [f"{r['p50_ms']:.2f} ms" + ("" if r["ratio"] is None else f" ({r['ratio']:.1f} x)") for r in found]
        rows.append([name, first["twin"] or NONE, f"{first['evaluations']}", *times])
    header = ["planner", "beside", "evaluations", *(f"{size['actions']} actions" for size in sizes)]
    packages = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    return f"{markdown(header, rows)}\n{packages}. {_origin(record)}"


def graph_speed(results: Path) -> str:
    """One row per size of the graph."""
    path = results / "graph_speed.json"
    if not path.exists():
        return "No results yet: `python benchmarks/graph_speed.py` makes them.\n"
    record = read_json(path)
    names = ("lookup", "new goal", "notice")
    rows = [
        [
            f"{row['landmarks']:,}",
            f"{row['edges']:,}",
            *(f"{row[name]['p50_ms']:.1f} / {row[name]['p99_ms']:.1f} ms" for name in names),
        ]
        for row in record["results"]
    ]
    header = ["landmarks", "ways", "next landmark", "another goal", "taking in a moment"]
    return f"{markdown(header, rows)}\n{_origin(record)}"


def memory_growth(results: Path) -> str:
    """One row per size of the store."""
    path = results / "memory_growth.json"
    if not path.exists():
        return "No results yet: `python benchmarks/memory_growth.py` makes them.\n"
    record = read_json(path)
    names = (
        "open_ms", "append_unsynced_ms", "append_synced_ms", "sample_cached_ms", "sample_in_place_ms", "query_ms",
        "query_exact_ms",
    )  # fmt: skip
    rows = [
        [f"{row['transitions']:,}", *(f"{row[name]:.2f} ms" for name in names), f"{100 * row['recall']:.1f} %"]
        for row in record["results"]
    ]
    header = [
        "transitions", "opening", "appending 1000", "and on disk", "256 windows, cached", "in place",
        "64 nearest moments", "compared with all", "found",
    ]  # fmt: skip
    return f"{markdown(header, rows)}\n{_origin(record)}"


def memory_crash(results: Path) -> str:
    """What was killed how often, and what was wrong afterwards."""
    path = results / "memory_crash.json"
    if not path.exists():
        return "No results yet: `python benchmarks/memory_crash.py` makes them.\n"
    record = read_json(path)
    return f"{markdown(['', 'count'], _counts(record['results']))}\n{_origin(record)}"


def _counts(results: Result) -> list[list[str]]:
    rows = []
    for name, value in results.items():
        if isinstance(value, dict):
            rows += [[f"{name}: {inner}".replace("_", " "), str(count)] for inner, count in value.items()]
        else:
            rows.append([name.replace("_", " "), str(len(value) if isinstance(value, list) else value)])
    return rows


# -- planners ----------------------------------------------------------------------------------------------------------


def planners(results: Path, name: str = "planners", skipped: int = 1, only: str = "") -> str:
    """What `forethought bench planners` says of a comparison, without its first sections; `only` those so called."""
    path = results / f"{name}.json"
    if not path.exists():
        return (
            "No results yet: they are the `results.json` of `forethought bench planners`, as `results/planners.json`.\n"
        )
    sections = comparison(read_json(path)).split("\n## ")[skipped:]
    chosen = [section for section in sections if only in section.splitlines()[0]]
    return "".join(f"#### {section.strip()}\n\n" for section in chosen)


# -- tuned options -----------------------------------------------------------------------------------------------------


def tuning(results: Path) -> str:
    """One row per task and planner that was tuned, in the order of `bench tasks`."""
    rows = []
    for task in bench_tasks():
        path = results / "tuning" / f"{task}.json"
        for planner, found in read_json(path)["planners"].items() if path.exists() else ():
            held_out = found["held_out"]
            low, high = held_out["difference_ci"]
            differs = "better" if low > 0 else "worse" if high < 0 else NONE
            scores = (number(held_out[key]) for key in ("random_score", "default_score", "tuned_score"))
            interval = f"{number(held_out['difference'])} [{number(low)}, {number(high)}]"
            searched = f"{len(found['trials'])} x {found['episodes']}"
            rows.append([task, planner, searched, str(held_out["episodes"]), *scores, interval, differs])
    if not rows:
        return "No results yet: `python benchmarks/tuning.py` makes them.\n"
    header = [
        "task", "planner", "trials x episodes", "held-out episodes", "random", "default", "tuned",
        "difference (95 % CI)", "",
    ]  # fmt: skip
    return markdown(header, rows)


# -- real time ---------------------------------------------------------------------------------------------------------


def real_time(results: Path) -> str:
    """One row per link that was driven over."""
    path = results / "real_time.json"
    if not path.exists():
        return "No results yet: `python benchmarks/real_time.py` makes them.\n"
    result, rows = read_json(path), []
    for name, title in (
        ("ideal", "ideal, at once"),
        ("ideal_ahead", "ideal, ahead"),
        ("bad_link", "bad link, at once"),
        ("bad_link_ahead", "bad link, ahead"),
    ):
        if name not in result:
            continue
        drive = result[name]
        rows.append([
            title, f"{drive['steps']:,}", _milliseconds(drive["decision_ms"]), _milliseconds(drive.get("sent_ms")),
            str(drive.get("late", NONE)), str(drive["overruns"]), str(sum(drive["fallbacks"].values())),
            f"{drive['successes']} of {drive['episodes']}",
        ])  # fmt: skip
    header = [
        "50 Hz", "decisions", "ms to decide, p50 / p99 / p99.9 / most", "ms to the command, likewise", "late",
        "overruns", "fallbacks", "goals reached",
    ]  # fmt: skip
    return markdown(header, rows)


def _milliseconds(times: dict[str, float] | None) -> str:
    return NONE if times is None else " / ".join(f"{times[rank]:.1f}" for rank in ("p50", "p99", "p99.9", "max"))


# -- working memory ----------------------------------------------------------------------------------------------------


def working_memory(results: Path) -> str:
    """One row per task that has results, in the order of `working_memory.TASKS`."""
    found = [read_json(path) for path in sorted((results / "working_memory").glob("*.json"))]
    # Where nothing succeeded, an environment without goals does not say that it could have.
    found = [{**r, "success_rate": r["success_rate"] or 0.0} for r in found]
    rows = []
    for name, task in MEMORY_TASKS.items():
        arms = [_of(found, name, arm) for arm in MEMORY_ARMS]
        if not any(arms):
            continue
        luck = [r["random"] for arm in arms for r in arm if r["random"] is not None]
        rows.append([
            task.title,
            *(_by_seed(arm) for arm in arms),
            _pooled([{**r, "success_rate": r["success_rate"] or 0.0} for r in luck]),
            *(_duration(max(r["train_seconds"] for r in arm)) if arm else NONE for arm in arms),
            f"{median(r['decision_ms']['p50'] for arm in arms for r in arm):.0f} ms",
        ])  # fmt: skip
    if not rows:
        return "No results yet: `python benchmarks/working_memory.py` makes them.\n"
    header = [
        "task", "with memory (95 % CI)", "without", "random", "training", "without", "decision",
    ]  # fmt: skip
    return markdown(header, rows)


def continual(results: Path) -> str:
    """One row per task that has results, in the order of `continual.TASKS`."""
    found = [read_json(path) for path in sorted((results / "continual").glob("*.json"))]
    rows = []
    for name, title in WINGS.items():
        arms = [_of(found, name, arm) for arm in LIVES]
        if any(arms):
            luck = [r["random"] for arm in arms for r in arm if r["random"] is not None]
            rows.append([title, *(_by_seed(arm) for arm in arms), _pooled(luck)])
    if not rows:
        return "No results yet: `python benchmarks/continual.py` makes them.\n"
    return markdown(["task", *LIVES.values(), "random"], rows)


def _by_seed(trainings: Sequence[Result]) -> str:
    """Success over all of them and, of several, of each."""
    each = ", ".join(_percent(r["success_rate"]) for r in trainings)
    return _pooled(trainings) + (f"; seeds {each}" if len(trainings) > 1 else "")


# -- control by reward -------------------------------------------------------------------------------------------------


def reward_control(results: Path, name: str = "reward_control") -> str:
    """One row per task that has results, in the order of `reward_control.TASKS`, and the mean of several."""
    found = [read_json(path) for path in sorted((results / name).glob("*.json"))]
    rows, ours, theirs = [], [], []
    for key, task in REWARD_TASKS.items():
        trainings = [r for r in found if r["task"] == key]
        if not trainings:
            continue
        reported = [curve[FRAMES] for curve in task.reported.values()]
        mean = fmean(r["return_mean"] for r in trainings)
        ours.append(mean)
        theirs.append(reported)
        rows.append([
            task.env,
            f"**{mean:.0f}**",
            ", ".join(_return(r) for r in trainings),
            f"{fmean(r['arms']['policy prior']['return_mean'] for r in trainings):.0f}",
            f"{fmean(r['random']['return_mean'] for r in trainings):.0f}",
            *(f"{value:.0f}" for value in reported),
            f"{median(r['decision_ms']['p50'] for r in trainings):.0f} / "
            f"{max(r['decision_ms']['p99'] for r in trainings):.0f} ms",
            _duration(max(r["train_seconds"] for r in trainings)),
        ])  # fmt: skip
    if not rows:
        return "No results yet: `python benchmarks/reward_control.py` makes them.\n"
    if len(rows) > 1:
        means = [f"{fmean(column):.0f}" for column in zip(*theirs, strict=True)]
        rows.append([f"mean of these {len(rows)}", f"**{fmean(ours):.0f}**", *[NONE] * 3, *means, NONE, NONE])
    header = [
        "task", "return", "by seed (95 % CI)", "policy prior", "random", *METHODS.values(),
        "decision p50 / p99", "training",
    ]  # fmt: skip
    return markdown(header, rows)


def _return(row: Result, form: str = ".0f") -> str:
    """A mean return with its interval."""
    low, high = row["return_ci"]
    return f"{row['return_mean']:{form}} ({low:{form}} to {high:{form}})"


def gymnasium_control(results: Path) -> str:
    """One row per task that has results, in the order of `gymnasium_control.TASKS`."""
    found = [read_json(path) for path in sorted((results / "gymnasium_control").glob("*.json"))]
    rows = []
    for name, env_id in GYMNASIUM_TASKS.items():
        arms = {arm: [r for r in found if (r["task"], r["arm"]) == (name, arm)] for arm in GYMNASIUM_ARMS}
        if any(arms.values()):
            rows.append([env_id, *(cell for arm in arms.values() for cell in _gymnasium_cells(arm))])
    if not rows:
        return "No results yet: `python benchmarks/gymnasium_control.py` makes them.\n"
    columns = [f"{arm}{what}" for arm in ("ours", "SAC") for what in (" (95 % CI)", ", training", ", decision")]
    return markdown(["task", *columns], rows)


def _gymnasium_cells(trainings: Sequence[Result]) -> list[str]:
    if not trainings:
        return [NONE] * 3
    return [
        ", ".join(_return(r, ",.0f") for r in trainings),
        _duration(max(r["train_seconds"] for r in trainings)),
        f"{median(r['decision_ms']['p50'] for r in trainings):.1f} ms",
    ]


# -- strangers ---------------------------------------------------------------------------------------------------------


def strangers(results: Path) -> str:
    """One row per environment that has a result, in the order of `strangers.TASKS`."""
    rows = []
    for result in _strangers(results):
        row = [f"`{result['env']}`", f"{result['package']} {result['package_version']}", _examined(result["check"])]
        if result["refusal"] is not None:
            reason = result["refusal"].removeprefix(f"{result['env']}: ").split("; ")[0]
            rows.append([*row, f"refused: {reason}", *[NONE] * 3])
            continue
        goal = result["objective"] == "goal"
        steps = next(word for word in result["train_command"].split() if word.startswith("steps="))
        measured = [f"success {_pooled([r])}" if goal else f"return {_return(r)}" for r in (result, result["random"])]
        rows.append([*row, *measured, f"{int(steps.removeprefix('steps=')):,}", _duration(result["train_seconds"])])
    if not rows:
        return "No results yet: `python benchmarks/strangers.py` makes them.\n"
    header = ["environment", "package", "check-env", "agent (95 % CI)", "random actions", "steps", "training"]
    return markdown(header, rows)


def strangers_found(results: Path) -> str:
    """What the doctor for environments had to say about each of them."""
    findings = [(result["env"], finding) for result in _strangers(results) for finding in result["check"]["findings"]]
    if not findings:
        return "Nothing was found.\n"
    rows = [[f"`{env}`", f["level"], f["name"], f["found"], f["advice"]] for env, f in findings]
    return markdown(["environment", "level", "check", "found", "what to do"], rows).replace("---:", "---")


def _strangers(results: Path) -> list[Result]:
    paths = [results / "strangers" / f"{name}.json" for name in STRANGERS]
    return [read_json(path) for path in paths if path.exists()]


def _examined(check: Result) -> str:
    counts = check["counts"]
    found = [
        f"{counts[level]} {level}{'s' if counts[level] > 1 else ''}"
        for level in ("error", "warning")
        if level in counts
    ]
    return ", ".join(found) or "no findings"


def time_to_800(results: Path) -> str:
    """When cartpole-swingup, while exploring, first had a mean return of 800 over five episodes in a row."""
    found = [read_json(path) for path in sorted((results / "reward_control").glob("cartpole_swingup-*.json"))]
    times, window = [], 5
    for result in found:
        curve = result["curve"]
        means = [fmean(r for _, _, r in curve[i - window : i]) for i in range(window, len(curve) + 1)]
        first = next((curve[i + window - 1] for i, mean in enumerate(means) if mean >= 800), None)
        times.append("never" if first is None else f"{_duration(first[1])} and {first[0]:,} frames")
    if not times:
        return "No results yet: `python benchmarks/reward_control.py --tasks cartpole_swingup` makes them.\n"
    text = "cartpole-swingup: five episodes in a row, exploring, return 800 or more on average after"
    return f"{text} {', '.join(times)}.\n"


# -- speed -------------------------------------------------------------------------------------------------------------


def vector_stepping(results: Path) -> str:
    """Steps per second of every way to step, one column per environment."""
    record = read_json(results / "vector_stepping.json")
    columns: dict[str, dict[str, Any]] = record["results"]
    first = next(iter(columns.values()))
    ways = sorted(first, key=lambda way: -first[way]["steps_per_s"])
    cells = {way: [_speed(column.get(way)) for column in columns.values()] for way in ways}
    table = markdown([f"steps/s, {record['num_envs']} at once", *columns], ([way, *cells[way]] for way in ways))
    return f"{table}\n{_origin(record)}"


def _speed(cell: dict[str, Any] | None) -> str:
    return NONE if cell is None else f"{cell['steps_per_s']:,} ({cell['ratio']:.1f} x)"


def memory_sampling(results: Path) -> str:
    """Appending, opening and sampling, one row per size of the store."""
    record = read_json(results / "memory_sampling.json")
    header = ["transitions", "size", "append/s", "append/s, sync=False", "open", "sample, cached", "sample, in place"]
    rows = [
        [
            f"{r['transitions']:,}",
            f"{r['bytes'] / 2**20:.0f} MiB",
            f"{r['append_synced_transitions_per_s']:,}",
            f"{r['append_unsynced_transitions_per_s']:,}",
            f"{r['open_ms']:.1f} ms",
            f"{r['sample_cached_ms']:.2f} ms",
            f"{r['sample_in_place_ms']:.1f} ms",
        ]
        for r in record["results"]
    ]
    batch = f"A sample is a batch of {record['options']['batch_size']} windows."
    return f"{markdown(header, rows)}\n{batch} {_origin(record)}"


def _speed_part(render: Callable[[Result], str], part: str, results: Path, folder: str = "speed") -> str:
    """What `render` makes of a part of `speed.py`, and where it comes from."""
    path = results / folder / f"{part}.json"
    if not path.exists():
        return f"No results yet: `python benchmarks/speed.py --parts {part}` makes them.\n"
    record = read_json(path)
    return f"{render(record['results'])}\n{_origin(record)}"


def _nano(results: Result) -> str:
    header = ["`nano`", "median", "99th percentile", "99th percentile / median"]
    rows = [
        [name, f"{row['p50_ms']:.2f} ms", f"{row['p99_ms']:.2f} ms", f"{row['p99_ms'] / row['p50_ms']:.2f}"]
        for name, row in results.items()
    ]
    return markdown(header, rows)


def _goal(results: Result) -> str:
    ways = list(next(iter(results.values())))
    rows = [[preset, *(f"{row[way]['p50_ms']:.1f} ms" for way in ways)] for preset, row in results.items()]
    return markdown(["decision of the preset, median", *ways], rows)


def _budget(results: Result) -> str:
    ratios = results["ratios"]
    header = ["decision", "median", "99th percentile", "times as fast"]
    timed = {name: row for name, row in results.items() if isinstance(row, dict) and "p50_ms" in row}
    rows = [
        [name, f"{row['p50_ms']:.1f} ms", f"{row['p99_ms']:.1f} ms", f"{ratios.get(name, 1.0):.2f}"]
        for name, row in timed.items()
    ]
    what = "largest difference of the plan, "
    found = {name.removeprefix(what): value for name, value in results.items() if name.startswith(what)}
    differences = " and ".join(f"{value:.1e} in {dtype}" for dtype, value in found.items())
    return f"{markdown(header, rows)}\nLargest difference of the plans, on a scale from -1 to 1: {differences}.\n"


def _precision(results: Result) -> str:
    half = next(dtype for dtype in next(iter(results.values())) if dtype not in ("env", "float32", "plan_differences"))
    compared = list(dict.fromkeys(name for row in results.values() for name in row.get("plan_differences", ())))
    header = ["run", "float32 (95 % CI)", f"{half} (95 % CI)", "episodes each"]
    header += [f"plans in {name} off by" for name in compared]
    rows = [
        [
            name,
            *(_return(row[dtype], ".1f") for dtype in ("float32", half)),
            str(row["float32"]["episodes"]),
            *(f"{row['plan_differences'][name]:.3f}" if "plan_differences" in row else NONE for name in compared),
        ]
        for name, row in results.items()
    ]
    return markdown(header, rows)


def _roofline(results: Result) -> str:
    best, whole = results["best product"], results.get("best product of 8-bit integers")
    header = ["decision", "MFLOP", "time", "GFLOP/s", "share of the best", "of its own products"]
    header += [] if whole is None else ["share of the best in 8 bits"]
    rows = [
        [
            name,
            f"{row['mflop']:,.0f}",
            f"{row['decision_ms']:.2f} ms",
            f"{row['gflops']:.0f}",
            f"{100 * row['share']:.0f} %",
            f"{100 * row['products_ms'] / row['decision_ms']:.0f} %",
            *([] if whole is None else [_share_of_bytes(name, row, whole)]),
        ]
        for name, row in results.items()
        if not name.startswith("best product")
    ]
    said = [_product("The best product", best)]
    said += [] if whole is None else [_product("the best of 8-bit integers", whole)]
    return f"{markdown(header, rows)}\n{'; '.join(said)}.\n"


def _share_of_bytes(name: str, row: Result, best: Result) -> str:
    return f"{100 * row['gflops'] / best['gflops']:.0f} %" if name.endswith("int8") else NONE


def _product(what: str, best: Result) -> str:
    size = best["size"]
    how = f"in {best['dtype']} on {best['threads']} threads"
    return f"{what}: {size} x {size} by {size} {how}, {best['gflops']:.0f} GFLOP/s"


def _dtypes(results: Result) -> str:
    header = ["one network", "median", "its products alone", "times as fast as float32", "error"]
    rows = [
        [
            name,
            f"{row['p50_ms']:.2f} ms",
            NONE if row["products_ms"] is None else f"{row['products_ms']:.2f} ms",
            f"{row['times_as_fast']:.2f}",
            f"{100 * row['error']:.2f} %",
        ]
        for name, row in results.items()
    ]
    return markdown(header, rows)


def _memory(results: Result) -> str:
    header = ["candidates", "candidates per call", "peak memory of a plan"]
    rows = [
        [f"{row['samples']:,}", "all" if row["limit"] is None else f"{row['limit']:,}", f"{row['mib']:,} MiB"]
        for row in results["memory"]
    ]
    return markdown(header, rows)


def _collection(results: Result) -> str:
    header = ["steps/s, 8 at once", "stepping alone", "into the memory", "share"]
    rows = [
        [name, f"{row['stepping_steps_per_s']:,}", f"{row['collection_steps_per_s']:,}", f"{100 * row['share']:.0f} %"]
        for name, row in results.items()
    ]
    return markdown(header, rows)


def speed_sampling(results: Path) -> str:
    """Our sampler beside torchrl's, one row per size of the store."""
    record = read_json(results / "memory_sampling.json")
    rows = []
    for row in record["results"]:
        beside = row.get("beside_torchrl")
        if beside is not None:
            rows.append([
                f"{row['transitions']:,}",
                f"{beside['ours_ms']:.2f} ms",
                f"{beside['torchrl_ms']:.2f} ms ({beside['torchrl_ratio']:.1f} x)",
                f"{beside['torchrl_cached_ms']:.2f} ms ({beside['torchrl_cached_ratio']:.1f} x)",
            ])  # fmt: skip
    if not rows:
        return "No results yet: `python benchmarks/memory_sampling.py` makes them where torchrl is installed.\n"
    return f"{markdown(['transitions', 'ours', 'torchrl', 'torchrl, cached'], rows)}\n{_origin(record)}"


def _origin(record: Result) -> str:
    machine = record["machine"]
    return f"`{record['command']}` on {machine['cores']} cores of {machine['cpu']}.\n"


# -- pages -------------------------------------------------------------------------------------------------------------

SPEED_PARTS: dict[str, Callable[[Result], str]] = {
    "nano": _nano,
    "goal": _goal,
    "budget": _budget,
    "roofline": _roofline,
    "precision": _precision,
    "dtypes": _dtypes,
}
"""What is measured on other processors than that of the other tables."""
TABLES: dict[str, Callable[[Path], str]] = {
    "goal_reaching": goal_reaching,
    "ways": ways,
    "again": again,
    "ablations": ablations,
    "adaptation": adaptation,
    "retrieval": retrieval,
    "memory_planning": memory_planning,
    "memory_ablations": memory_ablations,
    "second_visit": second_visit,
    "graph_speed": graph_speed,
    "planner_speed": planner_speed,
    "memory_growth": memory_growth,
    "memory_crash": memory_crash,
    "planners": planners,
    "planners_again": partial(planners, name="planners_again", skipped=2),
    "planners_budgets": partial(planners, name="planners_budgets", skipped=1, only="all tasks"),
    "tuning": tuning,
    "real_time": real_time,
    "working_memory": working_memory,
    "continual": continual,
    "reward_control": reward_control,
    "gymnasium_control": gymnasium_control,
    "reward_again": partial(reward_control, name="reward_control_again"),
    "reward_earlier": partial(reward_control, name="reward_control_earlier"),
    "time_to_800": time_to_800,
    "strangers": strangers,
    "strangers_found": strangers_found,
    "vector_stepping": vector_stepping,
    "memory_sampling": memory_sampling,
    "speed_sampling": speed_sampling,
    "speed_nano": partial(_speed_part, _nano, "nano"),
    "speed_budget": partial(_speed_part, _budget, "budget"),
    "speed_precision": partial(_speed_part, _precision, "precision"),
    "speed_roofline": partial(_speed_part, _roofline, "roofline"),
    **{
        f"speed_{kind}_{name}": partial(_speed_part, part, name, folder=f"speed_{kind}")
        for kind, (name, part) in product(("intel", "avx2", "vnni", "ziglang"), SPEED_PARTS.items())
    },
    "speed_memory": partial(_speed_part, _memory, "scaling"),
    "speed_collection": partial(_speed_part, _collection, "collection"),
}


def render(text: str, results: Path) -> str:
    """A page with every block between its comments made anew.

    Raises:
        KeyError: the page asks for a table that is not known.
    """
    return _BLOCK.sub(lambda block: f"{block[1]}{TABLES[block[2]](results)}{block[3]}", text)


def main() -> int:
    """Rewrite or check every page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, exit with 1 if something would change")
    arguments = parser.parse_args()
    stale = False
    for page in PAGES:
        path = ROOT / page
        old = path.read_text()
        new = render(old, ROOT / "benchmarks" / "results")
        if new != old:
            stale = True
            print(f"{page} {'is stale' if arguments.check else 'rewritten'}")
            if not arguments.check:
                path.write_text(new)
    return int(stale and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
