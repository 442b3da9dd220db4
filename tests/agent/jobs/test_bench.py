"""`forethought bench`, as it is typed."""

import json
from pathlib import Path
from typing import Any

import pytest

from forethought.agent.jobs.bench import TASK_GROUPS, bench_tasks, make_arena

SMALL = ["budgets=24", "episodes=2", "threads=1", "horizon=3", "video=false"]


def test_one_command_gives_json_table_and_page_and_goes_on(cli: Any, tmp_path: Path) -> None:
    given = ["planners=cem,cold", "options.cold.planner=mppi", "options.cold.temperature=0.1", f"out={tmp_path / 'b'}"]
    done = cli("bench", "planners", "tasks=lqr,reacher_hard", *given, *SMALL)
    assert (done.code, done.err) == (0, "")
    for text in ("budget 24, all tasks", "cold", "IQM", "report.html, table.md, results.json, cells"):
        assert text in done.out
    results = json.loads((tmp_path / "b" / "results.json").read_text())
    assert [c["planner"] for c in results["cells"]] == ["cem", "cold"] * 2
    assert {c["options"]["temperature"] for c in results["cells"] if c["planner"] == "cold"} == {0.1}
    table, page = ((tmp_path / "b" / name).read_text() for name in ("table.md", "report.html"))
    assert "| reacher_hard |" in table
    assert "video=false" in page
    before = {c: c.read_bytes() for c in (tmp_path / "b" / "cells").iterdir()}
    assert cli("bench", "planners", "tasks=lqr,reacher_hard", *given, *SMALL).code == 0
    assert {c: c.read_bytes() for c in (tmp_path / "b" / "cells").iterdir()} == before


def test_planners_that_need_gradients_are_named(cli: Any, tmp_path: Path) -> None:
    done = cli("bench", "planners", "tasks=reacher_hard", "planners=cem,gradient", f"out={tmp_path}", *SMALL)
    assert done.code == 0
    assert "not played: gradient on reacher_hard (needs gradients, and MuJoCo has none)" in done.out
    alone = cli("bench", "planners", "tasks=reacher_hard", "planners=gradient", f"out={tmp_path}", *SMALL)
    assert alone.code == 2
    assert "no planner can be used on any task: gradient: needs gradients, and MuJoCo has none" in alone.err


def test_a_run_is_compared_in_its_own_model(cli: Any, small_run: Path, tmp_path: Path) -> None:
    done = cli(
        "bench", "planners", "tasks=none", f"models={small_run}", "planners=random_shooting,gradient",
        f"out={tmp_path}", "budgets=12", "episodes=1", "threads=1",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["tasks"]) == ["model:small"]
    assert [c["planner"] for c in results["cells"]] == ["random_shooting", "gradient"]
    assert all(c["success_rate"] is not None for c in results["cells"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "bench needs what to do: one of planners, tasks"),
        (["tasks=lqr"], "bench needs what to do"),
        (["planers"], "unknown action of bench 'planers': did you mean planners?"),
        (["planners", "tasks=pendulm"], "unknown task 'pendulm': did you mean pendulum"),
        (["planners", "planners=cemm"], "unknown planner 'cemm': did you mean cem"),
        (
            ["planners", "options.cem.num_elite=3"],
            "unknown option of planner 'cem' 'num_elite': did you mean num_elites",
        ),
        (["planners", "options.cen.num_elites=3"], "unknown planner in options 'cen': did you mean cem"),
        (["planners", "options.cem.horizon=3"], "options.cem.horizon cannot be set"),
        (["planners", "episods=3"], "unknown config key 'episods': did you mean episodes?"),
        (["planners", "budgets=many"], "budgets"),
        (["planners", "tasks=none"], "tasks and models must hold at least one"),
        (["planners", "tasks=none", "models=no/run"], "run=no/run must be the folder of a run"),
        (["planners", "tasks"], "expected key=value, got 'tasks'"),
    ],
)
def test_mistakes_are_explained_in_one_line(cli: Any, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = cli("bench", *arguments, *([f"out={tmp_path}"] if arguments[:1] == ["planners"] else []))
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_options_and_tasks_are_listed(cli: Any) -> None:
    listed = cli("bench", "planners", "--options")
    assert listed.code == 0
    assert "budgets_ms=[]  # Milliseconds per plan" in listed.out
    tasks = cli("bench", "tasks")
    assert tasks.code == 0
    for name in TASK_GROUPS["all"]:
        assert name[:8] in tasks.out


def test_groups_stand_for_tasks_that_exist_each_once() -> None:
    assert len(TASK_GROUPS["all"]) >= 12
    for group in TASK_GROUPS.values():
        assert set(group) <= set(TASK_GROUPS["all"])
    assert bench_tasks(["quick", "lqr", "pendulum"]) == [*TASK_GROUPS["quick"], "pendulum"]
    arena = make_arena("pendulum", horizon=4)
    assert (arena.name, arena.horizon) == ("pendulum", 4)


def test_tuned_options_are_played_beside_the_defaults_where_there_are_any(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forethought.agent.jobs.bench.tuned_options", lambda: {"cem": {"lqr": {"momentum": 0.4}}})
    given = ["bench", "planners", "tasks=lqr,rastrigin", "planners=cem", f"out={tmp_path}", *SMALL]
    assert cli(*given).code == 0
    done = cli(*given, "tuned=true")  # adds to what was played before
    assert (done.code, done.err) == (0, "")
    assert "not played: cem_tuned on rastrigin (no options are tuned for it)" in done.out
    cells = json.loads((tmp_path / "results.json").read_text())["cells"]
    momentum = {(c["task"], c["planner"]): c["options"]["momentum"] for c in cells}
    assert momentum == {("lqr", "cem"): 0.1, ("rastrigin", "cem"): 0.1, ("lqr", "cem_tuned"): 0.4}
    assert len({c["score"] for c in cells if c["task"] == "lqr"}) == 2
