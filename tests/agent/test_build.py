"""Agents from their run folders, also those that go by a memory."""

import dataclasses
import itertools
import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from forethought import make_env
from forethought.agent.agent import AgentOptions
from forethought.agent.build import load_agent, load_alone
from forethought.agent.jobs.train import train
from forethought.agent.memory.index import RetrievalOptions
from forethought.agent.memory.store import EpisodeStore, StoreError
from forethought.agent.runs import overrides_of_run
from forethought.configs.register import load
from forethought.configs.schema import Config, EvalConfig


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


# -- going by what is in memory ----------------------------------------------------------------------------------------


RETRIEVAL = ["agent.retrieval.seeds=4", "agent.retrieval.neighbours=8", "agent.retrieval.stride=2"]


LANDMARKS = ["agent.configurator.mode=auto", "agent.graph.spacing=2", "agent.graph.reach=6", "agent.graph.stride=1"]


def test_options_of_an_agent_outlive_their_run() -> None:
    config = load(Config, ["env=forethought/PointMass-v0", *RETRIEVAL, *LANDMARKS])
    saved = json.loads(json.dumps(dataclasses.asdict(config)))
    assert AgentOptions.from_json(saved["agent"]) == config.agent
    assert load(EvalConfig, ["run=x", *overrides_of_run(saved, {})]).agent == config.agent
    del saved["agent"]["retrieval"]  # of a run that was made before there was such a thing
    assert AgentOptions.from_json(saved["agent"]).retrieval == RetrievalOptions()


def test_an_agent_that_retrieves_is_trained_loaded_and_evaluated(tmp_path: Path, small: list[str], cli: Any) -> None:
    run = train(load(Config, [*small, *RETRIEVAL, f"out={tmp_path}/run"]))
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
    obs, actions = {k: np.zeros((1, 2), np.float32) for k in ("position", "velocity")}, list[float]()
    for place in itertools.product((-0.2, 0.0, 0.2), repeat=2):
        goal = agent.embed_goal({**obs, "position": np.array([place], np.float32)})
        plan = agent.act(obs, agent.init(1), goal)[2]
        assert plan is not None
        actions += plan.actions.flatten().tolist()
    return actions


@pytest.mark.parametrize("changes", [{"seeds": 0}, {"seeds": 12}, {"neighbours": 6}, {"stride": 3}])
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


def test_an_agent_without_a_memory_to_go_by_needs_none(small_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    shutil.rmtree(run / "memory")
    agent = load_agent(run)
    assert (agent.configurator, agent.index) == (None, None)
    assert load_alone(run).options.graph == agent.options.graph
