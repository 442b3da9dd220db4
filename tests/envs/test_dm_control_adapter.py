import gymnasium
import numpy as np
import pytest

from forethought.envs import rendering
from forethought.envs.dm_control_adapter import make_dm_control, register
from forethought.envs.registry import make_env
from forethought.envs.spec import ArraySpec, EnvOptions


@pytest.mark.parametrize(
    ("env_id", "steps"),
    [("dm_control/acrobot-swingup-v0", 1000), ("dm_control/fish-swim-v0", 1000), ("dm_control/lqr-lqr_2_1-v0", None)],
)
def test_own_time_limit_is_read_and_lifted(env_id, steps):
    register()
    env, limit = make_dm_control(gymnasium.registry[env_id], {}, None)
    assert limit == steps
    assert env.unwrapped._env._step_limit == np.inf
    env.close()


def test_time_limit_of_a_composer_task():
    register()
    env, limit = make_dm_control(gymnasium.registry["dm_control/reach_site_features-v0"], {}, None)
    assert limit == 250
    assert env.unwrapped._env._time_limit == np.inf
    env.close()


def test_task_kwargs_of_the_user_are_kept():
    env = make_env("dm_control/cartpole-swingup-v0", EnvOptions(kwargs={"task_kwargs": {"time_limit": 2.0}}))
    assert env.env_spec.max_episode_steps == 200
    env.close()


def test_models_drawn_at_random_are_the_same_every_time():
    traces = []
    for _ in range(2):
        env = make_env("dm_control/lqr-lqr_2_1-v0")
        env.reset(seed=1)
        traces.append(np.concatenate([env.step(np.float32([0.1]))[0]["position"] for _ in range(3)]))
        env.close()
    np.testing.assert_array_equal(*traces)


def test_episodes_without_a_seed_differ():
    starts = []
    for _ in range(2):
        env = make_env("dm_control/reacher-easy-v0")
        starts += [env.reset()[0]["position"].tolist() for _ in range(2)]
        env.close()
    assert len({tuple(start) for start in starts}) == 4


@pytest.mark.skipif(rendering.available() is None, reason="no OpenGL here")
def test_pixels():
    env = make_env("dm_control/reacher-easy-v0", EnvOptions(observation="pixels", image_size=32))
    assert env.env_spec.obs == {"pixels": ArraySpec((32, 32, 6), "uint8")}
    first = env.reset(seed=0)[0]["pixels"]
    assert first.std() > 5
    moved = env.step(np.float32([1, 1]))[0]["pixels"]
    assert (moved[..., 3:] != first[..., 3:]).any()
    np.testing.assert_array_equal(moved[..., :3], first[..., 3:])
    env.close()
