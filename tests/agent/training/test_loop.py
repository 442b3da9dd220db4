"""Training can be killed at any moment and goes on exactly; options, interruption and what a run leaves behind."""

import dataclasses
import json
import math
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from forethought import ForethoughtError
from forethought.agent.guides import GuideError
from forethought.agent.jobs.collect import collect
from forethought.agent.jobs.train import train
from forethought.agent.memory.sampler import SequenceSampler
from forethought.agent.memory.store import EpisodeStore
from forethought.agent.runs import RunError
from forethought.agent.training import rollout
from forethought.agent.training.checkpoint import load_checkpoint
from forethought.agent.training.evaluate import episode_seeds
from forethought.agent.training.learner import Learner
from forethought.agent.training.loop import TrainingError, TrainingOptions
from forethought.agent.training.metrics import read_metrics
from forethought.configs.register import load
from forethought.configs.schema import Config

POINTS: dict[str, list[tuple[str, int]]] = {
    "before anything is saved": [("before save", 1)],
    "during the first collection": [("before append", 2)],
    "during a planned collection": [("before episodes", 4)],
    "after episodes are stored": [("after append", 3)],
    "collection logged but not saved": [("after log", 1)],
    "during training": [("before update", 7)],
    "right after a checkpoint": [("after save", 4)],
    "while a checkpoint is renamed": [("before rename", 6)],
    "validation logged but not saved": [("after log", 4)],
    "again and again": [("anything", 7), ("anything", 19), ("anything", 33), ("anything", 40), ("anything", 55)],
}


