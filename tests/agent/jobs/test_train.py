"""Training: in environments and folders that fail, from what a memory holds, and from the weights of another run."""

import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from typing_extensions import override

from forethought.agent.jobs.collect import collect
from forethought.agent.jobs.train import train
from forethought.agent.memory.store import EpisodeStore
from forethought.agent.runs import RunError
from forethought.agent.training.checkpoint import CheckpointError, load_checkpoint
from forethought.agent.training.loop import Silent
from forethought.agent.training.metrics import read_metrics
from forethought.agent.world_model.encoders import ObsEncoder
from forethought.configs.register import load
from forethought.configs.schema import Config
from forethought.envs.spec import EnvError


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
            train(config)
        with EpisodeStore.open(tmp_path / "run" / "memory") as store:
            assert len(store) == stored
            assert store.verify() == []
    train(config)


def test_an_environment_without_goals_is_refused_before_anything_is_written(tmp_path: Path, faulty: list[str]) -> None:
    with pytest.raises(RunError, match="objective=goal needs an environment with goals, but faulty_env:Faulty-v0"):
        train(load(Config, [*faulty, "env_options.kwargs.goals=false", f"out={tmp_path}/run"]))
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
        train(config)
    assert not out.exists()


@pytest.mark.parametrize("out", ["/proc/forethought", "/proc/self"])
def test_a_folder_that_cannot_be_written_is_named(small: list[str], out: str) -> None:
    with pytest.raises(Exception, match=out) as caught:
        train(load(Config, [*small, f"out={out}"]))
    assert type(caught.value).__name__ in ("RunError", "FileError")


def test_resume_never_refuses_a_folder_with_a_run(small_run: Path, small: list[str]) -> None:
    with pytest.raises(RunError, match="already holds a run; resume=auto continues it"):
        train(load(Config, [*small, f"out={small_run}", "resume=never"]))


def test_a_foreign_folder_as_memory_is_refused(tmp_path: Path, small: list[str]) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear diary")
    with pytest.raises(Exception, match="is not empty and no episode store"):
        train(load(Config, [*small, f"out={tmp_path}/run", f"memory.path={tmp_path}/notes"]))
    (tmp_path / "notes" / "data.mdb").write_bytes(b"no database" * 999)
    with pytest.raises(Exception, match="is no episode store"):
        train(load(Config, [*small, f"out={tmp_path}/run", f"memory.path={tmp_path}/notes"]))
    assert (tmp_path / "notes" / "diary.txt").read_text() == "dear diary"


def test_a_memory_shared_by_runs_of_two_environments_is_kept_apart(tmp_path: Path, small: list[str]) -> None:
    shared = [*small, f"memory.path={tmp_path}/memory", "training.rounds=0", "training.validation_episodes=0"]
    train(load(Config, [*shared, "env=forethought/Reacher-v0", f"out={tmp_path}/a"]))
    run = train(load(Config, [*shared, f"out={tmp_path}/b"]))
    with EpisodeStore.open(tmp_path / "memory") as store:
        assert [spec.env_id for spec in store.specs] == ["forethought/Reacher-v0", "forethought/PointMass-v0"]
        assert len(store) == 16
    assert load_checkpoint(run / "last.safetensors").state["train"]["episodes"] == [[8, 15]]


def test_a_run_also_learns_from_what_its_memory_already_holds(tmp_path: Path, small: list[str]) -> None:
    memory = f"memory.path={tmp_path / 'memory'}"
    first = train(load(Config, [*small, memory, f"out={tmp_path / 'first'}"]))
    second = train(load(Config, [*small, memory, f"out={tmp_path / 'second'}", "seed=1"]))
    own, both = (load_checkpoint(run / "last.safetensors").state["train"]["episodes"] for run in (first, second))
    with EpisodeStore.open(tmp_path / "memory") as store:
        assert own == [[0, own[0][1]]]
        assert both == [[0, len(store) - 1]]
        assert own[0][1] < len(store) - 1


def test_a_run_learns_from_what_was_collected_for_it(tmp_path: Path, small: list[str]) -> None:
    memory = f"memory.path={tmp_path / 'memory'}"
    own = [o for o in small if not o.startswith("training.episode_steps")]
    collect(load(Config, [*own, memory, "training.episode_steps=7", "steps=21"]))  # episodes of another length
    run = train(load(Config, [*small, memory, "training.rounds=0", f"out={tmp_path / 'run'}"]))
    with EpisodeStore.open(tmp_path / "memory") as store:
        assert store.lengths()[:3].tolist() == [7, 7, 7]
        learned = load_checkpoint(run / "last.safetensors").state["train"]["episodes"]
        assert learned == [[0, len(store) - 1]]


