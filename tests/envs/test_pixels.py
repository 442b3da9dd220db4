import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from forethought.envs import rendering
from forethought.envs.pixels import resize
from forethought.envs.registry import make_env
from forethought.envs.spec import ArraySpec, EnvError, EnvOptions, GoalSpec
from forethought.envs.wrappers import ForethoughtEnv

ACTION = np.zeros(1, np.float32)


class Lamp(gymnasium.Env):
    """Its brightness is the number of steps since the reset."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = spaces.Box(-9, 9, (1,))
    action_space = spaces.Box(-1, 1, (1,))
    goal = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.look(), ({} if self.goal is None else {"goal": self.goal})

    def step(self, action):
        self.count += 1
        return self.look(), 0.0, False, False, {}

    def look(self):
        return np.zeros(1, np.float32)

    def render(self):
        return np.full((12, 20, 3), self.count, np.uint8)


class Camera(Lamp):
    """Sees itself, and has a picture as goal."""

    observation_space = spaces.Dict(eye=spaces.Box(0, 255, (16, 16, 3), np.uint8), joint=spaces.Box(-9, 9, (1,)))
    goal = {"eye": np.full((16, 16, 3), 200, np.uint8), "joint": np.ones(1)}  # noqa: RUF012

    def look(self):
        return {"eye": np.full((16, 16, 3), 100 + self.count, np.uint8), "joint": np.zeros(1)}


class Drawing(Lamp):
    """Has its own idea of pictures, and can draw its goal."""

    goal = np.ones(1)

    def render_pixels(self, size):
        return np.full((size, size, 3), 50 + self.count, np.uint8)

    def render_goal_pixels(self, size):
        return np.full((size, size, 3), 250, np.uint8)


def make(env, observation, **options):
    return ForethoughtEnv(env, "Lamp-v0", EnvOptions(observation=observation, image_size=8, **options))


def channels(image):
    assert image.dtype == np.uint8
    assert (image == image[:1, :1]).all()
    return image[0, 0, ::3].tolist()


def test_frames_are_stacked_newest_last_and_the_first_is_repeated():
    env = make(Lamp(), "pixels", frame_stack=3)
    assert env.env_spec.obs == {"pixels": ArraySpec((8, 8, 9), "uint8")}
    assert env.env_spec.goal is None
    for _ in range(2):
        obs, _ = env.reset()
        assert list(obs) == ["pixels"]
        assert channels(obs["pixels"]) == [0, 0, 0]
        seen = [channels(env.step(ACTION)[0]["pixels"]) for _ in range(4)]
        assert seen == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_one_frame_per_decision():
    env = make(Lamp(), "pixels", action_repeat=3)
    env.reset()
    assert channels(env.step(ACTION)[0]["pixels"]) == [0, 3]


def test_both_keeps_the_state():
    env = make(Lamp(), "both")
    obs, _ = env.reset()
    assert list(obs) == list(env.env_spec.obs) == ["observation", "pixels"]
    assert env.observation_space.contains(obs)


@pytest.mark.parametrize(("observation", "keys"), [("pixels", ["pixels"]), ("both", ["joint", "pixels"])])
def test_an_image_among_the_observations_is_the_picture(observation, keys):
    env = make(Camera(), observation)
    obs, info = env.reset()
    assert list(obs) == list(info["goal"]) == list(env.env_spec.obs) == keys
    assert env.env_spec.goal == GoalSpec("observation")
    assert obs["pixels"].shape == info["goal"]["pixels"].shape == (8, 8, 6)
    assert channels(obs["pixels"]) == [100, 100]
    assert channels(info["goal"]["pixels"]) == [200, 200]


def test_another_goal_is_seen_as_soon_as_it_is_stated():
    env, bright, dark = make(Camera(), "pixels"), np.full((16, 16, 3), 200, np.uint8), np.full((16, 16, 3), 9, np.uint8)
    robot = env.unwrapped
    seen = []
    for picture in (bright, bright.copy(), dark, bright):
        robot.goal = {"eye": picture, "joint": np.ones(1)}
        image = env.reset()[1]["goal"]["pixels"]
        seen.append(channels(image))
        image[:] = 0  # what is done to one is not done to the next
    bright[:] = 77
    assert [*seen, channels(env.reset()[1]["goal"]["pixels"])] == [[200] * 2, [200] * 2, [9] * 2, [200] * 2, [77] * 2]


@pytest.mark.parametrize(("observation", "keys"), [("pixels", ["pixels"]), ("both", ["observation", "pixels"])])
def test_environments_that_draw_themselves_and_their_goal(observation, keys):
    env = make(Drawing(), observation)
    env.reset()
    obs, _, _, _, info = env.step(ACTION)
    assert list(obs) == list(info["goal"]) == keys
    assert channels(obs["pixels"]) == [50, 51]
    assert channels(info["goal"]["pixels"]) == [250, 250]


@pytest.mark.parametrize("observation", ["pixels", "both"])
def test_a_goal_that_cannot_be_drawn(observation):
    env = Lamp()
    env.goal = np.ones(1)
    with pytest.raises(EnvError, match=f'observation must be "state" for this goal task, got {observation!r}'):
        make(env, observation)


@pytest.mark.parametrize("picture", [None, np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), [1, 2]])
def test_renders_that_are_no_pictures(picture):
    env = Lamp()
    env.render = lambda: picture
    with pytest.raises(EnvError, match="rendered picture must be a uint8 array"):
        make(env, "pixels")


@given(st_numpy.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3))), st.integers(1, 20))
def test_resizing_keeps_range_and_mean(image, size):
    small = resize(image, size)
    assert small.shape == (size, size, 3)
    assert small.dtype == np.uint8
    assert small.min() >= image.min()
    assert small.max() <= image.max()
    np.testing.assert_allclose(small.mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=0.51)


def test_resizing_averages_areas():
    image = np.array([[0, 10, 20, 30], [10, 20, 30, 40]], np.uint8)[:, :, None].repeat(3, axis=2)
    assert resize(image, 2)[..., 0].tolist() == [[5, 25], [15, 35]]
    assert resize(image, 1)[..., 0].tolist() == [[20]]
    square = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(resize(square, 4), square.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.skipif(rendering.available() is None, reason="no OpenGL here")
def test_two_mujoco_environments_draw_themselves_and_not_each_other():
    options = EnvOptions(observation="pixels", image_size=16, frame_stack=1)
    cheetah, hopper = make_env("HalfCheetah-v5", options), make_env("Hopper-v5", options)
    before = cheetah.reset(seed=0)[0]["pixels"]
    other = hopper.reset(seed=0)[0]["pixels"]
    after = cheetah.step(np.zeros(6, np.float32))[0]["pixels"]
    hopper.close()
    last = cheetah.step(np.zeros(6, np.float32))[0]["pixels"]
    cheetah.close()

    def difference(a, b):
        return np.abs(a.astype(int) - b).mean()

    assert difference(before, other) > 20
    assert difference(before, after) < 5
    assert difference(before, last) < 5
