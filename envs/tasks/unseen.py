"""Tasks for a working memory: what decides is seen for a while, and then no longer.

The state itself says what is seen: what moves on unseen is a body of the model like any other. The robot's own place
can serve as a memory, too: who sets out at once need not remember where to. So the robot is held while there is
something to be seen.
"""

import mujoco
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from .base import Floats, MujocoRewardTask, Obs, State

_COLOURS = {
    "floor": (0.70, 0.71, 0.74, 1),
    "robot": (0.13, 0.37, 0.78, 1),
    "seen": (0.85, 0.33, 0.16, 1),
    "screen": (0.28, 0.32, 0.42, 1),
}
_FREE = {"contype": 0, "conaffinity": 0}


class Cue(MujocoRewardTask):
    """Remember which of four corners a flag stood in, and drive there.

    The flag sinks into the floor at once, while the ball is held; it is let go `DELAY` decisions later. There is time
    to drive to one corner and not to a second. The reward grows from 0 to 1 within `PAID` metres of the corner, success
    is to have come within `TOLERANCE`.

    Observation: `position` (x, y in metres), `velocity` (m/s), `flag` (-1 or 1 along x and y, 0 once it is gone) and
    `held` (1 while the ball is). Action: force along x and y, in [-1, 1] N, which the ball's damping turns into at most
    0.5 m/s.
    """

    frame_skip = 20

    CORNER = 0.5
    """Distance of the corners from the middle along either axis, in metres."""
    SHOWN = 3
    """Observations that the flag is seen in."""
    DELAY = 4
    """Decisions from its disappearance until the ball is let go."""
    PAID = 0.6
    """Distance from the corner within which there is a reward, in metres."""
    TOLERANCE = 0.15
    """Success: distance from the corner, in metres."""
    START_EXTENT = 0.05
    """The ball starts within this distance of the middle along either axis, in metres."""
    SINKING = 0.25
    """Speed of the flag, in m/s."""

    @override
    def load_model(self) -> mujoco.MjModel:
        spec = _table(0.75)
        _body(spec, "ball", "xy", size=0.05, colour="robot", damping=2.0, limit=0.7, motors=True)
        flag = _body(spec, "flag", "xyz", size=0.0, colour="seen")
        # Its joints say where its top is.
        half, middle = [0.05, 0.05, 0.1], [0, 0, -0.1]
        flag.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=half, pos=middle, rgba=_COLOURS["seen"], mass=1, **_FREE)
        return spec.compile()

    @property
    def _sinks(self) -> float:
        """How far the flag moves in a decision, in metres."""
        return self.SINKING * self.dt

    @override
    def sample_start(self, rng: np.random.Generator) -> State:
        corner = self.CORNER * rng.choice([-1.0, 1.0], 2)
        ball = rng.uniform(-self.START_EXTENT, self.START_EXTENT, 2)
        # Half a step, so that rounding never decides.
        height = (self.SHOWN - 0.5) * self._sinks
        return np.array([*ball, *corner, height]), np.array([0.0, 0.0, 0.0, 0.0, -self.SINKING])

    @override
    def observe(self, qpos: Floats, qvel: Floats) -> Obs:
        flag = np.where(qpos[..., 4:5] > 0, np.sign(qpos[..., 2:4]), 0.0)
        return {
            "flag": flag.astype(np.float32),
            "held": self._held(qpos)[..., None].astype(np.float32),
            "position": qpos[..., :2].astype(np.float32),
            "velocity": qvel[..., :2].astype(np.float32),
        }

    def _held(self, qpos: Floats) -> NDArray[np.bool_]:
        return np.asarray(qpos[..., 4] > -self.DELAY * self._sinks)

    @override
    def control(self, action: NDArray[np.float32], qpos: Floats) -> NDArray[np.float32]:
        return np.where(self._held(qpos), np.zeros_like(action), action)

    @override
    def reward(self, qpos: Floats, qvel: Floats) -> Floats:
        return np.clip(1 - self._gap(qpos) / self.PAID, 0.0, 1.0)

    @override
    def succeeded(self, qpos: Floats, qvel: Floats) -> NDArray[np.bool_]:
        return np.asarray(self._gap(qpos) < self.TOLERANCE)

    def _gap(self, qpos: Floats) -> Floats:
        return np.asarray(np.linalg.norm(qpos[..., :2] - qpos[..., 2:4], axis=-1))


