"""The environments of stable-worldmodel (Maes et al. 2026), `swm/...`: arrays instead of tensors, goals with pictures.

In three of those that LeWM is evaluated on, goals are states to be reached and `terminated` says so; `GOAL_WORLDS`
tells how each of them spells that. All others are presented as they are: rewards, and Fetch's own goals.
"""

import contextlib
import os
import types
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec as RegisteredEnv
from numpy.typing import NDArray
from typing_extensions import override

from . import robotics_shim
from .dm_control_adapter import lift_time_limit
from .goal_ahead import Behaviour
from .gymnasium_adapter import AnyEnv, Obs, inner_robot, make_gymnasium
from .ogbench_adapter import SeededOGBench
from .rendering import RenderingUnavailable, require
from .spec import EnvError

EPISODE_STEPS = 100
"""Time limit of a goal world in environment steps: that of upstream's `World`, which collects its data."""

State = NDArray[np.floating[Any]]


class GoalWorld(Protocol):
    """How one of the environments spells states and goals; `robot` is the unwrapped environment."""

    kwargs: dict[str, Any]
    """Arguments of its constructor."""

    def state(self, robot: Any) -> State:
        """The present state, a copy `[S]`."""

    def observe(self, state: State) -> Obs:
        """What of a state is observed."""

    def aim(self, robot: Any, goal: State) -> None:
        """Make a state the goal."""

    def reached(self, robot: Any) -> bool:
        """Whether the goal is reached right now, by the rule of the environment's own step."""

    def expert(self, noise: bool) -> Any:
        """The policy that upstream collects its data with, or None where the package has none without weights."""


class TwoRoom(GoalWorld):
    """A dot is to go through a door; state: its x, y in pixels of 224.

    Upstream's observation also holds the target, which here is the goal, and the doors, which do not move.
    """

    kwargs: dict[str, Any] = {}  # noqa: RUF012  (read-only)
    RADIUS = 16.0
    """Success: distance from the goal, in pixels; written out in upstream's `step`, which does not name it."""

    @override
    def state(self, robot: Any) -> State:
        return np.asarray(robot.agent_position).copy()

    @override
    def observe(self, state: State) -> Obs:
        return {"state": state.astype(np.float32)}

    @override
    def aim(self, robot: Any, goal: State) -> None:
        robot._set_goal_state(goal)

    @override
    def reached(self, robot: Any) -> bool:
        return bool(np.linalg.norm(self.state(robot) - np.asarray(robot.target_position)) < self.RADIUS)

    @override
    def expert(self, noise: bool) -> Any:
        from stable_worldmodel.envs.two_room import ExpertPolicy

        # The noise of upstream's collection script: episodes wander.
        return ExpertPolicy(action_noise=2.0 if noise else 0.0)


class PushT(GoalWorld):
    """A dot is to push a T; state: x, y of the dot and of the T in pixels of 512, its angle, the dot's velocity.

    The picture shows a green T at a place that never changes and is not the goal, as upstream's does, and its data:
    `kwargs={"with_target": False}` leaves it out.
    """

    kwargs: dict[str, Any] = {}  # noqa: RUF012  (read-only)

    @override
    def state(self, robot: Any) -> State:
        return np.array(robot._get_obs(), np.float64)

    @override
    def observe(self, state: State) -> Obs:
        return {"state": state.astype(np.float32)}

    @override
    def aim(self, robot: Any, goal: State) -> None:
        robot._set_goal_state(goal)

    @override
    def reached(self, robot: Any) -> bool:
        return bool(robot.eval_state(robot.goal_state, robot._get_obs())[0])

    @override
    def expert(self, noise: bool) -> Any:
        from stable_worldmodel.envs.pusht import WeakPolicy

        return WeakPolicy()  # as upstream's script; the published data come from people


