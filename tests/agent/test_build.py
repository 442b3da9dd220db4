"""The jobs from Python: training, loading an agent, evaluating, collecting; and all that can be wrong with them."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import DependencyNotInstalled
from safetensors.numpy import load as load_arrays
from typing_extensions import override

from forethought import UnknownNameError, make_env
from forethought.agent import build
from forethought.agent.agent import Agent, AgentOptions
from forethought.agent.build import RunError, load_agent
from forethought.agent.memory.index import RetrievalOptions
from forethought.agent.memory.store import EpisodeStore, StoreError
from forethought.agent.training import rollout
from forethought.agent.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from forethought.agent.training.evaluate import episode_seeds
from forethought.agent.training.metrics import read_metrics
from forethought.agent.world_model.encoders import ObsEncoder
from forethought.configs.register import load
from forethought.configs.schema import Config, EvalConfig
from forethought.envs.goal_files import read_goal
from forethought.envs.spec import EnvError
from forethought.envs.vector import MujocoVector

FAULTY = '''
import time
import gymnasium, numpy as np

class Faulty(gymnasium.Env):
    """A walk on a line that goes wrong at one step of its third episode; the first is the trial reset."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, fault="none", goals=True):
        self.fault, self.goals, self.episode = fault, goals, -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.time, self.x = 0, self.np_random.uniform(-1, 1, 2).astype(np.float32)
        goal = {"goal": self.np_random.uniform(-1, 1, 2).astype(np.float32)} if self.goals else {}
        return self.x.copy(), {"success": False, **goal}

    def step(self, action):
        self.time += 1
        self.x = self.x + 0.1 * action
        if self.episode == 3 and self.time == 5:
            if self.fault == "raises":
                raise RuntimeError("motor 3 is hot")
            if self.fault == "hangs":
                time.sleep(60)
            if self.fault == "not finite":
                self.x[0] = np.nan
        return self.x.copy(), 0.0, False, self.time >= 20, {"success": bool(abs(self.x).max() < 0.1)}

