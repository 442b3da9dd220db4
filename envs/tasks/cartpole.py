"""Swing a pole up and hold it there; the model is that of the DeepMind Control Suite."""

import math

import mujoco
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from .base import Arrays, Floats, MujocoGoalTask, Obs, State, suite_model


class Cartpole(MujocoGoalTask):
    """Swing the pole up from hanging and balance it for a second with the cart near a given place.

    Observation: `position` (cart x in metres, cosine and sine of the pole's angle from upright), `velocity` (cart in
    m/s, pole in rad/s). Action: force on the cart as a fraction of the motor's 10 N, in [-1, 1].
    """

    frame_skip = 4
    hold_steps = 25

    START_EXTENT = 0.1
    """The cart starts within this distance of the centre, in metres."""
    GOAL_EXTENT = 0.5
    """The cart's goal lies within this distance of the centre, in metres; the rail ends at 1.8."""
    MAX_ANGLE = 0.2
    """Success: angle of the pole from upright, in radians."""
    MAX_ANGULAR_SPEED = 0.5
    """Success: angular speed of the pole, in rad/s."""
    TOLERANCE = 0.25
    """Success: distance of the cart from its goal, in metres."""
    MAX_SPEED = 0.5
    """Success: speed of the cart, in m/s."""

    @override
    def load_model(self) -> mujoco.MjModel:
        return suite_model("cartpole")

    @override
    def observe(self, qpos: Floats, qvel: Floats) -> Obs:
        x, angle = qpos[..., 0], qpos[..., 1]
        position = np.stack([x, np.cos(angle), np.sin(angle)], axis=-1)
        return {"position": position.astype(np.float32), "velocity": qvel.astype(np.float32)}

    @override
    def sample_start(self, rng: np.random.Generator) -> State:
        x = rng.uniform(-self.START_EXTENT, self.START_EXTENT)
        return np.array([x, math.pi + 0.01 * rng.standard_normal()]), 0.01 * rng.standard_normal(2)

    @override
    def sample_goal(self, rng: np.random.Generator, start: State) -> State:
        return np.array([rng.uniform(-self.GOAL_EXTENT, self.GOAL_EXTENT), 0.0]), np.zeros(2)

    @override
    def reached(self, obs: Arrays, goal: Arrays) -> NDArray[np.bool_]:
        x, cos, speed = obs["position"][..., 0], obs["position"][..., 1], np.abs(obs["velocity"])
        upright = (cos > math.cos(self.MAX_ANGLE)) & (speed[..., 1] < self.MAX_ANGULAR_SPEED)
        near = (np.abs(x - goal["position"][..., 0]) < self.TOLERANCE) & (speed[..., 0] < self.MAX_SPEED)
        return np.asarray(upright & near)

    @override
    def distance(self, obs: Arrays, goal: Arrays) -> Floats:
        position, velocity = (obs[key].astype(np.float64) for key in ("position", "velocity"))
        cos = position[..., 1]
        offset = np.square(position[..., 0] - goal["position"][..., 0])
        # Speed costs near the top only: on the way up it is what carries the pole.
        near_top = np.square(np.clip(cos, 0.0, 1.0))
        return np.asarray(1.0 - cos + np.minimum(offset, 1.0) + 0.1 * near_top * np.square(velocity).sum(-1))
