"""The benchmark scripts do what their tables claim; nothing is trained here."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from forethought.agent.cli import build_parser
from forethought.agent.training.checkpoint import save_checkpoint
from forethought.configs.register import load, with_preset
from forethought.configs.schema import Config, EvalConfig

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def goals() -> ModuleType:
    return importlib.import_module("goal_reaching")


@pytest.fixture
def tables(goals: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The renderer, with a bar for Reacher that does not move when the benchmark's does."""
    module = importlib.import_module("render_tables")
    reacher = goals.Task("Reacher", (), (0, 1, 2), bar=0.95, limit_s=600)
    monkeypatch.setattr(module, "TASKS", {**module.TASKS, "reacher": reacher})
    return module


def measured(success: float, episodes: int = 100) -> dict[str, Any]:
    return {
        "episodes": episodes,
        "success_rate": success,
        "success_ci": [0.0, 1.0],
        "return_mean": success - 10.5,
        "steps_to_goal": {"mean": 9.5, "median": 9.0, "p90": 15.0, "values": [1, 2, 3]},
    }


def eval_json(success: float) -> dict[str, Any]:
    return {
        **measured(success),
        "random": measured(0.1),
        "true_dynamics": None,
        "arms": {"latent_l2": measured(0.5)},
        "decision_ms": {"p50": 9.6, "p99": 14.2, "values": [9.6] * 50},
        "latents": {"effective_rank": 3.46, "width": 4},
        "seed": 0,
        "seeds": list(range(100)),
        "shift": {},
        "prediction_error": {"model": 0.1, "persistence": 0.2},
        "command": "forethought eval",
        "commit": None,
        "versions": {},
        "machine": {},
    }


CARD = {"run_id": "x", "spec": {}, "config": {"world_model": {"encoder": "augmented", "latent_dim": 4}}}


def write_run(run: Path, *, finished: bool, success: float = 0.97) -> None:
    """A run folder as far as the benchmark looks into it."""
    run.mkdir(parents=True, exist_ok=True)
    state = {
        "train": {"finished": finished},
        "card": CARD,
    }
    save_checkpoint(run / "last.safetensors", {"x": torch.zeros(1)}, state)
    (run / "run.json").write_text(json.dumps({"commit": "of the training"}))
    counts = {"phase": "train", "update": 1, "decisions": 1, "frames": 1, "time": 0.0}
    lines = [{**counts, "seconds": 1.0, "latent/effective_rank": 3.456}, {**counts, "seconds": 61.26}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "eval.json").write_text(json.dumps(eval_json(success)))


