"""The walking ant: that four legs are four times the same, and that its reward is what it says."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("ogbench")

from gymnasium.utils.env_checker import check_env

from forethought.envs.registry import make_env
from forethought.envs.simulator import find_physics
from forethought.envs.spec import EnvError, EnvOptions, ShiftOptions
from forethought.envs.tasks.walk import AntHeading, AntWalk

ANKLES = np.array([1, -1, -1, 1])


@pytest.fixture
def walk():
    env = AntWalk()
    yield env
    env.close()


def turned(quarters, joints):
    """Joints `[8]` of an ant whose legs are counted from another one on."""
    legs, moved = joints.reshape(4, 2), np.empty((4, 2))
    for leg in range(4):
        to = (leg + quarters) % 4
        moved[to] = legs[leg] * (1, ANKLES[leg] * ANKLES[to])
    return moved.ravel()


def about_z(angle):
    return np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])


def same_ant(qpos, qvel, quarters):
    """The state that looks the same, with its legs counted from another one on."""
    qpos, qvel, half = qpos.copy(), qvel.copy(), -quarters * math.pi / 4
    (w, x, y, z), c, s = qpos[3:7], math.cos(half), math.sin(half)
    qpos[3:7] = w * c - z * s, x * c + y * s, y * c - x * s, w * s + z * c
    qpos[7:], qvel[6:] = turned(quarters, qpos[7:]), turned(quarters, qvel[6:])
    qvel[3:6] = about_z(quarters * math.pi / 2) @ qvel[3:6]
    return qpos, qvel


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_legs_can_change_places_in_the_simulator(walk, quarters):
    rng = np.random.default_rng(0)
    ant, command, actions = walk.ant_env, np.array([0.3, 1.0]), rng.uniform(-1, 1, (10, 8))
    ant.reset(seed=3)
    for action in actions[:5]:
        ant.step(action)
    state = ant.data.qpos.copy(), ant.data.qvel.copy()
    seen = []
    for turn in (0, quarters):
        ant.set_state(*same_ant(*state, turn))
        heading = AntHeading()
        views = [heading.perceive(ant._get_obs(), command)]
        for action in actions[5:]:
            ant.step(heading.actuate(action))
            views.append(heading.perceive(ant._get_obs(), command))
        seen.append(views)
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-5)
    assert np.abs(np.diff(seen[0], axis=0)).max() > 0.1  # it moved


@given(angle=st.floats(-math.pi, math.pi), way=st.floats(-math.pi, math.pi), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_the_world_may_be_turned(angle, way, seed):
    """Turning the ant and what it is told together changes nothing of what it sees, and it never faces far off."""
    rng = np.random.default_rng(seed)
    body = rng.normal(size=27)
    body[1:5] = math.cos(angle / 2), 0, 0, math.sin(angle / 2)
    half = way / 2
    other = body.copy()
    other[1:5] = math.cos(half + angle / 2), 0, 0, math.sin(half + angle / 2)
    other[13:16] = about_z(way) @ body[13:16]
    first, second = AntHeading(), AntHeading()
    view = first.perceive(body, np.array([1.0, 0.0]))
    assert view[1] >= math.cos(math.pi / 4) - 1e-6  # the front's direction along the way
    if view[1] > math.cos(math.pi / 4) + 1e-4:  # at the border either side may be the front
        turned_view = second.perceive(other, np.array([math.cos(way), math.sin(way)]))
        np.testing.assert_allclose(turned_view, view, atol=1e-4)


def test_only_the_body_is_seen():
    body = np.random.default_rng(0).normal(size=27)
    heading, command = AntHeading(), np.array([1.0, 0.5])
    view = heading.perceive(body, command)
    np.testing.assert_array_equal(heading.perceive(np.concatenate([[7.0, -3.0], body]), command), view)
    with pytest.raises(EnvError, match="must have 27 or 29 numbers, got"):
        heading.perceive(np.zeros(42), command)  # an ant with a ball


def test_the_front_stays_until_another_command():
    heading, body = AntHeading(), np.zeros(27)

    def look(degrees, command):
        half = math.radians(degrees) / 2
        body[1:5] = math.cos(half), 0, 0, math.sin(half)
        return heading.perceive(body, np.array(command))[1]

    assert look(0, [1.0, 0.0]) == pytest.approx(1)
    assert look(80, [1.0, 0.0]) == pytest.approx(math.cos(math.radians(80)))  # has turned since
    assert look(80, [2.0, 0.0]) == pytest.approx(math.cos(math.radians(-10)))  # the same way, another front
    heading.reset()
    assert look(10, [2.0, 0.0]) == pytest.approx(math.cos(math.radians(10)))


@pytest.mark.filterwarnings("ignore:.*infinity.*")
def test_gymnasium_contract(walk):
    check_env(walk, skip_render_check=True)


def test_the_reward_is_the_speed_along_the_way_and_ways_change(walk):
    walk.reset(seed=0)
    rng, commands = np.random.default_rng(0), []
    for _ in range(100):
        before, command = walk.ant_env.data.qpos[:2].copy(), walk._command.copy()
        commands.append(tuple(command))
        _, reward, *ended, _ = walk.step(rng.uniform(-1, 1, 8))
        assert reward == pytest.approx(float((walk.ant_env.data.qpos[:2] - before) @ command) / 0.1)
        assert not any(ended)
    assert [commands.count(c) for c in dict.fromkeys(commands)] == [40, 40, 20]


def test_on_its_back_the_episode_ends(walk):
    walk.reset(seed=0)
    qpos, qvel = walk.ant_env.data.qpos.copy(), walk.ant_env.data.qvel.copy()
    qpos[3:7] = 0, 1, 0, 0
    walk.ant_env.set_state(qpos, qvel)
    assert walk.step(np.zeros(8))[2]


def test_options_are_checked():
    with pytest.raises(EnvError, match="hold must be at least 1, got 0"):
        AntWalk(hold=0)


def test_it_can_be_drawn_and_its_physics_shifted():
    env = make_env("forethought/AntWalk-v0", EnvOptions(shift=ShiftOptions(mass=1.5)))
    env.reset(seed=0)
    heavy = env.unwrapped.ant_env.model.body_mass.sum()
    plain = make_env("forethought/AntWalk-v0")
    assert heavy == pytest.approx(1.5 * plain.unwrapped.ant_env.model.body_mass.sum())
    assert find_physics(plain) is not None  # so whoever draws it finds out how first
    env.close()
    plain.close()
