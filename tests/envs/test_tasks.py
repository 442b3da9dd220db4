"""Contract of the own goal tasks, and the physics and geometry that each of them claims."""

import subprocess
import sys

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.envs.spec import EnvError, EnvOptions
from forethought.envs.tasks import TASK_IDS
from forethought.envs.tasks.base import MujocoGoalTask
from forethought.envs.tasks.cartpole import Cartpole
from forethought.envs.tasks.maze import LAYOUTS, Maze, Rooms, shortest_ways
from forethought.envs.tasks.pointmass import PointMass
from forethought.envs.tasks.push import Push
from forethought.envs.tasks.reacher import Reacher
from forethought.envs.vector import make_vector

TASKS: dict[str, type[MujocoGoalTask]] = {
    "forethought/Reacher-v0": Reacher,
    "forethought/PointMass-v0": PointMass,
    "forethought/Cartpole-v0": Cartpole,
    "forethought/Push-v0": Push,
    "forethought/Rooms-v0": Rooms,
    "forethought/Maze-v0": Maze,
}
CACHE: dict[str, MujocoGoalTask] = {}


@pytest.fixture(params=TASK_IDS)
def task(request):
    return TASKS[request.param]()


def states(task, shape, rng):
    return rng.uniform(-3, 3, (*shape, task.model.nq)), rng.uniform(-3, 3, (*shape, task.model.nv))


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def put(task, qpos, qvel):
    task.data.qpos[:], task.data.qvel[:] = qpos, qvel


def placed(kind, qpos, qvel):
    task = kind()
    task.reset(seed=0)
    put(task, qpos, qvel)
    return task


def test_importing_the_package_only_registers():
    code = "import sys, forethought.envs.tasks; print('mujoco' in sys.modules, 'dm_control' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("env_id", "dt", "decisions"),
    [
        ("forethought/Reacher-v0", 0.08, 50),
        ("forethought/PointMass-v0", 0.2, 50),
        ("forethought/Cartpole-v0", 0.04, 250),
        ("forethought/Push-v0", 0.1, 100),
        ("forethought/Rooms-v0", 0.2, 100),
        ("forethought/Maze-v0", 0.2, 400),
    ],
)
def test_timing(env_id, dt, decisions):
    env = gymnasium.make(env_id)
    assert env.unwrapped.dt == pytest.approx(dt)
    assert env.metadata["render_fps"] == pytest.approx(1 / dt)
    env.reset(seed=0)
    truncated = [env.step(env.action_space.sample())[3] for _ in range(decisions)]
    assert truncated == [False] * (decisions - 1) + [True]


@pytest.mark.filterwarnings("ignore:.*infinity.*")
def test_gymnasium_contract(task):
    check_env(task, skip_render_check=True)


def test_an_episode_follows_from_its_seed(task):
    actions = [task.action_space.sample() for _ in range(5)]

    def play(env, seed):
        obs, info = env.reset(seed=seed)
        return [obs, info["goal"], *(env.step(action)[0] for action in actions)]

    first, again = play(task, 7), play(type(task)(), 7)
    for a, b in zip(first, again, strict=True):
        assert_same(a, b)
    other = play(task, 8)
    assert any((first[0][key] != other[0][key]).any() for key in first[0])
    assert any((first[1][key] != other[1][key]).any() for key in first[1])


def test_sample_episode_is_what_reset_plays(task):
    for seed in range(5):
        start, goal = task.sample_episode(seed)
        obs, info = task.reset(seed=seed)
        assert_same(obs, task.observe(*start))
        assert_same(info["goal"], task.observe(*goal))


def test_a_goal_can_be_set(task):
    task.reset(seed=0)
    start = task.here()
    before = task.observe(*start)
    for _ in range(5):
        task.step(task.action_space.high)
    there = task.here()
    assert_same(task.observe(*start), before)  # a copy
    assert task.aim(start)["success"] is bool(task.reached(task.observe(*there), task.observe(*start)))
    assert_same(task.step(task.action_space.low)[4]["goal"], task.observe(*start))
    still = task.sample_episode(1)[1]
    put(task, *still)
    info = task.aim(still)
    assert info["success"]  # reached, though not yet held
    assert_same(info["goal"], task.observe(*still))
    assert_same(task.observe(*task.here()), task.observe(*still))


def test_a_reset_without_seed_goes_on_with_the_generator(task):
    task.reset(seed=3)
    second, _ = task.reset()
    other = type(task)()
    other.reset(seed=3)
    assert_same(second, other.reset()[0])


