"""What a decision is for, on a plane with exact distances: the goal where it is near, landmarks where it is far."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.agent.agent import Agent, AgentOptions, Carry, merge, select
from forethought.agent.configurator import (
    EXPLORE,
    MEMORY,
    PLAN,
    Configurator,
    ConfiguratorError,
    ConfiguratorOptions,
    Course,
)
from forethought.agent.memory.graph import GraphOptions, LandmarkGraph
from forethought.agent.objectives import GoalObjective, GoalOptions
from forethought.agent.world_model.model import WorldModel, WorldModelOptions
from forethought.planners import make_planner

Maker = Callable[..., Any]
REACH = 6.0
LINE = np.stack([np.arange(31.0), np.zeros(31)], axis=-1)


def lived(model: WorldModel, path: Any = LINE) -> LandmarkGraph:
    """The graph of one episode along a path."""
    graph = LandmarkGraph(model, GraphOptions(spacing=2.0, reach=REACH, stride=1))
    z = torch.as_tensor(np.asarray(path), dtype=torch.float32)
    graph.add(z, z, 0, np.arange(len(z)))
    graph.believe()
    return graph


@pytest.fixture
def configurator(plane_model: Maker) -> Configurator:
    return Configurator(lived(plane_model()), ConfiguratorOptions(mode="auto"))


def at(*places: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(places, dtype=torch.float32)


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "dream"}, "mode must be one of plan, auto, memory, explore, react, got 'dream'"),
        ({"mode": "explore", "guide": "macro"}, "mode must be plan or auto with guide=macro, got 'explore'"),
        ({"doubt": -0.1}, "doubt must be 0 or more, got -0.1"),
        ({"look_ahead": 0.0}, "look_ahead must be positive or None, got 0.0"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"progress": 0.0}, "progress must be positive, got 0.0"),
        ({"progress": float("nan")}, "progress must be positive, got nan"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfiguratorError, match=message):
        ConfiguratorOptions(**changes)


# -- choosing ----------------------------------------------------------------------------------------------------------


def test_a_goal_within_reach_is_headed_for(configurator: Configurator) -> None:
    z, goal = at((0, 0), (10, 0), (20, 0)), at((4, 0), (10, 3), (15, 0))
    targets, course = configurator.aim(z, goal, None)
    assert torch.equal(targets, goal)
    assert course.mode.tolist() == [PLAN] * 3


@pytest.mark.parametrize(("start", "end"), [(0.0, 30.0), (30.0, 0.0), (5.0, 17.0)])
def test_a_far_goal_is_headed_for_by_landmarks_within_reach(
    configurator: Configurator, start: float, end: float
) -> None:
    z, goal = at((start, 0)), at((end, 0))
    targets, course = configurator.aim(z, goal, None)
    assert course.mode.tolist() == [MEMORY]
    assert any(torch.equal(targets[0], landmark) for landmark in configurator.graph.goals)
    left, gone = (goal - targets).abs().sum(), (targets - z).abs().sum()
    assert 0 < gone <= REACH
    assert left < (goal - z).abs().sum() - 2


@pytest.mark.parametrize("mode", ["auto", "memory"])
def test_whoever_heads_there_arrives_by_the_shortest_way(plane_model: Maker, mode: str) -> None:
    configurator = Configurator(lived(plane_model()), ConfiguratorOptions(mode=mode))
    z, goal, course, modes = at((0, 0)), at((30, 0)), None, list[int]()
    for _ in range(30):
        targets, course = configurator.aim(z, goal, course)
        assert course is not None
        modes.append(int(course.mode))
        z = z + (targets - z).clamp(-1, 1)
    assert torch.equal(z, goal)
    assert modes == sorted(modes, reverse=True)  # by memory first, straight at the end
    assert set(modes) == {PLAN, MEMORY}


def test_nobody_goes_by_landmarks_that_are_none(plane_model: Maker) -> None:
    graph = LandmarkGraph(plane_model(), GraphOptions(spacing=2.0, reach=REACH, stride=1))
    goal = at((4, 0), (40, 0))
    targets, course = Configurator(graph, ConfiguratorOptions(mode="auto")).aim(at((0, 0), (0, 0)), goal, None)
    assert torch.equal(targets, goal)
    assert course.mode.tolist() == [PLAN, EXPLORE]


def test_the_graph_stays_as_it_is_unless_it_learns(configurator: Configurator) -> None:
    graph, course = configurator.graph, None
    before = (len(graph), len(graph.edges), graph.walked.tolist(), graph.version)
    for t in range(10):
        z = at((t, 2.0 * t))
        _, course = configurator.aim(z, at((30, 0)), course)
        course = configurator.notice(z - 1, at((1, 1)), z, z, course)
    assert (len(graph), len(graph.edges), graph.walked.tolist(), graph.version) == before


def test_what_is_lived_through_is_learned_from(plane_model: Maker) -> None:
    configurator = Configurator(lived(plane_model(), LINE[:1]), ConfiguratorOptions(mode="auto"), learns=True)
    configurator.episode, course = 5, None
    for t in range(13):
        z = at((0, float(t)))
        _, course = configurator.aim(z, at((0, 40)), course)
        course = configurator.notice(z - at((0, 1)), at((0, 1)), z, z, course)
    graph = configurator.graph
    real = ~graph.imagined
    lived_at = graph.latents[torch.from_numpy(real)][:, 1]
    assert 5 <= len(lived_at) <= 13
    assert float(lived_at.diff().max()) <= 4, "no stretch is left out"
    assert set(graph.moments[real][1:, 0].tolist()) == {5}
    walked = graph.latents[torch.from_numpy(graph.edges[graph.walked > 0])][:, :, 1]
    assert (walked.diff(dim=1) > 0).all(), "in the direction in which it was walked"
    assert len(walked) >= len(lived_at) - 1


def test_unknown_ground_is_imagined_in_small_steps(plane_model: Maker) -> None:
    graph = LandmarkGraph(plane_model(), GraphOptions(spacing=2.0, reach=REACH, believe=3.0))
    configurator = Configurator(graph, ConfiguratorOptions(mode="auto"), learns=True)
    z, goal = at((0, 0)), at((20, 0))
    _, course = configurator.aim(z, goal, None)
    targets, course = configurator.aim(z, goal, configurator.notice(z, at((0, 0)), z, z, course))
    assert course.mode.tolist() == [EXPLORE]
    assert 0 < float((targets - z).abs().sum()) <= 3
    assert float((goal - targets).abs().sum()) < 20
    assert (~graph.imagined).sum() == 1
    gaps = (graph.latents - goal).abs().sum(dim=-1)
    assert float(gaps.min()) <= 3, "up to the goal"


def beyond_a_wall(x: torch.Tensor, step: torch.Tensor, door: float) -> torch.Tensor:
    """Where a step from `x` ends: no farther than a wall along the y axis at 5, but for a door two wide."""
    after = x + step
    meets = bool((x[0, 0] < 5) != (after[0, 0] < 5)) and abs(float(after[0, 1]) - door) > 1
    return torch.stack([x[:, 0], after[:, 1]], dim=-1) if meets else after


def test_a_wall_is_felt_gone_round_and_remembered(plane_model: Maker) -> None:
    """Three visits; before the last, the door has moved to the other side."""
    graph = LandmarkGraph(plane_model(), GraphOptions(spacing=3.0, reach=REACH, believe=4.0, hope=2.0))
    options = ConfiguratorOptions(mode="auto", patience=3, progress=0.3)
    visits = []
    for episode, door in enumerate((6.0, 6.0, -6.0, -6.0)):
        configurator = Configurator(graph, options, learns=True)
        configurator.episode, course, decisions = episode, None, 0
        z, goal = at((2, 0)), at((8, 0))
        while float((goal - z).abs().sum()) > 0.5 and decisions < 300:
            targets, course = configurator.aim(z, goal, course)
            step = (targets - z).clamp(-1, 1)
            before, z = z, beyond_a_wall(z, step, door)
            course = configurator.notice(before, step, z, z, course)
            decisions += 1
        visits.append(decisions)
    assert max(visits) < 300
    assert visits[1] <= visits[0] / 2
    assert visits[3] <= visits[2] / 2


def test_a_corner_is_gone_round_where_it_stalls(plane_model: Maker) -> None:
    """The landmark at the corner is as good as reached; the goal is in sight from there, and not from here."""
    graph = LandmarkGraph(plane_model(), GraphOptions(spacing=3.0, reach=REACH, believe=4.0))
    corner, z, goal = at((0, 1.8)), at((0, 0)), at((2, 1.8))
    graph.add(corner, corner, 0, np.array([0]))
    graph.believe()
    graph.obstruct(at((2, 0)))
    configurator = Configurator(graph, ConfiguratorOptions(mode="auto", patience=6), learns=True)
    targets, course = list[list[float]](), None
    for _ in range(5):
        target, course = configurator.aim(z, goal, course)
        targets.append(target[0].tolist())
    assert targets[:3] == goal.tolist() * 3
    assert targets[3:] == corner.tolist() * 2
    there, course = configurator.aim(corner, goal, course)
    assert torch.equal(there, goal)
    back, _ = configurator.aim(z, goal, course)
    assert torch.equal(back, goal), "one goes to a corner once"


@pytest.mark.parametrize(("recalls", "bumped", "headed"), [(1, 1, (1.5, 1)), (1, 0, None), (0, 1, None)])
def test_a_walked_way_that_is_not_straight_is_followed_as_it_was_walked(
    plane_model: Maker, recalls: bool, bumped: bool, headed: tuple[float, float] | None
) -> None:
    path = [(0, 0), (1, 0), (1.5, 0), *((1.5, y) for y in range(1, 13))]
    graph = lived(plane_model(), path)
    configurator = Configurator(graph, ConfiguratorOptions(mode="auto"), learns=True)
    lives = torch.tensor(path, dtype=torch.float32)
    configurator.trails.recall = (lambda episode: (lives, lives)) if recalls else None
    z, goal = at((0, 0)), at((1.5, 12))
    _, course = configurator.aim(z, goal, None)
    targets, course = configurator.aim(z, goal, replace(course, bumped=torch.tensor([bool(bumped)])))
    landmarks = [tuple(x) for x in graph.goals.tolist()]
    if headed is None:
        assert tuple(targets[0].tolist()) in landmarks
        return
    assert targets[0].tolist() == list(headed)
    targets, _ = configurator.aim(z, goal, replace(course, bumped=torch.tensor([False])))
    assert targets[0].tolist() == list(headed)  # it is known to wind from now on


@pytest.mark.parametrize(("learns", "headed"), [(True, [6, 6, 6, 3, 3]), (False, [6] * 5)])
def test_what_is_not_to_be_had_straight_is_gone_to_by_the_next_landmark(
    plane_model: Maker, learns: bool, headed: list[float]
) -> None:
    graph = lived(plane_model(), LINE[:9])  # landmarks at 0, 3, 6
    configurator = Configurator(graph, ConfiguratorOptions(mode="auto", patience=9), learns)
    z, goal, course, nearest = at((0, 0)), at((20, 0)), None, list[float]()
    for _ in range(5):
        targets, course = configurator.aim(z, goal, course)
        nearest.append(float(targets[0, 0]))
    assert nearest == headed


def test_whoever_is_as_good_as_there_takes_longer_to_give_up(plane_model: Maker) -> None:
    def plans(place: float) -> int:
        graph = lived(plane_model(), LINE[:9])
        configurator = Configurator(graph, ConfiguratorOptions(mode="auto", patience=5), learns=True)
        goal, course = at((place, 0)), None
        for number in range(1, 20):
            _, course = configurator.aim(at((6, 0)), goal, course)
            if course.closed.any():
                return number
        return 0

    assert plans(9.0) == 7
    assert plans(7.0) == 12


# -- how sure, and how much time is left -------------------------------------------------------------------------------


def around(model: WorldModel) -> LandmarkGraph:
    """A way of 50 steps that was walked, to what is 10 away."""
    up, along, down = [(0, y) for y in range(20)], [(x, 20) for x in range(10)], [(10, y) for y in range(20, -1, -1)]
    path = np.array([*up, *along, *down])
    graph = LandmarkGraph(model, GraphOptions(spacing=2.0, reach=6.0, believe=3.0, hope=9.0, stride=1))
    z = torch.as_tensor(path, dtype=torch.float32)
    graph.add(z, z, 0, np.arange(len(z)))
    graph.believe()
    return graph


@pytest.mark.parametrize(
    ("left", "mode"), [(None, MEMORY), (100.0, MEMORY), (60.0, MEMORY), (40.0, EXPLORE), (10.0, EXPLORE), (9.0, MEMORY)]
)
def test_a_way_that_takes_too_long_is_left_for_one_that_might_do(
    plane_model: Maker, left: float | None, mode: int
) -> None:
    """The goal is at 10 steps if nothing stands in between, and at 50 by a way that was walked."""
    configurator = Configurator(around(plane_model()), ConfiguratorOptions(mode="auto"))
    time = None if left is None else torch.tensor([left])
    targets, course = configurator.aim(at((0, 0)), at((10, 0)), None, time)
    assert course.mode.tolist() == [mode]
    assert torch.equal(targets, at((10, 0))) == (mode == EXPLORE)


@given(
    start=st.integers(0, 50), end=st.integers(0, 50), aside=st.integers(0, 3), left=st.integers(1, 80),
    hope=st.sampled_from([1.0, 3.0, 9.0]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_time_counts_only_where_it_is_short_and_never_wastes_the_last_chance(
    plane_model: Maker, start: int, end: int, aside: int, left: int, hope: float
) -> None:
    graph = around(plane_model())
    graph.options.hope = hope
    configurator = Configurator(graph, ConfiguratorOptions(mode="auto"))
    z, goal = graph.latents[start % len(graph)][None] + aside, graph.latents[end % len(graph)][None]
    direct = float((goal - z).abs().sum())
    free, course = configurator.aim(z, goal, None)
    limited, _ = configurator.aim(z, goal, None, torch.tensor([float(left)]))
    longest = float(course.value[course.value < np.inf].max()) + direct
    if left >= max(longest, hope * direct):
        assert torch.equal(free, limited)
    if direct > left:
        assert torch.equal(free, limited) or not torch.equal(limited, goal), "straight ahead is certainly too late"


def test_the_time_that_is_left_is_each_episodes_own(plane_model: Maker) -> None:
    configurator = Configurator(around(plane_model()), ConfiguratorOptions(mode="auto"))
    z, goal = at((0, 0), (0, 0)), at((10, 0), (10, 0))
    _, course = configurator.aim(z, goal, None, torch.tensor([40, 100]))
    assert course.mode.tolist() == [EXPLORE, MEMORY]


@pytest.mark.parametrize(("mode", "nearest", "farthest"), [("auto", 10, 10), ("memory", 3, 6), ("explore", 0, 2)])
def test_each_mode_can_be_forced(plane_model: Maker, mode: str, nearest: float, farthest: float) -> None:
    """Too little time is left for the known way: left to itself it heads straight for the goal, at 10.

    `memory` goes along landmarks all the same, and `explore` to the one next to it, beyond which nobody looked.
    """
    configurator = Configurator(around(plane_model()), ConfiguratorOptions(mode=mode))
    targets, _ = configurator.aim(at((0, 0)), at((10, 0)), None, torch.tensor([40]))
    assert nearest <= float(targets.abs().sum()) <= farthest


# -- the course --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("aside", "mode"), [(4, MEMORY), (14, EXPLORE)])
def test_a_way_that_was_walked_is_worth_more_than_a_hope(plane_model: Maker, aside: int, mode: int) -> None:
    up = np.stack([np.zeros(aside), np.arange(float(aside))], axis=-1)
    along = np.stack([np.arange(21.0), np.full(21, float(aside))], axis=-1)
    path = np.concatenate([up, along, up[::-1] + np.array([20.0, 0.0])])
    graph = LandmarkGraph(plane_model(), GraphOptions(spacing=2.0, reach=REACH, believe=3.0, hope=1.2))
    walked = torch.as_tensor(path, dtype=torch.float32)
    graph.add(walked, walked, 0, np.arange(len(walked)))
    configurator = Configurator(graph, ConfiguratorOptions(mode="auto"), learns=True)
    z, goal = at((0, 0)), at((20, 0))
    _, course = configurator.aim(z, goal, None)
    _, course = configurator.aim(z, goal, configurator.notice(z, at((0, 0)), z, z, course))
    assert course.mode.tolist() == [mode]


def test_exploring_leaves_nothing_out_and_then_heads_for_the_goal(plane_model: Maker) -> None:
    """A room of 12 by 12, whose walls nobody told of."""
    graph = LandmarkGraph(plane_model(), GraphOptions(spacing=3.0, reach=REACH, believe=4.0, hope=2.0))
    options = ConfiguratorOptions(mode="explore", patience=3, progress=0.3)
    configurator, course, z, goal = Configurator(graph, options, learns=True), None, at((0, 0)), at((1, 1))
    modes = set()
    for _ in range(400):
        targets, course = configurator.aim(z, goal, course)
        modes.add(int(course.mode[0]))
        step = (targets - z).clamp(-1, 1)
        before, z = z, (z + step).clamp(-6, 6)
        course = configurator.notice(before, step, z, z, course)
        if not graph.unknown.any():
            break
    assert not graph.unknown.any()
    assert EXPLORE in modes
    axis = torch.linspace(-5, 5, 6)
    places = torch.cartesian_prod(axis, axis)
    found = graph.latents[torch.from_numpy(~graph.imagined)]
    assert float(torch.cdist(places, found, p=1).amin(dim=1).max()) <= 4
    for _ in range(30):
        targets, course = configurator.aim(z, goal, course)
        z = z + (targets - z).clamp(-1, 1)
    assert float((goal - z).abs().sum()) < 0.5


def run(configurator: Configurator, z: torch.Tensor, goal: torch.Tensor, steps: int) -> tuple[torch.Tensor, Course]:
    course: Course | None = None
    for _ in range(steps):
        targets, course = configurator.aim(z, goal, course)
        z = z + (targets - z).clamp(-1, 1)
    assert course is not None
    return z, course


def test_episodes_of_a_batch_do_not_know_of_each_other(configurator: Configurator) -> None:
    z, goal = at((0, 0), (30, 0), (3, 1)), at((30, 0), (2, 0), (4, 0))
    together, course = run(configurator, z, goal, 9)
    for row in range(3):
        alone, own = run(configurator, z[row : row + 1], goal[row : row + 1], 9)
        assert torch.equal(alone[0], together[row])
        for name in ("value", "successor", "mode", "least", "spent"):
            assert torch.equal(getattr(own, name)[0], getattr(course, name)[row]), name


def test_what_is_learned_belongs_to_the_episode_it_was_learned_in(configurator: Configurator) -> None:
    configurator.learns, configurator.episode = True, 100
    z, goal = at((0, 0), (3, 1), (9, 40)), at((30, 0), (4, 0), (9, 90))
    _, course = configurator.aim(z, goal, None)
    kept = select(Carry(planner=None, course=course), torch.tensor([2])).course
    far = at((9, 60))
    configurator.notice(far - 1, at((1, 1)), far, far, kept)
    assert configurator.graph.moments[-1].tolist() == [102, 1]


def test_episodes_can_be_taken_out_of_a_batch_and_exchanged(configurator: Configurator) -> None:
    z, goal = at((0, 0), (30, 0), (3, 1)), at((30, 0), (2, 0), (4, 0))
    there, course = run(configurator, z, goal, 5)
    rows = torch.tensor([2, 0])
    kept = select(Carry(planner=None, course=course), rows).course
    assert kept is not None
    assert kept.version == course.version
    assert torch.equal(kept.goal, goal[rows])
    assert torch.equal(kept.value, course.value[rows])
    targets, _ = configurator.aim(there, goal, course)
    fewer, _ = configurator.aim(there[rows], goal[rows], kept)
    assert torch.equal(fewer, targets[rows])
    _, other = run(configurator, z, goal.flip(0), 5)
    mixed = merge(torch.tensor([True, False, False]), other, course)
    assert torch.equal(mixed.goal, torch.stack([goal[2], goal[1], goal[2]]))


def test_another_goal_finds_another_way_and_leaves_the_others_alone(configurator: Configurator) -> None:
    z, goal = at((15, 0), (15, 0)), at((30, 0), (30, 0))
    _, course = configurator.aim(z, goal, None)
    changed = at((0, 0), (30, 0))
    targets, after = configurator.aim(z, changed, course)
    assert targets[0, 0] < 15 < targets[1, 0]
    assert torch.equal(after.value[1], course.value[1])
    fresh, _ = configurator.aim(z, changed, None)
    assert torch.equal(targets, fresh)


def test_what_is_avoided_is_avoided_for_a_time_whatever_others_do(configurator: Configurator) -> None:
    z, goal = at((15, 0), (15, 0)), at((30, 0), (30, 0))
    _, course = configurator.aim(z, goal, None)
    course.avoided[0, 0] = 3
    left = []
    for place in (1.0, 2.0, 3.0, 4.0):
        _, course = configurator.aim(z, at((30, 0), (place, 0)), course)
        left.append(float(course.avoided[0, 0]))
    assert left == [2, 1, 0, 0]


# -- in an agent -------------------------------------------------------------------------------------------------------


def acting(model: WorldModel, configurator: Configurator | None) -> Agent:
    low, high = torch.tensor(model.spec.action_low), torch.tensor(model.spec.action_high)
    planner = make_planner("icem", low, high, horizon=3, num_samples=8, num_elites=2, iterations=1)
    generator = torch.Generator().manual_seed(0)
    options = AgentOptions(plan_dtype="float32")
    return Agent(model, planner, GoalObjective(GoalOptions()), options, generator, configurator)


def test_an_agent_without_a_configurator_plans_for_the_goal_itself(plane_model: Maker) -> None:
    model = plane_model()
    goal = at((30, 0))
    agent = acting(model, None)
    _, carry, plan = agent.act({"position": np.zeros((1, 2), np.float32)}, agent.init(1), goal)
    assert carry.course is None
    assert plan is not None


def test_an_agent_plans_for_what_the_configurator_chose(configurator: Configurator) -> None:
    """The cost of a plan is that of the landmark, which is nearer than the goal."""
    model, obs = configurator.graph.model, {"position": np.zeros((1, 2), np.float32)}
    costs = []
    for chooser in (None, configurator):
        agent = acting(model, chooser)
        _, carry, plan = agent.act(obs, agent.init(1), at((30, 0)))
        assert plan is not None
        costs.append(float(plan.cost))
    assert carry.course is not None
    assert costs[1] < costs[0] - 3 * 20  # at each of three steps


def test_landmarks_are_named_by_when_they_were_seen(plane_model: Maker) -> None:
    model = plane_model()
    configurator = Configurator(lived(model, LINE[:1] - 9), ConfiguratorOptions(mode="auto"), learns=True)
    configurator.episode = 1
    agent = acting(model, configurator)
    carry, seen = agent.init(1), [[[3.0 * t, 0.0]] for t in range(6)]
    for position in seen:
        _, carry, _ = agent.act({"position": np.array(position, np.float32)}, carry, at((3, 3)))
    graph = configurator.graph
    mine = graph.moments[:, 0] == 1
    for (_, step), z in zip(graph.moments[mine].tolist(), graph.latents[torch.from_numpy(mine)].tolist(), strict=True):
        assert [z] == seen[step]


def test_what_is_noticed_takes_no_gradients(plane_model: Maker) -> None:
    options = WorldModelOptions(latent_dim=2, hidden_dim=8, ensemble_size=1, distance="quasimetric")
    model = WorldModel(plane_model().spec, options).eval()
    graph = LandmarkGraph(model, GraphOptions(spacing=1e-6, reach=1.0))
    agent = acting(model, Configurator(graph, ConfiguratorOptions(mode="auto"), learns=True))
    carry, goal = agent.init(1), agent.embed_goal({"position": np.ones((1, 2), np.float32)})
    for t in range(3):
        _, carry, _ = agent.act({"position": np.full((1, 2), 0.3 * t, np.float32)}, carry, goal)
    assert len(graph)
    assert [x.requires_grad for x in (graph.latents, graph.goals, graph.targets)] == [False] * 3
