"""The whole chain on a robot: random actions in, goals reached that were never seen."""

from pathlib import Path

import numpy as np
import pytest
import torch

from forethought import Agent, EnvOptions, EpisodeStore, make_planner, make_vector
from forethought.agent.agent import AgentOptions
from forethought.agent.memory.sampler import SequenceSampler
from forethought.agent.memory.store import MemoryOptions
from forethought.agent.objectives import GoalObjective, GoalOptions
from forethought.agent.training.evaluate import episode_seeds, run_arm, score
from forethought.agent.training.learner import Learner, LearnerOptions
from forethought.agent.training.rollout import AgentPolicy, RandomPolicy, run_episodes
from forethought.agent.world_model.model import WorldModel, WorldModelOptions

ENV, WAVES, GOALS, UPDATES = "forethought/PointMass-v0", 9, 20, 800
COLLECTION = EnvOptions(max_episode_steps=100)
"""Longer episodes than the task's, so that pairs of their states are far apart too."""


@pytest.mark.slow
def test_random_actions_teach_a_point_mass_to_reach_goals(tmp_path: Path) -> None:
    collection, environments = make_vector(ENV, 40, COLLECTION), make_vector(ENV, GOALS)
    spec = environments.env_spec
    options = LearnerOptions(batch_size=128, goals_per_window=8, covariance=0.0)
    model = WorldModel(spec, WorldModelOptions(latent_dim=32, hidden_dim=128))
    learner = Learner(model, options, UPDATES, torch.Generator().manual_seed(0))
    explore = RandomPolicy(collection.env_spec, max_hold=8)
    with EpisodeStore.open(tmp_path / "memory", "a", spec, MemoryOptions(sync=False)) as store:
        for wave in range(WAVES):
            seeds = episode_seeds("train", 0, 40 * wave, 40)
            model.calibrate(store, store.append_many(run_episodes(collection, explore, seeds)))
        sampler = SequenceSampler(store, spec, options.window, options.goals_per_window, options.goal_power)
        rng = np.random.default_rng(0)
        for _ in range(UPDATES):
            learner.update(sampler.sample(options.batch_size, rng))
    low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
    planner = make_planner("icem", low, high, horizon=10, num_samples=128, iterations=4, num_elites=16)
    generator = torch.Generator().manual_seed(0)
    agent = Agent(model, planner, GoalObjective(GoalOptions()), AgentOptions(plan_dtype="float32"), generator)
    seeds = episode_seeds("test", 0, 0, GOALS)
    planned = score(run_arm(environments, AgentPolicy(agent), seeds))
    by_chance = score(run_arm(environments, RandomPolicy(spec, max_hold=8), seeds))
    environments.close()
    collection.close()
    assert planned["success_rate"] >= 0.9
    assert by_chance["success_rate"] <= 0.3
