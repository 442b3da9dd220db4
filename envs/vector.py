"""Many environments stepped together, without autoreset: the caller resets what it wants, when it wants.

Two backends with the same behaviour. `SyncVector` loops over any environments of `make_env` in this process;
`MujocoVector` steps Forethought's own tasks on state observations natively with `mujoco.batch`. On two busy cores 64
Reachers ran eight times as fast on it as in the loop, and less than half as fast in Gymnasium's AsyncVectorEnv: for
physics this cheap, sending observations between processes costs more than computing them
(`benchmarks/vector_stepping.py`).
"""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import mujoco
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from .goal_ahead import Behaviour, behaviour_of
from .registry import make_env
from .rendering import require
from .simulator import PHYSICS_STATE, find_physics, make_batch
from .spec import EnvError, EnvOptions, EnvSpec, LinkOptions
from .tasks import TASK_IDS
from .tasks.base import MujocoGoalTask, Obs, State

Batch = dict[str, NDArray[Any]]
Backend = Literal["auto", "sync", "mujoco"]


@dataclass(frozen=True)
class VectorStep:
    """What one step of `B` environments returned; the arrays belong to the caller."""

    obs: Batch
    """Observations `{key: [B, ...]}`; where inactive, the last one again."""
    reward: NDArray[np.float32]
    """Rewards `[B]`, summed over the action repeat; 0 where inactive."""
    terminated: NDArray[np.bool_]
    """Whether the episode ended by itself `[B]`; False where inactive."""
    truncated: NDArray[np.bool_]
    """Whether the episode was cut off by its time limit `[B]`; False where inactive."""
    success: NDArray[np.bool_]
    """Whether the environment called this step a success `[B]`; False where inactive."""


