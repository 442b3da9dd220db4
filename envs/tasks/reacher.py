"""Two-link planar arm to a fingertip position; the model is that of the DeepMind Control Suite."""

import math

import mujoco
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from .base import Arrays, Floats, MujocoGoalTask, Obs, State, suite_model


class Reacher(MujocoGoalTask):
    """Bring the fingertip of a torque-controlled arm to that of the goal and be slow there.

    Observation: `position` (cosine and sine of shoulder and wrist, fingertip x and y in metres), `velocity` (two joint
    speeds in rad/s). Action: two joint torques as fractions of the motors' 0.05 N m, in [-1, 1].
    """

    frame_skip = 4

    LINK = 0.12
    """Length of both links, in metres."""
    WRIST_LIMIT = math.radians(160)
    """The wrist turns by this much either way, in radians."""
    TOLERANCE = 0.05
    """Success: distance of the fingertip from its goal, in metres."""
    MAX_SPEED = 1.0
    """Success: speed of either joint, in rad/s."""

    @override
    def load_model(self) -> mujoco.MjModel:
        return suite_model("reacher", without_geom="target")

    @override
    def observe(self, qpos: Floats, qvel: Floats) -> Obs:
        shoulder, wrist = qpos[..., 0], qpos[..., 1]
        cos, sin = np.cos(shoulder), np.sin(shoulder)
        cos_wrist, sin_wrist = np.cos(wrist), np.sin(wrist)
        # The hand's direction by the angle-sum identities: cheaper than two more cosines.
        x = self.LINK * (cos + cos * cos_wrist - sin * sin_wrist)
        y = self.LINK * (sin + sin * cos_wrist + cos * sin_wrist)
        position = np.stack([cos, sin, cos_wrist, sin_wrist, x, y], axis=-1)
        return {"position": position.astype(np.float32), "velocity": qvel.astype(np.float32)}

    @override
    def sample_start(self, rng: np.random.Generator) -> State:
        limits = np.array([math.pi, self.WRIST_LIMIT])
        return rng.uniform(-limits, limits), np.zeros(2)

    @override
    def sample_goal(self, rng: np.random.Generator, start: State) -> State:
        return self.sample_start(rng)

    @override
    def reached(self, obs: Arrays, goal: Arrays) -> NDArray[np.bool_]:
        slow = (np.abs(obs["velocity"]) < self.MAX_SPEED).all(-1)
        return np.asarray(slow & (self._tip_distance(obs, goal) < self.TOLERANCE))

    @override
    def distance(self, obs: Arrays, goal: Arrays) -> Floats:
        return np.asarray(self._tip_distance(obs, goal) + 0.01 * np.abs(obs["velocity"]).sum(-1))

    def _tip_distance(self, obs: Arrays, goal: Arrays) -> Floats:
        tip, goal_tip = obs["position"][..., 4:], goal["position"][..., 4:]
        return np.asarray(np.linalg.norm(np.subtract(tip, goal_tip, dtype=np.float64), axis=-1))
