"""What planning tasks share: physics states in, rewards of many action sequences out, stepped natively in threads.

A planning task is not an environment: nothing is observed. Its true dynamics are a function of a physics state, which
is what a planner is to be measured on. The very same lines step the candidates of a planner and the episode itself.
"""

import abc
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import mujoco
import mujoco.batch
import numpy as np
from numpy.typing import NDArray

from ..rendering import Renderer
from ..simulator import PHYSICS_STATE, make_batch
from ..spec import EnvError

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Fields: TypeAlias = Mapping[str, Floats]
"""Fields of `MjData` after a decision, `[n, ...]` each, and the joint positions `before` it, `[n, nq]`."""

_START_DOMAIN = 0xBE7C  # of the generators that draw starts
_VELOCITIES = int(mujoco.mjtStage.mjSTAGE_VEL)
_DIVERGED = [int(getattr(mujoco.mjtWarning, f"mjWARN_{name}")) for name in ("BADQPOS", "BADQVEL", "BADQACC")]
_MAX_BATCHES = 8


@dataclass(frozen=True, eq=False)
class Rollout:
    """What action sequences lead to.

    Args:
        rewards: `[n, H]`; 0 after an episode has ended, NaN after a simulation has diverged.
        states: physics states after the last action, `[n, S]`.
        ended: whether the episode ended by itself on the way, `[n]`.
        solved: whether the last state is what is wanted, `[n]`; None where the task has no such state.
    """

    rewards: Floats
    states: Floats
    ended: Bools
    solved: Bools | None


