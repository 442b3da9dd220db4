"""Planning in the true dynamics: what a perfect world model would achieve, the upper baseline of every benchmark.

A simulator rolls candidate actions out from full physics states and sums the task's own distance to the goal.
"""

import abc
import os
from collections.abc import Mapping
from typing import Any

import gymnasium
import mujoco
import mujoco.batch
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from .registry import make_env
from .spec import EnvError, EnvOptions, EnvSpec
from .tasks.base import MujocoGoalTask

PHYSICS_STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)
"""What a simulation needs to go on bit by bit: positions, velocities, controls, mocap, the solver's warm start, ..."""


class Simulator(abc.ABC):
    """The true dynamics of an environment as a cost function of action sequences.

    Args:
        env_spec: of the environment.
        state_size: numbers in a physics state, `S`.
    """

    def __init__(self, env_spec: EnvSpec, state_size: int) -> None:
        self.env_spec = env_spec
        self.state_size = state_size

    def costs(
        self, states: NDArray[np.float64], actions: NDArray[np.floating[Any]], goal: Mapping[str, NDArray[Any]]
    ) -> NDArray[np.float64]:
        """Sum over the horizon of the distance to the goal after each decision; lower is better.

        Args:
            states: physics states `[B, S]`, from `VectorEnv.simulator_states`.
            actions: `N` candidates for each, in real units, `[B, N, H, A]`; clipped to the bounds as the environment
                does.
            goal: goals `{key: [B, ...]}`, from `VectorEnv.goal`.

        Returns:
            Costs `[B, N]`, float64; +inf where an action, or the distance it leads to, is not finite.

        Raises:
            EnvError: shapes do not fit together.
        """
        states, actions = np.asarray(states, np.float64), np.asarray(actions, np.float64)
        if actions.ndim != 4 or actions.shape[-1] != self.env_spec.action_dim or 0 in actions.shape:
            raise EnvError(f"actions must be [B, N, H, {self.env_spec.action_dim}] and not empty, got {actions.shape}")
        if states.shape != (actions.shape[0], self.state_size):
            raise EnvError(f"states must be [B, S] = {(actions.shape[0], self.state_size)}, got {states.shape}")
        for key, value in goal.items():
            if len(value) != len(states):
                raise EnvError(f"goal[{key!r}] must have {len(states)} rows, one for each state, got {len(value)}")
        # MuJoCo would quietly replace such a control by zero, and a broken plan would look like a good one.
        finite = np.isfinite(actions).all(axis=(2, 3))
        clipped = np.clip(np.nan_to_num(actions), self.env_spec.action_low, self.env_spec.action_high)
        costs = self._costs(states, clipped.astype(np.float64), goal)
        return np.where(finite & np.isfinite(costs), costs, np.inf)

    @abc.abstractmethod
    def _costs(
        self, states: NDArray[np.float64], actions: NDArray[np.float64], goal: Mapping[str, NDArray[Any]]
    ) -> NDArray[np.float64]:
        """`costs` of arguments that have been checked."""

    @abc.abstractmethod
    def close(self) -> None:
        """Free what the simulator holds; closing twice does no harm."""


def make_simulator(env_id: str, options: EnvOptions | None = None) -> Simulator:
    """The true dynamics of an environment.

    Args:
        env_id: one of Forethought's own tasks (native and fast), or an environment on MuJoCo physics whose goals are
            Gymnasium-Robotics' `achieved_goal` and `desired_goal` (stepped one by one, slow).
        options: as for the environment that is planned for; the action repeat must be the same.

    Raises:
        UnknownNameError: no such environment.
        EnvError: the environment has no MuJoCo physics or no such goals.
    """
    options = options or EnvOptions()
    if options.skill is not None:
        raise EnvError(f"{env_id} has no simulator to plan in: its actions are commands to skill={options.skill}")
    env = make_env(env_id, options)
    if isinstance(env.unwrapped, MujocoGoalTask):
        return TaskSimulator(env.unwrapped, env.env_spec, options.action_repeat)
    physics, goal = find_physics(env), env.env_spec.goal
    if physics is None or goal is None or goal.kind != "achieved":
        env.close()
        lacking = "no MuJoCo physics" if physics is None else "no goals of the kind achieved_goal/desired_goal"
        raise EnvError(f"{env_id} has no simulator to plan in: {lacking}")
    return GoalEnvSimulator(env.unwrapped, physics, env.env_spec, options.action_repeat)


