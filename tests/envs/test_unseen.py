"""The tasks for a working memory: what is seen, for how long, and that memory and nothing else decides."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.envs.registry import make_env
from forethought.envs.spec import EnvError
from forethought.envs.tasks import REWARD_TASK_IDS
from forethought.envs.tasks.unseen import Cue, Screen
from forethought.envs.vector import SyncVector, make_vector

TASKS = {"forethought/Cue-v0": Cue, "forethought/Screen-v0": Screen}
CACHE = {}


@pytest.fixture(params=REWARD_TASK_IDS)
def task(request):
    return TASKS[request.param]()


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def play(task, seed, act, decisions):
    """Observations, rewards and successes of an episode; `act` sees the task."""
    obs, _ = task.reset(seed=seed)
    steps = [(obs, 0.0, False)]
    for _ in range(decisions):
        obs, reward, _, _, info = task.step(act(task))
        steps.append((obs, reward, info["success"]))
    return [list(column) for column in zip(*steps, strict=True)]


def still(task):
    return np.zeros(task.action_space.shape, np.float32)


# -- contract ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("env_id", "decisions"), [("forethought/Cue-v0", 18), ("forethought/Screen-v0", 12)])
def test_timing(env_id, decisions):
    env = gymnasium.make(env_id)
    assert env.unwrapped.dt == pytest.approx(0.2)
    env.reset(seed=0)
    truncated = [env.step(env.action_space.sample())[3] for _ in range(decisions)]
    assert truncated == [False] * (decisions - 1) + [True]


@pytest.mark.filterwarnings("ignore:.*infinity.*")
def test_gymnasium_contract(task):
    check_env(task, skip_render_check=True)


def test_there_is_no_goal(task):
    env = make_env(next(env_id for env_id, kind in TASKS.items() if kind is type(task)))
    assert env.env_spec.goal is None
    assert list(env.env_spec.obs) == sorted(env.env_spec.obs)


def test_an_episode_follows_from_its_seed(task):
    draws = [task.action_space.sample() for _ in range(10)]

    def episode(made, seed):
        actions = iter(draws)
        return play(made, seed, lambda _: next(actions), 10)

    one, same, other = episode(task, 3), episode(type(task)(), 3), episode(task, 4)
    for a, b in zip(one[0], same[0], strict=True):
        assert_same(a, b)
    assert one[1:] == same[1:]
    assert any((one[0][0][key] != other[0][0][key]).any() for key in one[0][0])


@given(seed=st.integers(0, 2**32), shape=st.lists(st.integers(1, 4), min_size=1, max_size=3))
@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("env_id", REWARD_TASK_IDS)
def test_batched_functions_agree_with_single_ones(env_id, seed, shape):
    task = CACHE.setdefault(env_id, TASKS[env_id]())
    rng = np.random.default_rng(seed)
    qpos, qvel = (rng.uniform(-1, 1, (*shape, n)) for n in (task.model.nq, task.model.nv))
    obs, reward, success = task.observe(qpos, qvel), task.reward(qpos, qvel), task.succeeded(qpos, qvel)
    assert reward.shape == success.shape == tuple(shape)
    for index in np.ndindex(*shape):
        state = qpos[index], qvel[index]
        assert_same(task.observe(*state), {key: value[index] for key, value in obs.items()})
        assert (task.reward(*state), task.succeeded(*state)) == (reward[index], success[index])


def test_rewards_are_between_nothing_and_one_and_best_is_success(task):
    rng = np.random.default_rng(0)
    qpos, qvel = rng.uniform(-0.6, 0.6, (5000, task.model.nq)), np.zeros((5000, task.model.nv))
    if isinstance(task, Screen):
        qpos[:, 0] = rng.uniform(Screen.EDGE, Screen.EDGE + 0.2, len(qpos))  # where success is judged, or just after
    reward, success = task.reward(qpos, qvel), task.succeeded(qpos, qvel)
    assert reward.min() == 0.0
    assert reward.max() <= 1.0
    assert 0 < success.sum() < 2500
    assert reward[success].min() > reward[~success].max()


def test_no_step_before_the_first_reset(task):
    with pytest.raises(EnvError, match="must be reset before its first step"):
        task.step(still(task))


def test_unknown_render_mode(task):
    with pytest.raises(EnvError, match="render_mode must be one of"):
        type(task)(render_mode="human")


def test_vectors_loop_over_them():
    env = make_vector("forethought/Cue-v0", 3)
    assert isinstance(env, SyncVector)
    assert env.reset([0, 1, 2])[1] is None
    with pytest.raises(EnvError, match="backend='mujoco' needs one of"):
        make_vector("forethought/Cue-v0", 3, backend="mujoco")


# -- cue ---------------------------------------------------------------------------------------------------------------


def test_the_flag_is_seen_at_first_and_the_ball_let_go_later():
    for seed in range(10):
        obs, *_ = play(Cue(), seed, lambda task: task.action_space.high, 18)
        seen = [bool(o["flag"].any()) for o in obs]
        assert seen == [True] * Cue.SHOWN + [False] * (19 - Cue.SHOWN)
        assert all((np.abs(o["flag"]) == 1).all() for o in obs[: Cue.SHOWN])
        released = Cue.SHOWN + Cue.DELAY
        assert [o["held"].item() for o in obs] == [1.0] * released + [0.0] * (19 - released)
        # until then nothing is done, so that where the ball is says nothing of the flag
        moved = [bool((o["position"] != obs[0]["position"]).any()) for o in obs]
        assert moved == [False] * (released + 1) + [True] * (18 - released)


def test_the_same_start_goes_with_every_corner():
    corners = [tuple(Cue().reset(seed=seed)[0]["flag"].tolist()) for seed in range(60)]
    assert len(set(corners)) == 4
    assert max(corners.count(corner) for corner in set(corners)) < 30


def drive_to(corner):
    return lambda task: np.clip(8 * (np.array(corner) - task.data.qpos[:2]), -1, 1).astype(np.float32)


def test_who_remembers_the_corner_gets_there():
    for seed in range(20):
        task = Cue()
        corner = Cue.CORNER * task.reset(seed=seed)[0]["flag"]
        _, rewards, successes = play(task, seed, drive_to(corner), 18)
        assert any(successes)
        assert rewards[-1] > 0.9


def test_there_is_no_time_for_a_second_corner():
    """From one corner to the nearest other one, as fast as the ball rolls."""
    task = Cue()
    for seed in range(20):
        right = Cue.CORNER * task.reset(seed=seed)[0]["flag"]
        wrong = right * np.array([-1, 1])

        def act(task, way=[wrong, right]):  # noqa: B006  (one list for each episode)
            if len(way) > 1 and np.linalg.norm(task.data.qpos[:2] - way[0]) < Cue.TOLERANCE:
                way.pop(0)
            return drive_to(way[0])(task)

        assert not any(play(task, seed, act, 18)[2])


# -- screen ------------------------------------------------------------------------------------------------------------


def test_the_ball_vanishes_and_comes_back():
    for seed in range(20):
        task = Screen()
        obs, *_ = play(task, seed, still, 12)
        visible = [bool(o["visible"].item()) for o in obs]
        hidden = visible.index(False)
        back = visible.index(True, hidden)
        assert (hidden, back) == (Screen.SEEN, Screen.SEEN + 6)
        assert all(visible[back:])
        assert all((o["ball"] == 0).all() for o in obs[hidden:back])
        ball = np.array([o["ball"] for o in obs], np.float64)
        way = np.diff(ball[[0, 1, 2, 3, back, back + 1]], axis=0) / np.diff([0, 1, 2, 3, back, back + 1])[:, None]
        np.testing.assert_allclose(way, np.broadcast_to(way[0], way.shape), atol=1e-6)  # straight, at constant speed


def test_where_it_comes_out_has_nothing_to_do_with_where_it_came_from():
    seen, left = [], []
    for seed in range(300):
        task = Screen()
        obs, _ = task.reset(seed=seed)
        seen.append(obs["ball"][1])
        x, y = task.data.qpos[:2]
        left.append(y + (Screen.EDGE - x) / Screen.SPEED * task.data.qvel[1])
    assert abs(np.corrcoef(seen, left)[0, 1]) < 0.15
    assert np.abs(left).max() <= Screen.EXTENT + 1e-9
    assert np.std(left) == pytest.approx(Screen.EXTENT / np.sqrt(3), rel=0.1)


def test_the_paddle_is_held_while_the_ball_is_seen():
    obs, *_ = play(Screen(), 0, lambda task: task.action_space.high, 12)
    assert len({o["paddle"].item() for o in obs[: Screen.SEEN + 1]}) == 1
    assert obs[Screen.SEEN + 2]["paddle"] > obs[Screen.SEEN]["paddle"]


def catch(task):
    """Go where the ball will come out, by its true place and speed."""
    (x, y, paddle), (_, speed, own) = task.data.qpos, task.data.qvel
    first = (Screen.EDGE - x) / Screen.SPEED
    later = np.ceil(max(first, 0) / task.dt - 1e-9) * task.dt  # when it is judged
    return np.array([np.clip(8 * (y + later * speed - paddle) - 2 * own, -1, 1)], np.float32)


def test_who_foresees_where_it_comes_out_catches_it():
    for seed in range(30):
        _, rewards, successes = play(Screen(), seed, catch, 12)
        assert successes.index(True) == Screen.SEEN + 6
        assert sum(successes) == 1  # judged once, when nothing can be done about it any more
        assert rewards[Screen.SEEN + 6] > 0.6
        assert rewards[: Screen.SEEN] == [0.0] * Screen.SEEN
        assert rewards[Screen.SEEN + 7 :] == [0.0] * 2


def test_who_stays_where_the_ball_was_last_seen_mostly_misses():
    def follow(task):
        x, y, paddle = task.data.qpos
        if x < -Screen.EDGE:
            task.last = y
        return np.array([np.clip(8 * (task.last - paddle), -1, 1)], np.float32)

    caught = sum(any(play(Screen(), seed, follow, 12)[2]) for seed in range(100))
    assert caught < 35
