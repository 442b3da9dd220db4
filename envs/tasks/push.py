"""Push a puck to a place with a velocity-controlled pusher."""

import math
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from .base import Arrays, Floats, MujocoGoalTask, Obs, State


class Push(MujocoGoalTask):
    """Push a sliding puck to a place; it stops where it is left.

    Observation: `pusher` (x, y in metres), `puck` (x, y, cosine and sine of its yaw), `velocity` (pusher and puck, x
    and y, in m/s). Action: velocity of the pusher along x and y, in [-0.5, 0.5] m/s.

    State: qpos = puck x, y, yaw, pusher x, y. The goal's yaw is that of the start and does not count for success.
    """

    frame_skip = 10

    EXTENT = 0.15
    """The puck's starts and goals lie within this distance of the centre along either axis, in metres."""
    PUSHER_EXTENT = 0.3
    """The pusher's starts lie within this distance of the centre along either axis, in metres."""
    CONTACT = 0.09
    """Distance between the centres where pusher (radius 0.03) and puck (0.06) touch, in metres."""
    CLEARANCE = 0.02
    """Gap between pusher and puck at the start, in metres, at least."""
    MIN_PUSH = 0.1
    """Distance from the puck's start to its goal, in metres, at least."""
    TOLERANCE = 0.05
    """Success: distance of the puck from its goal, in metres."""

    @override
    def load_model(self) -> mujoco.MjModel:
        return mujoco.MjModel.from_xml_path(str(Path(__file__).with_name("push.xml")))

    @override
    def observe(self, qpos: Floats, qvel: Floats) -> Obs:
        yaw = qpos[..., 2]
        puck = np.stack([qpos[..., 0], qpos[..., 1], np.cos(yaw), np.sin(yaw)], axis=-1)
        velocity = np.concatenate([qvel[..., 3:], qvel[..., :2]], axis=-1)
        return {
            "puck": puck.astype(np.float32),
            "pusher": qpos[..., 3:].astype(np.float32),
            "velocity": velocity.astype(np.float32),
        }

    @override
    def sample_start(self, rng: np.random.Generator) -> State:
        puck, yaw = rng.uniform(-self.EXTENT, self.EXTENT, 2), rng.uniform(-math.pi, math.pi)
        pusher = puck
        while np.linalg.norm(pusher - puck) < self.CONTACT + self.CLEARANCE:
            pusher = rng.uniform(-self.PUSHER_EXTENT, self.PUSHER_EXTENT, 2)
        return np.array([*puck, yaw, *pusher]), np.zeros(5)

    @override
    def sample_goal(self, rng: np.random.Generator, start: State) -> State:
        """A goal `MIN_PUSH` away, with the pusher as if it had just pushed the puck there in a straight line."""
        origin, yaw = start[0][:2], start[0][2]
        puck = origin
        while np.linalg.norm(puck - origin) < self.MIN_PUSH:
            puck = rng.uniform(-self.EXTENT, self.EXTENT, 2)
        direction = (puck - origin) / np.linalg.norm(puck - origin)
        return np.array([*puck, yaw, *(puck - self.CONTACT * direction)]), np.zeros(5)

    @override
    def reached(self, obs: Arrays, goal: Arrays) -> NDArray[np.bool_]:
        return np.asarray(np.linalg.norm(self._to_goal(obs, goal), axis=-1) < self.TOLERANCE)

    @override
    def distance(self, obs: Arrays, goal: Arrays) -> Floats:
        to_goal = self._to_goal(obs, goal)
        gap = np.linalg.norm(to_goal, axis=-1)
        puck, pusher = (obs[key][..., :2].astype(np.float64) for key in ("puck", "pusher"))
        # The pusher is drawn behind the puck as seen from its goal; at the goal every place is as good as any other.
        behind = puck - self.CONTACT * to_goal / np.maximum(gap, 1e-6)[..., None]
        pull = 0.2 * np.minimum(gap / self.TOLERANCE, 1.0)
        return np.asarray(gap + pull * np.linalg.norm(pusher - behind, axis=-1))

    def _to_goal(self, obs: Arrays, goal: Arrays) -> Floats:
        return np.subtract(goal["puck"][..., :2], obs["puck"][..., :2], dtype=np.float64)
