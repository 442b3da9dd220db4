"""Rendered observations: where the pictures of an environment and of its goal come from, resizing, stacking."""

import functools
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .gymnasium_adapter import AnyEnv, Obs, inner_robot
from .spec import ArraySpec, EnvError

Image = NDArray[np.uint8]


class Pixels:
    """Pictures `[size, size, 3 * stack]` of an environment, newest frame last.

    The first of these that exists: the environment's own `render_pixels(size)` (and `render_goal_pixels(size)`), the
    one image among its observations, and `render()` scaled to size.

    Args:
        env: drawn, never stepped.
        obs_specs: of its observations without rendered ones.
        size: height and width.
        stack: frames; the first is repeated at reset.
    """

    def __init__(self, env: AnyEnv, obs_specs: Mapping[str, ArraySpec], size: int, stack: int) -> None:
        self._env, self._size = env, size
        self._robot: Any = inner_robot(env)
        self._frames: deque[Image] = deque(maxlen=stack)
        self._goal: tuple[Image, Image] | None = None
        """The goal as it was last drawn, and as it is seen."""
        images = [key for key, spec in obs_specs.items() if spec.is_image and spec.shape[2] == 3]
        self._draws = hasattr(self._robot, "render_pixels")
        self.source = images[0] if len(images) == 1 and not self._draws else None
        """The observation that is the picture, or None if it is drawn."""
        self.spec = ArraySpec((size, size, 3 * stack), "uint8")
        if self.source is None and not self._draws:
            _draw_fast(self._robot)

    def reset(self, obs: Obs) -> Image:
        """The first picture of an episode.

        Raises:
            EnvError: the environment cannot be drawn.
        """
        self._frames.extend([self._frame(obs)] * (self._frames.maxlen or 1))
        return np.concatenate(self._frames, axis=2)

    def step(self, obs: Obs) -> Image:
        """The picture after a step."""
        self._frames.append(self._frame(obs))
        return np.concatenate(self._frames, axis=2)

    def goal(self, goal: Obs, info: Mapping[str, Any]) -> Image | None:
        """The picture of the goal stacked with itself, or None if the environment cannot draw it."""
        if self._draws:
            drawn = hasattr(self._robot, "render_goal_pixels")
            frame = self._robot.render_goal_pixels(self._size) if drawn else None
        elif self.source is not None:
            frame = goal.get(self.source)
        else:
            frame = info.get("goal_rendered")
        if frame is None:
            return None
        # Environments state the goal at every step, and hardly ever another one: scaling costs more than comparing.
        if self._goal is None or not np.array_equal(frame, self._goal[0]):
            stacked = np.concatenate([self._fit(frame)] * (self._frames.maxlen or 1), axis=2)
            self._goal = np.array(frame), stacked
        return self._goal[1].copy()

    def _frame(self, obs: Obs) -> Image:
        if self._draws:
            return self._fit(self._robot.render_pixels(self._size))
        if self.source is not None:
            return self._fit(obs[self.source])
        # Gymnasium's renderer draws into whatever context is current, which may be that of another environment.
        viewer = getattr(getattr(self._robot, "mujoco_renderer", None), "viewer", None)
        if viewer is not None:
            viewer.make_context_current()
        return self._fit(self._env.render())

    def _fit(self, frame: Any) -> Image:
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            got = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise EnvError(f"a rendered picture must be a uint8 array [height, width, 3], got {got}")
        return resize(frame, self._size)


def resize(image: Image, size: int) -> Image:
    """Scale `[height, width, channels]` to `[size, size, channels]`; a new pixel is the mean of the area it covers."""
    height, width, channels = image.shape
    if (height, width) == (size, size):
        return image
    rows = _coverage(height, size) @ image.reshape(height, -1).astype(np.float32)
    columns = np.einsum("ow,rwc->roc", _coverage(width, size), rows.reshape(size, width, channels), optimize=True)
    scaled: Image = np.rint(columns).astype(np.uint8)
    return scaled


@functools.lru_cache(maxsize=16)
def _coverage(old: int, new: int) -> NDArray[np.float32]:
    """Share `[new, old]` that each old pixel has in each new one; rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    pixels = np.arange(old)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    shares: NDArray[np.float32] = (overlap.clip(0) * (new / old)).astype(np.float32)
    return shares


def _draw_fast(robot: Any) -> None:
    """Switch off what a software renderer spends almost all its time on, before the first picture is drawn."""
    model: Any = getattr(robot, "model", None)
    robot = getattr(robot, "dmc_env", robot)  # where stable-worldmodel keeps it
    if model is None and hasattr(robot, "physics"):  # dm_control
        model = robot.physics.model.ptr
    if hasattr(model, "mat_reflectance"):  # a mujoco.MjModel
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        model.mat_reflectance[:] = 0
