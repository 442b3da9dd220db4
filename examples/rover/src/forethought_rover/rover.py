"""A rover that drives by the speeds of its two wheels, on sand among three pillars."""

import math
from importlib import resources
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from forethought.envs.rendering import Renderer  # which finds an OpenGL that works without a display

Obs = dict[str, NDArray[np.float32]]


class Rover(gymnasium.Env[Obs, NDArray[np.float32]]):
    """Bring the rover to a place.

    Observation: `achieved_goal` (x and y of its middle, metres), `heading` (cosine and sine), `speed` (forward in m/s,
    turning in rad/s) and `desired_goal` (x and y). Action: speeds of the left and the right wheel, rad/s. Success is to
    be within 20 cm of the goal. The reward is minus the distance to it.

    Args:
        render_mode: `rgb_array` for pictures.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    dt = 0.1
    """Seconds between two steps: what Forethought calls the control period."""
    FIELD: ClassVar[float] = 1.0
    """Starts and goals lie at most this far from the middle, along either axis, in metres."""
    REACH: ClassVar[float] = 0.2
    """Success: distance from the goal, in metres."""
    SPEED: ClassVar[float] = 10.0
    """Greatest wheel speed, rad/s: 0.6 m/s."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        text = resources.files(__package__).joinpath("rover.xml").read_text()
        self.model = mujoco.MjModel.from_xml_string(text)
        self.data = mujoco.MjData(self.model)
        self._pillars = np.array(
            [g.pos[:2] for g in map(self.model.geom, range(self.model.ngeom)) if "pillar" in g.name]
        )
        self._renderer: Renderer | None = None
        self.action_space = Box(-self.SPEED, self.SPEED, (2,), np.float32)
        spaces: Any = Dict({key: Box(-np.inf, np.inf, (2,), np.float32) for key in self._observe()})
        self.observation_space = spaces

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Start at rest somewhere free, in any direction; the goal is another free place."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        place, heading = self._free(), self.np_random.uniform(-math.pi, math.pi)
        self.data.qpos[:4] = (*place, 0.0, heading)
        goal = self._free()
        while np.linalg.norm(goal - place) < 2 * self.REACH:
            goal = self._free()
        self.data.mocap_pos[0, :2] = goal
        mujoco.mj_forward(self.model, self.data)
        return self._observe(), {"success": False}

    def step(self, action: NDArray[np.float32]) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Hold the wheel speeds for a tenth of a second."""
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, round(self.dt / self.model.opt.timestep))
        obs = self._observe()
        distance = float(np.linalg.norm(obs["achieved_goal"] - obs["desired_goal"]))
        return obs, -distance, False, False, {"success": distance < self.REACH}

    def render(self) -> Any:
        """The field from above, uint8 `[480, 480, 3]`; None without a render mode."""
        if self.render_mode is None:
            return None
        if self._renderer is None:
            self._renderer = Renderer(self.model, 480, 480, camera="above", preset="nice")
        return self._renderer.render(self.data)

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _observe(self) -> Obs:
        heading = self.data.qpos[3]
        forward = np.array([math.cos(heading), math.sin(heading)])
        arrays = {
            "achieved_goal": self.data.qpos[:2],
            "desired_goal": self.data.mocap_pos[0, :2],
            "heading": forward,
            "speed": [forward @ self.data.qvel[:2], self.data.qvel[3]],
        }
        return {key: np.array(value, np.float32) for key, value in arrays.items()}

    def _free(self) -> NDArray[np.float64]:
        """A place that is clear of pillars."""
        while True:
            place = self.np_random.uniform(-self.FIELD, self.FIELD, 2)
            if np.linalg.norm(self._pillars - place, axis=1).min() > 0.3:
                return place
