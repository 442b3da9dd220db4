"""What the own tasks share: one MuJoCo model, and either goals that are observations or a reward.

A goal task is its model and six functions of states and observations. All of them are plain numpy over any leading
batch dimensions, so that the single environment, thousands of natively stepped ones (`envs.vector`) and planning in the
true dynamics (`envs.simulator`) run the very same lines.
"""

import abc
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import gymnasium
import mujoco
import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray
from typing_extensions import override

from ..rendering import Preset, Renderer
from ..spec import EnvError

Floats: TypeAlias = NDArray[np.float64]
Obs: TypeAlias = dict[str, NDArray[np.float32]]
Arrays: TypeAlias = Mapping[str, NDArray[np.float32]]
State: TypeAlias = tuple[Floats, Floats]
"""Joint positions `[..., nq]` and velocities `[..., nv]`, in metres, radians and seconds."""

VIDEO_SIZE = 480
"""Height and width of `render()`, in pixels."""


class MujocoTask(gymnasium.Env[Obs, NDArray[np.float32]], abc.ABC):
    """A MuJoCo model whose observations are flat dicts of float32 arrays.

    Actions are the controls of the model, in its own units, held for `frame_skip` physics steps. An episode never
    terminates; Gymnasium's registration truncates it.

    Args:
        render_mode: `rgb_array` for `render()`; observations need none.
        timestep: seconds per physics step; None for that of the model.
        frame_skip: physics steps per decision; None for those of the task.

    Raises:
        EnvError: the render mode is not one of `metadata["render_modes"]`, or a number is out of range.
    """

    frame_skip: int
    """Physics steps per decision."""
    camera: ClassVar[str] = "fixed"
    """Camera of all pictures."""
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012  (Gymnasium's convention)

    def __init__(
        self, render_mode: str | None = None, timestep: float | None = None, frame_skip: int | None = None
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise EnvError(f"render_mode must be one of {self.metadata['render_modes']} or None, got {render_mode!r}")
        if timestep is not None and not 0 < timestep <= 0.1:
            raise EnvError(f"timestep must be above 0 and at most 0.1 seconds, got {timestep}")
        if frame_skip is not None and frame_skip < 1:
            raise EnvError(f"frame_skip must be at least 1, got {frame_skip}")
        self.render_mode = render_mode
        self.model: mujoco.MjModel = self.load_model()
        self.model.opt.timestep = timestep or self.model.opt.timestep
        self.frame_skip = frame_skip or self.frame_skip
        self.data: mujoco.MjData = mujoco.MjData(self.model)
        self.metadata = {**self.metadata, "render_fps": round(1 / self.dt, 3)}
        low, high = self.model.actuator_ctrlrange.T.astype(np.float32)
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        obs = self.observe(self.data.qpos, self.data.qvel)
        self.observation_space = gymnasium.spaces.Dict(  # type: ignore[assignment]  # Dict's type is wider
            {key: gymnasium.spaces.Box(-np.inf, np.inf, value.shape, np.float32) for key, value in obs.items()}
        )
        self._renderers: dict[tuple[int, Preset], Renderer] = {}

    @abc.abstractmethod
    def load_model(self) -> mujoco.MjModel:
        """Compile the model; every actuator has a limited control range."""

    @abc.abstractmethod
    def observe(self, qpos: Floats, qvel: Floats) -> Obs:
        """Observations `{key: [..., size]}` of states `[..., nq]`, `[..., nv]`; fresh arrays, never views."""

    @abc.abstractmethod
    def sample_start(self, rng: np.random.Generator) -> State:
        """Draw the state that an episode starts from."""

    @property
    def dt(self) -> float:
        """Seconds between decisions."""
        return float(self.model.opt.timestep) * self.frame_skip

    def here(self) -> State:
        """The state right now, as `aim` takes it."""
        return self.data.qpos.copy(), self.data.qvel.copy()

    # Pictures

    def render(self) -> NDArray[np.uint8] | None:
        """The scene, uint8 `[480, 480, 3]`; None without a render mode."""
        return None if self.render_mode is None else self.picture(self.data.qpos)

    def render_pixels(self, size: int) -> NDArray[np.uint8]:
        """The scene as the agent sees it, without the goal: uint8 `[size, size, 3]`."""
        return self.picture(self.data.qpos, size=size, preset="fast")

    def picture(
        self, qpos: Floats, *, goal_qpos: Floats | None = None, size: int = VIDEO_SIZE, preset: Preset = "nice"
    ) -> NDArray[np.uint8]:
        """Draw any state of this task, optionally with a goal as a translucent ghost: uint8 `[size, size, 3]`.

        Raises:
            RenderingUnavailable: no OpenGL backend works here.
        """
        if (size, preset) not in self._renderers:
            self._renderers[size, preset] = Renderer(self.model, size, size, camera=self.camera, preset=preset)
        ghost = None if goal_qpos is None else self._pose(goal_qpos)
        return self._renderers[size, preset].render(self._pose(qpos), ghost=ghost)

    def close(self) -> None:
        """Free the renderers; closing twice does no harm."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def _pose(self, qpos: Floats) -> mujoco.MjData:
        # Drawing needs the positions of all bodies. They are computed in data of their own, so that looking at a
        # simulation never changes it, not even its solver's warm start.
        data = mujoco.MjData(self.model)
        data.qpos[:] = qpos
        mujoco.mj_kinematics(self.model, data)
        mujoco.mj_camlight(self.model, data)
        return data


class MujocoGoalTask(MujocoTask):
    """A MuJoCo model that is to be brought to a goal.

    A goal is the observation of the state to be reached and stands in `info["goal"]` after every reset and step.
    `info["success"]` says whether `reached` has held for the last `hold_steps` decisions; the reward is 0 where it has
    and -1 otherwise (the sparse reward of Andrychowicz et al. 2017, "Hindsight Experience Replay").

    Arguments and errors are those of `MujocoTask`.
    """

    hold_steps: ClassVar[int] = 1
    """Consecutive decisions for which `reached` must hold to count as success."""

    def __init__(
        self, render_mode: str | None = None, timestep: float | None = None, frame_skip: int | None = None
    ) -> None:
        super().__init__(render_mode, timestep, frame_skip)
        self._goal_state: State | None = None
        self._goal: Obs = {}
        self._held = 0

    # The task

    @abc.abstractmethod
    def sample_goal(self, rng: np.random.Generator, start: State) -> State:
        """Draw a state to be reached from `start`; the robot can hold it."""

    @abc.abstractmethod
    def reached(self, obs: Arrays, goal: Arrays) -> NDArray[np.bool_]:
        """Whether observations `{key: [..., size]}` are at their goals (same keys, broadcast) right now, `[...]`."""

    @abc.abstractmethod
    def distance(self, obs: Arrays, goal: Arrays) -> Floats:
        """Shaped, non-negative cost `[...]` of being at `obs`; for planning in the true dynamics only."""

    # What follows from it

    @property
    def goal(self) -> Obs:
        """Observation of the state to be reached; empty before the first reset."""
        return {key: value.copy() for key, value in self._goal.items()}

    def sample_episode(self, seed: int | None) -> tuple[State, State]:
        """Start and goal states of the episode that `reset(seed=seed)` plays."""
        return self._draw(seeding.np_random(seed)[0])

    def sample_next_goal(self, seed: int, state: State) -> State:
        """The goal that `change_goal(seed)` gives in a state: not reached there."""
        return self._draw_goal(seeding.np_random(seed)[0], state)

    def _draw(self, rng: np.random.Generator) -> tuple[State, State]:
        start = self.sample_start(rng)
        return start, self._draw_goal(rng, start)

    def _draw_goal(self, rng: np.random.Generator, start: State) -> State:
        goal = self.sample_goal(rng, start)
        # No episode starts where it should end.
        while self.reached(self.observe(*start), self.observe(*goal)):
            goal = self.sample_goal(rng, start)
        return goal

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Start an episode; its start and goal follow from `seed` alone, or from the generator where it is None."""
        super().reset(seed=seed)
        (qpos, qvel), goal = self._draw(self.np_random)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:], self.data.qvel[:] = qpos, qvel
        self.aim(goal)
        return self.observe(self.data.qpos, self.data.qvel), self._info()

    def change_goal(self, seed: int) -> Obs:
        """Another goal from here, without a reset; returns what stands in `info["goal"]` from now on.

        Raises:
            EnvError: there was no reset before.
        """
        self._require_goal()
        state = self.data.qpos.copy(), self.data.qvel.copy()
        self._goal_state = goal = self.sample_next_goal(seed, state)
        self._goal, self._held = self.observe(*goal), 0
        return self.goal

    def step(self, action: NDArray[np.float32]) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Hold `action` for `frame_skip` physics steps.

        Raises:
            EnvError: there was no reset before.
        """
        if not self._goal:
            raise EnvError(f"{type(self).__name__} must be reset before its first step")
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, self.frame_skip)
        obs = self.observe(self.data.qpos, self.data.qvel)
        self._held = self._held + 1 if self.reached(obs, self._goal) else 0
        info = self._info()
        return obs, float(info["success"]) - 1.0, False, False, info

    def aim(self, goal: State) -> dict[str, Any]:
        """Make `goal` the state to be reached from here on.

        Returns:
            `info` as after a reset, where `success` says whether the goal is reached right now.
        """
        self._goal_state, self._goal, self._held = goal, self.observe(*goal), 0
        return {**self._info(), "success": bool(self.reached(self.observe(*self.here()), self._goal))}

    def _info(self) -> dict[str, Any]:
        return {"success": self._held >= self.hold_steps, "goal": self.goal}

    # Pictures

    @override
    def render(self) -> NDArray[np.uint8] | None:
        """The scene with the goal as a translucent ghost, uint8 `[480, 480, 3]`; None without a render mode."""
        if self.render_mode is None:
            return None
        return self.picture(self.data.qpos, goal_qpos=self._require_goal()[0])

    def render_goal_pixels(self, size: int) -> NDArray[np.uint8]:
        """The goal as the agent would see it once there: uint8 `[size, size, 3]`."""
        return self.picture(self._require_goal()[0], size=size, preset="fast")

    def _require_goal(self) -> State:
        if self._goal_state is None:
            raise EnvError(f"{type(self).__name__} has no goal before its first reset")
        return self._goal_state


class MujocoRewardTask(MujocoTask):
    """A MuJoCo model that is paid for where it is, and says whether it has done what it should in `info["success"]`.

    Arguments and errors are those of `MujocoTask`.
    """

    def __init__(
        self, render_mode: str | None = None, timestep: float | None = None, frame_skip: int | None = None
    ) -> None:
        super().__init__(render_mode, timestep, frame_skip)
        self._begun = False

    @abc.abstractmethod
    def reward(self, qpos: Floats, qvel: Floats) -> Floats:
        """Reward `[...]` of having come to states `[..., nq]`, `[..., nv]`."""

    @abc.abstractmethod
    def succeeded(self, qpos: Floats, qvel: Floats) -> NDArray[np.bool_]:
        """Whether states `[..., nq]`, `[..., nv]` are what is wanted, `[...]`."""

    def control(self, action: NDArray[np.float32], qpos: Floats) -> NDArray[np.float32]:
        """What an action `[A]` comes to as control in a state; itself, unless the task holds it back."""
        return action

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Start an episode; it follows from `seed` alone, or from the generator where it is None."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:], self.data.qvel[:] = self.sample_start(self.np_random)
        self._begun = True
        return self.observe(self.data.qpos, self.data.qvel), {"success": False}

    def step(self, action: NDArray[np.float32]) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Hold `action` for `frame_skip` physics steps.

        Raises:
            EnvError: there was no reset before.
        """
        if not self._begun:
            raise EnvError(f"{type(self).__name__} must be reset before its first step")
        self.data.ctrl[:] = self.control(action, self.data.qpos)
        mujoco.mj_step(self.model, self.data, self.frame_skip)
        state = self.data.qpos, self.data.qvel
        return self.observe(*state), float(self.reward(*state)), False, False, {"success": bool(self.succeeded(*state))}


def suite_model(name: str, *, without_geom: str | None = None) -> mujoco.MjModel:
    """Compile a model of the DeepMind Control Suite (Tassa et al. 2018), optionally without one of its geoms.

    The file is read without importing dm_control, which takes half a second and picks an OpenGL backend on the way.

    Raises:
        EnvError: dm_control is not installed.
    """
    package = importlib.util.find_spec("dm_control")
    if package is None or not package.submodule_search_locations:
        raise EnvError("this task needs the models of dm_control: pip install dm-control")
    path = Path(package.submodule_search_locations[0]) / "suite" / f"{name}.xml"
    spec = mujoco.MjSpec.from_file(str(path))
    if without_geom is not None:
        spec.delete(spec.geom(without_geom))
    for texture in spec.textures:
        if texture.type == mujoco.mjtTexture.mjTEXTURE_SKYBOX:
            # The sky's 800 x 800 x 6 pixels are most of the compile time; small, its stars would be snowballs.
            texture.width = texture.height = 64
            texture.mark = int(mujoco.mjtMark.mjMARK_NONE)
    # A deprecated attribute of the cheetah's file, whose successor is a function of the compiled model.
    total_mass, spec.compiler.settotalmass = spec.compiler.settotalmass, -1
    model = spec.compile()
    if total_mass > 0:
        mujoco.mj_setTotalmass(model, total_mass)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model
