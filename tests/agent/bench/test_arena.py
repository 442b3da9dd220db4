from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from forethought.agent.bench.arena import BenchError, Meter, Settings, Simulation, TrueDynamics
from forethought.envs.planning import PLANNING_TASKS
from forethought.planners import make_planner


def planner(arena: TrueDynamics[Any], name: str = "cem", **options: Any) -> Any:
    chosen = {"horizon": arena.horizon, "num_samples": 8, "num_elites": 3, "iterations": 2} | options
    if name == "gradient":
        del chosen["num_elites"]
    return make_planner(name, arena.action_low, arena.action_high, **chosen)


def play(arena: TrueDynamics[Any], settings: Settings | None = None, seed: int = 0, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(7)
    return arena.play(planner(arena, **options), seed, generator, settings or Settings())


def test_an_episode_is_one_plan_per_decision(lqr: TrueDynamics[Any]) -> None:
    episode = play(lqr)
    assert len(episode.rewards) == len(episode.actions) == len(episode.milliseconds) == lqr.decisions
    assert episode.evaluations == [16] * lqr.decisions
    assert episode.solved is None
    assert episode.score == pytest.approx(np.mean(episode.rewards))
    assert lqr.play_random(0).score < episode.score


def test_same_seed_same_episode_and_another_seed_another(lqr: TrueDynamics[Any]) -> None:
    assert play(lqr).rewards == play(lqr).rewards
    assert play(lqr).rewards != play(lqr, seed=1).rewards
    assert lqr.play_random(3).actions == lqr.play_random(3).actions


def test_replanning_less_often_plans_less_often_and_follows_the_plan(lqr: TrueDynamics[Any]) -> None:
    # So few candidates find nothing better than rest, with which `from_best` would go on.
    rarely, always = (play(lqr, Settings(replan_every=n), from_best=False) for n in (2, 1))
    assert len(rarely.milliseconds) == lqr.decisions // 2
    assert rarely.actions[0] == always.actions[0]
    assert rarely.actions[1] != always.actions[1]
    beyond = play(lqr, Settings(replan_every=100))  # no further than the plan goes
    assert len(beyond.milliseconds) == 1


def test_a_warm_start_matters(lqr: TrueDynamics[Any]) -> None:
    warm, cold = (play(lqr, warm_start=warm, from_best=False) for warm in (True, False))
    assert warm.rewards[1:] != cold.rewards[1:]


def test_more_than_the_budget_is_refused(lqr: TrueDynamics[Any]) -> None:
    assert play(lqr, Settings(budget=16)).evaluations == [16] * lqr.decisions
    with pytest.raises(BenchError, match="CEM must spend at most budget=15 evaluations on a plan, got 16"):
        play(lqr, Settings(budget=15))


def test_a_deadline_reaches_the_planner(lqr: TrueDynamics[Any]) -> None:
    hurried = play(lqr, Settings(deadline_s=1e-9))
    assert hurried.evaluations == [8] * lqr.decisions  # the first round is always scored


def test_gradients_count_three_times(lqr: TrueDynamics[Any]) -> None:
    meter: Meter[Any] = Meter(planner(lqr, "gradient"))
    meter.plan(lambda a: a.square().sum(dim=(2, 3)), meter.init(1), torch.Generator().manual_seed(0))
    assert meter.evaluations == [3 * 8 * 2]
    assert meter.used_gradients


def test_simulations_are_played_as_they_are_planned_in() -> None:
    simulation = Simulation(PLANNING_TASKS["reacher_hard"]())
    arena = TrueDynamics(simulation, horizon=3)
    episode = play(arena, Settings(decisions=2))
    assert arena.horizon == 3
    state = simulation.reset(0)
    actions = torch.tensor(episode.actions, dtype=torch.float64)
    foreseen = simulation.rewards(state, actions[None])[0]
    assert foreseen.tolist() == episode.rewards
    assert episode.solved is False


def test_costs_are_minus_the_rewards_of_the_horizon(lqr: TrueDynamics[Any]) -> None:
    state = lqr.world.reset(0)
    actions = torch.rand(1, 5, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    costs = lqr._cost_fn(state)(actions)
    assert costs.shape == (1, 5)
    torch.testing.assert_close(costs[0], -lqr.world.rewards(state, actions[0]).sum(dim=1))


def test_an_early_end_leaves_nothing_to_earn_and_nothing_solved() -> None:
    arena = TrueDynamics(Simulation(PLANNING_TASKS["double_pendulum"]()))
    fallen = arena.play_random(1)
    assert len(fallen.rewards) == arena.decisions
    assert len(fallen.actions) < arena.decisions
    assert fallen.rewards[-1] == 0.0


def test_pictures_follow_the_episode(reach: TrueDynamics[Any]) -> None:
    episode = play(reach)
    frames = list(reach.frames(episode, 64))
    assert len(frames) == reach.decisions + 1
    shorter = replace(episode, actions=episode.actions[:1])
    assert len(list(reach.frames(shorter, 64))) == 2