def test_a_reset_forgets_the_last_episode(task, monkeypatch):
    monkeypatch.setattr(type(task), "hold_steps", 2)
    fresh = type(task)()
    fresh.reset(seed=1)
    task.reset(seed=0)
    put(task, *task.sample_episode(0)[1])
    task.step(np.zeros(task.action_space.shape, np.float32))
    task.reset(seed=1)
    for field in ("time", "qpos", "qvel", "ctrl", "qacc_warmstart"):
        np.testing.assert_array_equal(getattr(task.data, field), getattr(fresh.data, field))
    put(task, *task.sample_episode(1)[1])
    assert task.step(np.zeros(task.action_space.shape, np.float32))[4]["success"] is False


@given(seed=st.integers(0, 2**32), shape=st.lists(st.integers(1, 4), min_size=1, max_size=3))
@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("env_id", TASK_IDS)
def test_batched_functions_agree_with_single_ones(env_id, seed, shape):
    task = CACHE.setdefault(env_id, TASKS[env_id]())
    rng = np.random.default_rng(seed)
    (qpos, qvel), goal_state = states(task, shape, rng), states(task, shape, rng)
    obs, goal = task.observe(qpos, qvel), task.observe(*goal_state)
    reached, distance = task.reached(obs, goal), task.distance(obs, goal)
    assert reached.shape == distance.shape == tuple(shape)
    for index in np.ndindex(*shape):
        single, aim = task.observe(qpos[index], qvel[index]), task.observe(goal_state[0][index], goal_state[1][index])
        assert_same(single, {key: value[index] for key, value in obs.items()})
        assert task.reached(single, aim) == reached[index]
        assert task.distance(single, aim) == pytest.approx(distance[index], rel=1e-12)


def test_observations_are_float32_copies(task):
    obs, _ = task.reset(seed=0)
    before = {key: value.copy() for key, value in obs.items()}
    task.step(task.action_space.high)
    assert_same(obs, before)
    assert {value.dtype for value in obs.values()} == {np.dtype(np.float32)}


def test_goals_are_reached_at_the_goal_and_not_at_the_start(task):
    for seed in range(50):
        start, goal = task.sample_episode(seed)
        goal_obs = task.observe(*goal)
        assert task.reached(goal_obs, goal_obs)
        assert not task.reached(task.observe(*start), goal_obs)
        assert task.distance(goal_obs, goal_obs) == pytest.approx(0, abs=1e-5)
        assert task.distance(task.observe(*start), goal_obs) > 0.01


def test_goals_lie_within_the_joint_limits(task):
    limited = task.model.jnt_limited.astype(bool)
    low, high = task.model.jnt_range[limited].T
    for seed in range(50):
        for qpos, _ in task.sample_episode(seed):
            assert (qpos[limited] >= low).all()
            assert (qpos[limited] <= high).all()


def test_success_must_be_held(task):
    _, info = task.reset(seed=0)
    goal = task.sample_episode(0)[1]
    assert info["success"] is False
    for decision in range(1, task.hold_steps + 1):
        put(task, *goal)
        _, reward, terminated, truncated, info = task.step(np.zeros(task.action_space.shape, np.float32))
        assert info["success"] is (decision >= task.hold_steps)
        assert reward == (0.0 if info["success"] else -1.0)
        assert not terminated
        assert not truncated
    put(task, *task.sample_episode(0)[0])
    _, reward, _, _, info = task.step(np.zeros(task.action_space.shape, np.float32))
    assert (info["success"], reward) == (False, -1.0)
    put(task, *goal)
    _, _, _, _, info = task.step(np.zeros(task.action_space.shape, np.float32))
    assert info["success"] is (task.hold_steps == 1)  # the count began anew


def test_another_goal_comes_without_a_reset(task):
    _, info = task.reset(seed=0)
    action = np.full(task.action_space.shape, 0.3, np.float32)
    for _ in range(5):
        obs, *_ = task.step(action)
    state = task.data.qpos.copy(), task.data.qvel.copy()
    goal = task.change_goal(7)
    assert any((goal[key] != info["goal"][key]).any() for key in goal)
    assert_same(goal, task.observe(*task.sample_next_goal(7, state)))
    assert not task.reached(obs, goal)
    np.testing.assert_array_equal(task.data.qpos, state[0])  # nothing else has happened
    np.testing.assert_array_equal(task.data.qvel, state[1])
    assert_same(task.step(action)[4]["goal"], goal)
    assert any((task.change_goal(8)[key] != goal[key]).any() for key in goal)