class Painted(Faulty):
    """A walk that draws itself: brightness is where it is."""

    def render_pixels(self, size):
        return self.picture(self.x, size)

    def render_goal_pixels(self, size):
        return self.picture(np.zeros(2), size)

    def picture(self, x, size):
        left_and_right = np.repeat(np.clip(128 + 40 * x, 0, 255).astype(np.uint8), size // 2)
        return np.broadcast_to(left_and_right[None, :, None], (size, size, 3)).copy()

gymnasium.register("Faulty-v0", Faulty, max_episode_steps=20)
gymnasium.register("Painted-v0", Painted, max_episode_steps=20)
'''


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: list[str]) -> Iterator[list[str]]:
    """Overrides of a run in an environment of one's own, one episode at a time."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "faulty_env.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.delitem(sys.modules, "faulty_env", raising=False)
    yield [*small, "env=faulty_env:Faulty-v0", "training.num_envs=1", "training.validation_episodes=0"]
    gymnasium.registry.pop("Faulty-v0", None)
    gymnasium.registry.pop("Painted-v0", None)


# -- an agent in a loop of one's own ----------------------------------------------------------------------------------


def test_an_agent_runs_in_a_loop_of_ones_own(small_run: Path) -> None:
    documentation = (load_agent.__doc__ or "").split("batch of one:")[1].split("    Args:")[0]
    example = textwrap.dedent(documentation)
    example = example.replace("runs/reacher", str(small_run)).replace("Reacher-v0", "PointMass-v0")
    names: dict[str, Any] = {"load_agent": load_agent, "make_env": make_env}
    exec(example, names)
    assert names["done"]
    assert names["action"].shape == (1, 2)


def test_an_agent_acts_as_its_seed_says(small_run: Path) -> None:
    def action(seed: int, checkpoint: str = "best", **changes: Any) -> torch.Tensor:
        agent = load_agent(str(small_run), checkpoint, seed=seed, **changes)
        obs = {"position": np.zeros((1, 2), np.float32), "velocity": np.zeros((1, 2), np.float32)}
        return agent.act(obs, agent.init(1), agent.embed_goal(obs))[0]

    assert torch.equal(action(0), action(0))
    assert not torch.equal(action(0), action(1))
    other = load(EvalConfig, ["run=x", "planner=mppi"])
    assert not torch.equal(action(0), action(0, planner=other.planner))


def test_a_loaded_agent_has_the_options_of_its_run(small_run: Path) -> None:
    agent = load_agent(small_run)
    assert agent.planner.horizon == 3
    assert agent.model.options.latent_dim == 8
    assert agent.model.spec.env_id == "forethought/PointMass-v0"
    assert not agent.model.training
    assert agent.model.normalizer.count > 0


# -- checkpoints that are not what they should be ---------------------------------------------------------------------


def corrupt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def foreign(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 something else")


def without_card(path: Path) -> None:
    saved = load_checkpoint(path)
    save_checkpoint(path, saved.tensors, {})


def of_another_shape(path: Path) -> None:
    saved = load_checkpoint(path)
    card = saved.state["card"]
    card["config"]["world_model"]["hidden_dim"] = 16
    save_checkpoint(path, saved.tensors, saved.state)


def of_another_version(path: Path) -> None:
    saved = load_checkpoint(path)
    saved.state["card"]["config"]["world_model"]["wavelets"] = 3
    save_checkpoint(path, saved.tensors, saved.state)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (corrupt, "checksum does not match"),
        (truncate, "truncated or damaged"),
        (foreign, "only safetensors are accepted"),
        (without_card, "made by another version"),
        (of_another_shape, "does not fit: .* must have shape"),
        (of_another_version, "made by another version"),
    ],
)
def test_a_bad_checkpoint_is_refused_by_name(
    tmp_path: Path, small_run: Path, damage: Callable[[Path], None], message: str
) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    damage(run / "best.safetensors")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_agent(run)
    assert str(run / "best.safetensors") in str(caught.value)


@pytest.mark.parametrize("damage", [corrupt, truncate, foreign, without_card])
def test_a_run_with_a_bad_checkpoint_is_not_resumed_nor_overwritten(
    tmp_path: Path, small_run: Path, small: list[str], damage: Callable[[Path], None]
) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    damage(run / "last.safetensors")
    before = (run / "last.safetensors").read_bytes()
    with pytest.raises(CheckpointError):
        build.train(load(Config, [*small, f"out={run}"]))
    assert (run / "last.safetensors").read_bytes() == before


def test_weights_without_an_optimiser_cannot_be_resumed(tmp_path: Path, small_run: Path, small: list[str]) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    shutil.copy(run / "best.safetensors", run / "last.safetensors")
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        build.train(load(Config, [*small, f"out={run}"]))


def test_the_checkpoint_of_another_run_is_not_resumed(tmp_path: Path, small_run: Path, small: list[str]) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    data = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**data, "run_id": "another"}))
    with pytest.raises(CheckpointError, match="belongs to another run"):
        build.train(load(Config, [*small, f"out={run}"]))


def test_a_missing_run_checkpoint_or_device_is_named(tmp_path: Path, small_run: Path) -> None:
    with pytest.raises(RunError, match="must be the folder of a run, but there is none"):
        load_agent(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"best\.safetensors does not exist"):
        load_agent(tmp_path)
    with pytest.raises(UnknownNameError, match="unknown checkpoint 'bets': did you mean best"):
        load_agent(small_run, "bets")
    shutil.copy(small_run / "last.safetensors", tmp_path)
    with pytest.raises(RunError, match="take checkpoint=last"):
        load_agent(tmp_path)
    for device in ("warp", "cuda:99", "meta"):
        with pytest.raises(
            RunError, match=f"device must be one that PyTorch can use here, such as cpu, got '{device}'"
        ):
            load_agent(small_run, device=device)


# -- training in environments and folders that fail -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "message"),
    [("raises", "motor 3 is hot"), ("hangs", "step_timeout_s"), ("not finite", "finite")],
)
def test_an_environment_that_fails_keeps_the_episodes_before(
    tmp_path: Path, faulty: list[str], fault: str, message: str
) -> None:
    overrides = [*faulty, f"env_options.kwargs.fault={fault}", "env_options.step_timeout_s=0.5", f"out={tmp_path}/run"]
    config = load(Config, [*overrides, "training.rounds=0"])
    for stored in (2, 4, 6):
        with pytest.raises(EnvError, match=message):
            build.train(config)
        with EpisodeStore.open(tmp_path / "run" / "memory") as store:
            assert len(store) == stored
            assert store.verify() == []
    build.train(config)


def test_an_environment_without_goals_is_refused_before_anything_is_written(tmp_path: Path, faulty: list[str]) -> None:
    with pytest.raises(RunError, match="objective=goal needs an environment with goals, but faulty_env:Faulty-v0"):
        build.train(load(Config, [*faulty, "env_options.kwargs.goals=false", f"out={tmp_path}/run"]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.risk.kind=worst"], "objective.risk.kind=worst needs more than one opinion: .*, got 1"),
        (
            ["objective.risk.kind=worst", "world_model.distance=quasimetric", "world_model.distance_members=1"],
            "world_model.distance_members must be at least 2, got 1",
        ),
        (
            ["objective.risk.kind=worst", "world_model.distance=quasimetric", "objective.cost=latent_l2"],
            "needs more than one opinion: .*, got 1",
        ),
        (["learner.focus_share=0.5"], "learner.focus_share must be 0 with forethought/PointMass-v0, .* got 0.5"),
    ],
)
def test_options_for_goals_must_fit_each_other(tmp_path: Path, overrides: list[str], message: str) -> None:
    out = tmp_path / "run"
    config = load(Config, ["env=forethought/PointMass-v0", f"out={out}", *overrides])
    with pytest.raises(RunError, match=message):
        build.train(config)
    assert not out.exists()


def test_an_environment_that_has_changed_since_the_run_is_refused(
    tmp_path: Path, faulty: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build.train(load(Config, [*faulty, f"out={tmp_path}/run", "training.rounds=0"]))
    sys.modules["faulty_env"].Faulty.action_space.high[:] = 2.0
    with pytest.raises(RunError, match=r"action_high of faulty_env:Faulty-v0 must be that of the run, \(1.0,\)"):
        build.evaluate(load(EvalConfig, [f"run={run}", "threads=1", "evaluation.episodes=1"]))


@pytest.mark.parametrize("out", ["/proc/forethought", "/proc/self"])
def test_a_folder_that_cannot_be_written_is_named(small: list[str], out: str) -> None:
    with pytest.raises(Exception, match=out) as caught:
        build.train(load(Config, [*small, f"out={out}"]))
    assert type(caught.value).__name__ in ("RunError", "FileError")


def test_resume_never_refuses_a_folder_with_a_run(small_run: Path, small: list[str]) -> None:
    with pytest.raises(RunError, match="already holds a run; resume=auto continues it"):
        build.train(load(Config, [*small, f"out={small_run}", "resume=never"]))


def test_a_foreign_folder_as_memory_is_refused(tmp_path: Path, small: list[str]) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear diary")
    with pytest.raises(Exception, match="is not empty and no episode store"):
        build.train(load(Config, [*small, f"out={tmp_path}/run", f"memory.path={tmp_path}/notes"]))
    (tmp_path / "notes" / "data.mdb").write_bytes(b"no database" * 999)
    with pytest.raises(Exception, match="is no episode store"):
        build.train(load(Config, [*small, f"out={tmp_path}/run", f"memory.path={tmp_path}/notes"]))
    assert (tmp_path / "notes" / "diary.txt").read_text() == "dear diary"


def test_a_memory_shared_by_runs_of_two_environments_is_kept_apart(tmp_path: Path, small: list[str]) -> None:
    shared = [*small, f"memory.path={tmp_path}/memory", "training.rounds=0", "training.validation_episodes=0"]
    build.train(load(Config, [*shared, "env=forethought/Reacher-v0", f"out={tmp_path}/a"]))
    run = build.train(load(Config, [*shared, f"out={tmp_path}/b"]))
    with EpisodeStore.open(tmp_path / "memory") as store:
        assert [spec.env_id for spec in store.specs] == ["forethought/Reacher-v0", "forethought/PointMass-v0"]
        assert len(store) == 16
    assert load_checkpoint(run / "last.safetensors").state["train"]["episodes"] == [[8, 15]]


def test_a_run_also_learns_from_what_its_memory_already_holds(tmp_path: Path, small: list[str]) -> None:
    memory = f"memory.path={tmp_path / 'memory'}"
    first = build.train(load(Config, [*small, memory, f"out={tmp_path / 'first'}"]))
    second = build.train(load(Config, [*small, memory, f"out={tmp_path / 'second'}", "seed=1"]))
    own, both = (load_checkpoint(run / "last.safetensors").state["train"]["episodes"] for run in (first, second))
    with EpisodeStore.open(tmp_path / "memory") as store:
        assert own == [[0, own[0][1]]]
        assert both == [[0, len(store) - 1]]
        assert own[0][1] < len(store) - 1


def test_a_run_learns_from_what_was_collected_for_it(tmp_path: Path, small: list[str]) -> None:
    memory = f"memory.path={tmp_path / 'memory'}"
    own = [o for o in small if not o.startswith("training.episode_steps")]
    build.collect(load(Config, [*own, memory, "training.episode_steps=7", "steps=21"]))  # episodes of another length
    run = build.train(load(Config, [*small, memory, "training.rounds=0", f"out={tmp_path / 'run'}"]))
    with EpisodeStore.open(tmp_path / "memory") as store:
        assert store.lengths()[:3].tolist() == [7, 7, 7]
        learned = load_checkpoint(run / "last.safetensors").state["train"]["episodes"]
        assert learned == [[0, len(store) - 1]]


def test_every_line_of_the_log_counts_frames(tmp_path: Path, small: list[str]) -> None:
    run = build.train(load(Config, [*small, "env_options.action_repeat=2", "training.rounds=0", f"out={tmp_path}/run"]))
    lines = read_metrics(run / "metrics.jsonl")
    assert lines[-1]["decisions"] > 0
    assert all(line["frames"] == 2 * line["decisions"] for line in lines)


def test_features_that_collapse_are_named_though_the_state_beside_them_is_not(tmp_path: Path, small: list[str]) -> None:
    class Watcher(build.Silent):
        said: ClassVar[list[str]] = []

        @override
        def message(self, text: str) -> None:
            self.said.append(text)

    dead = ["world_model.encoder=augmented", "learner.learning_rate=1e-30", "training.log_every=1"]
    build.train(load(Config, [*small, *dead, f"out={tmp_path / 'alive'}"]), Watcher())
    assert not any("collapsed" in text for text in Watcher.said)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObsEncoder, "forward", lambda self, obs: torch.zeros(*obs["position"].shape[:-1], 8))
        off = [f"learner.{name}=0" for name in ("variance", "covariance")]
        run = build.train(load(Config, [*small, *dead, *off, f"out={tmp_path / 'dead'}"]), Watcher())
    assert any("collapsed to a point" in text for text in Watcher.said)
    assert any("collapsed to a point" in line.get("latent/warning", "") for line in read_metrics(run / "metrics.jsonl"))


def test_an_evaluation_that_cannot_be_written_is_refused_before_it_runs(
    small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build.os, "access", lambda path, mode: False)  # root may write anywhere
    monkeypatch.setattr(build, "_measure", lambda *arguments: pytest.fail("evaluated"))
    with pytest.raises(RunError, match=f"run={small_run} cannot be written"):
        build.evaluate(load(EvalConfig, [f"run={small_run}"]))


def test_one_memory_is_not_written_by_two_runs_at_once(tmp_path: Path, small: list[str]) -> None:
    code = (
        "import sys\nfrom forethought import EpisodeStore\n"
        "with EpisodeStore.open(sys.argv[1], 'a'):\n    print('open', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "memory")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(Exception, match=f"open for appending in another process .pid {other.pid}"):
            build.train(load(Config, [*small, f"out={tmp_path}/run", f"memory.path={tmp_path}/memory"]))
        assert other.stdin is not None
        other.stdin.close()


def test_the_process_is_left_as_it_was(small: list[str], tmp_path: Path) -> None:
    before = torch.get_num_threads(), torch.get_rng_state()
    inside: list[tuple[int, bool]] = []

    class Look(build.Silent):
        def advance(self, stage: str, done: int, total: int, note: str = "") -> None:
            inside.append((torch.get_num_threads(), sys.float_info.min / 2 == 0.0))

    changes = ["threads=3", "training.rounds=0", "training.validation_episodes=0", f"out={tmp_path}/run"]
    build.train(load(Config, [*small, *changes]), Look())
    assert set(inside) == {(3, True)}
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert sys.float_info.min / 2 > 0


# -- goals of one's own, and several in one episode -------------------------------------------------------------------


def test_a_goal_from_the_environment_is_written_as_it_is(tmp_path: Path, small_run: Path) -> None:
    spec = load_agent(small_run).model.spec
    path = build.save_goal(small_run, tmp_path / "goal.json", seed=3)
    env = make_env(spec.env_id)
    _, info = env.reset(seed=episode_seeds("test", 3, 0, 1)[0])
    goal = read_goal(path, spec)
    assert goal.keys() == info["goal"].keys()
    for key, value in goal.items():
        np.testing.assert_array_equal(value, info["goal"][key])


def test_episodes_toward_a_goal_of_ones_own_are_measured_and_not_judged(
    tmp_path: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        MujocoVector, "render", lambda self, index, goal=True: pytest.fail("drew the goal") if goal else FRAME
    )
    run = shutil.copytree(small_run, tmp_path / "run")
    path = build.save_goal(run, tmp_path / "goal.json")
    options = ["threads=1", "evaluation.episodes=2", "evaluation.timed_episodes=1", "evaluation.latent_l2=true"]
    monkeypatch.setattr(build, "_why_not_drawn", lambda environments, seed: None)
    result = build.evaluate(load(EvalConfig, [f"run={run}", *options, f"evaluation.goal={path}"]))
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
    beside = list(build._beside(frames, {"pixels": picture}))
    assert [frame.shape for frame in beside] == [(32, 68, 3)] * 3
    assert all((frame[:, :32] == t).all() and (frame[:, -32:] == 200).all() for t, frame in enumerate(beside))
    assert build._beside(frames, None) is frames
    assert build._beside(frames, {"position": np.zeros(2)}) is frames


def test_several_goals_need_an_environment_that_changes_them(tmp_path: Path, faulty: list[str]) -> None:
    run = build.train(load(Config, [*faulty, f"out={tmp_path}/run", "training.rounds=0"]))
    with pytest.raises(EnvError, match="Faulty-v0 cannot change its goal within an episode: it has no method"):
        build.evaluate(load(EvalConfig, [f"run={run}", "threads=1", "evaluation.goals_per_episode=2"]))


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

    monkeypatch.setattr(build, "load_agent", for_reward)
    with pytest.raises(RunError, match=message):
        build.evaluate(load(EvalConfig, [f"run={small_run}", "threads=1", f"evaluation.{option}"]))


# -- collecting -------------------------------------------------------------------------------------------------------


def test_collecting_goes_on_where_it_was_and_other_options_add_to_it(
    tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*small, f"out={tmp_path}"]
    ran: list[int] = []
    run_episodes = rollout.run_episodes

    def counted(environments: Any, policy: Any, seeds: list[int], **kwargs: Any) -> Any:
        if len(ran) == 2:
            ran.append(0)
            raise KeyboardInterrupt
        ran.append(len(seeds))
        return run_episodes(environments, policy, seeds, **kwargs)

    monkeypatch.setattr(rollout, "run_episodes", counted)
    with pytest.raises(KeyboardInterrupt):
        build.collect(load(Config, overrides))
    assert build.collect(load(Config, overrides)) == (tmp_path / "memory", 8, 160)
    assert ran == [2, 2, 0, 2, 2]
    assert build.collect(load(Config, overrides))[1] == 8
    assert len(ran) == 5
    assert build.collect(load(Config, [*overrides, "training.max_hold=1"]))[1] == 16
    assert build.collect(load(Config, [*overrides, "training.num_envs=3", "steps=200"]))[1] == 18
    with EpisodeStore.open(tmp_path / "memory") as store:
        assert store.verify() == []
        assert len({store.get(i).actions.tobytes() for i in store.ids()}) == 18


# -- evaluating -------------------------------------------------------------------------------------------------------

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
    "goals_per_episode", "agent", "shift", "link", "goal_ahead", "prediction_error",
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
    return run, build.evaluate(load(EvalConfig, [f"run={run}", *EVALUATE, "evaluation.latent_l2=true"]))


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


def test_a_model_of_pixels_is_probed_for_the_state(
    tmp_path: Path, faulty: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "write_report", lambda folder: None)
    seen = ["env=faulty_env:Painted-v0", "env_options.observation=pixels", "env_options.image_size=16"]
    run = build.train(load(Config, [*faulty, *seen, f"out={tmp_path / 'run'}"]))
    quick = [f"run={run}", *EVALUATE, "evaluation.video=false"]
    probes = []
    for count in (8, 0):
        build.evaluate(load(EvalConfig, [*quick, f"evaluation.probe_episodes={count}"]))
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
    hide: str, names: list[str] | None, tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "write_report", lambda folder: None)
    blind = ["env=forethought/PointMass-v0", f"env_options.hide=['{hide}']", "world_model.recurrence=gru"]
    run = build.train(load(Config, [*small, *blind, f"out={tmp_path / 'run'}"]))
    spec = build.load_agent(run).model.spec
    assert spec.obs.keys() == ({"position"} if names else {"position", "velocity"})
    off = ["evaluation.video=false", "evaluation.random=false", "evaluation.probe_episodes=8"]
    result = build.evaluate(load(EvalConfig, [f"run={run}", *EVALUATE, *off]))
    assert result["true_dynamics"]["success_rate"] > 0  # which sees everything
    probe = json.loads((run / "diagnostics.json").read_text())["linear_probe"]
    # An array that is seen in part is asked for as far as it is seen.
    assert probe["names"] == (names or ["position", "velocity[0]", "velocity[1]"])
    assert probe["r2"][0] > 0.99
    assert names is None or probe["r2_learned"][2] > 0.5  # the belief knows much of it


def test_evaluating_again_gives_the_same_numbers_and_another_seed_others(
    evaluated: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "write_report", lambda folder: None)
    run = shutil.copytree(evaluated[0], tmp_path / "run")
    quick = [*EVALUATE, "evaluation.latent_l2=true", "evaluation.video=false"]
    again = build.evaluate(load(EvalConfig, [f"run={run}", *quick]))
    without = {"video": None, "video_reason": "evaluation.video=false"}
    assert numbers(again) == {**numbers(evaluated[1]), **without}
    assert not (run / "rollout.mp4").exists()  # it showed the evaluation before
    other = build.evaluate(load(EvalConfig, [f"run={run}", *quick, "evaluation.seed=1"]))
    assert not set(other["seeds"]) & set(again["seeds"])
    assert other["plan"] != again["plan"]


def test_what_is_not_asked_for_is_not_measured(
    tmp_path: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "write_report", lambda folder: None)
    run = shutil.copytree(small_run, tmp_path / "run")
    off = [f"evaluation.{name}=false" for name in ("random", "true_dynamics", "video")]
    result = build.evaluate(load(EvalConfig, [f"run={run}", *EVALUATE, *off, "checkpoint=last"]))
    assert result["random"] is None
    assert result["true_dynamics"] is None
    assert result["reason_true_dynamics"] == "evaluation.true_dynamics=false"
    assert result["video"] is None
    assert result["arms"] == {}
    assert result["checkpoint"] == "last"


def test_an_agent_is_evaluated_in_a_shifted_world_that_everything_sees(
    evaluated: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "write_report", lambda folder: None)
    run = shutil.copytree(evaluated[0], tmp_path / "run")
    quick = [*EVALUATE, "evaluation.video=false", "env_options.shift.gear=0.3"]
    plain, adapting = (
        build.evaluate(load(EvalConfig, [f"run={run}", *quick, *o])) for o in ([], ["agent.adapt_rate=0.5"])
    )
    assert plain["shift"]["gear"] == 0.3
    assert evaluated[1]["shift"]["gear"] == 1.0
    for row in ("random", "true_dynamics"):
        assert plain[row]["returns"] == adapting[row]["returns"]
    assert plain["prediction_error"] != evaluated[1]["prediction_error"]
    assert plain["prediction_error"] != adapting["prediction_error"]
    assert (plain["agent"]["adapt_rate"], adapting["agent"]["adapt_rate"]) == (0.0, 0.5)


def test_an_evaluation_takes_over_the_shift_of_its_run() -> None:
    saved = {
        "planner": {"name": "icem"}, "objective": {"name": "goal"}, "agent": {}, "env_options": {"shift": {"gear": 2.0}}
    }  # fmt: skip
    assert "env_options.shift.gear=2.0" in build.overrides_of_run(saved, {})
    del saved["env_options"]["shift"]  # a run from before there was one
    assert not [o for o in build.overrides_of_run(saved, {}) if o.startswith("env_options")]


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
    monkeypatch.setattr(build, "write_report", lambda folder: None)
    run = shutil.copytree(small_run, tmp_path / "run")
    (run / "rollout.mp4").write_bytes(b"of an earlier evaluation")
    off = [f"evaluation.{name}=false" for name in ("random", "true_dynamics")]
    result = build.evaluate(load(EvalConfig, [f"run={run}", *EVALUATE, *off]))
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
    evaluated: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "write_report", lambda folder: None)
    run = shutil.copytree(evaluated[0], tmp_path / "run")
    off = [f"evaluation.{name}=false" for name in ("true_dynamics", "video")]
    result = build.evaluate(load(EvalConfig, [f"run={run}", *EVALUATE, *off, "env_options.goal_ahead=4"]))
    assert (evaluated[1]["goal_ahead"], result["goal_ahead"]) == (None, 4)
    assert min(result["random"]["returns"]) >= -8  # twice as many steps, each of which costs 1


def test_an_evaluation_takes_over_goals_ahead_of_its_run() -> None:
    saved = {
        "planner": {"name": "icem"}, "objective": {"name": "goal"}, "agent": {}, "env_options": {"goal_ahead": 25}
    }  # fmt: skip
    assert "env_options.goal_ahead=25" in build.overrides_of_run(saved, {})


# -- going by what is in memory ----------------------------------------------------------------------------------------

RETRIEVAL = ["agent.retrieval.seeds=4", "agent.retrieval.neighbours=8", "agent.retrieval.stride=2"]
LANDMARKS = ["agent.configurator.mode=auto", "agent.graph.spacing=2", "agent.graph.reach=6", "agent.graph.stride=1"]


def test_options_of_an_agent_outlive_their_run() -> None:
    config = load(Config, ["env=forethought/PointMass-v0", *RETRIEVAL, *LANDMARKS])
    saved = json.loads(json.dumps(dataclasses.asdict(config)))
    assert AgentOptions.from_json(saved["agent"]) == config.agent
    assert load(EvalConfig, ["run=x", *build.overrides_of_run(saved, {})]).agent == config.agent
    del saved["agent"]["retrieval"]  # of a run that was made before there was such a thing
    assert AgentOptions.from_json(saved["agent"]).retrieval == RetrievalOptions()


def test_an_agent_that_retrieves_is_trained_loaded_and_evaluated(tmp_path: Path, small: list[str], cli: Any) -> None:
    run = build.train(load(Config, [*small, *RETRIEVAL, f"out={tmp_path}/run"]))
    with EpisodeStore.open(run / "memory") as store:
        assert store.notes() == []  # latents of a model that is still learning are not kept
        moments = sum(length // 2 + 1 for length in store.lengths().tolist())
    agent = load_agent(run)
    assert agent.index is not None
    assert len(agent.index) == moments
    done = cli("eval", f"run={run}", "episodes=3", "threads=1", "evaluation.true_dynamics=false")
    assert done.code == 0, done.err
    result = json.loads((run / "eval.json").read_text())
    assert result["agent"]["retrieval"] == {"seeds": 4, "neighbours": 8, "stride": 2, "search": "auto"}


def decided(run: Path, memory: Path | None = None, **retrieval: Any) -> list[float]:
    options = AgentOptions(plan_dtype="float32", retrieval=RetrievalOptions(**retrieval))
    agent = load_agent(run, options=options, memory=memory)
    assert (agent.index is None) == (options.retrieval.seeds == 0)
    obs = {"position": np.zeros((1, 2), np.float32), "velocity": np.zeros((1, 2), np.float32)}
    goal = agent.embed_goal({**obs, "position": np.full((1, 2), 0.2, np.float32)})
    plan = agent.act(obs, agent.init(1), goal)[2]
    assert plan is not None
    return list(plan.actions.flatten().tolist())


@pytest.mark.parametrize("changes", [{"seeds": 0}, {"seeds": 12}, {"neighbours": 12}, {"stride": 3}])
def test_every_option_of_retrieval_changes_what_is_decided(small_run: Path, changes: dict[str, int]) -> None:
    plain = {"seeds": 6, "neighbours": 64}
    assert decided(small_run, **plain) == decided(small_run, **plain)
    assert decided(small_run, **plain) != decided(small_run, **{**plain, **changes})


def test_moments_are_retrieved_from_the_memory_that_is_given(small_run: Path, tmp_path: Path) -> None:
    memory = Path(shutil.copytree(small_run / "memory", tmp_path / "memory"))
    assert decided(small_run, memory, seeds=6) == decided(small_run, seeds=6)
    with EpisodeStore.open(memory, "a") as store:
        store.forget(range(6))
    assert decided(small_run, memory, seeds=6) != decided(small_run, seeds=6)
    with EpisodeStore.open(memory, "a") as store:
        store.forget([6, 7])
    assert decided(small_run, memory, seeds=6) == decided(small_run, seeds=0)
    with pytest.raises(StoreError, match="there is no episode store"):
        decided(small_run, tmp_path / "nowhere", seeds=6)


def test_retrieval_is_for_goals(tmp_path: Path, small: list[str]) -> None:
    with pytest.raises(RunError, match=r"agent\.retrieval\.seeds must be 0 with objective=reward: .*got 4"):
        build.train(load(Config, [*small, *RETRIEVAL, "objective=reward", f"out={tmp_path}/run"]))
    assert not (tmp_path / "run").exists()


def test_an_agent_without_a_memory_to_go_by_needs_none(small_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    shutil.rmtree(run / "memory")
    agent = load_agent(run)
    assert (agent.configurator, agent.index) == (None, None)
    assert build.load_alone(run).options.graph == agent.options.graph


# -- episodes that are remembered --------------------------------------------------------------------------------------


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
    result = living()
    assert result["episodes_in_memory"] == 10
    assert result["episodes"] == 2
    with EpisodeStore.open(tmp_path / "run" / "memory") as store:
        infos = [store.info(i)["meta"] for i in (8, 9)]
        assert [(meta["policy"], meta["seed"], meta["run"]) for meta in infos] == [
            ("live", seed, "run") for seed in episode_seeds("test", 0, 0, 2)
        ]
        note = load_arrays(store.note("graph/forethought/PointMass-v0") or b"")
        assert note["next_episode"].tolist() == [10]
        assert {8, 9} & set(note["moments"][:, 0].tolist())


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
        note = load_arrays(store.note("graph/forethought/PointMass-v0") or b"")
        assert note["next_episode"].tolist() == [12]


@pytest.mark.parametrize("override", ["evaluation.goals_per_episode=2", "goal=goal.json"])
def test_what_cannot_be_remembered(small_run: Path, override: str, cli: Any) -> None:
    done = cli("eval", f"run={small_run}", "evaluation.remember=true", override)
    assert done.code == 2
    assert "evaluation.remember must be false with evaluation.goal or several goals per episode, got true" in done.err


# -- going on from the weights of another run --------------------------------------------------------------------------


def weights(run: Path, name: str = "best") -> dict[str, torch.Tensor]:
    return load_checkpoint(run / f"{name}.safetensors").under("model")


def test_a_run_begins_with_the_weights_of_another(small_run: Path, tmp_path: Path, small: list[str]) -> None:
    config = load(Config, [*small, "learner.learning_rate=1e-12", f"init={small_run}", f"out={tmp_path}/run", "seed=9"])
    after, before = weights(build.train(config)), weights(small_run)
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        if not name.startswith("time_to_goal"):  # what is counted there goes on
            assert torch.allclose(after[name].double(), tensor.double(), atol=1e-4), name
    alone = weights(build.train(load(Config, [*small, f"out={tmp_path}/alone", "seed=9"])))
    assert not torch.allclose(alone["normalizer.mean"], before["normalizer.mean"])


def test_weights_to_begin_with_have_to_fit(small_run: Path, tmp_path: Path, small: list[str]) -> None:
    def begin(*changes: str) -> None:
        build.train(load(Config, [*small, f"init={small_run}", f"out={tmp_path}/run", *changes]))

    with pytest.raises(RunError, match="init=nowhere must be the folder of a run, but there is none"):
        begin("init=nowhere")
    with pytest.raises(RunError, match=r"obs of forethought/Reacher-v0 must be that of the run"):
        begin("env=forethought/Reacher-v0")
    assert not (tmp_path / "run").exists()
    with pytest.raises(CheckpointError, match="does not fit"):
        begin("world_model.hidden_dim=24")