class Calls:
    """Stands in for `trainings.call`: trainings finish, and commands are noted."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str]) -> None:
        self.commands.append(command)
        folder = next(word.split("=", 1)[1] for word in command if word.startswith(("out=", "run=")))
        write_run(Path(folder), finished=True)

    @property
    def kinds(self) -> list[str]:
        return [command[1] for command in self.commands]


@pytest.fixture
def calls(goals: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Calls:
    stub = Calls()
    monkeypatch.setattr(importlib.import_module("trainings"), "call", stub)
    return stub


def start(goals: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> Path:
    """Call the script; returns its folder of results."""
    words = ["goal_reaching.py", "--out", str(folder / "out"), "--runs", str(folder / "runs"), *arguments]
    monkeypatch.setattr(sys, "argv", words)
    goals.main()
    return folder / "out"


# -- goal_reaching -----------------------------------------------------------------------------------------------------


def test_commands_are_valid_configurations(goals: ModuleType) -> None:
    for job in goals.jobs(list(goals.TASKS), [0]):
        train = job.train_command(Path("runs/x"), ["threads=1"])
        config = load(Config, with_preset(build_parser().parse_args(train[1:]).overrides)[0])
        assert config.seed == job.seed
        assert config.world_model.encoder == (job.arm if job.arm in ("identity", "learned") else "augmented")
        if job.arm == "pairwise":
            assert config.world_model.distance == "pairwise"
        assert (config.env_options.observation == "pixels") == ("pixels" in goals.TASKS[job.task].title)
        evaluate = build_parser().parse_args(job.eval_command(Path("runs/x"), 100, [])[1:])
        named = [o.replace("episodes=", "evaluation.episodes=") for o in evaluate.overrides if o[:5] != "seed="]
        assert load(EvalConfig, named).evaluation.latent_l2 == (job.arm == "default" and job.seed == 0)


def test_every_arm_changes_the_training_of_its_task(goals: ModuleType) -> None:
    for name in ("reacher", "rooms"):
        jobs = list(goals.jobs([name], [0]))
        configurations = []
        for job in jobs:
            overrides = build_parser().parse_args(job.train_command(Path("runs/x"), [])[1:]).overrides
            configurations.append(repr(load(Config, with_preset(overrides)[0])))
        assert len(set(configurations)) == len(jobs)
        assert {job.arm for job in jobs} <= set(goals.ARMS)


def test_bars_are_rates(goals: ModuleType) -> None:
    assert all(task.bar is None or 0.5 < task.bar <= 1 for task in goals.TASKS.values())


def test_one_result_per_training(
    goals: ModuleType, calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = start(goals, monkeypatch, tmp_path, "--tasks", "reacher", "--seeds", "0", "4")
    names = {f"reacher-{arm}-{seed}.json" for arm in ("default", "learned", "identity") for seed in (0, 4)}
    assert {path.name for path in out.iterdir()} == names
    result = json.loads((out / "reacher-identity-4.json").read_text())
    assert (result["task"], result["arm"], result["seed"]) == ("reacher", "identity", 4)
    assert result["train_seconds"] == 61.3
    assert result["latents"] == {"effective_rank": 3.46, "width": 4}
    assert "world_model.encoder=identity" in result["train_command"].split()
    assert "seed=4" in result["eval_command"].split()
    assert "values" not in json.dumps(result)
    assert "seeds" not in result


def test_what_has_a_result_is_left_alone(
    goals: ModuleType, calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = ("--tasks", "reacher_pixels", "--seeds", "0")
    start(goals, monkeypatch, tmp_path, *arguments)
    start(goals, monkeypatch, tmp_path, *arguments)
    assert calls.kinds == ["train", "eval"]
    start(goals, monkeypatch, tmp_path, *arguments, "--only-eval")
    assert calls.kinds == ["train", "eval", "eval"]
    start(goals, monkeypatch, tmp_path, *arguments, "--resume", "never")
    assert calls.kinds == ["train", "eval", "eval", "train", "eval"]


@pytest.mark.parametrize(("finished", "kinds"), [(False, ["train", "eval"]), (True, ["eval"])])
def test_an_interrupted_training_goes_on(
    goals: ModuleType, calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, finished: bool, kinds: list[str]
) -> None:
    write_run(tmp_path / "runs" / "reacher_pixels-default-0", finished=finished)
    start(goals, monkeypatch, tmp_path, "--tasks", "reacher_pixels", "--seeds", "0")
    assert calls.kinds == kinds


def test_only_eval_trains_nothing(
    goals: ModuleType, calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = start(goals, monkeypatch, tmp_path, "--tasks", "push", "--only-eval")
    assert calls.commands == []
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("wrong", [("--episodes", "50"), ("--tasks", "chess"), ("--only-eval", "--resume", "never")])
def test_wrong_arguments_are_refused(
    goals: ModuleType, calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as caught:
        start(goals, monkeypatch, tmp_path, *wrong)
    assert caught.value.code == 2


def test_a_failed_command_ends_the_benchmark(
    goals: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "forethought"
    script.write_text("#!/bin/sh\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(SystemExit, match="exit status 3: forethought train x"):
        importlib.import_module("trainings").call(["forethought", "train", "x"])


# -- ablations ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def ablations(goals: ModuleType) -> ModuleType:
    return importlib.import_module("ablations")


def start_ablations(ablations: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> Path:
    words = ["ablations.py", "--out", str(folder / "out"), "--runs", str(folder / "runs"), *arguments]
    monkeypatch.setattr(sys, "argv", words)
    ablations.main()
    return folder / "out"


def test_every_ablation_changes_one_configuration(
    ablations: ModuleType, calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    start_ablations(ablations, monkeypatch, tmp_path, "--seeds", "0")
    trained = [build_parser().parse_args(c[1:]).overrides for c in calls.commands if c[1] == "train"]
    configurations = [load(Config, with_preset([o for o in t if o[:4] != "out="] + ["out=x"])[0]) for t in trained]
    assert (
        len({repr(c) for c in configurations})
        == len(trained)
        == 1 + sum(bool(row.training) for row in ablations.ROWS.values())
    )
    evaluated = [build_parser().parse_args(c[1:]).overrides for c in calls.commands if c[1] == "eval"]
    assert len(evaluated) == len(ablations.ROWS)
    plans = []
    for overrides in evaluated:
        named = [o.replace("episodes=", "evaluation.episodes=") for o in overrides if o[:5] != "seed="]
        plans.append(repr(load(EvalConfig, named)))
    assert len(set(plans)) == len(plans)


def test_rows_that_only_plan_differently_share_the_weights_of_the_preset(
    ablations: ModuleType, calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = ("--tasks", "default", "cem", "--seeds", "0")
    out = start_ablations(ablations, monkeypatch, tmp_path, *arguments)
    assert calls.kinds == ["train", "eval", "eval"]
    assert {path.name for path in out.iterdir()} == {"default-0.json", "cem-0.json"}
    start_ablations(ablations, monkeypatch, tmp_path, *arguments, "--resume", "never")
    assert calls.kinds == ["train", "eval", "eval"] * 2


# -- render_tables -----------------------------------------------------------------------------------------------------


def write_result(results: Path, task: str, arm: str, seed: int, success: float, seconds: float = 100.0) -> None:
    folder = results / "goal_reaching"
    folder.mkdir(exist_ok=True)
    result = {**eval_json(success), "task": task, "arm": arm, "seed": seed, "train_seconds": seconds}
    (folder / f"{task}-{arm}-{seed}.json").write_text(json.dumps(result))


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]


def test_a_row_of_the_table(tables: ModuleType, tmp_path: Path) -> None:
    for seed, success in enumerate((1.0, 0.95, 0.96)):
        write_result(tmp_path, "reacher", "default", seed, success, seconds=100.0 + seed)
    write_result(tmp_path, "reacher", "identity", 0, 1.0)
    write_result(tmp_path, "reacher", "learned", 0, 0.9)
    header, _, row = cells(tables.goal_reaching(tmp_path))
    assert len(row) == len(header)
    low, high = tables.success_interval(291, 300)
    assert row[0] == "Reacher"
    assert row[1] == f"97 % ({100 * low:.1f} to {100 * high:.1f}); seeds 100, 95, 96"
    assert row[2].startswith("50 %")
    assert row[3].startswith("90 %")
    assert row[4].startswith("100 %")
    assert row[5].startswith("10 %")
    assert row[6] == tables.NONE
    assert row[7:10] == ["9", "10 / 14 ms", "1:42 min"]
    assert row[10] == "met (≥ 95 %, ≤ 10:00 min)"


def test_what_was_trained_again_is_shown_with_its_ranks(tables: ModuleType, tmp_path: Path) -> None:
    for seed, success in enumerate((1.0, 0.9)):
        write_result(tmp_path, "reacher", "default", seed, success, seconds=100.0 + seed)
    (tmp_path / "goal_reaching").rename(tmp_path / "goal_reaching_again")
    row = cells(tables.again(tmp_path))[-1]
    assert row[0] == "Reacher"
    assert row[1].startswith("95 %")
    assert row[2:] == ["10 % (6.6 to 14.9)", "3.5 of 4", "1:40 min, 1:41 min"]
    assert "No results yet" in tables.again(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("successes", "seconds", "verdict"),
    [
        ([0.9, 0.9, 0.9], 10.0, "missed"),
        ([1.0, 1.0, 1.0], 1e5, "missed"),
        ([0.9], 10.0, "missed"),
        ([1.0, 1.0], 10.0, "2 of 3 trainings so far"),
    ],
)
def test_a_bar_is_missed_by_success_or_time_and_open_with_too_few_trainings(
    tables: ModuleType, tmp_path: Path, successes: list[float], seconds: float, verdict: str
) -> None:
    for seed, success in enumerate(successes):
        write_result(tmp_path, "reacher", "default", seed, success, seconds)
    assert cells(tables.goal_reaching(tmp_path))[-1][-1].startswith(verdict)


def test_tasks_stand_in_their_order_in_one_table(tables: ModuleType, tmp_path: Path) -> None:
    for task in reversed(tables.TASKS):
        write_result(tmp_path, task, "default", 0, 0.5)
    shown = [[row[0] for row in cells(table(tmp_path))[2:]] for table in (tables.goal_reaching, tables.ways)]
    assert shown == [[t.title for t in tables.TASKS.values() if t.table == name] for name in ("goal_reaching", "ways")]


def test_ways_show_the_other_distance_and_what_others_report(
    tables: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    maze = tables.Task("Maze", (), (0,), bar=None, limit_s=60, table="ways", reported="QRL 82 %")
    monkeypatch.setattr(tables, "TASKS", {"maze": maze})
    write_result(tmp_path, "maze", "default", 0, 0.9)
    write_result(tmp_path, "maze", "pairwise", 0, 0.7)
    (tmp_path / "ceilings").mkdir()
    (tmp_path / "ceilings" / "maze.json").write_text(json.dumps(measured(0.98)))
    header, _, row = cells(tables.ways(tmp_path))
    told = dict(zip(header, row, strict=True))
    assert told["success (95 % CI)"].startswith("90 %")
    assert told["latent L2 cost"].startswith("50 %")
    assert told["pairwise distance"].startswith("70 %")
    assert told["random"].startswith("10 %")
    assert told["ceiling"] == "98 % (93 to 99.4), script"
    assert (told["bar"], told["others report"]) == (tables.NONE, "QRL 82 %")


@pytest.mark.parametrize("name", ["fetch_push", "pointmaze"])
def test_scripts_that_see_everything_reach_goals(name: str) -> None:
    ceilings = importlib.import_module("ceilings")
    result = ceilings.result_of(name, episodes=3, seed=1)
    assert result["success_rate"] == 1.0
    assert 0 < result["steps_to_goal"] < 300


def test_ablations_stand_in_their_order_with_all_seeds(tables: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "ablations").mkdir()
    for name, seed, success in (("cem", 0, 0.5), ("default", 1, 0.9), ("default", 0, 0.8)):
        result = {**eval_json(success), "row": name, "seed": seed, "train_seconds": 60.0}
        (tmp_path / "ablations" / f"{name}-{seed}.json").write_text(json.dumps(result))
    _, _, first, second = cells(tables.ablations(tmp_path))
    assert first[1].startswith("85 %")
    assert first[2:] == ["80, 90", "9", "3.5 of 4", "10 ms", "1:00 min"]
    assert second[0].startswith("CEM")
    assert second[-1] == tables.NONE


def test_without_results_the_page_says_so(tables: ModuleType, tmp_path: Path) -> None:
    assert "No results yet" in tables.goal_reaching(tmp_path)


def test_rendering_changes_nothing_else_and_is_stable(tables: ModuleType, tmp_path: Path) -> None:
    write_result(tmp_path, "push", "default", 0, 0.5)
    page = "above\n<!-- results:goal_reaching -->\nold | 99 %\n<!-- /results -->\nbelow\n"
    once = tables.render(page, tmp_path)
    assert once.startswith("above\n<!-- results:goal_reaching -->\n| task |")
    assert once.endswith("|\n<!-- /results -->\nbelow\n")
    assert "99 %" not in once
    assert tables.render(once, tmp_path) == once


def test_an_unknown_table_is_an_error(tables: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="gone"):
        tables.render("<!-- results:gone -->\n<!-- /results -->\n", tmp_path)


def test_numbers_of_the_other_tables_come_from_their_files(tables: ModuleType) -> None:
    results = BENCHMARKS / "results"
    record = json.loads((results / "vector_stepping.json").read_text())
    speeds = [way["steps_per_s"] for column in record["results"].values() for way in column.values()]
    table = tables.vector_stepping(results)
    assert all(f"{speed:,} (" in table for speed in speeds)
    assert np.min(speeds) > 0
    sizes = [row["transitions"] for row in json.loads((results / "memory_sampling.json").read_text())["results"]]
    assert all(f"| {size:,} |" in tables.memory_sampling(results) for size in sizes)


# -- adaptation --------------------------------------------------------------------------------------------------------


@pytest.fixture
def shifted() -> ModuleType:
    return importlib.import_module("adaptation")


def adapt(shifted: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> Path:
    words = ["adaptation.py", "--out", str(folder / "out"), "--runs", str(folder / "runs"), *arguments]
    monkeypatch.setattr(sys, "argv", words)
    shifted.main()
    return folder / "out"


def test_commands_of_shifted_worlds_are_valid_configurations(shifted: ModuleType) -> None:
    for job in shifted.jobs(list(shifted.TASKS), [0], list(shifted.SHIFTS)):
        train = build_parser().parse_args(job.train_command(Path("runs/x"), ["threads=1"])[1:])
        assert load(Config, with_preset(train.overrides)[0]).seed == job.seed
        evaluate = build_parser().parse_args(job.eval_command(Path("runs/x"), 100, [])[1:])
        named = [o.replace("episodes=", "evaluation.episodes=") for o in evaluate.overrides if o[:5] != "seed="]
        config = load(EvalConfig, named)
        assert (config.agent.adapt_rate > 0) == (job.arm == "adapted")
        assert config.agent.replan_every == job.replan_every
        changes = {k: v for k, v in vars(config.env_options.shift).items() if v != (0 if k == "camera" else 1)}
        assert changes == shifted.SHIFTS[job.shift]
    assert {job.shift for job in shifted.jobs(["push"], [0], list(shifted.SHIFTS))} == set(shifted.SHIFTED["push"])


def test_all_worlds_share_a_training(
    shifted: ModuleType, calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tables: ModuleType
) -> None:
    arguments = ("--tasks", "reacher", "--shifts", "none", "gear_2")
    out = adapt(shifted, monkeypatch, tmp_path, *arguments)
    names = {f"reacher-{s}-{n}-{a}-0.json" for s in ("none", "gear_2") for n in (1, 5) for a in ("plain", "adapted")}
    assert {path.name for path in out.iterdir()} == names
    assert calls.kinds == ["train"] + ["eval"] * 8
    result = json.loads((out / "reacher-gear_2-5-adapted-0.json").read_text())
    assert result["steps_mean_all"] == pytest.approx(10.5)
    assert "adapt_rate=0.5" in result["eval_command"]
    adapt(shifted, monkeypatch, tmp_path, *arguments)
    assert calls.kinds == ["train"] + ["eval"] * 8, "what is there is left alone"
    adapt(shifted, monkeypatch, tmp_path, *arguments, "--resume", "never")
    assert calls.kinds[9:] == ["train"] + ["eval"] * 8, "trained anew, and once"
    (tmp_path / "adaptation").symlink_to(out)
    assert len(tables.adaptation(tmp_path).splitlines()) == 2 + 4
    assert "No results yet" in tables.adaptation(tmp_path / "nothing")


# -- retrieval ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def retrieval() -> ModuleType:
    return importlib.import_module("retrieval")


def test_memory_is_measured_by_how_many_candidates_it_saves(tables: ModuleType) -> None:
    alone = {4: (0.5, 20.0), 8: (0.9, 15.0), 16: (1.0, 10.0), 32: (1.0, 9.9)}
    memory = {4: (0.86, 15.7), 8: (0.94, 10.4), 16: (1.0, 10.3), 32: (1.0, 9.0)}
    assert tables._as_good_as_twice(memory, alone) == "4, 16"  # of eight, too few succeed
    assert tables._as_good_as_twice(alone, alone) == "16"
    assert tables._as_good_as_twice({32: (1.0, 9.0)}, alone) == tables.NONE


def test_commands_of_retrieval_are_valid_configurations(retrieval: ModuleType) -> None:
    for job in retrieval.jobs(list(retrieval.TASKS), None, list(retrieval.SAMPLES)):
        train = build_parser().parse_args(job.train_command(Path("runs/x"), [])[1:])
        trained = load(Config, with_preset(train.overrides)[0])
        assert trained.planner.name == "icem"
        evaluate = build_parser().parse_args(job.eval_command(Path("runs/x"), 100, [])[1:])
        named = [f"evaluation.{o}" if o.startswith(("episodes=", "seed=")) else o for o in evaluate.overrides]
        config = load(EvalConfig, named)
        assert config.planner.num_samples == job.samples
        assert (config.agent.retrieval.seeds > 0) == (job.arm == "memory")
        assert config.agent.retrieval.seeds < job.samples


def test_all_numbers_of_candidates_share_a_training(
    retrieval: ModuleType, calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tables: ModuleType
) -> None:
    folders = ["--out", str(tmp_path / "retrieval"), "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", ["retrieval.py", *folders, "--tasks", "reacher", "--samples", "4", "16"])
    retrieval.main()
    assert calls.kinds == ["train"] + ["eval"] * 4
    retrieval.main()
    assert calls.kinds == ["train"] + ["eval"] * 4, "what is there is left alone"
    table = tables.retrieval(tmp_path).splitlines()
    assert len(table) == 2 + 2
    assert [line.split(" |")[0] for line in table[2:]] == ["| Reacher, alone", "| Reacher, with memory"]
    assert "No results yet" in tables.retrieval(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("good", "enough"),
    [
        ({4: False, 8: True, 16: True}, "8"),
        ({4: True, 8: False, 16: True}, "16"),
        ({4: True, 8: True}, "4"),
        ({4: False, 8: False}, "\N{EN DASH}"),
    ],
)
def test_enough_is_what_all_larger_numbers_are_too(tables: ModuleType, good: dict[int, bool], enough: str) -> None:
    assert tables._enough(good) == enough


# -- the memory -------------------------------------------------------------------------------------------------------


def test_the_memory_is_killed_and_every_fault_would_be_seen(tmp_path: Path) -> None:
    crash = importlib.import_module("memory_crash")
    result = crash.measure(tmp_path / "memory", kills=3, seed=0, longest_s=0.1)
    assert result["faults"] == []
    assert result["kills_of_writers"] == 3
    assert result["done"]["append"] > 0
    assert result["rounds_of_reading"] > 0
    with crash.EpisodeStore.open(tmp_path / "other", "a", crash.SPEC) as store:
        store.append_many([crash.episode(n) for n in (5, 1, 2, 3)], ["run/0", "run/9", "run/2", "run/3"])
    expected = crash.Expected(there={0, 1, 99}, gone={2}, note=7)
    faults = expected.faults(tmp_path / "other")
    assert faults == [
        "episodes [99] cannot be seen",
        "episodes [99] are lost, [2, 3] too many",
        "a note of 7 bytes is lost, None are there",
        "episode 0 is another",
        "key of 1 is lost",
        "key of 99 is lost",
        "episode 2 was forgotten and can be read",
    ]


def test_growth_is_measured_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    growth = importlib.import_module("memory_growth")
    out = tmp_path / "growth.json"
    options = ["--transitions", "4000", "2000", "--repeats", "2", "--appends", "2", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["memory_growth.py", *options])
    growth.main()
    rows = json.loads(out.read_text())["results"]
    assert [row["transitions"] for row in rows] == [2000, 6000]  # the smaller first, and the appended ones stay
    assert set(rows[0]["ratios"].values()) == {1.0}
    for name in growth.TIMES:
        assert rows[1]["ratios"][name] == pytest.approx(rows[1][name] / rows[0][name], abs=0.01)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
