"""Evaluating a run: what it leaves, what changes it, goals of one's own, and episodes that are remembered."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled
from safetensors.numpy import load as load_arrays

from forethought.agent.agent import Agent
from forethought.agent.build import load_agent
from forethought.agent.jobs import evaluate as job
from forethought.agent.jobs.evaluate import _beside, evaluate
from forethought.agent.jobs.goal import save_goal
from forethought.agent.jobs.train import train
from forethought.agent.memory.store import EpisodeStore
from forethought.agent.runs import RunError
from forethought.agent.training.evaluate import EvaluationOptions, episode_seeds
from forethought.agent.training.loop import Silent
from forethought.configs.register import load
from forethought.configs.schema import Config, EvalConfig
from forethought.envs.spec import EnvError, EnvOptions
from forethought.envs.vector import MujocoVector, make_vector

EVALUATE = [
    "threads=1",
    "evaluation.episodes=4",
    "evaluation.timed_episodes=1",
    "evaluation.true_samples=8",
    "evaluation.true_iterations=1",
    "evaluation.true_horizon=3",
]


FIELDS = {
    "success_rate", "success_ci", "return_mean", "return_ci", "returns", "episodes", "decision_ms", "steps_to_goal",
    "random", "true_dynamics", "reason_true_dynamics", "arms", "plan", "video", "video_reason", "seeds", "command",
    "seed", "env", "objective", "planner", "checkpoint", "versions", "machine", "commit", "time", "seconds",
    "goals_per_episode", "agent", "precision", "shift", "link", "goal_ahead", "prediction_error",
}  # fmt: skip


def numbers(result: Any) -> Any:
    """What must be the same when an evaluation is repeated."""
    if not isinstance(result, dict):
        return result
    clocked = ("time", "seconds", "decision_ms", "plan/batch_ms", "command")
    return {key: numbers(value) for key, value in result.items() if key not in clocked}


@pytest.fixture(scope="module")
def evaluated(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    run = Path(shutil.copytree(small_run, tmp_path_factory.mktemp("evaluated") / "run"))
    return run, evaluate(load(EvalConfig, [f"run={run}", *EVALUATE, "evaluation.latent_l2=true"]))


def test_an_evaluation_leaves_all_that_is_promised(evaluated: tuple[Path, dict[str, Any]]) -> None:
    run, result = evaluated
    assert json.loads((run / "eval.json").read_text()) == result
    assert result.keys() == FIELDS
    for row in (result, result["random"], result["true_dynamics"], result["arms"]["latent_l2"]):
        assert row["episodes"] == 4
        low, high = row["success_ci"]
        assert 0 <= low <= row["success_rate"] <= high <= 1
        assert row["return_ci"][0] <= row["return_mean"] <= row["return_ci"][1]
        assert row["steps_to_goal"].keys() == {"mean", "median", "p90", "values"}
    assert 0 < result["decision_ms"]["p50"] <= result["decision_ms"]["p99"]
    assert len(set(result["seeds"])) == 4
    assert (result["env"], result["seed"], result["checkpoint"]) == ("forethought/PointMass-v0", 0, "best")
    assert {"python", "torch", "forethought"} <= result["versions"].keys()
    diagnostics = json.loads((run / "diagnostics.json").read_text())
    assert diagnostics.keys() == {"imagination", "imagination_error", "linear_probe", "calibration"}
    assert diagnostics["linear_probe"]["episodes"] == 10
    assert min(diagnostics["linear_probe"]["r2"]) > 0.999  # z holds the state itself
    assert "<html" in (run / "report.html").read_text()
    assert (run / "rollout.mp4").read_bytes()[4:8] == b"ftyp" if result["video"] else result["video_reason"]


def test_a_model_of_pixels_is_probed_for_the_state(tmp_path: Path, faulty: list[str]) -> None:
    seen = ["env=faulty_env:Painted-v0", "env_options.observation=pixels", "env_options.image_size=16"]
    run = train(load(Config, [*faulty, *seen, f"out={tmp_path / 'run'}"]))
    quick = [f"run={run}", *EVALUATE, "evaluation.video=false", "evaluation.report=false"]
    probes = []
    for count in (8, 0):
        evaluate(load(EvalConfig, [*quick, f"evaluation.probe_episodes={count}"]))
        probes.append(json.loads((run / "diagnostics.json").read_text())["linear_probe"])
    assert probes[0]["names"] == ["observation[0]", "observation[1]"]
    assert (probes[0]["episodes"], probes[0]["states"], probes[0]["reason"]) == (4, 84, None)
    assert min(probes[0]["r2"]) > 0.5
    assert probes[1]["reason"] == "it needs two episodes or more"


@pytest.mark.parametrize(
    ("hide", "names"),
    [("velocity", ["position[0]", "position[1]", "velocity[0]", "velocity[1]"]), ("position[1]", None)],
)
def test_a_belief_is_probed_for_what_is_hidden(
    hide: str, names: list[str] | None, tmp_path: Path, small: list[str]
) -> None:
    blind = ["env=forethought/PointMass-v0", f"env_options.hide=['{hide}']", "world_model.recurrence=gru"]
    run = train(load(Config, [*small, *blind, f"out={tmp_path / 'run'}"]))
    spec = load_agent(run).model.spec
    assert spec.obs.keys() == ({"position"} if names else {"position", "velocity"})
    off = ["evaluation.video=false", "evaluation.report=false", "evaluation.random=false"]
    off.append("evaluation.probe_episodes=8")
    result = evaluate(load(EvalConfig, [f"run={run}", *EVALUATE, *off]))
    assert result["true_dynamics"]["success_rate"] > 0  # which sees everything
    probe = json.loads((run / "diagnostics.json").read_text())["linear_probe"]
    # An array that is seen in part is asked for as far as it is seen.
    assert probe["names"] == (names or ["position", "velocity[0]", "velocity[1]"])
    assert probe["r2"][0] > 0.99
    assert names is None or probe["r2_learned"][2] > 0.5  # the belief knows much of it


def test_evaluating_again_gives_the_same_numbers_and_another_seed_others(
    evaluated: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    run = shutil.copytree(evaluated[0], tmp_path / "run")
    quick = [*EVALUATE, "evaluation.latent_l2=true", "evaluation.video=false", "evaluation.report=false"]
    again = evaluate(load(EvalConfig, [f"run={run}", *quick]))
    without = {"video": None, "video_reason": "evaluation.video=false"}
    assert numbers(again) == {**numbers(evaluated[1]), **without}
    assert not (run / "rollout.mp4").exists()  # it showed the evaluation before
    other = evaluate(load(EvalConfig, [f"run={run}", *quick, "evaluation.seed=1"]))
    assert not set(other["seeds"]) & set(again["seeds"])
    assert other["plan"] != again["plan"]


def test_what_is_not_asked_for_is_not_measured(tmp_path: Path, small_run: Path) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    off = [f"evaluation.{name}=false" for name in ("random", "true_dynamics", "video", "report")]
    result = evaluate(load(EvalConfig, [f"run={run}", *EVALUATE, *off, "checkpoint=last"]))
    assert not (run / "report.html").exists()
    assert result["random"] is None
    assert result["true_dynamics"] is None
    assert result["reason_true_dynamics"] == "evaluation.true_dynamics=false"
    assert result["video"] is None
    assert result["arms"] == {}
    assert result["checkpoint"] == "last"


def test_an_agent_is_evaluated_in_a_shifted_world_that_everything_sees(
    evaluated: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    run = shutil.copytree(evaluated[0], tmp_path / "run")
    quick = [*EVALUATE, "evaluation.video=false", "evaluation.report=false", "env_options.shift.gear=0.3"]
    plain, adapting = (evaluate(load(EvalConfig, [f"run={run}", *quick, *o])) for o in ([], ["agent.adapt_rate=0.5"]))
    assert plain["shift"]["gear"] == 0.3
    assert evaluated[1]["shift"]["gear"] == 1.0
    for row in ("random", "true_dynamics"):
        assert plain[row]["returns"] == adapting[row]["returns"]
    assert plain["prediction_error"] != evaluated[1]["prediction_error"]
    assert plain["prediction_error"] != adapting["prediction_error"]
    assert (plain["agent"]["adapt_rate"], adapting["agent"]["adapt_rate"]) == (0.0, 0.5)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (NotImplementedError(), "forethought/PointMass-v0 cannot be drawn: NotImplementedError"),
        (DependencyNotInstalled("pygame"), "forethought/PointMass-v0 cannot be drawn: DependencyNotInstalled: pygame"),
        (EnvError("it is invisible"), "it is invisible"),
        (np.zeros((8, 8), np.uint8), "frames[0] must be uint8 [height, width, 3], got uint8 [8, 8]"),
    ],
)
def test_an_environment_that_cannot_be_drawn_is_evaluated_without_a_video(
    outcome: Any, reason: str, tmp_path: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def render(self: MujocoVector, index: int, goal: bool = True) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(MujocoVector, "render", render)
    run = shutil.copytree(small_run, tmp_path / "run")
    (run / "rollout.mp4").write_bytes(b"of an earlier evaluation")
    off = [f"evaluation.{name}=false" for name in ("random", "true_dynamics", "report")]
    result = evaluate(load(EvalConfig, [f"run={run}", *EVALUATE, *off]))
    assert (result["video"], result["video_reason"]) == (None, reason)
    assert result["decision_ms"]["p50"] > 0
    assert not (run / "rollout.mp4").exists()


def test_evaluation_episodes_are_never_those_of_training(evaluated: tuple[Path, dict[str, Any]]) -> None:
    run, result = evaluated
    with EpisodeStore.open(run / "memory") as store:
        trained = {store.info(i)["meta"]["seed"] for i in store.ids()}
    assert len(trained) == 8
    assert not trained & set(result["seeds"])


def test_without_opengl_everything_but_the_video_is_there(tmp_path: Path, small_run: Path) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    command = [sys.executable, "-m", "forethought.agent.cli", "eval", f"run={run}", *EVALUATE[:1], "episodes=2"]
    environment = {**os.environ, "MUJOCO_GL": "disable"}
    command += ["evaluation.timed_episodes=1", "evaluation.true_dynamics=false"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no video: cannot draw: no OpenGL backend works here" in done.stdout
    assert "apt-get install libegl1" in done.stdout
    result = json.loads((run / "eval.json").read_text())
    assert result["video"] is None
    assert "libosmesa6" in result["video_reason"]
    assert (run / "report.html").exists()
    assert not (run / "rollout.mp4").exists()


def test_goals_of_an_evaluation_may_lie_ahead_along_an_episode(
    evaluated: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    run = shutil.copytree(evaluated[0], tmp_path / "run")
    off = [f"evaluation.{name}=false" for name in ("true_dynamics", "video", "report")]
    result = evaluate(load(EvalConfig, [f"run={run}", *EVALUATE, *off, "env_options.goal_ahead=4"]))
    assert (evaluated[1]["goal_ahead"], result["goal_ahead"]) == (None, 4)
    assert min(result["random"]["returns"]) >= -8  # twice as many steps, each of which costs 1


def test_an_environment_that_has_changed_since_the_run_is_refused(
    tmp_path: Path, faulty: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(load(Config, [*faulty, f"out={tmp_path}/run", "training.rounds=0"]))
    sys.modules["faulty_env"].Faulty.action_space.high[:] = 2.0
    with pytest.raises(RunError, match=r"action_high of faulty_env:Faulty-v0 must be that of the run, \(1.0,\)"):
        evaluate(load(EvalConfig, [f"run={run}", "threads=1", "evaluation.episodes=1"]))


def test_an_evaluation_that_cannot_be_written_is_refused_before_it_runs(
    small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    monkeypatch.setattr("forethought.agent.jobs.evaluate._measure", lambda *arguments: pytest.fail("evaluated"))
    with pytest.raises(RunError, match=f"run={small_run} cannot be written"):
        evaluate(load(EvalConfig, [f"run={small_run}"]))


def test_two_evaluations_of_a_run_at_once_do_not_overwrite_each_other(
    tmp_path: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    others = list[subprocess.CompletedProcess[str]]()

    def measure(*arguments: Any) -> dict[str, Any]:
        command = [sys.executable, "-m", "forethought.agent.cli", "eval", f"run={run}", *EVALUATE]
        others.append(subprocess.run(command, capture_output=True, text=True, check=False))
        return {}

    monkeypatch.setattr("forethought.agent.jobs.evaluate._measure", measure)
    for _ in range(2):  # the lock of the first is gone
        evaluate(load(EvalConfig, [f"run={run}", *EVALUATE, "evaluation.report=false"]))
    for other in others:
        assert other.returncode == 2
        assert f"is being evaluated by another process (pid {os.getpid()})" in other.stderr
    assert len(others) == 2


# -- goals of one's own, and several in one episode -------------------------------------------------------------------


def test_episodes_toward_a_goal_of_ones_own_are_measured_and_not_judged(
    tmp_path: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        MujocoVector, "render", lambda self, index, goal=True: pytest.fail("drew the goal") if goal else FRAME
    )
    run = shutil.copytree(small_run, tmp_path / "run")
    path = save_goal(run, tmp_path / "goal.json")
    options = ["threads=1", "evaluation.episodes=2", "evaluation.timed_episodes=1", "evaluation.latent_l2=true"]
    monkeypatch.setattr("forethought.agent.jobs.evaluate._why_not_drawn", lambda environments, seed: None)
    result = evaluate(load(EvalConfig, [f"run={run}", *options, f"evaluation.goal={path}"]))
    assert result["goal"] == str(path)
    assert result["success_rate"] is None
    assert result["return_mean"] is None
    assert result["true_dynamics"] is None
    assert result["video"] == "rollout.mp4"
    for block in (result, result["random"], result["arms"]["latent_l2"]):
        for kind in ("steps", "latent"):
            assert len(block["distance"][kind]["median"]) == 21  # whole episodes
            assert block["distance"][kind]["least"] <= block["distance"][kind]["final"]
    assert "calibration" not in json.loads((run / "diagnostics.json").read_text())
    assert "does not know this goal" in (run / "report.html").read_text()


FRAME = np.zeros((16, 16, 3), np.uint8)


def test_the_picture_of_a_goal_stands_beside_every_frame() -> None:
    frames = [np.full((32, 32, 3), t, np.uint8) for t in range(3)]
    picture = np.concatenate([np.full((8, 8, 3), 9, np.uint8), np.full((8, 8, 3), 200, np.uint8)], axis=2)
    beside = list(_beside(frames, {"pixels": picture}))
    assert [frame.shape for frame in beside] == [(32, 68, 3)] * 3
    assert all((frame[:, :32] == t).all() and (frame[:, -32:] == 200).all() for t, frame in enumerate(beside))
    assert _beside(frames, None) is frames
    assert _beside(frames, {"position": np.zeros(2)}) is frames


def test_several_goals_need_an_environment_that_changes_them(tmp_path: Path, faulty: list[str]) -> None:
    run = train(load(Config, [*faulty, f"out={tmp_path}/run", "training.rounds=0"]))
    with pytest.raises(EnvError, match="Faulty-v0 cannot change its goal within an episode: it has no method"):
        evaluate(load(EvalConfig, [f"run={run}", "threads=1", "evaluation.goals_per_episode=2"]))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("goal=goal.json", "evaluation.goal needs a run with objective=goal, got objective=reward"),
        ("goals_per_episode=2", "evaluation.goals_per_episode needs objective=goal, got objective=reward"),
    ],
)
def test_goals_need_a_run_for_goals(
    small_run: Path, monkeypatch: pytest.MonkeyPatch, option: str, message: str
) -> None:
    def for_reward(*arguments: Any, **options: Any) -> Agent:
        agent = load_agent(*arguments, **options)
        agent.model.purpose = "reward"
        return agent

    monkeypatch.setattr("forethought.agent.jobs.evaluate.load_agent", for_reward)
    with pytest.raises(RunError, match=message):
        evaluate(load(EvalConfig, [f"run={small_run}", "threads=1", f"evaluation.{option}"]))


# -- episodes that are remembered --------------------------------------------------------------------------------------


LANDMARKS = ["agent.configurator.mode=auto", "agent.graph.spacing=2", "agent.graph.reach=6", "agent.graph.stride=1"]


@pytest.fixture
def living(small_run: Path, tmp_path: Path, cli: Any) -> Callable[..., dict[str, Any]]:
    """Live through two episodes of a run that are kept, or as many as are asked for."""
    run = Path(shutil.copytree(small_run, tmp_path / "run"))

    def live(*overrides: str) -> dict[str, Any]:
        plain = ["threads=1", "episodes=2", "evaluation.remember=true", *LANDMARKS]
        done = cli("eval", f"run={run}", *plain, *overrides)
        assert done.code == 0, done.err
        return dict(json.loads((run / "eval.json").read_text()))

    return live


def test_episodes_that_are_remembered_are_in_the_memory_with_their_graph(
    living: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    for name in ("rollout.mp4", "diagnostics.json"):
        (tmp_path / "run" / name).write_text("of an evaluation before")
    result = living()
    assert not (tmp_path / "run" / "rollout.mp4").exists()
    assert not (tmp_path / "run" / "diagnostics.json").exists()
    assert result["episodes_in_memory"] == 10
    assert result["episodes"] == 2
    with EpisodeStore.open(tmp_path / "run" / "memory") as store:
        infos = [store.info(i)["meta"] for i in (8, 9)]
        assert [(meta["policy"], meta["seed"], meta["run"]) for meta in infos] == [
            ("live", seed, "run") for seed in episode_seeds("test", 0, 0, 2)
        ]
        (name,) = store.notes("graph/forethought/PointMass-v0/")
        note = load_arrays(store.note(name) or b"")
        assert note["next_episode"].tolist() == [10]
        assert {8, 9} & set(note["moments"][:, 0].tolist())


def test_episodes_that_are_remembered_end_at_success_only_where_goals_are_what_counts(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops: list[bool] = []
    run_arm = job.run_arm

    def spy(*arguments: Any, stop_on_success: bool) -> Any:
        stops.append(stop_on_success)
        agent.model.purpose = "goal"  # what it acts for is not what is asked here
        return run_arm(*arguments, stop_on_success=stop_on_success)

    monkeypatch.setattr(job, "run_arm", spy)
    agent = load_agent(small_run)
    with (
        contextlib.closing(make_vector("forethought/PointMass-v0", 1, EnvOptions(max_episode_steps=3))) as environments,
        EpisodeStore.open(tmp_path / "memory", "a", environments.env_spec) as store,
    ):
        for purpose in ("goal", "reward"):
            agent.model.purpose = purpose
            job._live(store, agent, environments, EnvOptions(), EvaluationOptions(), [0], tmp_path, Silent())
    assert stops == [True, False]


def test_without_landmarks_episodes_are_remembered_all_the_same(
    living: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    for count in (10, 12):
        assert living("agent.configurator.mode=plan")["episodes_in_memory"] == count
    with EpisodeStore.open(tmp_path / "run" / "memory") as store:
        assert store.notes() == []


def test_the_next_evaluation_goes_on_from_what_is_remembered(
    living: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    living()
    assert living("seed=1")["episodes_in_memory"] == 12
    with EpisodeStore.open(tmp_path / "run" / "memory") as store:
        (name,) = store.notes("graph/forethought/PointMass-v0/")
        note = load_arrays(store.note(name) or b"")
        assert note["next_episode"].tolist() == [12]


@pytest.mark.parametrize("override", ["evaluation.goals_per_episode=2", "goal=goal.json"])
def test_what_cannot_be_remembered(small_run: Path, override: str, cli: Any) -> None:
    done = cli("eval", f"run={small_run}", "evaluation.remember=true", override)
    assert done.code == 2
    assert "evaluation.remember must be false with evaluation.goal or several goals per episode, got true" in done.err
