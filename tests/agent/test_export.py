"""A trained agent becomes a folder that holds all it takes to act, and nothing else."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from forethought import Agent, export_run, load_agent
from forethought.agent.export import FILES, ExportError
from forethought.agent.files import read_json, write_json
from forethought.agent.runs import RunError
from forethought.agent.training.checkpoint import load_checkpoint, save_checkpoint

SCORES: dict[str, Any] = {
    "checkpoint": "best", "episodes": 50, "seed": 3, "success_rate": 0.9, "success_ci": [0.78, 0.96],
    "return_mean": -12.5, "return_ci": [-14.0, -11.0], "true_dynamics": None,
    "random": {"success_rate": 0.1, "success_ci": [0.04, 0.2], "return_mean": -40.0, "return_ci": [-41.0, -39.0]},
}  # fmt: skip


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    """A copy of the small run, evaluated."""
    copy = Path(shutil.copytree(small_run, tmp_path / "run"))
    write_json(copy / "eval.json", SCORES)
    return copy


def decisions(agent: Agent) -> list[torch.Tensor]:
    """Three decisions in a row."""
    obs = {k: torch.full((2, *a.shape), 0.1, dtype=getattr(torch, a.dtype)) for k, a in agent.model.spec.obs.items()}
    goal, carry, actions = torch.zeros(2, agent.model.goal_dim), agent.init(2), []
    for _ in range(3):
        action, carry, _ = agent.act(obs, carry, goal)
        actions.append(action)
    return actions


def same(one: Agent, two: Agent) -> bool:
    return all(map(torch.equal, decisions(one), decisions(two)))


def head(folder: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((folder / "README.md").read_text().split("---\n")[1]))


def test_what_was_exported_acts_alike_without_the_run(run: Path, tmp_path: Path) -> None:
    agent, out = load_agent(run), tmp_path / "folder" / "out"
    assert export_run(run, out) == ["best.safetensors", "config.json", "README.md", "eval.json"]
    assert {path.name for path in out.iterdir()} == {"best.safetensors", "config.json", "README.md", "eval.json"}
    shutil.rmtree(run)
    assert same(agent, load_agent(out))


def test_an_export_can_be_exported_and_written_again(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "one", "last")
    export_run(tmp_path / "one", tmp_path / "two")
    assert same(load_agent(run, "last"), load_agent(tmp_path / "two"))
    assert read_json(tmp_path / "two" / "config.json")["weights_of"] == "last"
    (tmp_path / "one" / "memory").mkdir()
    (tmp_path / "one" / "memory" / "data.mdb").touch()
    assert export_run(run, tmp_path / "one") == ["best.safetensors", "config.json", "README.md", "eval.json"]
    assert not (tmp_path / "one" / "memory" / "data.mdb").exists()


def test_weights_alone_are_taken_of_a_checkpoint_that_can_be_resumed(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "out", "last")
    saved = load_checkpoint(tmp_path / "out" / "best.safetensors")
    assert all(name.startswith("model.") for name in saved.tensors)
    assert set(saved.state) == {"card", "decisions", "updates"}
    assert same(load_agent(run, "last"), load_agent(tmp_path / "out"))


def test_the_card_says_what_it_is_how_good_and_where_from(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "out")
    about = head(tmp_path / "out")
    assert about["library_name"] == "forethought"
    assert {"world-model", "robotics", "forethought/PointMass-v0"} <= set(about["tags"])
    (result,) = about["model-index"][0]["results"]
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        "success_rate": 0.9,
        "mean_reward": -12.5,
    }
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| planner | 90.0% (78.0% to 96.0%) | -12.5 |" in text
    assert "| random | 10.0% (4.0% to 20.0%) | -40.0 |" in text
    trained = read_json(run / "run.json")
    assert trained["run_id"] in text
    described = read_json(tmp_path / "out" / "config.json")
    assert described["trained"] == trained
    assert described["agent"] == load_checkpoint(tmp_path / "out" / "best.safetensors").state["card"]
    assert {"command", "commit", "versions", "time"} == set(described["exported"])


def test_scores_of_other_weights_are_left_out(run: Path, tmp_path: Path) -> None:
    assert "eval.json" not in export_run(run, tmp_path / "out", "last")
    assert "model-index" not in head(tmp_path / "out")
    assert "Not evaluated with these weights" in (tmp_path / "out" / "README.md").read_text()
    write_json(run / "eval.json", {**SCORES, "checkpoint": "last"})
    assert "eval.json" in export_run(run, tmp_path / "out", "last")
    assert "eval.json" in export_run(tmp_path / "out", tmp_path / "again")


def test_an_agent_without_goals_is_scored_by_its_return(run: Path, tmp_path: Path) -> None:
    write_json(run / "eval.json", {**SCORES, "success_rate": None, "success_ci": None, "random": None})
    export_run(run, tmp_path / "out")
    assert "| planner | -12.5 (-14.0 to -11.0) | -12.5 |" in (tmp_path / "out" / "README.md").read_text()
    (result,) = head(tmp_path / "out")["model-index"][0]["results"]
    assert [metric["type"] for metric in result["metrics"]] == ["mean_reward"]


def change(run: Path, **agent: Any) -> None:
    saved = load_checkpoint(run / "best.safetensors")
    state = json.loads(json.dumps(saved.state))
    for group, values in agent.items():
        state["card"]["config"]["agent"][group].update(values)
    save_checkpoint(run / "best.safetensors", saved.tensors, state)


def test_memory_comes_along_where_the_agent_goes_by_it(run: Path, tmp_path: Path) -> None:
    change(run, retrieval={"seeds": 4})
    assert "memory/data.mdb" in export_run(run, tmp_path / "out")
    agent = load_agent(run)
    shutil.rmtree(run)
    assert same(agent, load_agent(tmp_path / "out"))


def test_memory_elsewhere_comes_along_too(run: Path, tmp_path: Path) -> None:
    change(run, retrieval={"seeds": 4})
    saved = load_checkpoint(run / "best.safetensors")
    saved.state["card"]["config"]["memory"]["path"] = str(tmp_path / "elsewhere")
    save_checkpoint(run / "best.safetensors", saved.tensors, saved.state)
    (run / "memory").rename(tmp_path / "elsewhere")
    export_run(run, tmp_path / "out")
    assert str(tmp_path).encode() not in (tmp_path / "out" / "best.safetensors").read_bytes()
    assert load_agent(tmp_path / "out").index is not None
    shutil.rmtree(tmp_path / "elsewhere")
    with pytest.raises(ExportError, match="goes by its memory, but there is none in"):
        export_run(run, tmp_path / "out")


def test_a_run_is_never_written_over(run: Path) -> None:
    for out in (run, run.parent / "run" / ".." / "run"):
        with pytest.raises(ExportError, match="out must be a folder for the export alone, got the run"):
            export_run(run, out)
    assert (run / "memory").exists()
    with pytest.raises(RunError, match="must be the folder of a run"):
        export_run(run.parent / "gone", run.parent / "out")


def test_the_command_writes_it(run: Path, tmp_path: Path, cli: Any) -> None:
    done = cli("export", f"run={run}", f"out={tmp_path / 'out'}")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"in {tmp_path / 'out'}: best.safetensors, config.json, README.md, eval.json\n"
    assert set(FILES) > {"config.json"}
    for arguments, message in (
        (["run=x"], "out must be given"),
        (["out=x"], "run must be given"),
        (["run=x", "out=y", "checkpont=last"], "did you mean checkpoint"),
        ([f"run={run}", f"out={tmp_path / 'out'}", "checkpoint=first"], "unknown checkpoint 'first'"),
    ):
        wrong = cli("export", *arguments)
        assert wrong.code == 2
        assert message in wrong.err


def test_an_export_can_be_evaluated(run: Path, tmp_path: Path, cli: Any) -> None:
    out = tmp_path / "out"
    export_run(run, out)
    off = ("video", "true_dynamics", "random", "latent_l2")
    done = cli("eval", f"run={out}", "episodes=2", *(f"evaluation.{name}=false" for name in off))
    assert done.code == 0, done.err
    assert read_json(out / "eval.json")["episodes"] == 2