class VectorEnv(abc.ABC):
    """`num_envs` environments of one kind, each with an episode of its own.

    Args:
        env_spec: of every one of them.
        num_envs: how many, `B`.
    """

    def __init__(self, env_spec: EnvSpec, num_envs: int) -> None:
        self.env_spec = env_spec
        self.num_envs = num_envs
        self._running = np.zeros(num_envs, bool)
        self._obs: Batch = {key: np.zeros((num_envs, *spec.shape), spec.dtype) for key, spec in env_spec.obs.items()}
        self._goal: Batch = {}  # stays empty without goals
        if env_spec.goal is not None and env_spec.goal.kind == "observation":
            self._goal = _copy(self._obs)
        elif env_spec.goal is not None:
            self._goal = {"desired_goal": np.zeros((num_envs, env_spec.goal.dim or 0), np.float32)}

    @property
    def goal(self) -> Batch | None:
        """Goals of the current episodes `{key: [B, ...]}`, or None if the environment has none."""
        return _copy(self._goal) if self._goal else None

    def reset(self, seeds: Sequence[int], indices: Sequence[int] | None = None) -> tuple[Batch, Batch | None]:
        """Start episodes; the same seed gives the same episode in every backend and at every index.

        Args:
            seeds: one for each environment that is reset.
            indices: which environments are reset; None for all of them.

        Returns:
            Observations `{key: [B, ...]}` of all environments, reset or not, and their goals (None without goals).
            Rows of environments that were never reset are zero.

        Raises:
            EnvError: seeds and indices do not match, or an index is repeated or out of range.
        """
        chosen = list(range(self.num_envs)) if indices is None else [int(index) for index in indices]
        if len(seeds) != len(chosen):
            raise EnvError(f"seeds must be as many as the environments that are reset, {len(chosen)}, got {len(seeds)}")
        if len(set(chosen)) != len(chosen) or not all(0 <= index < self.num_envs for index in chosen):
            raise EnvError(f"indices must be different and between 0 and {self.num_envs - 1}, got {chosen}")
        if chosen:
            self._reset([int(seed) for seed in seeds], chosen)
            self._running[chosen] = True
        return _copy(self._obs), self.goal

    def step(self, actions: NDArray[np.floating[Any]], active: NDArray[np.bool_] | None = None) -> VectorStep:
        """Step the active environments by one decision.

        Args:
            actions: in real units, `[B, A]`; rows of inactive environments are ignored.
            active: which environments to step, `[B]`; None for all.

        Raises:
            EnvError: actions of the wrong shape or not finite, or an active episode is over or never began.
        """
        mask = np.ones(self.num_envs, bool) if active is None else np.asarray(active)
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise EnvError(f"active must be a bool array of shape ({self.num_envs},), got {mask.dtype} {mask.shape}")
        actions = np.asarray(actions, np.float32)
        if actions.shape != (self.num_envs, self.env_spec.action_dim):
            expected = (self.num_envs, self.env_spec.action_dim)
            raise EnvError(f"actions must have shape [num_envs, action_dim] = {expected}, got {actions.shape}")
        chosen = np.flatnonzero(mask)
        if not np.isfinite(actions[chosen]).all():
            bad = chosen[~np.isfinite(actions[chosen]).all(-1)]
            raise EnvError(f"actions must be finite, got {actions[bad[0]]} for environment {bad[0]}")
        if not self._running[chosen].all():
            over = chosen[~self._running[chosen]].tolist()
            raise EnvError(f"active environments must be in an episode: reset {over} first, or leave them inactive")
        step = VectorStep(
            obs={},
            reward=np.zeros(self.num_envs, np.float32),
            terminated=np.zeros(self.num_envs, bool),
            truncated=np.zeros(self.num_envs, bool),
            success=np.zeros(self.num_envs, bool),
        )
        if chosen.size:
            self._step(actions, chosen, step)
            self._running &= ~(step.terminated | step.truncated)
        step.obs.update(_copy(self._obs))
        return step

    def change_goals(self, seeds: Sequence[int], indices: Sequence[int]) -> Batch:
        """Give running episodes another goal without a reset; the same seed and state give the same goal.

        Args:
            seeds: one for each environment whose goal changes.
            indices: which environments these are.

        Returns:
            Goals `{key: [B, ...]}` of all environments.

        Raises:
            EnvError: the environment cannot change its goal, seeds and indices do not match, or an episode is over.
        """
        chosen = [int(index) for index in indices]
        if len(seeds) != len(chosen):
            raise EnvError(f"seeds must be as many as the goals that change, {len(chosen)}, got {len(seeds)}")
        if not self._running[chosen].all():
            raise EnvError(f"goals can change in running episodes only, got {chosen}")
        self._change_goals([int(seed) for seed in seeds], chosen)
        return _copy(self._goal)

    @abc.abstractmethod
    def _change_goals(self, seeds: list[int], indices: list[int]) -> None:
        """Change goals and write `_goal`."""

    @abc.abstractmethod
    def _reset(self, seeds: list[int], indices: list[int]) -> None:
        """Start episodes and write `_obs` and `_goal`."""

    @abc.abstractmethod
    def _step(self, actions: NDArray[np.float32], indices: NDArray[np.intp], step: VectorStep) -> None:
        """Step the environments `indices`, write `_obs` and `_goal`, and fill their rows of `step` but for `obs`."""

    @abc.abstractmethod
    def simulator_states(self) -> NDArray[np.float64] | None:
        """Full physics states `[B, S]` for `envs.simulator`, or None if the environment has no MuJoCo physics."""

    def behaviour(self, index: int, seed: int) -> Behaviour | None:
        """What the environment `index` brings to collect its running episode with, see `envs.goal_ahead.Aimable`.

        Args:
            index: which environment.
            seed: of what it draws.

        Returns:
            gives the next action, in the environment's own form; None where it brings nothing.
        """
        return None

    def simulator_goals(self) -> Batch | None:
        """Goals `{key: [B, ...]}` for `envs.simulator`, None without goals.

        Those of Forethought's own tasks are states to be reached, also where the agent is shown pictures or parts of
        them.
        """
        return self.goal

    @abc.abstractmethod
    def render(self, index: int, goal: bool = True) -> NDArray[np.uint8]:
        """Picture of one environment for a video, uint8 `[height, width, 3]`.

        Args:
            index: which environment.
            goal: show its goal, too; only Forethought's own tasks can leave it out.

        Raises:
            RenderingUnavailable: no OpenGL backend works here.
            EnvError: the environment cannot be drawn.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Free what the environments hold; closing twice does no harm."""