class PlanningTask(abc.ABC):
    """A MuJoCo model, starts, and a reward that is a function of many states at once.

    Controls are held for `frame_skip` physics steps, after which positions, velocities and the sensors of both are
    those of the state arrived at, as in dm_control (Gymnasium reads body positions of one physics step earlier).
    """

    name: ClassVar[str]
    """By which it is asked for."""
    summary: ClassVar[str]
    """What is to be done and what is hard about it, in one line."""
    source: ClassVar[str]
    """Published task that model, starts and reward are those of, and where they differ."""
    frame_skip: ClassVar[int]
    """Physics steps per decision."""
    horizon: ClassVar[int]
    """Decisions that planners look ahead."""
    decisions: ClassVar[int]
    """Decisions of an episode."""
    fields: ClassVar[tuple[str, ...]] = ()
    """Fields of `MjData` that the reward reads beside qpos, qvel and ctrl."""
    solved_at: ClassVar[float | None] = None
    """Reward from which on a state is what is wanted; None where more is always better."""
    camera: ClassVar[str | int] = 0
    """Camera of the pictures; -1 is the free one."""

    def __init__(self) -> None:
        self.model: mujoco.MjModel = self.load_model()
        self.action_low, self.action_high = self.model.actuator_ctrlrange.T.copy()
        self.control_dt = float(self.model.opt.timestep) * self.frame_skip
        self._batches: dict[int, mujoco.batch.Batch] = {}

    @abc.abstractmethod
    def load_model(self) -> mujoco.MjModel:
        """Compile the model; every actuator has a limited control range."""

    @abc.abstractmethod
    def sample_start(self, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        """Draw positions `[nq]`, velocities `[nv]` and a goal `[G]` (empty without one)."""

    @abc.abstractmethod
    def reward(self, x: Fields, goal: Floats) -> Floats:
        """Rewards `[n]` of having come to the states `x` by a decision."""

    def ended(self, x: Fields) -> Bools:
        """Whether the episode is over in states `[n]`; never, by default."""
        return np.zeros(len(x["qpos"]), bool)

    def solved(self, x: Fields, goal: Floats, reward: Floats) -> Bools | None:
        """Whether states `[n]` are what is wanted."""
        return None if self.solved_at is None else np.asarray(reward >= self.solved_at)

    def show_goal(self, model: mujoco.MjModel, goal: Floats) -> None:
        """Put a goal into a copy of the model that is only drawn; nothing without goals."""
        return

    def reset(self, seed: int) -> tuple[Floats, Floats]:
        """Physics state `[S]` and goal `[G]` that the episode with a seed starts from."""
        qpos, qvel, goal = self.sample_start(np.random.default_rng([seed, _START_DOMAIN]))
        data = mujoco.MjData(self.model)
        data.qpos[:], data.qvel[:] = qpos, qvel
        state = np.empty(mujoco.mj_stateSize(self.model, PHYSICS_STATE))
        mujoco.mj_getState(self.model, data, state, PHYSICS_STATE)
        return state, goal

    def rollout(self, state: Floats, goal: Floats, actions: Floats) -> Rollout:
        """What action sequences lead to from one state.

        Args:
            state: physics state `[S]`, from `reset` or an earlier rollout.
            goal: `[G]`, from `reset`.
            actions: `[n, H, A]` in real units; clipped to the control ranges.

        Raises:
            EnvError: the actions have another shape.
        """
        if actions.ndim != 3 or actions.shape[-1] != self.model.nu or 0 in actions.shape:
            raise EnvError(f"actions must be [n, H, {self.model.nu}] and not empty, got {list(actions.shape)}")
        count, horizon, _ = actions.shape
        batch = self._batch(count)
        x: dict[str, Floats] = {name: batch.bind(name) for name in ("qpos", "qvel", "ctrl", *self.fields)}
        batch.state[:] = state
        controls = np.clip(np.nan_to_num(actions), self.action_low, self.action_high)
        healthy = np.isfinite(actions).all(axis=(1, 2))
        warnings = self._diverged(batch)
        rewards, ended = np.zeros((count, horizon)), np.zeros(count, bool)
        for step in range(horizon):
            x["before"] = x["qpos"].copy()
            x["ctrl"][:] = controls[:, step]
            batch.step(nstep=self.frame_skip, stage=_VELOCITIES)
            reward = self.reward(x, goal)
            # MuJoCo quietly starts afresh where a simulation diverges, and a fall would look like standing.
            healthy &= self._diverged(batch) == warnings
            rewards[:, step] = np.where(healthy, np.where(ended, 0.0, reward), np.nan)
            ended = ended | self.ended(x)
        return Rollout(rewards, batch.state.copy(), ended, self.solved(x, goal, reward))

    def _batch(self, count: int) -> mujoco.batch.Batch:
        # A planner asks for few sizes again and again; the simulations of each keep their memory.
        if count not in self._batches:
            while len(self._batches) >= _MAX_BATCHES:
                self._batches.pop(next(iter(self._batches)))
            self._batches[count] = make_batch(self.model, count, persistent=True)
        return self._batches[count]

    @staticmethod
    def _diverged(batch: mujoco.batch.Batch) -> NDArray[np.int64]:
        return np.asarray(batch.warning[:, _DIVERGED, 1].sum(axis=1), np.int64)

    def frames(self, states: Iterable[Floats], goal: Floats, size: int) -> Iterator[NDArray[np.uint8]]:
        """Pictures of physics states `[S]`, uint8 `[size, size, 3]` each.

        Raises:
            RenderingUnavailable: no OpenGL backend works here.
        """
        model, data = self.model.__copy__(), mujoco.MjData(self.model)
        self.show_goal(model, goal)
        renderer = Renderer(model, size, size, camera=self.camera if model.ncam else -1, preset="fast")
        try:
            for state in states:
                mujoco.mj_setState(model, data, state, PHYSICS_STATE)
                mujoco.mj_kinematics(model, data)
                mujoco.mj_comPos(model, data)
                mujoco.mj_camlight(model, data)
                yield renderer.render(data)
        finally:
            renderer.close()


def tolerance(
    x: Floats,
    low: float,
    high: float = np.inf,
    margin: float = 0.0,
    sigmoid: str = "gaussian",
    value_at_margin: float = 0.1,
) -> Floats:
    """1 within `[low, high]`, and falling to `value_at_margin` at a distance of `margin` from it.

    The function of that name of the DeepMind Control Suite (Tassa et al. 2018), with the sigmoids `gaussian`, `linear`
    and `quadratic`.
    """
    inside = (low <= x) & (x <= high)
    if margin == 0:
        return inside.astype(np.float64)
    gap = np.where(x < low, low - x, x - high) / margin
    if sigmoid == "gaussian":
        outside = np.exp(-0.5 * (gap * np.sqrt(-2 * np.log(value_at_margin))) ** 2)
    else:
        scaled = gap * (1 - value_at_margin if sigmoid == "linear" else np.sqrt(1 - value_at_margin))
        outside = np.where(np.abs(scaled) < 1, 1 - (scaled if sigmoid == "linear" else scaled**2), 0.0)
    return np.asarray(np.where(inside, 1.0, outside))