class Reacher(GoalWorld):
    """A two-joint arm is to match angles (the task `qpos_match`); state: angles in rad, velocities in rad/s."""

    kwargs: dict[str, Any] = {"task": "qpos_match"}  # noqa: RUF012  (read-only)

    @override
    def state(self, robot: Any) -> State:
        data = robot.dmc_env.physics.data
        return np.concatenate([data.qpos, data.qvel])

    @override
    def observe(self, state: State) -> Obs:
        qpos, qvel = np.split(state.astype(np.float32), 2)
        return {"qpos": qpos.copy(), "qvel": qvel.copy()}

    @override
    def aim(self, robot: Any, goal: State) -> None:
        robot.set_target_qpos(np.split(goal, 2)[0])

    @override
    def reached(self, robot: Any) -> bool:
        return robot.dmc_env.task.get_termination(robot.dmc_env.physics) is not None

    @override
    def expert(self, noise: bool) -> Any:
        return None  # upstream's is a network whose weights the package does not hold


GOAL_WORLDS: dict[str, GoalWorld] = {
    "swm/TwoRoom-v1": TwoRoom(),
    "swm/PushT-v1": PushT(),
    "swm/ReacherDMControl-v0": Reacher(),
}


def register() -> None:
    """Register the ids `swm/...` with Gymnasium; takes some seconds when first called.

    Raises:
        ImportError: the package is missing or does not work with what else is installed.
    """
    # dm_control, which some of them use, settles on an OpenGL backend for good when it is imported.
    if "MUJOCO_GL" not in os.environ:
        with contextlib.suppress(RenderingUnavailable):
            require()
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # or it greets on stdout
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import stable_worldmodel  # noqa: F401  (registers on import)


