"""`--multirun`, as it is typed: trainings, evaluations and comparisons over and over, each in a folder of its own."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from forethought.agent.jobs.sweep import link_run
from forethought.agent.jobs.train import train

BENCH = ["planners=icem", "budgets=12", "episodes=1", "threads=1", "horizon=3"]


def stored(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "sweep.json").read_text())
    return content


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# -- comparisons -------------------------------------------------------------------------------------------------------


def test_a_planner_is_swept_on_one_task_by_its_score(cli: Any, tmp_path: Path) -> None:
    out = tmp_path / "s"
    given = ["tasks=lqr", "options.icem.noise_beta=0,2", "options.icem.init_std=0.1,2.0", f"out={out}", *BENCH]
    done = cli("bench", "planners", "-m", *given)
    assert (done.code, done.err) == (0, "")
    trials = stored(out)["trials"]
    assert [t["value"] is None for t in trials] == [False, True, False, True]
    assert "init_std must be above 0 and between" in trials[1]["error"]
    scores = []
    for trial in trials:
        if trial["value"] is not None:
            results = json.loads((out / "trials" / f"{trial['number']:03d}" / "results.json").read_text())
            assert results["cells"][0]["options"]["noise_beta"] == float(trial["values"]["options.icem.noise_beta"])
            scores.append(results["cells"][0]["score"])
    assert scores == [trials[0]["value"], trials[2]["value"]]
    best = 0 if scores[0] > scores[1] else 2
    assert stored(out)["best"]["number"] == best
    for text in ("2 failed", f"best: trial {best} with", f"trials/00{best}", "sweep.json, trials", "init_std=0.1"):
        assert text in done.out
    again = next(line for line in done.out.splitlines() if line.startswith("again: "))
    assert again.startswith("again: forethought bench planners tasks=lqr planners=icem")
    before = contents(out / "trials" / "000")
    assert cli("bench", "planners", *given, "--multirun").code == 0
    assert contents(out / "trials" / "000") == before


def test_over_several_tasks_it_is_the_gain_on_its_own_defaults(cli: Any, tmp_path: Path) -> None:
    # Early tries that stay near the start gain nothing; the default's own value is a trial without any gain.
    given = ["tasks=lqr,rastrigin", "options.icem.init_std=0.5,0.05", f"out={tmp_path}", *BENCH]
    assert cli("bench", "planners", "-m", *given).code == 0
    first, second = (t["value"] for t in stored(tmp_path)["trials"])
    assert first == 0  # 0.5 is the default
    assert -1 <= second <= 1
    assert second != 0
    assert (tmp_path / "default" / "results.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["planners=icem", "tasks=lqr"], "a sweep must vary something, got no key with several values"),
        (
            ["planners=icem,cem", "tasks=lqr", "seed=0,1"],
            "planners must name one in a sweep, planners=icem, got icem, cem",
        ),
        (["planners=icem", "budgets=8,16", "seed=0,1"], "a sweep takes one budget, got budgets=[8, 16]"),
        (["planners=icem", "tasks=lqr", "sed=0,1"], "unknown config key 'sed': did you mean seed"),
        (["planners=icem", "tasks=lqq", "seed=0,1"], "unknown task 'lqq': did you mean lqr"),
        (["planners=icem", "options.icem.init_sdt=0.1,0.2"], "'init_sdt': did you mean init_std"),
        (["planners=icem", "seed=0,1", "sweep.metric=sucess"], "unknown sweep.metric 'sucess': did you mean success"),
        (["planners=icem", "seed=0,1", "sweep.metric=return"], "sweep.metric of bench must be one of auto, score, got"),
        (
            ["planners=icem", "seed=0,1", "sweep.trails=3"],
            "'sweep.trails': did you mean sweep.trials",
        ),
        (["planners=icem", "horizon=int(interval(2,9))"], "horizon is an interval, which has no end of values"),
        (["planners=icem", "hydra/sweeper=optuna"], "hydra/sweeper is Hydra's own; here it is sweep.trials="),
    ],
)
def test_mistakes_are_explained_before_the_first_trial(
    cli: Any, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = cli("bench", "planners", "-m", *arguments, f"out={tmp_path}")
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_options_of_a_sweep_are_listed(cli: Any) -> None:
    for command in (["train"], ["eval"], ["bench", "planners"]):
        lines = cli(*command, "-m", "--options").out.splitlines()
        assert any(line.startswith("sweep.trials=None  # Trials of a search") for line in lines)
        assert [line for line in lines if line.startswith("out=")] == [
            "out=runs/sweep  # Folder of the sweep, `trials` among it; a sweep that is there already goes on."
        ]
        assert not any(line.startswith("sweep.") for line in cli(*command, "--options").out.splitlines())


# -- trainings ---------------------------------------------------------------------------------------------------------


def test_trainings_are_swept_by_their_best_validation(
    cli: Any, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sizes"
    given = [*(o for o in small if not o.startswith("planner.horizon")), "planner.horizon=2,3", f"out={out}"]
    trained = list[int]()

    def interrupted(config: Any, *rest: Any) -> Any:
        trained.append(config.planner.horizon)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(config, *rest)

    monkeypatch.setattr("forethought.agent.jobs.sweep.train", interrupted)
    assert cli("train", "-m", *given).code == 130
    assert len(stored(out)["trials"]) == 1
    done = cli("train", "-m", *given)
    assert done.code == 0, done.err
    assert trained == [2, 3, 3]
    for trial in stored(out)["trials"]:
        folder = out / "trials" / f"{trial['number']:03d}"
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert str(config["planner"]["horizon"]) == trial["values"]["planner.horizon"]
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        successes = [r["validation/success"] for r in records if r["phase"] == "validation"]
        assert len(successes) == 3
        assert trial["value"] == max(successes)
    by_return = cli("train", "-m", *given[:-1], f"out={tmp_path / 'r'}", "sweep.metric=return", "planner.horizon=3")
    assert "planner.horizon must be given once where it is varied" in by_return.err
    unseen = cli("train", "-m", *given, "training.validation_episodes=0")
    assert "training.validation_episodes must be at least 1" in unseen.err


# -- evaluations -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluations_leave_the_run_as_it_is(cli: Any, small_run: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "s"
    shutil.copytree(small_run, run)
    (run / "eval.json").write_text("{}")
    before = contents(run)
    switches = ["evaluation.true_dynamics=false", "evaluation.video=false", "evaluation.probe_episodes=0"]
    switches += ["evaluation.random=false", "evaluation.timed_episodes=1", "planner.iterations=1", "planner.horizon=2"]
    given = [f"run={run}", "episodes=2", "threads=1", *switches, "planner=icem,cem", "planner.num_samples=16"]
    done = cli("eval", "-m", *given, "planner.num_elites=4", "sweep.metric=return", f"out={out}")
    assert done.code == 0, done.err
    trials = stored(out)["trials"]
    assert [t["values"] for t in trials] == [{"planner": "icem"}, {"planner": "cem"}]
    for trial in trials:
        folder = out / "trials" / f"{trial['number']:03d}"
        result = json.loads((folder / "eval.json").read_text())
        assert result["planner"]["name"] == trial["values"]["planner"]
        assert trial["value"] == result["return_mean"]
        assert (folder / "report.html").is_file()
        assert (folder / "memory").is_symlink()
    assert contents(run) == before
    refused = cli("eval", "-m", *given, "evaluation.remember=true", f"out={out}")
    assert "evaluation.remember must be false in a sweep" in refused.err
    assert "run=runs/…" in cli("eval", "-m", "seed=1,2", f"out={out}").err


def test_a_linked_run_is_linked_once_and_has_a_lock_of_its_own(small_run: Path, tmp_path: Path) -> None:
    (small_run / ".evaluating").touch()
    for _ in range(2):
        link_run(small_run, tmp_path)
    assert not (tmp_path / ".evaluating").exists()
    assert (tmp_path / "best.safetensors").samefile(small_run / "best.safetensors")
    assert not (tmp_path / "report.html").exists()