def kill_and_resume(folder: Path, plans: dict[str, list[tuple[str, int]]], overrides: list[str]) -> None:
    """Train every plan in `folder/<name>`, killed at the moments it lists."""
    script = Path(__file__).with_name("kill_runs.py")
    plan = {str(folder / name): kills for name, kills in plans.items()}
    command = [sys.executable, str(script), json.dumps(plan), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    statuses = json.loads(done.stdout.splitlines()[-1])
    expected = {str(folder / name): [-signal.SIGKILL] * len(kills) + [0] for name, kills in plans.items()}
    assert statuses == expected, done.stderr


def history(run: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock, or on how much of a collection this process lived through."""

    def kept(name: str, phase: str) -> bool:
        timed = name in ("seconds", "time", "plan/batch_ms") or name.startswith("speed/")
        return not timed and not (phase == "collect" and name.startswith("plan/"))

    return [{k: v for k, v in line.items() if kept(k, line["phase"])} for line in read_metrics(run / "metrics.jsonl")]


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("last", "best"):
        a, b = (load_checkpoint(run / f"{name}.safetensors") for run in (one, other))
        assert a.tensors.keys() == b.tensors.keys()
        for key, value in a.tensors.items():
            assert torch.equal(value, b.tensors[key]), (other.name, key)
        for key in ("train", "rng", "updates", "decisions", "log_lines"):
            assert a.state.get(key) == b.state.get(key), (other.name, key)
    assert history(one) == history(other), other.name
    with EpisodeStore.open(one / "memory") as a_store, EpisodeStore.open(other / "memory") as b_store:
        assert len(a_store) == len(b_store)
        assert a_store.verify() == b_store.verify() == []
        for a_episode, b_episode in zip(a_store, b_store, strict=True):
            arrays = b_episode.arrays()
            assert all(np.array_equal(value, arrays[key]) for key, value in a_episode.arrays().items())
            assert {**a_episode.meta, "run": ""} == {**b_episode.meta, "run": ""}


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_exactly(tmp_path: Path, small_run: Path, small: list[str]) -> None:
    kill_and_resume(tmp_path, POINTS, small)
    for point in POINTS:
        assert_same_run(small_run, tmp_path / point)


def test_a_run_killed_in_each_stage_goes_on_exactly(tmp_path: Path, small_run: Path, small: list[str]) -> None:
    kills = [("before append", 2), ("after log", 2), ("before update", 3), ("after save", 3), ("after log", 4)]
    kill_and_resume(tmp_path, {"run": kills}, small)
    assert_same_run(small_run, tmp_path / "run")


@pytest.mark.slow
def test_a_run_with_a_bounded_memory_goes_on_exactly(tmp_path: Path, small: list[str]) -> None:
    """Also where what it had collected before the kill is gone already."""
    overrides = [*small, "memory.max_bytes=5500"]
    whole = train(load(Config, [*overrides, f"out={tmp_path / 'whole'}"]))
    with EpisodeStore.open(whole / "memory") as store:
        assert 1 < len(store) < 4
        assert store.next_id == 8
    kills = [("after append", 2), ("before update", 3), ("before append", 2), ("before update", 3)]
    kill_and_resume(tmp_path, {"run": kills}, overrides)
    assert_same_run(whole, tmp_path / "run")
    with pytest.raises(TrainingError, match=r"memory\.max_bytes was 5500 and is None"):
        train(load(Config, [*small, f"out={whole}"]))


def test_two_runs_of_one_seed_are_the_same_and_of_another_are_not(
    tmp_path: Path, small_run: Path, small: list[str]
) -> None:
    again = train(load(Config, [*small, f"out={tmp_path / 'again'}"]))
    assert_same_run(small_run, again)
    other = train(load(Config, [*small, f"out={tmp_path / 'other'}", "seed=1", "training.rounds=0"]))
    a, b = (load_checkpoint(run / "last.safetensors").tensors for run in (again, other))
    weights = [key for key in a if key.startswith("model.") and key.endswith("weight")]
    assert any(not torch.equal(a[key], b[key]) for key in weights)


class Watcher:
    """A progress that interrupts the process when training has come to `update`."""

    def __init__(self, times: int = 0) -> None:
        self.times, self.messages, self.stages = times, list[str](), list[str]()

    def advance(self, stage: str, done: int, total: int, note: str = "") -> None:
        assert 0 < done <= total
        self.stages.append(stage)
        if stage == "train":
            while self.times:
                self.times -= 1
                signal.raise_signal(signal.SIGINT)

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.mark.parametrize("times", [1, 2])
def test_interrupt_saves_and_stops_twice_quits_and_both_resume_exactly(
    tmp_path: Path, small_run: Path, small: list[str], times: int
) -> None:
    config = load(Config, [*small, f"out={tmp_path / 'run'}"])
    watcher = Watcher(times)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(config, watcher)
    assert signal.getsignal(signal.SIGINT) is handler
    assert any("Ctrl-C again quits" in m for m in watcher.messages)
    saved = load_checkpoint(tmp_path / "run" / "last.safetensors").state["updates"]
    stopped = any("stopped and saved" in m for m in watcher.messages)
    assert (saved, stopped) == ((5, True) if times == 1 else (4, False))
    train(config, watcher)
    assert f"resumed at update {saved}" in " ".join(watcher.messages)
    assert_same_run(small_run, tmp_path / "run")


def test_interrupt_during_collection_keeps_the_waves_that_are_stored(
    tmp_path: Path, small_run: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(Config, [*small, f"out={tmp_path / 'run'}"])
    append = EpisodeStore.append_many

    def interrupted(self: EpisodeStore, *args: Any, **kwargs: Any) -> list[int]:
        ids = append(self, *args, **kwargs)
        signal.raise_signal(signal.SIGINT)
        return ids

    with monkeypatch.context() as patch:
        patch.setattr(EpisodeStore, "append_many", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    with EpisodeStore.open(tmp_path / "run" / "memory") as store:
        assert len(store) == 2  # of 4, in waves of 2
    lived: list[int] = []
    run_episodes = rollout.run_episodes
    monkeypatch.setattr(rollout, "run_episodes", lambda *a, **k: lived.append(1) or run_episodes(*a, **k))
    train(config)
    assert len(lived) == 4  # the second wave of this phase, one in the next, and two in the last, which also explores
    assert_same_run(small_run, tmp_path / "run")


def test_a_resumed_run_does_without_what_was_forgotten_and_does_not_collect_it_again(
    tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(Config, [*small, f"out={tmp_path / 'run'}"])
    with pytest.raises(KeyboardInterrupt):
        train(config, Watcher(1))
    with EpisodeStore.open(tmp_path / "run" / "memory", "a") as store:
        assert store.next_id == 4
        store.forget([0, 2])
        store.compact()
    drawn: list[list[int]] = []
    refresh = SequenceSampler.refresh

    def watched(sampler: SequenceSampler, *args: Any) -> None:
        refresh(sampler, *args)
        drawn.append(sampler._ids.tolist())

    monkeypatch.setattr(SequenceSampler, "refresh", watched)
    train(config)
    assert drawn[-3:] == [[1, 3], [1, 3, 4, 5], [1, 3, 4, 5, 6, 7]]
    with EpisodeStore.open(tmp_path / "run" / "memory") as store:
        assert store.ids().tolist() == [1, 3, 4, 5, 6, 7]
        assert store.verify() == []


def test_a_run_folder_holds_what_is_promised(small_run: Path, small: list[str]) -> None:
    names = {path.name for path in small_run.iterdir()}
    assert names >= {"config.yaml", "run.json", "metrics.jsonl", "last.safetensors", "best.safetensors", "memory"}
    assert "tensorboard" in names
    assert list((small_run / "tensorboard").glob("events*"))
    config = OmegaConf.to_container(OmegaConf.load(small_run / "config.yaml"))
    assert isinstance(config, dict)
    assert config["out"] == str(small_run)
    assert (config["env"], config["steps"], config["seed"]) == ("forethought/PointMass-v0", 160, 0)
    assert config["planner"]["name"] == "icem"
    assert config["planner"]["num_samples"] == 16
    assert config["training"]["updates"] == 30
    run = json.loads((small_run / "run.json").read_text())
    assert run.keys() == {"run_id", "command", "commit", "versions", "machine", "started"}
    lines = read_metrics(small_run / "metrics.jsonl")
    assert [line["phase"] for line in lines] == ["collect", "train", "train", "validation"] * 3
    assert [line["update"] for line in lines] == [0, 5, 10, 10, 10, 15, 20, 20, 20, 25, 30, 30]
    assert [line["decisions"] for line in lines[::4]] == [80, 120, 160]
    assert all(np.isfinite(line["loss/prediction"]) for line in lines if line["phase"] == "train")
    assert "episode/success" in lines[4]
    assert "plan/cost" in lines[4]
    with EpisodeStore.open(small_run / "memory") as store:
        policies = [store.info(i)["meta"]["policy"] for i in store.ids()]
        assert policies == ["random"] * 4 + ["plan"] * 2 + ["explore", "plan"]
        assert store.num_transitions == 160


def test_best_holds_weights_only_and_last_can_be_resumed(small_run: Path) -> None:
    best, last = (load_checkpoint(small_run / f"{name}.safetensors") for name in ("best", "last"))
    assert {key.split(".")[0] for key in best.tensors} == {"model"}
    assert {key.split(".")[0] for key in last.tensors} == {"model", "optimizer", "generator"}
    assert last.state["train"]["finished"] is True
    assert last.state["train"]["episodes"] == [[0, 7]]


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, small_run: Path, small: list[str]) -> None:
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    before = {name: (run / name).read_bytes() for name in ("last.safetensors", "best.safetensors", "metrics.jsonl")}
    train(load(Config, [*small, f"out={run}"]))
    assert {name: (run / name).read_bytes() for name in before} == before


def test_what_does_not_change_the_result_may_change_at_a_resume(
    tmp_path: Path, small_run: Path, small: list[str]
) -> None:
    run = shutil.copytree(small_run, tmp_path / "moved")
    free = ["threads=2", "memory.sync=false", "learner.cache_bytes=0", "training.checkpoint_every=9"]
    train(load(Config, [*small, *free, "env_options.step_timeout_s=9", f"out={run}"]))


@pytest.mark.parametrize(
    ("override", "change"),
    [
        ("training.updates=60", "training.updates was 30 and is 60"),
        ("seed=3", "seed was 0 and is 3"),
        ("planner=cem", "planner.name was icem and is cem"),
        ("env=forethought/Reacher-v0", "spec.env_id was forethought/PointMass-v0 and is forethought/Reacher-v0"),
    ],
)
def test_other_options_at_a_resume_are_named(
    tmp_path: Path, small_run: Path, small: list[str], override: str, change: str
) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    with pytest.raises(TrainingError, match="a run goes on with the options it began with") as caught:
        train(load(Config, [*small, f"out={run}", override]))
    assert change in str(caught.value)
    assert load_checkpoint(run / "last.safetensors").state["updates"] == 30


@pytest.mark.parametrize("content", [None, b"{", b"[]"])
def test_a_run_without_its_description_is_refused(
    tmp_path: Path, small_run: Path, small: list[str], content: bytes | None
) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    (run / "run.json").unlink()
    if content is not None:
        (run / "run.json").write_bytes(content)
    with pytest.raises(ForethoughtError, match=r"run\.json"):
        train(load(Config, [*small, f"out={run}"]))


def test_a_run_whose_memory_was_replaced_is_refused(tmp_path: Path, small_run: Path, small: list[str]) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    shutil.rmtree(run / "memory")
    with pytest.raises(TrainingError, match="is not the memory that"):
        train(load(Config, [*small, f"out={run}"]))


def test_a_new_run_in_a_folder_with_an_old_log_begins_a_new_one(
    tmp_path: Path, small_run: Path, small: list[str]
) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    (run / "last.safetensors").unlink()
    train(load(Config, [*small, f"out={run}", "training.rounds=0"]))
    assert [line["phase"] for line in read_metrics(run / "metrics.jsonl")].count("collect") == 1
    with EpisodeStore.open(run / "memory") as store:
        assert len(store) == 16  # the old episodes stay, and are learned from too
    assert load_checkpoint(run / "last.safetensors").state["train"]["episodes"] == [[0, 15]]


def test_what_is_in_the_memory_is_learned_from_where_it_fits_and_named_where_not(
    tmp_path: Path, small: list[str]
) -> None:
    memory = tmp_path / "memory"
    collected = [*small, f"memory.path={memory}", f"out={tmp_path / 'run'}"]
    collect(load(Config, collected))
    with EpisodeStore.open(memory) as store:
        spec, episodes = store.specs[0], [store.get(i) for i in store.ids()[:3]]
    with EpisodeStore.open(memory, "a", spec) as store:  # as from a dataset that does not say how long a step took
        store.append_many(episodes, spec=dataclasses.replace(spec, control_dt=math.nan))
        store.append_many(episodes[:2], spec=dataclasses.replace(spec, control_dt=1.0))
    watcher = Watcher()
    run = train(load(Config, [*collected, "training.rounds=0"]), watcher)
    assert load_checkpoint(run / "last.safetensors").state["train"]["episodes"][0][0] == 0
    told = "\n".join(watcher.messages)
    assert "learning also from 11 episodes already in the memory" in told
    assert "not learning from 2 episodes in the memory: their environment" in told


def test_what_evaluations_remembered_is_not_learned_from(tmp_path: Path, small: list[str], small_run: Path) -> None:
    memory = shutil.copytree(small_run / "memory", tmp_path / "memory")
    with EpisodeStore.open(memory, "a") as store:
        held_out = [replace(store.get(0), meta={"seed": s}) for s in episode_seeds("test", 0, 0, 2)]
        spec, known = store.spec_of(0), len(store)
        store.append_many(held_out, spec=spec)
    watcher = Watcher()
    run = train(load(Config, [*small, f"memory.path={memory}", f"out={tmp_path / 'run'}"]), watcher)
    told = "\n".join(watcher.messages)
    assert f"learning also from {known} episodes" in told
    assert "not learning from 2 episodes in the memory that evaluations remembered" in told
    assert load_checkpoint(run / "last.safetensors").state["train"]["episodes"][:2] == [[0, known - 1], [10, 17]]


def test_nothing_is_collected_twice(tmp_path: Path, small: list[str]) -> None:
    memory = [f"memory.path={tmp_path / 'memory'}", *small]
    collect(load(Config, [*memory, f"out={tmp_path / 'none'}"]))
    for name in ("one", "two"):
        train(load(Config, [*memory, f"out={tmp_path / name}"]))
    with EpisodeStore.open(tmp_path / "memory") as store:
        seeds = [store.info(i)["meta"]["seed"] for i in store.ids()]
    assert len(set(seeds)) == len(seeds) >= 24


def test_windows_that_no_episode_holds_are_refused_at_once(tmp_path: Path, small: list[str]) -> None:
    options = load(Config, [*small, "learner.window=21", f"out={tmp_path / 'run'}"])
    with pytest.raises(TrainingError, match=r"learner.window must be at most the length of an episode, 20, got 21"):
        train(options)
    assert not (tmp_path / "run" / "last.safetensors").exists()


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["agent.configurator.mode=react"], RunError),
        (["agent.configurator.mode=auto", "agent.configurator.guide=macro"], GuideError),
    ],
)
def test_agents_that_cannot_be_are_refused_at_once(
    tmp_path: Path, small: list[str], overrides: list[str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        train(load(Config, [*small, *overrides, f"out={tmp_path / 'run'}"]))
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_waves_of_a_phase_are_scored_together(tmp_path: Path, small: list[str]) -> None:
    run = train(load(Config, [*small, f"out={tmp_path / 'run'}", "training.num_envs=1", "training.rounds=1"]))
    (line,) = [m for m in read_metrics(run / "metrics.jsonl") if "episode/return" in m]
    with EpisodeStore.open(run / "memory") as store:
        infos = [store.info(i) for i in store.ids()]
    returns = [i["total_reward"] for i in infos if i["meta"]["policy"] == "plan"]
    assert len(returns) == 3
    assert line["episode/return"] == pytest.approx(np.mean(returns))
    assert [i["meta"]["policy"] for i in infos] == ["random"] * 4 + ["explore"] + ["plan"] * 3


@pytest.mark.parametrize(("share", "counts"), [("0.25", [0, 0, 0, 1]), ("0.5", [0, 1, 0, 1])])
def test_shares_of_an_episode_that_explores_add_up(
    tmp_path: Path, small: list[str], share: str, counts: list[int]
) -> None:
    changes = ["steps=160", "training.initial_fraction=0.5", "training.rounds=4", f"training.explore_fraction={share}"]
    run = train(load(Config, [*small, *changes, f"out={tmp_path / 'run'}"]))
    with EpisodeStore.open(run / "memory") as store:
        metas = [store.info(i)["meta"] for i in store.ids()]
    explored = [sum(m["phase"] == phase and m["policy"] == "explore" for m in metas) for phase in range(1, 5)]
    assert explored == counts


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_update(
    tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch, cli: Any
) -> None:
    losses = Learner._losses

    def broken(self: Learner, *args: Any) -> Any:
        terms, z = losses(self, *args)
        return {**terms, "prediction": terms["prediction"] * float("nan")}, z

    monkeypatch.setattr(Learner, "_losses", broken)
    done = cli("train", *small, f"out={tmp_path / 'run'}")
    assert done.code == 2
    assert "update 0" in done.err


@pytest.mark.parametrize(
    ("option", "rule"),
    [
        ({"updates": 0}, "updates must be at least 1, got 0"),
        ({"max_hold": 0}, "max_hold must be at least 1, got 0"),
        ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0"),
        ({"log_every": 0}, "log_every must be at least 1, got 0"),
        ({"rounds": -1}, "rounds must be at least 0, got -1"),
        ({"validation_episodes": -1}, "validation_episodes must be at least 0, got -1"),
        ({"noise": float("nan")}, "noise must be at least 0, got nan"),
        ({"switch_every": -1}, "switch_every must be at least 0, got -1"),
        ({"initial_fraction": 0.0}, r"initial_fraction must be in \(0, 1\], got 0.0"),
        ({"explore_fraction": 1.5}, r"explore_fraction must be in \[0, 1\], got 1.5"),
        ({"episode_steps": 1}, "episode_steps must be at least 2, got 1"),
    ],
)
def test_options_out_of_range(option: dict[str, Any], rule: str) -> None:
    with pytest.raises(TrainingError, match=rule):
        TrainingOptions(**option)