def make_vector(env_id: str, num_envs: int, options: EnvOptions | None = None, backend: Backend = "auto") -> VectorEnv:
    """Make `num_envs` environments that are stepped together.

    Args:
        env_id: any id that `make_env` accepts.
        num_envs: how many.
        options: of every one of them.
        backend: `sync` works for everything; `mujoco` for Forethought's own tasks on state observations with goals of
            their own, where it is several times faster; `auto` takes the fastest that works.

    Raises:
        UnknownNameError: no such environment.
        EnvError: `backend="mujoco"` was asked for an environment that it does not support, or a bad option.
    """
    if backend not in ("auto", "sync", "mujoco"):
        raise EnvError(f"backend must be 'auto', 'sync' or 'mujoco', got {backend!r}")
    if num_envs < 1:
        raise EnvError(f"num_envs must be at least 1, got {num_envs}")
    options = options or EnvOptions()
    plain = options.observation == "state" and options.goal_ahead is None and options.link == LinkOptions()
    native = plain and options.skill is None and env_id.split(":")[-1] in TASK_IDS
    if backend == "mujoco" and not native:
        raise EnvError(
            f"backend='mujoco' needs one of {', '.join(TASK_IDS)} with observation='state', goal_ahead=None and no "
            f"link, got {env_id!r} with observation={options.observation!r}, goal_ahead={options.goal_ahead} and "
            f"link={options.link}"
        )
    if native and backend != "sync":
        return MujocoVector(env_id, num_envs, options)
    return SyncVector(env_id, num_envs, options)


class SyncVector(VectorEnv):
    """Environments of any kind, stepped one after the other in this process."""

    def __init__(self, env_id: str, num_envs: int, options: EnvOptions) -> None:
        first = make_env(env_id, options)
        if "render_mode" not in options.kwargs and "rgb_array" in (first.metadata.get("render_modes") or ()):
            # Costs nothing until the first picture, and could not be changed then.
            options = replace(options, kwargs={**options.kwargs, "render_mode": "rgb_array"})
            first.close()
            first = make_env(env_id, options)
        super().__init__(first.env_spec, num_envs)
        self._envs = [first]
        try:
            while len(self._envs) < num_envs:
                self._envs.append(make_env(env_id, options))
        except BaseException:
            self.close()
            raise

    @override
    def _reset(self, seeds: list[int], indices: list[int]) -> None:
        for index, seed in zip(indices, seeds, strict=True):
            obs, info = self._envs[index].reset(seed=seed)
            self._write(index, obs, info)

    @override
    def _change_goals(self, seeds: list[int], indices: list[int]) -> None:
        for index, seed in zip(indices, seeds, strict=True):
            _assign(self._goal, index, self._envs[index].change_goal(seed))

    @override
    def _step(self, actions: NDArray[np.float32], indices: NDArray[np.intp], step: VectorStep) -> None:
        for index in indices:
            obs, reward, terminated, truncated, info = self._envs[index].step(actions[index])
            self._write(int(index), obs, info)
            step.reward[index], step.success[index] = reward, info["success"]
            step.terminated[index], step.truncated[index] = terminated, truncated

    def _write(self, index: int, obs: Mapping[str, NDArray[Any]], info: Mapping[str, Any]) -> None:
        _assign(self._obs, index, obs)
        if self._goal:
            _assign(self._goal, index, info["goal"])

    @override
    def behaviour(self, index: int, seed: int) -> Behaviour | None:
        return behaviour_of(self._envs[index], seed)

    @override
    def simulator_states(self) -> NDArray[np.float64] | None:
        rows = []
        for env in self._envs:
            physics = find_physics(env)
            if physics is None:
                return None
            rows.append(np.empty(mujoco.mj_stateSize(physics[0], PHYSICS_STATE)))
            mujoco.mj_getState(*physics, rows[-1], PHYSICS_STATE)
        return np.stack(rows)

    @override
    def simulator_goals(self) -> Batch | None:
        tasks = [env.unwrapped for env in self._envs if isinstance(env.unwrapped, MujocoGoalTask)]
        if not tasks:
            return self.goal
        seen = tasks[0].observe(tasks[0].data.qpos, tasks[0].data.qvel)
        nothing = {key: np.zeros_like(value) for key, value in seen.items()}
        goals = [task.goal or nothing for task in tasks]  # rows that were never reset are zero, as everywhere
        return {key: np.stack([goal[key] for goal in goals]) for key in nothing}

    @override
    def render(self, index: int, goal: bool = True) -> NDArray[np.uint8]:
        if find_physics(self._envs[index]) is not None:
            require()  # or MuJoCo would look for a display
        task = self._envs[index].unwrapped
        if not goal and isinstance(task, MujocoGoalTask):
            return task.picture(task.data.qpos)
        picture = self._envs[index].render()
        if not isinstance(picture, np.ndarray):
            raise EnvError(f"{self.env_spec.env_id} cannot be drawn: render() returned {type(picture).__name__}")
        return picture

    @override
    def close(self) -> None:
        for env in self._envs:
            env.close()
        self._envs = []