def make_worldmodel(
    registered: RegisteredEnv, kwargs: Mapping[str, Any], image_size: int | None
) -> tuple[AnyEnv, int | None]:
    """Make an environment of stable-worldmodel without its time limit.

    Args:
        registered: an entry of Gymnasium's registry that `stable_worldmodel` made.
        kwargs: of the environment's constructor.
        image_size: height and width of what `render()` returns, where it can be chosen; None for an environment that is
            not drawn.

    Returns:
        The environment, and its time limit in environment steps or None.

    Raises:
        EnvError: the constructor raised; the cause is chained.
        RenderingUnavailable: pictures are wanted, and drawing them needs OpenGL, which does not work here.
    """
    world = GOAL_WORLDS.get(registered.id)
    arguments = {**(world.kwargs if world else {}), **kwargs}
    if world and any(arguments[key] != value for key, value in world.kwargs.items()):
        world = None  # another task, which has no goals
    mujoco = ".dmcontrol." in str(registered.entry_point)
    if mujoco and image_size is not None:
        require()
    if ".gymnasium_robotics." in str(registered.entry_point):
        robotics_shim.apply()
    with _quiet():
        env, limit = make_gymnasium(registered, arguments, drawn=image_size is not None)
        env.reset(seed=0)  # some are only compiled here
    own = EPISODE_STEPS if world else limit
    if mujoco:
        robot: Any = env.unwrapped
        steps = lift_time_limit(robot.dmc_env)
        own = own or (None if steps is None else steps // robot.action_repeat)
    if world:
        return GoalWorldEnv(env, world, image_size), own
    if ".ogbench." in str(registered.entry_point):
        env = SeededOGBench(env)
    return WorldEnv(env, image_size), own


class WorldEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Arrays instead of tensors, no warnings about what is upstream's own doing, and `success` only where it is known.

    Args:
        env: an environment registered by `stable_worldmodel`.
        image_size: height and width of what `render()` returns, where it can be chosen; None for its own.
    """

    def __init__(self, env: AnyEnv, image_size: int | None) -> None:
        super().__init__(env)
        self._robot = inner_robot(env)
        self._image_size = image_size
        self._mujoco = hasattr(self._robot, "dmc_env")
        if self._mujoco:
            self.control_dt: float = self._robot.dmc_env.control_timestep() * self._robot.action_repeat

    @override
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        with _quiet():
            obs, info = self.env.reset(seed=seed, options=options)
        if self._mujoco:
            lift_time_limit(self._robot.dmc_env)  # a reset may have compiled the model anew
        return _arrays(obs), self._info(info)

    @override
    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return _arrays(obs), float(reward), bool(terminated), bool(truncated), self._info(info)

    @override
    def render(self) -> Any:
        if self._mujoco and self._image_size is not None:
            return self._robot.render(width=self._image_size, height=self._image_size)
        return self.env.render()

    @override
    def close(self) -> None:
        super().close()
        folder = getattr(self._robot, "_mjcf_tempdir", None)
        if folder is not None:
            folder.cleanup()

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        """`info` without goals that no observation can be compared with, and without a success that is not a number."""
        rest = {key: value for key, value in info.items() if key not in ("goal", "success")}
        return rest | ({"success": info["success"] == 1} if "success" in info else {})


@dataclass(frozen=True)
class Moment:
    """A state, as the robot has it and as a picture shows it (None where nothing is drawn)."""

    state: State
    picture: NDArray[np.uint8] | None


class GoalWorldEnv(WorldEnv):
    """A goal world in Forethought's conventions: whole observations as goals, `info["success"]` from `terminated`.

    A goal is the start of another episode, redrawn while the start counts as success. That is how PushT draws its goals
    itself, and TwoRoom all but those in the wall; Reacher's task has none until one is set. All else that upstream can
    vary (colours, sizes, doors) stays as it is, or as `kwargs={"init_value": ...}` says.

    Offers `forethought.envs.goal_ahead.Aimable`, and what upstream collects its data with as the behaviour.
    """

    def __init__(self, env: AnyEnv, world: GoalWorld, image_size: int | None) -> None:
        super().__init__(env, image_size)
        if not self._mujoco:  # PushT's `dt` is that of its physics, TwoRoom has none
            self.control_dt = 1 / self._robot.metadata["render_fps"]
        self._world = world
        self._rng = np.random.default_rng()
        self._goal: Moment | None = None
        seen = world.observe(world.state(self._robot))
        self.observation_space = spaces.Dict(
            {key: spaces.Box(-np.inf, np.inf, value.shape, np.float32) for key, value in seen.items()}
        )

    @override
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        if options:
            raise EnvError(f"options must be empty for a goal world, got {options!r}; vary it by kwargs.init_value")
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        while True:
            super().reset(seed=int(self._rng.integers(2**31)))
            goal = self.here()
            _, rest = super().reset(seed=seed)
            info = rest | self.aim(goal)
            if not info["success"]:
                return self._observe(), info

    @override
    def step(self, action: Any) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        _, reward, terminated, truncated, info = super().step(action)
        return self._observe(), reward, terminated, truncated, info | self._goal_info() | {"success": terminated}

    def here(self) -> Moment:
        """The present state and its picture."""
        return Moment(self._world.state(self._robot), None if self._image_size is None else self.render())

    def aim(self, goal: Moment) -> dict[str, Any]:
        """Make a moment the goal of the running episode; `success` says whether it is reached already."""
        self._world.aim(self._robot, goal.state)
        self._goal = goal
        return self._goal_info() | {"success": self._world.reached(self._robot)}

    def behaviour(self, seed: int, noise: bool = True) -> Behaviour | None:
        """What upstream collects its data with, or None where that needs weights which the package does not hold.

        Args:
            seed: of what it draws.
            noise: whether with the noise of upstream's collection, where that can be switched off.
        """
        policy = self._world.expert(noise)
        if policy is None:
            return None
        policy.set_seed(seed)
        # Upstream's policies act for a batch of environments.
        batched = types.SimpleNamespace(shape=(1, *(self.env.action_space.shape or ())))
        policy.set_env(types.SimpleNamespace(envs=[self.env], action_space=batched, spec=self.env.spec))

        def behave() -> NDArray[Any]:
            assert self._goal is not None  # every reset aims
            states = {"state": [self._world.state(self._robot)], "goal_state": [self._goal.state]}
            action: NDArray[Any] = policy.get_action(states)[0]
            return action

        return behave

    def _observe(self) -> Obs:
        return self._world.observe(self._world.state(self._robot))

    def _goal_info(self) -> dict[str, Any]:
        assert self._goal is not None  # every reset aims
        info: dict[str, Any] = {"goal": self._world.observe(self._goal.state)}
        return info if self._goal.picture is None else info | {"goal_rendered": self._goal.picture}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _arrays(obs: Any) -> Any:
    if isinstance(obs, Mapping):
        return {key: _arrays(value) for key, value in obs.items()}
    return np.asarray(obs)
