import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from forethought.agent.bench.arena import Arena, BenchError, Episode, TrueDynamics
from forethought.agent.bench.budget import contender
from forethought.agent.bench.runner import BenchOptions, Cell, run
from forethought.agent.files import FileError

Run = Callable[..., list[Cell]]


@pytest.fixture
def play(lqr: TrueDynamics[Any], tmp_path: Path, silent: Any) -> Run:
    """Play a small comparison; only the scores of episodes, which time has no part in."""

    def played(*arenas: Arena, out: str = "out", given: dict[str, Any] | None = None, **options: Any) -> list[Cell]:
        chosen = {"planners": ["random_shooting", "icem"], "budgets": [24], "episodes": 2} | options
        entries = [contender(label, (given or {}).get(label, {})) for label in chosen["planners"]]
        return run(arenas or [lqr], entries, BenchOptions(**chosen), tmp_path / out, silent)[0]

    return played


def scores(cells: list[Cell]) -> dict[tuple[str, str, str], list[float]]:
    return {(c.arena, c.planner, str(c.budget)): [e.score for e in c.episodes] for c in cells}


def test_every_planner_plays_the_same_episodes(play: Run) -> None:
    cells = play()
    assert [(c.planner, str(c.budget)) for c in cells] == [
        ("random", "None"),
        ("random_shooting", "24"),
        ("icem", "24"),
    ]
    assert len({tuple(e.seed for e in c.episodes) for c in cells}) == 1
    assert all(e.evaluations == [c.evaluations] * 4 for c in cells[1:] for e in c.episodes)
    assert [c.evaluations for c in cells] == [0, 24, 23]


def test_the_same_command_gives_the_same_result(play: Run) -> None:
    assert scores(play()) == scores(play(out="again"))


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"horizon": 2}, {"replan_every": 2}, {"budgets": [48]}, {"given": {"icem": {"noise_beta": 0.0}}}],
)
def test_every_option_changes_the_result(play: Run, change: dict[str, Any], lqr: TrueDynamics[Any]) -> None:
    arena = TrueDynamics(lqr.world, change.get("horizon"))
    key = ("lqr", "icem", str(change.get("budgets", [24])[0]))
    assert scores(play())["lqr", "icem", "24"] != scores(play(arena, out="changed", **change))[key]


def test_going_on_leaves_what_is_finished_alone_and_comes_to_the_same(
    play: Run, tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    play(episodes=1)
    first = contents(tmp_path / "out" / "cells")
    play(episodes=1)
    assert contents(tmp_path / "out" / "cells") == first
    more = play(episodes=3)
    assert scores(more) == scores(play(out="fresh", episodes=3))
    kept = json.loads((tmp_path / "out" / "cells" / "lqr--icem--24.json").read_text())["episodes"][0]
    assert kept == json.loads(first["lqr--icem--24.json"])["episodes"][0]
    after = contents(tmp_path / "out" / "cells")
    fewer = play(episodes=2)  # what is on file beyond that stays there
    assert [len(c.episodes) for c in fewer] == [2, 2, 2]
    assert contents(tmp_path / "out" / "cells") == after


class Interrupted(TrueDynamics[Any]):
    """Stops in the middle of an episode."""

    left = 3

    def play(self, *arguments: Any) -> Episode:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().play(*arguments)


def test_an_interruption_costs_one_episode(play: Run, lqr: TrueDynamics[Any], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        play(Interrupted(lqr.world))
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 2  # random, and the first planner with both episodes
    assert scores(play()) == scores(play(out="fresh"))


@pytest.mark.parametrize("change", [{"seed": 1}, {"replan_every": 2}, {"given": {"icem": {"noise_beta": 0.0}}}])
def test_results_of_other_options_are_never_overwritten(play: Run, change: dict[str, Any]) -> None:
    play()
    with pytest.raises(BenchError, match=r"was played with another .*: choose another out="):
        play(**change)


def test_a_damaged_cell_is_named(play: Run, tmp_path: Path) -> None:
    play()
    (tmp_path / "out" / "cells" / "lqr--icem--24.json").write_text("{}")
    with pytest.raises(FileError, match=r"lqr--icem--24\.json: it is not a cell"):
        play()


class NoGradients(TrueDynamics[Any]):
    """As MuJoCo."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self.differentiable = False


def test_planners_that_need_gradients_are_left_out_where_there_are_none(
    lqr: TrueDynamics[Any], tmp_path: Path, silent: Any
) -> None:
    options = BenchOptions(planners=["cem", "gradient"], budgets=[24], episodes=1)
    entries = [contender(name, {}) for name in options.planners]
    cells, refusals = run([NoGradients(lqr.world)], entries, options, tmp_path, silent)
    assert [c.planner for c in cells] == ["random", "cem"]
    assert [(r.planner, r.reason) for r in refusals] == [("gradient", "needs gradients, and MuJoCo has none")]
    assert silent.told[-1][1:3] == (3, 3)
    with pytest.raises(BenchError, match="no planner can be used on any task: gradient: needs gradients"):
        run([NoGradients(lqr.world)], entries[1:], replace(options, planners=["gradient"]), tmp_path / "2", silent)


def test_a_budget_too_small_for_one_planner_does_not_stop_the_others(
    lqr: TrueDynamics[Any], tmp_path: Path, silent: Any
) -> None:
    options = BenchOptions(planners=["random_shooting", "cem"], budgets=[3], episodes=1)
    entries = [contender(name, {}) for name in options.planners]
    cells, refusals = run([lqr], entries, options, tmp_path, silent)
    assert [c.planner for c in cells] == ["random", "random_shooting"]
    assert refusals[0].reason.startswith("budget=3 is too small for cem")


def test_budgets_of_time_are_played_and_gone_on_with(play: Run, tmp_path: Path) -> None:
    first = play(budgets=[], budgets_ms=[500.0], episodes=1, planners=["random_shooting"])
    stored = json.loads((tmp_path / "out" / "cells" / "lqr--random_shooting--500ms.json").read_text())
    assert stored["allowed"] >= 16
    more = play(budgets=[], budgets_ms=[500.0], episodes=2, planners=["random_shooting"])
    assert more[1].options == first[1].options
    assert str(more[1].budget) == "500ms"


def test_the_episodes_do_not_depend_on_each_other(play: Run) -> None:
    assert scores(play(episodes=3))["lqr", "icem", "24"][:2] == scores(play(out="fewer"))["lqr", "icem", "24"]


def test_global_random_numbers_have_no_part_in_it(play: Run) -> None:
    first = scores(play())
    torch.manual_seed(1)
    assert scores(play(out="again")) == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, "episodes must be at least 1, got 0"),
        ({"replan_every": 0}, "replan_every must be at least 1, got 0"),
        ({"horizon": 0}, "horizon must be at least 1, got 0"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"planners": []}, "planners must name at least one"),
        ({"planners": ["random"]}, "planners must not name 'random'"),
        ({"planners": ["cem", "cem"]}, "planners must not hold anything twice"),
        ({"budgets": []}, "budgets or budgets_ms must hold at least one budget"),
        ({"budgets": [0]}, "budgets must be positive, got 0"),
        ({"budgets_ms": [-1.0]}, "budgets_ms must be positive, got -1.0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        BenchOptions(**options)
