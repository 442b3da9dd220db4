from collections.abc import Callable
from typing import Any

import pytest
import torch

from forethought.agent.agent import Agent, AgentOptions
from forethought.agent.bench.arena import BenchError, Settings
from forethought.agent.bench.budget import contender, fit
from forethought.agent.bench.learned import LearnedModel
from forethought.agent.objectives import GoalObjective, GoalOptions
from forethought.planners import make_planner


@pytest.fixture
def arena(fake_environments: Any, toy_model: Callable[..., Any]) -> LearnedModel:
    environments = fake_environments(1)
    spec = environments.env_spec
    low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
    agent = Agent(
        toy_model(spec),
        make_planner("cem", low, high, horizon=3),
        GoalObjective(GoalOptions()),
        AgentOptions(plan_dtype="float32"),
        torch.Generator().manual_seed(0),
    )
    return LearnedModel("model:fake", agent, environments)


def play(arena: LearnedModel, name: str = "cem", seed: int = 4, **settings: Any) -> Any:
    fitted = fit(contender(name, {}), arena, 40)
    return arena.play(fitted.planner, seed, torch.Generator().manual_seed(1), Settings(**settings))


def test_every_decision_is_a_plan_of_the_budget_in_the_model(arena: LearnedModel) -> None:
    assert (arena.horizon, arena.decisions) == (3, 7)
    episode = play(arena, seed=5, budget=40)  # goes on for 4 decisions, solved by none of them but the second
    assert episode.solved is True
    assert len(episode.actions) == len(episode.milliseconds) == 2
    assert all(0 < n <= 40 for n in episode.evaluations)
    assert episode.rewards == [1.0, 2.0] + [0.0] * 5
    assert play(arena, seed=5).actions == episode.actions


def test_what_is_not_reached_is_not_solved(arena: LearnedModel) -> None:
    episode = play(arena, seed=4)  # ends after 3 decisions, before the sixth would have been a success
    assert episode.solved is False
    assert len(episode.actions) == 3


@pytest.mark.parametrize("name", ["gradient", "sample_gradient"])
def test_a_learned_model_has_gradients(arena: LearnedModel, name: str) -> None:
    assert arena.differentiable
    assert max(play(arena, name, budget=40).evaluations) <= 40


def test_more_than_the_budget_is_refused(arena: LearnedModel) -> None:
    with pytest.raises(BenchError, match="at most budget=20"):
        play(arena, budget=20)


def test_plans_are_followed_and_cut_short(arena: LearnedModel) -> None:
    assert len(play(arena, replan_every=3).milliseconds) == 1
    assert len(play(arena, decisions=2).milliseconds) == 2  # a trial, to take the time


def test_random_actions_are_the_zero_of_the_scale(arena: LearnedModel) -> None:
    episode = arena.play_random(4)
    assert episode.evaluations == []
    assert arena.play_random(4).actions == episode.actions


def test_pictures_follow_the_episode(arena: LearnedModel) -> None:
    episode = play(arena)
    frames = list(arena.frames(episode, 2))
    assert [int(f[0, 0, 0]) for f in frames] == [0, 1, 2, 3]
    assert frames[0].shape == (2, 2, 3)