def test_every_line_of_the_log_counts_frames(tmp_path: Path, small: list[str]) -> None:
    run = train(load(Config, [*small, "env_options.action_repeat=2", "training.rounds=0", f"out={tmp_path}/run"]))
    lines = read_metrics(run / "metrics.jsonl")
    assert lines[-1]["decisions"] > 0
    assert all(line["frames"] == 2 * line["decisions"] for line in lines)


def test_features_that_collapse_are_named_though_the_state_beside_them_is_not(tmp_path: Path, small: list[str]) -> None:
    class Watcher(Silent):
        said: ClassVar[list[str]] = []

        @override
        def message(self, text: str) -> None:
            self.said.append(text)

    dead = ["world_model.encoder=augmented", "learner.learning_rate=1e-30", "training.log_every=1"]
    train(load(Config, [*small, *dead, f"out={tmp_path / 'alive'}"]), Watcher())
    assert not any("collapsed" in text for text in Watcher.said)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObsEncoder, "forward", lambda self, obs: torch.zeros(*obs["position"].shape[:-1], 8))
        off = [f"learner.{name}=0" for name in ("variance", "covariance")]
        run = train(load(Config, [*small, *dead, *off, f"out={tmp_path / 'dead'}"]), Watcher())
    assert any("collapsed to a point" in text for text in Watcher.said)
    assert any("collapsed to a point" in line.get("latent/warning", "") for line in read_metrics(run / "metrics.jsonl"))


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
            train(load(Config, [*small, f"out={tmp_path}/run", f"memory.path={tmp_path}/memory"]))
        assert other.stdin is not None
        other.stdin.close()


def test_the_process_is_left_as_it_was(small: list[str], tmp_path: Path) -> None:
    before = torch.get_num_threads(), torch.get_rng_state()
    inside: list[tuple[int, bool]] = []

    class Look(Silent):
        def advance(self, stage: str, done: int, total: int, note: str = "") -> None:
            inside.append((torch.get_num_threads(), sys.float_info.min / 2 == 0.0))

    changes = ["threads=3", "training.rounds=0", "training.validation_episodes=0", f"out={tmp_path}/run"]
    train(load(Config, [*small, *changes]), Look())
    assert set(inside) == {(3, True)}
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert sys.float_info.min / 2 > 0


def test_retrieval_is_for_goals(tmp_path: Path, small: list[str]) -> None:
    with pytest.raises(RunError, match=r"agent\.retrieval\.seeds must be 0 with objective=reward: .*got 4"):
        train(load(Config, [*small, "agent.retrieval.seeds=4", "objective=reward", f"out={tmp_path}/run"]))
    assert not (tmp_path / "run").exists()


# -- going on from the weights of another run --------------------------------------------------------------------------


def weights(run: Path, name: str = "best") -> dict[str, torch.Tensor]:
    return load_checkpoint(run / f"{name}.safetensors").under("model")


def test_a_run_begins_with_the_weights_of_another(small_run: Path, tmp_path: Path, small: list[str]) -> None:
    config = load(Config, [*small, "learner.learning_rate=1e-12", f"init={small_run}", f"out={tmp_path}/run", "seed=9"])
    after, before = weights(train(config)), weights(small_run)
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        if not name.startswith("time_to_goal"):  # what is counted there goes on
            assert torch.allclose(after[name].double(), tensor.double(), atol=1e-4), name
    alone = weights(train(load(Config, [*small, f"out={tmp_path}/alone", "seed=9"])))
    assert not torch.allclose(alone["normalizer.mean"], before["normalizer.mean"])


def test_weights_to_begin_with_have_to_fit(small_run: Path, tmp_path: Path, small: list[str]) -> None:
    def begin(*changes: str) -> None:
        train(load(Config, [*small, f"init={small_run}", f"out={tmp_path}/run", *changes]))

    with pytest.raises(RunError, match="init=nowhere must be the folder of a run, but there is none"):
        begin("init=nowhere")
    with pytest.raises(RunError, match=r"obs of forethought/Reacher-v0 must be that of the run"):
        begin("env=forethought/Reacher-v0")
    assert not (tmp_path / "run").exists()
    with pytest.raises(CheckpointError, match="does not fit"):
        begin("world_model.hidden_dim=24")
