import json
from typing import Any

import pytest

from forethought.agent.bench.arena import Episode, TrueDynamics
from forethought.agent.bench.results import markdown, refused_lines, summarise
from forethought.agent.bench.runner import BenchOptions, Budget, Cell, Refusal

BUDGET = Budget(24, in_ms=False)


def episode(seed: int, score: float, solved: bool | None = None) -> Episode:
    return Episode(seed, [score, score], solved, [9.0, 9.0, 9.0, 1.0, 3.0], [20, 24], [[0.0]])


def cells(arena: str, **scores: list[float]) -> list[Cell]:
    return [
        Cell(
            arena, name, None if name == "random" else BUDGET, {"num_samples": 8}, 24, [*map(episode, range(9), values)]
        )
        for name, values in scores.items()
    ]


@pytest.fixture
def results(lqr: TrueDynamics[Any], reach: TrueDynamics[Any]) -> dict[str, Any]:
    played = cells("lqr", random=[-10.0, -10.0], cem=[-5.0, -5.0], gradient=[-1.0, -1.0])
    played += cells("sparse_reach", random=[0.0, 0.0], cem=[0.4, 0.6])
    refusals = [Refusal("sparse_reach", "gradient", BUDGET, "needs gradients")]
    options = BenchOptions(planners=["cem", "gradient"], budgets=[24], episodes=2)
    return summarise([lqr, reach], played, refusals, options, "forethought bench planners")


def row(results: dict[str, Any], task: str, planner: str) -> dict[str, Any]:
    return next(c for c in results["cells"] if (c["task"], c["planner"]) == (task, planner))


def test_the_scale_ends_at_the_optimum_where_it_is_known(results: dict[str, Any]) -> None:
    assert results["tasks"]["lqr"]["best"] == 0.0
    assert results["tasks"]["lqr"]["best_is"] == "the optimum"
    assert row(results, "lqr", "cem")["normalised"] == [0.5, 0.5]
    assert row(results, "lqr", "gradient")["regret"] == pytest.approx(0.1)


def test_elsewhere_it_ends_at_the_best_planner(results: dict[str, Any]) -> None:
    assert results["tasks"]["sparse_reach"]["best"] == 0.5
    assert row(results, "sparse_reach", "cem")["normalised"] == [0.8, 1.2]
    assert row(results, "sparse_reach", "cem")["regret"] == pytest.approx(0.0)


def test_what_a_decision_costs(results: dict[str, Any]) -> None:
    cem = row(results, "lqr", "cem")
    assert cem["evaluations_per_plan"] == 22.0
    assert cem["model_steps_per_decision"] == 22.0 * 4
    assert cem["decision_ms"]["p50"] == 2.0  # without the first three of each episode
    assert cem["success_rate"] is None


def test_who_can_be_told_from_the_best(results: dict[str, Any]) -> None:
    best = {(c["task"], c["planner"]): c["as_good_as_best"] for c in results["cells"]}
    assert best == {("lqr", "cem"): False, ("lqr", "gradient"): True, ("sparse_reach", "cem"): True}


def test_where_nobody_is_better_than_random_nobody_is_best(lqr: TrueDynamics[Any]) -> None:
    options = BenchOptions(planners=["cem"], budgets=[24], episodes=2)
    played = cells("lqr", random=[-1.0, -1.0], cem=[-1.0, -1.0])
    assert not row(summarise([lqr], played, [], options, "x"), "lqr", "cem")["as_good_as_best"]


def test_planners_are_ranked_where_they_all_have_played(results: dict[str, Any]) -> None:
    whole, shared = results["rankings"]
    assert (whole["tasks"], list(whole["standings"])) == (["lqr", "sparse_reach"], ["cem"])
    assert (shared["tasks"], list(shared["standings"])) == (["lqr"], ["cem", "gradient"])
    assert shared["standings"]["gradient"]["first"] == 1.0


def test_results_are_json_with_all_that_is_needed_to_repeat_them(results: dict[str, Any]) -> None:
    assert json.loads(json.dumps(results, allow_nan=False))["tasks"] == results["tasks"]
    assert results["command"] == "forethought bench planners"
    assert results["versions"]["mujoco"]
    assert results["machine"]["cores"]
    assert results["options"]["budgets"] == [24]


def test_success_has_an_interval(lqr: TrueDynamics[Any]) -> None:
    options = BenchOptions(planners=["cem"], budgets=[24], episodes=2)
    played = cells("lqr", random=[-10.0, -9.0])
    played.append(Cell("lqr", "cem", BUDGET, {}, 24, [episode(0, -1.0, True), episode(1, -2.0, False)]))
    cem = row(summarise([lqr], played, [], options, "x"), "lqr", "cem")
    assert cem["success_rate"] == 0.5
    low, high = cem["success_ci"]
    assert 0 < low < 0.5 < high < 1


def test_the_table_says_it_in_markdown(results: dict[str, Any]) -> None:
    table = markdown(results)
    assert "`forethought bench planners`" in table
    assert "## 24 evaluations per plan, all tasks" in table
    assert "## 24 evaluations per plan, lqr" in table
    assert "| gradient | 0.90 [0.90, 0.90] |" in table
    assert "| sparse_reach | **0.50 [0.40, 0.60]** | \N{EN DASH} | 0.00 |" in table
    assert "Not played: gradient on sparse_reach (needs gradients)." in table
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)


def test_refusals_are_gathered_by_planner_and_reason() -> None:
    refused = [
        {"task": task, "planner": "gradient", "budget": budget, "reason": "why"}
        for task in ("a", "b")
        for budget in ("1", "2")
    ]
    assert refused_lines({"refused": refused}) == ["gradient on a, b (why)"]
