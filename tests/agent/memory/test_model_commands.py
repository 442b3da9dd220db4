"""`forethought memory nearest` and `graph`: what a run's model sees in a memory, in numbers and as a picture."""

import argparse
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from forethought.agent.build import load_agent
from forethought.agent.memory.graph import NOTE, GraphOptions, LandmarkGraph, open_graph, save_graph
from forethought.agent.memory.model_commands import ViewError, run
from forethought.agent.memory.moments import note_name
from forethought.agent.memory.store import EpisodeStore


def rows(table: str) -> list[list[float]]:
    """The numbers in the rows of a table."""
    lines = [re.findall(r"-?\d+\.?\d*(?:e[+-]\d+)?", line) for line in table.splitlines() if line.startswith("│")]
    return [[float(number) for number in line] for line in lines]


@pytest.fixture
def memory(small_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_run / "memory", tmp_path / "memory"))


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    return tmp_path


def test_the_nearest_moments_are_those_of_the_model(cli: Any, small_run: Path, at: Path) -> None:
    folder = small_run / "memory"
    done = cli("memory", "nearest", folder, "--run", small_run, "--episode", "2", "--step", "7", "-k", "6")
    assert done.code == 0, done.err
    assert "most like episode 2, step 7" in done.out
    model = load_agent(small_run).model
    with EpisodeStore.open(folder) as store, torch.no_grad():
        lived = {i: model.encode({k: torch.from_numpy(v) for k, v in store.get(i).obs.items()}) for i in range(8)}
        goals = {i: model.embed_goal({k: torch.from_numpy(v) for k, v in store.get(i).obs.items()}) for i in range(8)}
        z = lived[2][7]
        all_of_them = sorted((float((lived[i][t] - z).norm()), i, t) for i in lived if i != 2 for t in range(21))
        found = rows(done.out)
        assert [(row[0], row[1]) for row in found] == [(i, t) for _, i, t in all_of_them[:6]]
        for (episode, step, there, back, apart), (distance, *_) in zip(found, all_of_them, strict=False):
            i, t = int(episode), int(step)
            assert apart == pytest.approx(distance, rel=1e-2)
            assert there == pytest.approx(float(model.steps_to_goal(z[None], goals[i][t][None])[0]), abs=0.06)
            assert back == pytest.approx(float(model.steps_to_goal(lived[i][t][None], goals[2][7][None])[0]), abs=0.06)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--episode", "8", "--step", "0"], "episode must be one of forethought/PointMass-v0 in .*, got 8"),
        (["--episode", "-1", "--step", "0"], "got -1"),
        (["--episode", "0", "--step", "21"], "step must be between 0 and 20, got 21"),
        (["--episode", "0", "--step", "-1"], "step must be between 0 and 20, got -1"),
        (["--episode", "0", "--step", "0", "-k", "0"], "k must be at least 1, got 0"),
        (["--episode", "0"], "required: --step"),
        (["--episode", "0", "--step", "0", "--checkpoint", "first"], "unknown checkpoint 'first'"),
    ],
)
def test_moments_that_are_not_there_are_named(
    cli: Any, small_run: Path, at: Path, arguments: list[str], message: str
) -> None:
    done = cli("memory", "nearest", small_run / "memory", "--run", small_run, *arguments)
    assert done.code == 2
    assert re.search(message, done.err), done.err


def test_the_graph_in_numbers_and_as_a_picture(cli: Any, small_run: Path, memory: Path, at: Path) -> None:
    done = cli("memory", "graph", memory, "--run", small_run)
    assert done.code == 0, done.err
    with EpisodeStore.open(memory) as store:
        assert store.notes() == []  # nothing is kept unless it is asked for
        graph = open_graph(load_agent(small_run).model, store, GraphOptions())
    numbers = [row[0] for row in rows(done.out)]
    assert numbers == [len(graph), 0, len(graph.edges), np.count_nonzero(graph.walked), 0]
    assert (at / "graph.png").read_bytes().startswith(b"\x89PNG")
    assert done.out.endswith("picture: graph.png\n")


def test_a_graph_that_is_kept_is_gone_on_from(cli: Any, small_run: Path, memory: Path, at: Path) -> None:
    assert cli("memory", "graph", memory, "--run", small_run, "--keep").code == 0
    with EpisodeStore.open(memory, "a") as store:
        assert store.notes() == [note_name(NOTE, load_agent(small_run).model.spec)]
        graph = open_graph(load_agent(small_run).model, store, GraphOptions())
        assert graph.next_episode == 8
        store.append(store.get(0), spec=store.specs[0])
    again = cli("memory", "graph", memory, "--run", small_run)
    assert rows(again.out)[3][0] >= np.count_nonzero(graph.walked)


def test_landmarks_that_are_one_place_are_merged_for_good(
    cli: Any, small_run: Path, memory: Path, at: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LandmarkGraph, "SAME", 5.0)  # the run is too short to tell places from each other
    refused = cli("memory", "compact", memory, "--run", small_run)
    assert refused.code == 2
    assert "must keep landmarks of forethought/PointMass-v0 to merge them, got none" in refused.err
    model = load_agent(small_run).model
    with EpisodeStore.open(memory, "a") as store:
        graph = open_graph(model, store, GraphOptions(spacing=1e-3))
        save_graph(graph, store)
    done = cli("memory", "compact", memory, "--run", small_run)
    assert done.code == 0, done.err
    with EpisodeStore.open(memory) as store:
        fewer = open_graph(model, store, GraphOptions())
    assert 0 < len(fewer) < len(graph)
    assert done.out.splitlines()[0] == f"{len(fewer)} landmarks"
    assert "bytes before" in done.out.splitlines()[1]
    assert fewer.merge() == 0


def test_the_axes_of_the_picture_can_be_chosen(cli: Any, small_run: Path, memory: Path, at: Path) -> None:
    def picture(*axes: str) -> bytes:
        chosen = ["--axes", *axes] if axes else []
        done = cli("memory", "graph", memory, "--run", small_run, "--out", at / "g.png", *chosen)
        assert done.code == 0, done.err
        return (at / "g.png").read_bytes()

    first = picture()
    assert first == picture("position[0]", "position[1]")
    assert first != picture("velocity[0]", "velocity[1]")
    for wrong in ("position[2]", "position", "speed[0]"):
        done = cli("memory", "graph", memory, "--run", small_run, "--axes", wrong, "position[1]")
        assert done.code == 2
        assert f"unknown axis '{wrong}'" in done.err


def test_a_memory_of_something_else_has_nothing_to_draw(cli: Any, small_run: Path, at: Path, memory: Path) -> None:
    with EpisodeStore.open(memory, "a") as store:
        store.forget(range(8))
    done = cli("memory", "graph", memory, "--run", small_run)
    assert done.code == 2
    assert "must hold episodes of forethought/PointMass-v0 to draw landmarks, got none" in done.err
    done = cli("memory", "graph", at / "nowhere", "--run", small_run, "--keep")
    assert done.code == 2
    assert "there is no episode store" in done.err
    assert not (at / "nowhere").exists()


def test_a_run_for_reward_measures_no_distances() -> None:
    agent: Any = SimpleNamespace(model=SimpleNamespace(purpose="reward"))
    parsed = argparse.Namespace(action="graph", run=Path("runs/x"), checkpoint="best")
    with pytest.raises(ViewError, match="run=runs/x must have been trained with objective=goal"):
        run(parsed, Console(), lambda *_: agent)
