"""Collecting episodes of random actions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forethought.agent.jobs.collect import collect
from forethought.agent.memory.store import EpisodeStore
from forethought.agent.training import rollout
from forethought.configs.register import load
from forethought.configs.schema import Config
from forethought.envs.vector import VectorEnv


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
        collect(load(Config, overrides))
    assert collect(load(Config, overrides)) == (tmp_path / "memory", 8, 160)
    assert ran == [2, 2, 0, 2, 2]
    assert collect(load(Config, overrides))[1] == 8
    assert len(ran) == 5
    assert collect(load(Config, [*overrides, "training.max_hold=1"]))[1] == 16
    assert collect(load(Config, [*overrides, "training.num_envs=3", "steps=200"]))[1] == 18
    assert collect(load(Config, [*overrides, "env_options.shift.mass=5"]))[1] == 26  # the same spec, another world
    with EpisodeStore.open(tmp_path / "memory") as store:
        assert store.verify() == []
        # What is done in the other world is what was done in this.
        assert len({store.get(i).actions.tobytes() for i in store.ids()}) == 18


def test_collecting_by_the_policy_that_the_environment_brings(
    tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*small, f"out={tmp_path}"]
    collect(load(Config, overrides))
    asked: list[int] = []

    def behaviour(self: Any, index: int, seed: int) -> Any:
        asked.append(seed)
        return lambda: np.full(self.env_spec.action_dim, 0.25)

    monkeypatch.setattr(VectorEnv, "behaviour", behaviour)
    for _ in range(2):  # the second time it is all there
        collect(load(Config, [*overrides, "training.behaviour=true"]))
    assert len(asked) == len(set(asked)) == 8
    with EpisodeStore.open(tmp_path / "memory") as store:
        assert [store.info(i)["meta"]["policy"] for i in store.ids()] == ["random"] * 8 + ["behaviour"] * 8
        assert (store.get(12).actions == 0.25).all()