def test_another_goal_is_not_reached_where_it_is_given(task):
    for seed in range(20):
        task.reset(seed=seed)
        put(task, *task.sample_next_goal(seed, (task.data.qpos.copy(), task.data.qvel.copy())))
        goal = task.change_goal(seed)
        assert not task.reached(task.observe(task.data.qpos, task.data.qvel), goal)


def test_another_goal_must_be_held_anew(task, monkeypatch):
    task.reset(seed=0)
    monkeypatch.setattr(task, "reached", lambda obs, goal: np.True_)
    action = np.zeros(task.action_space.shape, np.float32)
    assert [task.step(action)[4]["success"] for _ in range(task.hold_steps)][-1]
    monkeypatch.undo()
    task.change_goal(1)
    monkeypatch.setattr(task, "reached", lambda obs, goal: np.True_)
    assert task.step(action)[4]["success"] is (task.hold_steps == 1)


def test_no_other_goal_before_the_first_reset(task):
    with pytest.raises(EnvError, match="no goal before its first reset"):
        task.change_goal(0)


def test_the_goal_in_info_is_the_callers_own(task):
    _, info = task.reset(seed=0)
    kept = {key: value.copy() for key, value in info["goal"].items()}
    for value in info["goal"].values():
        value[:] = 99
    assert_same(task.step(np.zeros(task.action_space.shape, np.float32))[4]["goal"], kept)


def test_unknown_render_mode(task):
    with pytest.raises(EnvError, match="render_mode must be one of"):
        type(task)(render_mode="human")


def test_no_step_before_the_first_reset(task):
    with pytest.raises(EnvError, match="must be reset before its first step"):
        task.step(np.zeros(task.action_space.shape, np.float32))


def test_no_goal_to_draw_before_the_first_reset(task):
    with pytest.raises(EnvError, match="no goal before its first reset"):
        task.render_goal_pixels(32)


def test_render_without_a_mode_is_none(task):
    task.reset(seed=0)
    assert task.render() is None


def test_reacher_fingertip_is_where_mujoco_says():
    task = Reacher()
    for seed in range(10):
        qpos, qvel = task.sample_episode(seed)[0]
        task.data.qpos[:] = qpos
        mujoco.mj_kinematics(task.model, task.data)
        tip = task.observe(qpos, qvel)["position"][4:]
        np.testing.assert_allclose(tip, task.data.geom("finger").xpos[:2], atol=1e-6)


def test_reacher_has_no_target_of_its_own():
    task = Reacher()
    assert "target" not in [task.model.geom(index).name for index in range(task.model.ngeom)]


@pytest.mark.parametrize(("speed", "success"), [(0.9, True), (1.1, False)])
def test_reacher_must_be_slow(speed, success):
    task = Reacher()
    qpos, _ = task.sample_episode(0)[1]
    assert task.reached(task.observe(qpos, np.array([0.0, speed])), task.observe(qpos, np.zeros(2))) == success


@pytest.mark.parametrize(
    ("x", "angle", "speed", "spin", "success"),
    [
        (0.0, 0.0, 0.0, 0.0, True),
        (0.24, 0.19, 0.49, 0.49, True),
        (-0.24, 2 * np.pi - 0.19, -0.49, -0.49, True),
        (0.26, 0.0, 0.0, 0.0, False),
        (0.0, 0.21, 0.0, 0.0, False),
        (0.0, np.pi, 0.0, 0.0, False),
        (0.0, 0.0, 0.51, 0.0, False),
        (0.0, 0.0, 0.0, 0.51, False),
    ],
)
def test_cartpole_tolerances(x, angle, speed, spin, success):
    task = Cartpole()
    goal = task.observe(np.array([0.3, 0.0]), np.zeros(2))
    assert task.reached(task.observe(np.array([0.3 + x, angle]), np.array([speed, spin])), goal) == success


def test_cartpole_hangs_at_the_start_and_stands_at_the_goal():
    task = Cartpole()
    for seed in range(10):
        (start, _), (goal, _) = task.sample_episode(seed)
        assert task.observe(start, np.zeros(2))["position"][1] < -0.99
        assert goal[1] == 0
    task = placed(Cartpole, [0.0, np.pi], [0.0, 0.0])
    task.step(np.zeros(1, np.float32))
    assert abs(task.data.qvel[1]) < 1e-6  # hanging is an equilibrium


def test_push_puck_stops_when_it_is_not_pushed():
    task = placed(Push, [0.0, 0.0, 0.0, -0.3, 0.0], [0.2, 0.1, 1.0, 0.0, 0.0])
    for _ in range(10):
        task.step(np.zeros(2, np.float32))
    assert np.abs(task.data.qvel).max() < 1e-3
    assert 0.001 < task.data.qpos[0] < 0.1


