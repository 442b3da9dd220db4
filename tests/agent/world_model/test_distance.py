import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from forethought.agent.world_model.distance import PairwiseDistance, Quasimetric, cautious

B, N, Z, G, M = 2, 5, 6, 3, 2


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("dim", [0, -1])
def test_what_heads_doubt_is_far(heads: int, dim: int) -> None:
    steps = noise(heads, N, heads)
    assert torch.allclose(cautious(steps, dim), steps.mean(dim) + steps.std(dim, unbiased=False), atol=1e-6)


def test_pairwise_distance_is_positive_and_broadcasts() -> None:
    head = PairwiseDistance(Z, G, 16)
    z, point, goal = noise(4, B, N, Z), noise(4, B, N, G, seed=1), noise(B, 1, G, seed=2)
    steps = head(z, point, goal)
    assert steps.shape == (4, B, N)
    assert (steps > 0).all()
    assert torch.allclose(steps, head(z, point, goal.expand(4, B, N, G)), atol=1e-5)


def test_pairwise_distance_reads_state_point_and_goal() -> None:
    head = PairwiseDistance(Z, G, 16)
    z, point, goal = noise(N, Z), noise(N, G, seed=1), noise(N, G, seed=2)
    steps = head(z, point, goal)
    assert not torch.allclose(head(z.flip(0), point, goal), steps)
    assert not torch.allclose(head(z, point.flip(0), goal), steps)
    assert not torch.allclose(head(z, point, goal.flip(0)), steps)
    # the point only counts by its distance from the goal, the same on both sides
    assert torch.allclose(head(z, 2 * goal - point, goal), steps, atol=1e-5)


