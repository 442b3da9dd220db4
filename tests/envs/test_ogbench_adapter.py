import numpy as np
import pytest

from forethought.envs import rendering
from forethought.envs.registry import make_env
from forethought.envs.spec import ArraySpec, EnvOptions, GoalSpec

pytest.importorskip("ogbench")


def test_numpys_global_generator_is_left_alone():
    env = make_env("pointmaze-medium-v0")
    bits, state = np.random.get_bit_generator(), np.random.get_state()[1].copy()
    env.reset(seed=0)
    env.step(np.zeros(2, np.float32))
    assert np.random.get_bit_generator() is bits
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    env.close()


def test_episodes_without_a_seed_differ():
    env = make_env("pointmaze-medium-v0")
    starts = {tuple(env.reset()[0]["observation"].tolist()) for _ in range(5)}
    assert len(starts) == 5
    env.close()


def test_the_task_can_be_chosen():
    env = make_env("pointmaze-medium-v0")
    goals = [env.reset(seed=seed, options={"task_id": 2})[1]["goal"]["observation"] for seed in range(5)]
    assert np.ptp(goals, axis=0).max() < 4.0  # within one cell of the maze
    env.close()


def test_spaces_that_are_made_anew_at_every_look_are_seeded():
    env = make_env("cube-single-v0")
    goals = [env.reset(seed=4)[1]["goal"]["observation"] for _ in range(2)]
    np.testing.assert_array_equal(*goals)
    assert env.unwrapped.action_space is env.unwrapped.action_space
    env.close()


@pytest.mark.skipif(rendering.available() is None, reason="no OpenGL here")
def test_pixels_with_a_picture_of_the_goal():
    env = make_env("pointmaze-medium-v0", EnvOptions(observation="pixels", image_size=32, frame_stack=1))
    assert env.env_spec.obs == {"pixels": ArraySpec((32, 32, 3), "uint8")}
    assert env.env_spec.goal == GoalSpec("observation")
    obs, info = env.reset(seed=0)
    assert obs["pixels"].std() > 5
    assert info["goal"]["pixels"].shape == (32, 32, 3)
    assert (info["goal"]["pixels"] != obs["pixels"]).any()
    env.close()


@pytest.mark.skipif(rendering.available() is None, reason="no OpenGL here")
def test_it_is_drawn_for_videos_without_a_display():
    env = make_env("pointmaze-medium-v0", EnvOptions(kwargs={"render_mode": "rgb_array"}))
    env.reset(seed=0)
    assert env.render().std() > 0
    env.close()
