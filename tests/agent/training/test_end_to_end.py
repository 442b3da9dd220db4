"""The whole chain on a robot: random actions in, goals reached that were never seen."""

from pathlib import Path

import numpy as np
import pytest
import torch

from forethought import Agent, EpisodeStore, make_planner, make_vector
from forethought.agent.agent import AgentOptions
from forethought.agent.memory.sampler import SequenceSampler
from forethought.agent.memory.store import MemoryOptions
from forethought.agent.objectives import GoalObjective, GoalOptions
from forethought.agent.training.evaluate import episode_seeds, run_arm, score
from forethought.agent.training.learner import Learner, LearnerOptions
from forethought.agent.training.rollout import AgentPolicy, RandomPolicy, run_episodes
from forethought.agent.world_model.model import WorldModel, WorldModelOptions

GOALS, UPDATES = 20, 1000


@pytest.mark.slow
def test_random_actions_teach_a_point_mass_to_reach_goals(tmp_path: Path) -> None:
    environments = make_vector("forethought/PointMass-v0", 50)
    spec = environments.env_spec
    random = RandomPolicy(spec, max_hold=8)
    options = LearnerOptions(batch_size=128, learning_rate=2e-3, warmup=50)
    model = WorldModel(spec, WorldModelOptions(encoder="identity", hidden_dim=64, ensemble_size=1))
    learner = Learner(model, options, UPDATES, torch.Generator().manual_seed(0))
    with EpisodeStore.open(tmp_path / "memory", "a", spec, MemoryOptions(sync=False)) as store:
        for wave in range(4):
            episodes = run_episodes(environments, random, episode_seeds("train", 0, 50 * wave, 50))
            ids = store.append_many(episodes)
            model.normalizer.update_from(store, ids)
        sampler = SequenceSampler(store, spec, options.window, options.goals_per_window, options.goal_power)
        rng = np.random.default_rng(0)
        for _ in range(UPDATES):
            learner.update(sampler.sample(options.batch_size, rng))
    low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
    planner = make_planner("icem", low, high, horizon=10, num_samples=96, iterations=3, num_elites=12)
    agent = Agent(
        model,
        planner,
        GoalObjective(GoalOptions()),
        AgentOptions(plan_dtype="float32"),
        torch.Generator().manual_seed(0),
    )
    seeds = episode_seeds("test", 0, 0, GOALS)
    planned = score(run_arm(environments, AgentPolicy(agent), seeds))
    by_chance = score(run_arm(environments, random, seeds))
    environments.close()
    assert planned["success_rate"] >= 0.9
    assert by_chance["success_rate"] <= 0.3