class MujocoVector(VectorEnv):
    """Forethought's own tasks on state observations: native physics, numpy for everything else.

    Episodes are bit-identical to those of the single environment with the same seed, whatever the number of threads:
    every simulation is a row of a `mujoco.batch.Batch`, which holds all that its next step depends on.
    """

    def __init__(self, env_id: str, num_envs: int, options: EnvOptions) -> None:
        self._env = env = make_env(env_id, options)
        super().__init__(env.env_spec, num_envs)
        task = env.unwrapped
        assert isinstance(task, MujocoGoalTask)  # what all of TASK_IDS are
        self._task = task
        self._repeat = options.action_repeat
        self._batch = make_batch(task.model, num_envs)
        self._qpos, self._qvel, self._ctrl = (self._batch.bind(name) for name in ("qpos", "qvel", "ctrl"))
        self._bounds = np.asarray(env.env_spec.action_low), np.asarray(env.env_spec.action_high)
        self._goal_qpos = np.zeros_like(self._qpos)
        whole = task.observe(self._goal_qpos, self._qvel)
        self._whole_goal: Batch = {key: np.zeros_like(value) for key, value in whole.items()}
        self._decisions = np.zeros(num_envs, int)
        self._held = np.zeros(num_envs, int)

    @override
    def _reset(self, seeds: list[int], indices: list[int]) -> None:
        self._batch.reset(np.asarray(indices, np.int32), stage=int(mujoco.mjtStage.mjSTAGE_NONE))
        for index, seed in zip(indices, seeds, strict=True):
            (self._qpos[index], self._qvel[index]), goal = self._task.sample_episode(seed)
            self._aim(index, goal)
        self._show(indices, self._task.observe(self._qpos[indices], self._qvel[indices]))
        self._decisions[indices] = self._held[indices] = 0

    @override
    def _change_goals(self, seeds: list[int], indices: list[int]) -> None:
        for index, seed in zip(indices, seeds, strict=True):
            state = np.array(self._qpos[index]), np.array(self._qvel[index])
            self._aim(index, self._task.sample_next_goal(seed, state))
        self._held[indices] = 0

    def _aim(self, index: int, goal: State) -> None:
        self._goal_qpos[index], whole = goal[0], self._task.observe(*goal)
        _assign(self._whole_goal, index, whole)
        _assign(self._goal, index, self._env.show(whole))

    def _show(self, indices: Any, obs: Obs) -> None:
        _assign(self._obs, indices, self._env.show(obs))

    @override
    def _step(self, actions: NDArray[np.float32], indices: NDArray[np.intp], step: VectorStep) -> None:
        self._ctrl[indices] = np.clip(actions[indices], *self._bounds)
        goal = {key: value[indices] for key, value in self._whole_goal.items()}
        for _ in range(self._repeat):
            self._batch.step(indices, self._task.frame_skip)
            obs = self._task.observe(self._qpos[indices], self._qvel[indices])
            held = np.where(self._task.reached(obs, goal), self._held[indices] + 1, 0)
            success = held >= self._task.hold_steps
            self._held[indices] = held
            step.reward[indices] += success - np.float32(1)
            step.success[indices] |= success
        self._show(indices, obs)
        self._decisions[indices] += 1
        step.truncated[indices] = self._decisions[indices] >= self.env_spec.max_episode_steps

    @override
    def simulator_states(self) -> NDArray[np.float64]:
        return np.array(self._batch.state)

    @override
    def simulator_goals(self) -> Batch:
        return _copy(self._whole_goal)

    @override
    def render(self, index: int, goal: bool = True) -> NDArray[np.uint8]:
        return self._task.picture(self._qpos[index], goal_qpos=self._goal_qpos[index] if goal else None)

    @override
    def close(self) -> None:
        self._env.close()


def _assign(batch: Batch, index: Any, values: Mapping[str, NDArray[Any]]) -> None:
    for key, value in values.items():
        batch[key][index] = value


def _copy(batch: Batch) -> Batch:
    return {key: value.copy() for key, value in batch.items()}