def test_push_pusher_follows_its_velocity_command():
    task = placed(Push, [0.2, 0.2, 0.0, -0.3, -0.3], np.zeros(5))
    for _ in range(5):
        task.step(np.array([0.4, 0.1], np.float32))
    np.testing.assert_allclose(task.data.qvel[3:], [0.4, 0.1], atol=0.02)


@pytest.mark.parametrize(("offset", "turns"), [(0.0, 0), (0.04, -1), (-0.04, 1)])
def test_push_off_centre_turns_the_puck(offset, turns):
    task = placed(Push, [0.0, 0.0, 0.0, -0.1, offset], np.zeros(5))
    for _ in range(4):
        task.step(np.array([0.3, 0.0], np.float32))
    assert task.data.qpos[0] > 0.03
    yaw = task.data.qpos[2]
    assert (abs(yaw) < 1e-6) if turns == 0 else (np.sign(yaw) == turns and abs(yaw) > 0.02)


def test_push_goal_has_the_pusher_behind_the_puck():
    task = Push()
    for seed in range(20):
        (start, _), (goal, _) = task.sample_episode(seed)
        assert np.linalg.norm(start[3:] - start[:2]) >= task.CONTACT + task.CLEARANCE
        way = goal[:2] - start[:2]
        assert np.linalg.norm(way) >= task.MIN_PUSH
        behind = (goal[3:] - goal[:2]) / task.CONTACT
        np.testing.assert_allclose(behind, -way / np.linalg.norm(way), atol=1e-9)


def test_push_touches_at_the_contact_distance():
    task = Push()
    for gap, contacts in ((0.001, 0), (-0.001, 1)):
        put(task, [0, 0, 0, task.CONTACT + gap, 0], np.zeros(5))
        mujoco.mj_forward(task.model, task.data)
        assert task.data.ncon == contacts


def test_push_puck_can_be_fetched_from_every_edge():
    """A puck at the end of its range leaves room for the pusher behind it."""
    task = Push()
    puck = task.model.joint("puck_x").range[1]
    assert task.model.joint("pusher_x").range[1] >= puck + task.CONTACT


def steer(obs, goal):
    """Around the puck to the far side of it as seen from the goal, then straight on."""
    puck, pusher = obs["puck"][:, :2], obs["pusher"]
    way = goal["puck"][:, :2] - puck
    way /= np.linalg.norm(way, axis=-1, keepdims=True) + 1e-9
    arm = pusher - puck
    radius = np.linalg.norm(arm, axis=-1, keepdims=True)
    arm = arm / radius
    behind = (arm * -way).sum(-1, keepdims=True)  # cosine: 1 where the pusher is right behind
    side = np.stack([-arm[:, 1], arm[:, 0]], -1)
    side *= np.where((side * -way).sum(-1, keepdims=True) >= 0, 1.0, -1.0)
    circle = 0.4 * side + 4.0 * (0.12 - radius) * arm
    onto = 0.2 * way + 3.0 * ((puck - 0.09 * way) - pusher)
    return np.clip(np.where(behind > 0.93, onto, circle), -0.5, 0.5)


def test_push_is_solved_by_a_scripted_policy():
    env = make_vector("forethought/Push-v0", 100)
    obs, goal = env.reset(range(100))
    solved = np.zeros(100, bool)
    for _ in range(env.env_spec.max_episode_steps):
        step = env.step(steer(obs, goal))
        obs, solved = step.obs, solved | step.success
    assert solved.mean() >= 0.95


def test_ways_round_a_wall_cut_no_corner():
    walls = np.array([[cell == "#" for cell in row] for row in ("#####", "#.#.#", "#...#", "#####")])
    ways, steps = shortest_ways(walls)
    left, right = 0, 1  # the two cells of the upper row, then the lower row from left to right
    assert ways[left, right] == pytest.approx(4.0)
    assert steps[left, right] == 2
    assert (ways == ways.T).all()
    assert (np.diag(ways) == 0).all()


def test_a_maze_in_two_pieces_has_no_way_between_them():
    ways, _ = shortest_ways(np.array([[True, True, True], [False, True, False], [True, True, True]]))
    assert np.isinf(ways[0, 1])


def test_rooms_are_joined_by_their_door_alone():
    task = Rooms()
    task.reset(seed=0)
    put(task, np.array([-0.3, 0.1]), np.zeros(2))
    for _ in range(30):
        obs = task.step(np.array([1.0, 0.0], np.float32))[0]
    assert obs["position"][0] < 0
    put(task, np.array([-0.3, -0.4]), np.zeros(2))
    for _ in range(30):
        obs = task.step(np.array([1.0, 0.0], np.float32))[0]
    assert obs["position"][0] > 0.5