def find_physics(env: gymnasium.Env[Any, Any]) -> tuple[mujoco.MjModel, mujoco.MjData] | None:
    """The MuJoCo model and data that an environment steps, or None if it has none (or hides them)."""
    inner = env.unwrapped
    # Gymnasium-Robotics' mazes keep the robot's environment inside theirs.
    for name in ("point_env", "ant_env"):
        inner = getattr(inner, name, inner)
    model, data = getattr(inner.unwrapped, "model", None), getattr(inner.unwrapped, "data", None)
    if isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData):
        return model, data
    return None


def make_batch(model: mujoco.MjModel, num_simulations: int, *, persistent: bool = False) -> mujoco.batch.Batch:
    """Simulations of `model` with a thread for every 64 of them, up to the CPUs of this process.

    Fewer would leave threads waiting for each other longer than they work: on two cores a second thread makes 4 to 16
    simulations up to three times slower. A persistent batch keeps what it computed of a state for the next step.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, min(cpus, num_simulations // 64))
    return mujoco.batch.Batch(model, num_simulations, nthread=threads, persistent=persistent)


class TaskSimulator(Simulator):
    """True dynamics of the own tasks: all candidates of all problems at once, on native threads."""

    def __init__(self, task: MujocoGoalTask, env_spec: EnvSpec, action_repeat: int) -> None:
        super().__init__(env_spec, mujoco.mj_stateSize(task.model, PHYSICS_STATE))
        self._task = task
        self._substeps = task.frame_skip * action_repeat
        self._batch: mujoco.batch.Batch | None = None

    @override
    def _costs(
        self, states: NDArray[np.float64], actions: NDArray[np.float64], goal: Mapping[str, NDArray[Any]]
    ) -> NDArray[np.float64]:
        problems, candidates, horizon, _ = actions.shape
        rows = problems * candidates
        # A planner asks for the same number of candidates again and again.
        if self._batch is None or self._batch.nsim != rows:
            self._batch = make_batch(self._task.model, rows)
        batch = self._batch
        qpos, qvel, ctrl = (batch.bind(name) for name in ("qpos", "qvel", "ctrl"))
        batch.state[:] = np.repeat(states, candidates, axis=0)
        goals = {key: np.repeat(value, candidates, axis=0) for key, value in goal.items()}
        costs = np.zeros(rows)
        for step in range(horizon):
            ctrl[:] = actions[:, :, step].reshape(rows, -1)
            batch.step(nstep=self._substeps)
            costs += self._task.distance(self._task.observe(qpos, qvel), goals)
        return costs.reshape(problems, candidates)

    @override
    def close(self) -> None:
        self._batch = None
        self._task.close()


class GoalEnvSimulator(Simulator):
    """True dynamics of any MuJoCo environment with an `achieved_goal`, by stepping the environment itself.

    Slow, as honest: whatever the environment does between its physics steps is done here too. The cost is the distance
    between achieved and desired goal.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        physics: tuple[mujoco.MjModel, mujoco.MjData],
        env_spec: EnvSpec,
        action_repeat: int,
    ) -> None:
        super().__init__(env_spec, mujoco.mj_stateSize(physics[0], PHYSICS_STATE))
        self._env = env
        self._repeat = action_repeat
        self._physics = physics
        env.reset(seed=0)  # environments refuse to step before; every candidate starts from a state of its own anyway

    @override
    def _costs(
        self, states: NDArray[np.float64], actions: NDArray[np.float64], goal: Mapping[str, NDArray[Any]]
    ) -> NDArray[np.float64]:
        if set(goal) != {"desired_goal"}:
            raise EnvError(f"goal must be {{'desired_goal': [B, dim]}}, got the keys {sorted(goal)}")
        space = self._env.action_space
        costs = np.zeros(actions.shape[:2])
        for problem, candidate in np.ndindex(*costs.shape):
            self._restore(states[problem])
            for action in actions[problem, candidate]:
                for _ in range(self._repeat):
                    obs = self._env.step(action.astype(space.dtype).reshape(space.shape))[0]
                gap = obs["achieved_goal"] - goal["desired_goal"][problem]
                costs[problem, candidate] += np.linalg.norm(gap)
        return costs

    def _restore(self, state: NDArray[np.float64]) -> None:
        model, data = self._physics
        mujoco.mj_setState(model, data, state, PHYSICS_STATE)
        # Some environments read body positions before they step; computing them overwrites the warm start.
        mujoco.mj_forward(model, data)
        mujoco.mj_setState(model, data, state, PHYSICS_STATE)

    @override
    def close(self) -> None:
        self._env.close()
