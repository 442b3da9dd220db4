import math

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forethought.agent.bench.analytic import (
    ANALYTIC_TASKS,
    AnalyticWorld,
    LinearQuadratic,
    Pendulum,
    Rastrigin,
    SparseReach,
    Trap,
)
from forethought.agent.bench.arena import Settings, TrueDynamics
from forethought.agent.bench.budget import contender, fit

seeds = st.integers(0, 2**31)


@pytest.fixture(params=ANALYTIC_TASKS)
def world(request: pytest.FixtureRequest) -> AnalyticWorld:
    return ANALYTIC_TASKS[request.param]()


def some_actions(world: AnalyticWorld, count: int, horizon: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(count, horizon, world.action_dim, generator=generator, dtype=torch.float64)
    return world.action_low + uniform * (world.action_high - world.action_low)


def test_candidates_are_scored_as_the_episode_is(world: AnalyticWorld) -> None:
    actions = some_actions(world, 3, 5)
    rewards = world.rewards(world.reset(1), actions)
    for candidate in range(3):
        state = world.reset(1)
        for step in range(5):
            state, reward, ended, _ = world.step(state, actions[candidate, step])
            assert reward == pytest.approx(float(rewards[candidate, step]), rel=1e-12, abs=1e-12)
            assert not ended


def test_starts_follow_from_the_seed_alone(world: AnalyticWorld) -> None:
    assert torch.equal(world.reset(1), world.reset(1))
    assert not torch.equal(world.reset(1), world.reset(2))
    assert not world.is_solved(world.reset(1))


def test_costs_have_gradients(world: AnalyticWorld) -> None:
    actions = some_actions(world, 2, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(world.rewards(world.reset(0), actions).sum(), actions)
    assert gradient.isfinite().all()
    assert bool((gradient != 0).any()) == (not isinstance(world, SparseReach))


@given(seed=seeds)
def test_the_regulator_loses_nothing_and_all_else_does(seed: int) -> None:
    world = LinearQuadratic()
    state = world.reset(seed)
    for _ in range(10):
        best = -world.gain @ state
        assert (best.abs() <= world.bound).all()
        assert world.step(state, best).reward == pytest.approx(0.0, abs=1e-9)
        assert world.step(state, best + 0.1).reward < -1e-4
        state = world.step(state, best).state


@given(seed=seeds)
def test_no_action_is_better_than_the_target_of_rastrigin(seed: int) -> None:
    world = Rastrigin()
    state = world.reset(seed)
    target = 0.8 * torch.sin(state[1:4] + state[4:] * state[0])
    assert world.step(state, target).reward == pytest.approx(0.0, abs=1e-12)
    assert (world.rewards(state, some_actions(world, 20, 1, seed)) < 0).all()
    # One wave off is a local minimum: to leave it, one has to go uphill.
    wrong, step = target - torch.sign(target) * 0.38, 0.02
    nearby = [world.step(state, wrong + offset).reward for offset in (-step, 0.0, step)]
    assert nearby[1] < -0.1


@pytest.mark.parametrize("name", ["lqr", "rastrigin"])
def test_planners_come_near_the_known_optimum(name: str) -> None:
    arena = TrueDynamics(ANALYTIC_TASKS[name]())
    entry, budget = contender("sample_gradient", {}), 400
    random = arena.play_random(0).score
    settings = Settings(budget=budget, decisions=6)
    episode = arena.play(fit(entry, arena, budget).planner, 0, torch.Generator().manual_seed(0), settings)
    assert arena.optimum == 0.0
    assert 0.1 * random < episode.score <= 0.0


@given(seed=seeds)
def test_the_trap_is_not_walked_through(seed: int) -> None:
    world = Trap()
    state = world.reset(seed)
    for action in some_actions(world, 1, 40, seed)[0] + torch.tensor([0.5, 0.0]):
        state = world.step(state, action.clamp(-1, 1)).state
        x, y = state.tolist()
        assert not any(left < x < right and low < y < high for left, right, low, high in world._WALLS)


def test_straight_for_the_goal_ends_in_the_trap_and_a_way_round_it_does_not() -> None:
    world = Trap()
    state = torch.tensor([-0.3, 0.0], dtype=torch.float64)
    straight, round_it = state, state
    for _ in range(30):
        straight = world.step(straight, torch.tensor([1.0, 0.0], dtype=torch.float64)).state
    assert straight[0] <= 0.3
    for x, y, steps in ((0.0, 1.0, 5), (1.0, 0.0, 10), (0.0, -1.0, 5), (1.0, 0.0, 1)):
        for _ in range(steps):
            round_it = world.step(round_it, torch.tensor([x, y], dtype=torch.float64)).state
    assert world.is_solved(round_it)


def test_full_thrust_and_full_brakes_reach_the_sparse_goal() -> None:
    world = SparseReach()
    state = world.reset(0)
    goal = float(state[2])
    steps, reward = math.ceil(math.sqrt(abs(goal)) / world.control_dt), 0.0
    for force in [math.copysign(1.0, goal)] * steps + [-math.copysign(1.0, goal)] * steps:
        assert world.step(state, torch.zeros(1, dtype=torch.float64)).reward in (0.0, 1.0)
        state, gained, _, solved = world.step(state, torch.tensor([force], dtype=torch.float64))
        reward += gained
    assert reward > 0
    assert solved


def test_the_pendulum_is_that_of_gymnasium() -> None:
    world, env = Pendulum(), gymnasium.make("Pendulum-v1").unwrapped
    env.reset(seed=0)
    state = world.reset(3)
    env.state = state.numpy().copy()  # type: ignore[attr-defined]
    for action in some_actions(world, 1, 20)[0]:
        expected = np.mean([env.step(action.numpy())[1] for _ in range(2)])
        state, reward, _, _ = world.step(state, action)
        assert reward == pytest.approx(float(expected), rel=1e-9)
    np.testing.assert_allclose(state.numpy(), env.state, rtol=1e-9)  # type: ignore[attr-defined]


def test_pictures_show_what_moves(world: AnalyticWorld) -> None:
    states = [world.reset(0)]
    for _ in range(8):
        states.append(world.step(states[-1], world.action_high).state)
    frames = list(world.frames(states, 64))
    if world.name in ("lqr", "rastrigin"):
        assert frames == []
        return
    assert [f.shape for f in frames] == [(64, 64, 3)] * 9
    assert (frames[0] != frames[4]).any()