def test_rooms_lead_round_the_wall():
    task = Rooms()
    here, there = (task.observe(np.array([x, 0.3]), np.zeros(2)) for x in (-0.3, 0.3))
    assert task.distance(here, there) > 1.5
    for seed in range(50):
        start, goal = task.sample_episode(seed)
        assert task.ways[task.cell_of(start[0]), task.cell_of(goal[0])] >= task.least_cells


@pytest.mark.parametrize("layout", LAYOUTS)
def test_goals_of_a_maze_are_far_and_can_be_reached(layout):
    task = Maze(layout=layout)
    for seed in range(20):
        start, goal = (task.cell_of(state[0]) for state in task.sample_episode(seed))
        assert task.least_cells <= task.ways[start, goal] < np.inf


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("lrage", "layout must be one of open, rooms, .*, or three or more rows of one length.*got 'lrage'"),
        ("#####/#   #", "three or more rows"),
        ("#####/#  #/#####", "rows of one length"),
        ("##/##/##", "rows of one length"),
        ("#####/#    /#####", "walls .#. all round"),
        ("## ##/#   #/#####", "walls .#. all round"),
        ("#####/## ##/#####", "two free cells or more"),
        ("#####/#   #/#####", "layout must have a goal 4 cells or more by some way from a start"),
        ("##########/#   ##   #/##########", "by some way from a start"),
        ("#########/#     SG#/#########", "by some way from a start"),
    ],
)
def test_a_layout_that_is_no_maze_is_refused(layout, message):
    with pytest.raises(EnvError, match=message):
        Maze(layout=layout)


def test_no_goal_lies_where_no_way_leads():
    task = Maze(layout="#######/#     #/#######/#     #/#######")
    pairs = [[int(task.cell_of(state[0])) // 5 for state in task.sample_episode(seed)] for seed in range(40)]
    assert {tuple(pair) for pair in pairs} == {(0, 0), (1, 1)}


def test_another_goal_may_be_near_where_none_is_far():
    task = Maze(layout="#########/#S     G#/#########")
    task.reset(seed=0)
    put(task, task.centres[5], np.zeros(2))
    assert task.cell_of(task.change_goal(0)["position"]) == 6


def test_marks_say_where_episodes_start_and_end():
    task = Maze(layout="#########/#S     G#/#   #  G#/#S     .#/#########")
    marks = {"S": set(), "G": set()}
    for seed in range(60):
        start, goal = task.sample_episode(seed)
        marks["S"].add(int(task.cell_of(start[0])))
        marks["G"].add(int(task.cell_of(goal[0])))
    assert marks == {"S": {0, 13}, "G": {6, 12}}
    assert not task.walls[3, 7]  # any other letter is free, and no mark


def test_a_mark_may_stand_alone():
    task = Maze(layout="#########/#S      #/#########")
    starts = {int(task.cell_of(task.sample_episode(seed)[0][0])) for seed in range(20)}
    goals = {int(task.cell_of(task.sample_episode(seed)[1][0])) for seed in range(40)}
    assert starts == {0}
    assert goals == {4, 5, 6}


@pytest.mark.parametrize("layout", ["medium", "open", "rooms"])
def test_a_ball_held_against_walls_stays_there(layout):
    """With contacts that have a friction of 0, instead of none, MuJoCo threw balls out of corners and through walls."""
    task, rng = Maze(layout=layout), np.random.default_rng(0)
    fastest, limit = task.frame_skip * 0.01 * 0.5 * np.sqrt(2), 0
    for seed in range(12):
        last = task.reset(seed=seed)[0]["position"]
        for step in range(200):
            if step % 10 == 0:
                action = rng.uniform(-1, 1, 2).astype(np.float32)
            position = task.step(action)[0]["position"]
            limit = max(limit, np.linalg.norm(position - last))
            gap = np.abs(position - task.centres[task.cell_of(position)]).max()
            assert gap < task.CELL / 2 + 0.01  # never inside of a wall
            last = position
    assert 0.9 * fastest < limit < 1.05 * fastest


def test_the_layout_of_a_maze_is_an_argument_of_its_environment():
    env = make_vector("forethought/Maze-v0", 1, EnvOptions(kwargs={"layout": "two_doors"}))
    starts = np.concatenate([env.reset([seed])[0]["position"] for seed in range(5)])
    np.testing.assert_allclose(starts, np.broadcast_to([-0.6, 0.6], (5, 2)), atol=0.05)