def test_pairwise_distance_is_in_steps_and_not_negative() -> None:
    head = PairwiseDistance(Z, G, 16)
    inputs = noise(N, Z), noise(N, G, seed=1), noise(N, G, seed=2)
    last = head.body[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.zeros_(last.weight)
    for bias, steps in ((-50.0, 0.0), (math.log(math.expm1(2.0)), 2 * PairwiseDistance.SCALE)):
        torch.nn.init.constant_(last.bias, bias)
        assert torch.allclose(head(*inputs), torch.full((N,), steps), atol=1e-4)


@pytest.fixture
def metric() -> Quasimetric:
    torch.manual_seed(0)
    return Quasimetric(Z, None, 16, M)


# -- laws of a quasimetric ---------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32), scale=st.floats(0.01, 100))
@settings(max_examples=50, deadline=None)
@torch.no_grad()
def test_no_detour_is_shorter(seed: int, scale: float) -> None:
    torch.manual_seed(1)
    metric = Quasimetric(Z, None, 16, M)
    x, y, z = scale * noise(3, N, Z, seed=seed)
    assert (metric(x, z) <= metric(x, y) + metric(y, z) + 1e-3).all()
    assert (metric(x, y) >= 0).all()


@torch.no_grad()
def test_a_state_is_at_itself_and_ways_there_and_back_differ(metric: Quasimetric) -> None:
    x, y = noise(2, N, Z)
    assert torch.allclose(metric(x, x), torch.zeros(M, N), atol=2e-3)
    assert not torch.allclose(metric(x, y), metric(y, x), rtol=0.01)
    assert not torch.allclose(metric(x, y)[0], metric(x, y)[1], rtol=0.01), "members have weights of their own"


@torch.no_grad()
def test_distance_by_hand(metric: Quasimetric) -> None:
    x, y = metric.embed(noise(Z)), metric.embed(noise(Z, seed=1))
    expected = torch.zeros(M)
    for m in range(M):
        for group in range(metric.GROUPS):
            a, b = x[m, :, group], y[m, :, group]
            expected[m] += max(0.0, float((a[0] - b[0]).max())) + float((a[1] - b[1]).norm())
    assert torch.allclose(metric.between(x, y), expected / metric.GROUPS, atol=1e-3)


@torch.no_grad()
def test_goals_broadcast_and_may_have_a_space_of_their_own() -> None:
    z, goal = noise(4, B, N, Z), noise(B, 1, G, seed=2)
    metric = Quasimetric(Z, G, 16, M)
    steps = metric(z, goal)
    assert steps.shape == (M, 4, B, N)
    assert torch.allclose(steps, metric(z, goal.expand(4, B, N, G)), atol=1e-5)


@given(seed=st.integers(0, 2**32), pace=st.floats(0.01, 100))
@settings(max_examples=50, deadline=None)
def test_floor_is_what_the_fastest_steps_take_and_no_detour_is_shorter(seed: int, pace: float) -> None:
    metric = Quasimetric(Z, None, 16, M)
    walk = torch.cumsum(noise(B, 20, Z, seed=seed) * pace, dim=1)
    metric.keep_pace(walk)
    taken = (torch.arange(20)[:, None] - torch.arange(20)).abs()
    found = metric.floor(walk[:, :, None], walk[:, None])
    assert (found <= taken + 1e-3).all(), "no way was walked in fewer steps than its floor says"
    x, y, z = noise(3, N, Z, seed=seed)
    assert (metric.floor(x, z) <= metric.floor(x, y) + metric.floor(y, z) + 1e-3 * metric.floor(x, z)).all()


def test_floor_by_hand() -> None:
    metric = Quasimetric(Z, 2, 16, M)
    start, goal = torch.tensor([0.0, 0.0]), torch.tensor([2.0, 5.0])
    assert metric.floor(start, goal) == 0, "nothing is known yet"
    metric.keep_pace(torch.tensor([[[0.0, 1.0], [0.5, 1.0]], [[1.0, 2.0], [0.9, 2.0]]]))
    assert metric.floor(start, goal) == 4, "2 / 0.5; the second number never moved"
    metric.keep_pace(torch.tensor([[[0.0, 0.0], [1.5, 1.0]]]))
    assert metric.get_buffer("pace").tolist() == pytest.approx([0.51, 1.0]), "a mean that follows slowly"
    assert float(metric.floor(start, goal)) == 5, "a lower bound by the slower number"


# -- learning ----------------------------------------------------------------------------------------------------------


def states(index: Tensor, count: int) -> Tensor:
    """Points on an arc, far enough apart to be told apart."""
    angle = 1.5 * math.pi * index / count
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def learn(steps: list[tuple[int, int]], count: int, far: float, updates: int = 1500) -> Tensor:
    """Distances `[count, count]` from row to column, learned from steps that were seen between numbered states."""
    torch.manual_seed(0)
    metric, generator = Quasimetric(2, None, 64, 1), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(metric.parameters(), lr=3e-3)
    before, after = torch.tensor(steps).T
    for _ in range(updates):
        chosen = torch.randint(len(steps), (128,), generator=generator)
        goals = torch.randint(count, (128,), generator=generator)
        at, then, goal = (metric.embed(states(i, count)) for i in (before[chosen], after[chosen], goals))
        optimizer.zero_grad()
        metric.loss(at, then, None, goal, far).backward()
        optimizer.step()
    with torch.no_grad():
        points = states(torch.arange(count), count)
        return metric(points[:, None], points)[0]


@pytest.mark.slow
def test_two_halves_seen_apart_make_a_way() -> None:
    """Steps of two episodes that share one state; the way through both was never walked."""
    first, second = [(i, i + 1) for i in range(10)], [(i, i + 1) for i in range(10, 20)]
    found = learn([*first, *second, *((b, a) for a, b in first + second)], 21, far=60)
    index = torch.arange(21)
    expected = (index[:, None] - index).abs().float()
    assert (found - expected).abs().mean() < 1.5
    assert float(found[0, 20]) == pytest.approx(20, rel=0.15)


@pytest.mark.slow
def test_a_one_way_passage_is_long_the_other_way_round() -> None:
    """A ring of states that can be walked in one direction only: one step forward is eleven back.

    How far it is to where one just came from is blurred, since the network tells neighbours apart but softly.
    """
    ring = [(i, (i + 1) % 12) for i in range(12)]

    def round_the_ring(index: Tensor) -> Tensor:
        return (index[None] - index[:, None]) % 12

    found = learn(ring, 12, far=40)
    expected = round_the_ring(torch.arange(12)).float()
    assert (found - expected).abs().mean() < 1.5
    assert float(found[expected == 1].max()) < 2.0
    assert float(found[expected == 11].mean()) > 2 * float(found[expected == 1].mean())
    assert float(found[expected == 8].mean()) > 1.5 * float(found[expected == 4].mean())


def test_the_price_follows_what_is_too_long(metric: Quasimetric) -> None:
    here, near, goal = (metric.embed(x) for x in (noise(N, Z), noise(N, Z) + 1e-4, noise(N, Z, seed=1)))
    away = 100 * here
    prices = [float(metric.get_buffer("price"))]
    for ahead in (away, away, near):
        metric.loss(here, ahead, None, goal, far=10.0)
        prices.append(float(metric.get_buffer("price")))
    assert prices == pytest.approx([1.0, 1.01, 1.02, 1.01], rel=1e-4)


def test_a_step_as_long_as_most_is_the_unit(metric: Quasimetric) -> None:
    z, ahead = noise(64, Z), noise(64, Z, seed=1)
    with torch.no_grad():
        here, there = metric.embed(z), metric.embed(ahead)
        raw = metric(z, ahead)
        for _ in range(1000):
            metric.loss(here, there, None, here, far=10.0)
        assert float(metric.get_buffer("unit")) == pytest.approx(float(torch.quantile(raw, 0.9)), rel=1e-3)
        assert torch.allclose(metric(z, ahead), raw / metric.get_buffer("unit"))


def test_goals_of_their_own_space_are_tied_to_their_states() -> None:
    torch.manual_seed(0)
    metric = Quasimetric(Z, G, 16, M)
    z, goal = noise(N, Z), noise(N, G, seed=1)
    with torch.no_grad():
        at, target = metric.embed(z), metric.embed_goal(goal)
    apart = metric.loss(at, at, torch.stack([at, target]), target, far=10.0)
    alike = metric.loss(at, at, torch.stack([at, at]), target, far=10.0)
    with torch.no_grad():
        expected = metric(z, goal).square().mean() / 10
    assert float(apart - alike) == pytest.approx(float(expected), rel=0.05)


def test_far_is_where_distances_stop_to_matter(metric: Quasimetric) -> None:
    with torch.no_grad():
        here, there = metric.embed(noise(N, Z)), metric.embed(10 * noise(N, Z, seed=1))
    slopes = []
    for far in (0.01, 100.0):
        goal = there.clone().requires_grad_()
        metric.loss(here, here, None, goal, far).backward()
        assert goal.grad is not None
        slopes.append(far * float(goal.grad.abs().sum()))
    assert slopes[0] < 0.01 * slopes[1]
