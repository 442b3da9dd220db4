"""Run folders: checkpoints that are not what they should be, and options that go on from a run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from forethought import UnknownNameError
from forethought.agent.build import load_agent
from forethought.agent.jobs.train import train
from forethought.agent.runs import RunError, overrides_of_run
from forethought.agent.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from forethought.configs.register import load
from forethought.configs.schema import Config


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
        train(load(Config, [*small, f"out={run}"]))
    assert (run / "last.safetensors").read_bytes() == before


def test_weights_without_an_optimiser_cannot_be_resumed(tmp_path: Path, small_run: Path, small: list[str]) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    shutil.copy(run / "best.safetensors", run / "last.safetensors")
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        train(load(Config, [*small, f"out={run}"]))


def test_the_checkpoint_of_another_run_is_not_resumed(tmp_path: Path, small_run: Path, small: list[str]) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    data = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**data, "run_id": "another"}))
    with pytest.raises(CheckpointError, match="belongs to another run"):
        train(load(Config, [*small, f"out={run}"]))


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


def test_an_evaluation_takes_over_the_shift_of_its_run() -> None:
    saved = {
        "planner": {"name": "icem"}, "objective": {"name": "goal"}, "agent": {}, "env_options": {"shift": {"gear": 2.0}}
    }  # fmt: skip
    assert "env_options.shift.gear=2.0" in overrides_of_run(saved, {})
    del saved["env_options"]["shift"]  # a run from before there was one
    assert not [o for o in overrides_of_run(saved, {}) if o.startswith("env_options")]


def test_an_evaluation_takes_over_goals_ahead_of_its_run() -> None:
    saved = {
        "planner": {"name": "icem"}, "objective": {"name": "goal"}, "agent": {}, "env_options": {"goal_ahead": 25}
    }  # fmt: skip
    assert "env_options.goal_ahead=25" in overrides_of_run(saved, {})
