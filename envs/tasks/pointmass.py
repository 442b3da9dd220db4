"""Planar point mass to a place; the model is that of the DeepMind Control Suite."""

import mujoco
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from .base import Arrays, Floats, MujocoGoalTask, Obs, State, suite_model


class PointMass(MujocoGoalTask):
    """Drive a damped point mass to a place and stop there.

    Observation: `position` (x, y in metres), `velocity` (m/s). Action: force along x and y as fractions of the
    motors' 0.1 N, in [-1, 1].
    """

    frame_skip = 10

    EXTENT = 0.25
    """Starts and goals lie within this distance of the centre along either axis, in metres; the walls are at 0.29."""
    TOLERANCE = 0.02
    """Success: distance from the goal, in metres."""
    MAX_SPEED = 0.1
    """Success: speed, in m/s."""

    @override
    def load_model(self) -> mujoco.MjModel:
        return suite_model("point_mass", without_geom="target")

    @override
    def observe(self, qpos: Floats, qvel: Floats) -> Obs:
        return {"position": qpos.astype(np.float32), "velocity": qvel.astype(np.float32)}

    @override
    def sample_start(self, rng: np.random.Generator) -> State:
        return rng.uniform(-self.EXTENT, self.EXTENT, 2), np.zeros(2)

    @override
    def sample_goal(self, rng: np.random.Generator, start: State) -> State:
        return self.sample_start(rng)

    @override
    def reached(self, obs: Arrays, goal: Arrays) -> NDArray[np.bool_]:
        slow = np.linalg.norm(obs["velocity"], axis=-1) < self.MAX_SPEED
        return np.asarray(slow & (self._gap(obs, goal) < self.TOLERANCE))

    @override
    def distance(self, obs: Arrays, goal: Arrays) -> Floats:
        return np.asarray(self._gap(obs, goal) + 0.05 * np.linalg.norm(obs["velocity"], axis=-1))

    def _gap(self, obs: Arrays, goal: Arrays) -> Floats:
        return np.asarray(np.linalg.norm(np.subtract(obs["position"], goal["position"], dtype=np.float64), axis=-1))
