"""An ant that walks where it is told to, in the open: a skill that its mazes can be walked with."""

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numpy.typing import NDArray

from ..spec import EnvError

Vector = NDArray[np.floating[Any]]

BODY = 27
"""Numbers that an ant's observation ends with: height, quaternion, joints; velocities, turning, joints' velocities."""
_UPRIGHT = 6
"""Where the walker sees how far up the torso's axis z points."""
_ANKLES = np.array([1.0, -1.0, -1.0, 1.0])
"""Which way each ankle bends, front left leg first and against the clock."""
_ORDER = np.array([3, 0, 1, 2])
"""Legs in the order of the actuators."""


class AntHeading:
    """How an ant that is told where to go sees itself: its way lies along x, and the side that faces it is its front.

    Four equal legs make four equal ants of one: whichever way it is to go, it turns by 45 degrees at most, and what is
    learned of one direction holds for all. Which side is the front stays as it is until another command comes.
    """

    command_size = 2
    """A direction in the plane; how long it is does not count."""
    observation_size = 29

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the last command."""
        self._command: Vector | None = None
        self._angle, self._front = 0.0, 0

    def perceive(self, observation: Vector, command: Vector) -> NDArray[np.float32]:
        """What the walker sees.

        Args:
            observation: of the ant, its body's 27 numbers, or 29 with its place in front, which is not looked at.
            command: where to go, `[2]`, not zero.

        Returns:
            `[29]`: height, axes x and z of the torso (Zhou et al. 2019, "On the continuity of rotation
            representations"), joints, velocity, turning, joints' velocities.

        Raises:
            EnvError: the observation is not that of an ant.
        """
        if observation.shape not in ((BODY,), (BODY + 2,)):
            raise EnvError(f"an ant's observation must have {BODY} or {BODY + 2} numbers, got {observation.shape}")
        body = np.asarray(observation, np.float64)[-BODY:]
        torso = _rotation(body[1:5])
        if self._command is None or not np.array_equal(command, self._command):
            self._command = np.array(command, np.float64)
            self._angle = math.atan2(self._command[1], self._command[0])
            yaw = math.atan2(torso[1, 0], torso[0, 0])
            self._front = round((self._angle - yaw) / (math.pi / 2)) % 4
        to_way = _about_z(-self._angle)
        turned = to_way @ torso @ _about_z(self._front * math.pi / 2)
        parts = (
            body[:1],
            turned[:, 0],
            turned[:, 2],
            self._legs(body[5:13]),
            to_way @ body[13:16],
            _about_z(-self._front * math.pi / 2) @ body[16:19],
            self._legs(body[19:27]),
        )
        return np.concatenate(parts).astype(np.float32)

    def actuate(self, action: Vector) -> NDArray[np.float32]:
        """The ant's torques `[8]` for the walker's, which are by legs from the front left on, hip before ankle."""
        walker = np.asarray(action, np.float64).reshape(4, 2)
        legs = np.empty((4, 2))
        actual, bends = self._counted()
        legs[actual] = walker * bends
        torques: NDArray[np.float32] = legs[_ORDER].ravel().astype(np.float32)
        return torques

    def _legs(self, joints: Vector) -> Vector:
        actual, bends = self._counted()
        return (joints.reshape(4, 2)[actual] * bends).ravel()

    def _counted(self) -> tuple[NDArray[np.int64], Vector]:
        """The legs in the order of the walker, and the signs of hip and ankle that make them alike, `[4, 2]`."""
        actual = (np.arange(4) + self._front) % 4
        return actual, np.stack([np.ones(4), _ANKLES * _ANKLES[actual]], axis=-1)


class AntWalk(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """OGBench's ant on a plane, told a direction that changes now and then; its reward is its speed that way, in m/s.

    OGBench's own data come from such a walker, learned by SAC (Park et al. 2025, appendix; its environment
    `online-ant-v0`). An ant on its back cannot get up again: the episode ends there.

    Args:
        hold: steps of 0.1 s for which a direction is kept.
        render_mode: `rgb_array` or None.
        width, height: of what `render()` returns.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  (Gymnasium's)

    def __init__(self, hold: int = 40, render_mode: str | None = None, width: int = 480, height: int = 480) -> None:
        if hold < 1:
            raise EnvError(f"hold must be at least 1, got {hold}")
        try:
            from ogbench.online_locomotion.ant import AntEnv
        except ImportError as error:
            raise EnvError(
                "the ant is OGBench's, which is not installed: pip install 'forethought[robotics]'"
            ) from error
        self.skill = AntHeading()
        self.render_mode, self._hold = render_mode, hold
        self.ant_env: Any = AntEnv(
            terminate_when_unhealthy=False, render_mode=render_mode, width=width, height=height, camera_name="track"
        )
        self.dt: float = self.ant_env.dt
        self.observation_space = spaces.Box(-np.inf, np.inf, (AntHeading.observation_size,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (8,), np.float32)
        self._directions, self._steps = np.random.default_rng(0), 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Stand up at the origin, with a direction to go."""
        super().reset(seed=seed)
        if seed is not None:
            self._directions, _ = seeding.np_random(seed + 1)  # the ant's own draws come from `seed`
        observation, _ = self.ant_env.reset(seed=seed)
        self.skill.reset()
        self._steps, self._command = 0, self._direction()
        return self.skill.perceive(observation, self._command), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Apply the walker's torques `[8]` for 0.1 s."""
        before = self.ant_env.data.qpos[:2].copy()
        observation, *_ = self.ant_env.step(self.skill.actuate(action))
        speed = float((self.ant_env.data.qpos[:2] - before) @ self._command) / self.dt
        self._steps += 1
        if self._steps % self._hold == 0:
            self._command = self._direction()
        view = self.skill.perceive(observation, self._command)
        fallen = bool(view[_UPRIGHT] < 0)
        return view, speed, fallen, False, {}

    def render(self) -> Any:
        """The ant as its camera sees it."""
        return self.ant_env.render()

    def close(self) -> None:
        """Close the renderer."""
        self.ant_env.close()

    def _direction(self) -> Vector:
        angle = self._directions.uniform(-math.pi, math.pi)
        return np.array([math.cos(angle), math.sin(angle)])


def _about_z(angle: float) -> Vector:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def _rotation(quaternion: Vector) -> Vector:
    """The matrix of a quaternion, real part first."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