class Screen(MujocoRewardTask):
    """Catch a ball where it comes out from behind a screen.

    The ball rolls straight and at constant speed. Where it comes out has nothing to do with where it came from; how it
    moves tells, which takes two observations. The paddle is held until the ball is hidden. From then until the ball is
    seen again, the reward, from 0 to 1, is for how level the paddle is with it; success is to have it within
    `TOLERANCE` when it is seen again, when nothing can be done about it any more.

    Observation: `ball` (x, y in metres, 0 while hidden), `visible` (1 or 0), `paddle` (y in metres), `velocity` (of the
    paddle, m/s). Action: force on the paddle, in [-1, 1] N, which its damping turns into at most 1 m/s.
    """

    frame_skip = 20

    EDGE = 0.3
    """The screen covers x from minus this to this, in metres."""
    SPEED = 0.5
    """Speed of the ball along x, in m/s."""
    SEEN = 4
    """Observations of the ball before it is hidden."""
    EXTENT = 0.45
    """The ball starts and leaves the screen within this distance of the middle along y, in metres."""
    PAID = 0.25
    """Distance of the paddle from the ball along y within which there is a reward, in metres."""
    TOLERANCE = 0.1
    """Success: distance of the paddle from the ball, in metres."""

    @override
    def load_model(self) -> mujoco.MjModel:
        spec = _table(0.75)
        _body(spec, "ball", "xy", size=0.05, colour="seen")
        paddle = _body(spec, "paddle", "y", size=0.0, colour="robot", damping=1.0, limit=0.6, motors=True)
        paddle.pos = [self.EDGE + 0.15, 0, 0.05]
        paddle.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.02, self.TOLERANCE, 0.05], mass=0.2, rgba=_COLOURS["robot"], **_FREE
        )
        spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[self.EDGE, 0.7, 0.01],
            pos=[0, 0, 0.15],
            rgba=_COLOURS["screen"],
            **_FREE,
        )
        return spec.compile()

    @override
    def sample_start(self, rng: np.random.Generator) -> State:
        step = self.SPEED * self.dt
        x = -self.EDGE - (self.SEEN - rng.uniform(0.1, 0.9)) * step  # so that rounding never decides
        y, leaves = rng.uniform(-self.EXTENT, self.EXTENT, 2)
        speed = (leaves - y) / (self.EDGE - x) * self.SPEED
        return np.array([x, y, rng.uniform(-0.1, 0.1)]), np.array([self.SPEED, speed, 0.0])

    @override
    def observe(self, qpos: Floats, qvel: Floats) -> Obs:
        visible = ~self._hidden(qpos)[..., None]
        return {
            "ball": np.where(visible, qpos[..., :2], 0.0).astype(np.float32),
            "paddle": qpos[..., 2:3].astype(np.float32),
            "velocity": qvel[..., 2:3].astype(np.float32),
            "visible": visible.astype(np.float32),
        }

    def _hidden(self, qpos: Floats) -> NDArray[np.bool_]:
        return np.asarray(np.abs(qpos[..., 0]) < self.EDGE)

    @override
    def control(self, action: NDArray[np.float32], qpos: Floats) -> NDArray[np.float32]:
        return np.where(qpos[..., 0] < -self.EDGE, np.zeros_like(action), action)

    @override
    def reward(self, qpos: Floats, qvel: Floats) -> Floats:
        level = np.clip(1 - self._gap(qpos) / self.PAID, 0.0, 1.0)
        return np.where(self._hidden(qpos) | self._comes_out(qpos), level, 0.0)

    @override
    def succeeded(self, qpos: Floats, qvel: Floats) -> NDArray[np.bool_]:
        return np.asarray(self._comes_out(qpos) & (self._gap(qpos) < self.TOLERANCE))

    def _comes_out(self, qpos: Floats) -> NDArray[np.bool_]:
        """Whether the ball has been seen again in this state for the first time."""
        return np.asarray((qpos[..., 0] >= self.EDGE) & (qpos[..., 0] < self.EDGE + self.SPEED * self.dt))

    def _gap(self, qpos: Floats) -> Floats:
        return np.asarray(np.abs(qpos[..., 1] - qpos[..., 2]))


def _table(extent: float) -> mujoco.MjSpec:
    """An empty floor of this half width in metres, without gravity, seen from straight above."""
    spec = mujoco.MjSpec()
    spec.option.timestep, spec.option.gravity = 0.01, [0, 0, 0]
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.visual.headlight.ambient, spec.visual.headlight.diffuse = [0.4] * 3, [0.3] * 3
    spec.visual.headlight.specular = [0] * 3
    spec.worldbody.add_light(pos=[0, 0, 3], dir=[0.1, 0.1, -1], diffuse=[0.2] * 3)
    spec.worldbody.add_camera(name="fixed", pos=[0, 0, 2.5 * extent], fovy=2 * np.degrees(np.arctan(1.02 / 2.5)))
    spec.worldbody.add_geom(
        type=mujoco.mjtGeom.mjGEOM_PLANE, size=[extent, extent, 0.1], rgba=_COLOURS["floor"], **_FREE
    )
    return spec


def _body(
    spec: mujoco.MjSpec,
    name: str,
    axes: str,
    *,
    size: float,
    colour: str,
    damping: float = 0.0,
    limit: float | None = None,
    motors: bool = False,
) -> mujoco.MjsBody:
    """A body that slides along some axes and touches nothing: a ball of radius `size`, or for 0 what its maker adds."""
    body = spec.worldbody.add_body(name=name, pos=[0, 0, size])
    for axis in axes:
        joint = body.add_joint(
            name=f"{name}_{axis}", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=np.eye(3)["xyz".index(axis)],
            damping=[damping, 0, 0],
        )  # fmt: skip
        if limit is not None:
            joint.limited, joint.range = True, [-limit, limit]
        if motors:
            motor = spec.add_actuator(name=joint.name, target=joint.name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
            motor.ctrllimited, motor.ctrlrange = True, [-1, 1]
    if size:
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[size, 0, 0], mass=0.4, rgba=_COLOURS[colour], **_FREE)
    return body
