"""From any Gymnasium environment to Forethought's conventions: flat float32 actions, flat dicts of arrays."""

import dataclasses
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec as RegisteredEnv
from gymnasium.envs.registration import load_env_creator
from numpy.typing import NDArray

from .checks import check_array
from .spec import ArraySpec, EnvError

AnyEnv: TypeAlias = gymnasium.Env[Any, Any]
Obs: TypeAlias = dict[str, NDArray[Any]]

PRECISION_WARNING = ".*precision lowered by casting"
"""Of Gymnasium, about bounds computed in float64 for a float32 space: nothing that the user could act on."""


def make_gymnasium(
    registered: RegisteredEnv, kwargs: Mapping[str, Any], drawn: bool = False
) -> tuple[AnyEnv, int | None]:
    """Make a registered environment without its time limit.

    Args:
        registered: the entry of Gymnasium's registry.
        kwargs: of the environment's constructor.
        drawn: whether `render()` is to return pictures, where the environment can be asked to.

    Returns:
        The environment, and its registered time limit in environment steps or None.

    Raises:
        EnvError: the constructor raised: a package is missing, a keyword argument is unknown; the cause is chained.
    """
    unlimited = dataclasses.replace(registered, max_episode_steps=None)
    try:
        if drawn and _offers_pictures(registered):
            kwargs = {"render_mode": "rgb_array", **kwargs}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=PRECISION_WARNING, category=UserWarning)
            env = gymnasium.make(unlimited, disable_env_checker=True, **kwargs)
    except Exception as error:
        raise EnvError(f"cannot make {registered.id}: {type(error).__name__}: {error}") from error
    return env, registered.max_episode_steps


def _offers_pictures(registered: RegisteredEnv) -> bool:
    entry = registered.entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    # A function instead of a class does not say what it offers.
    modes = getattr(creator, "metadata", {}).get("render_modes", ["rgb_array"])
    return "rgb_array" in modes


def inner_robot(env: AnyEnv) -> Any:
    """The environment that simulates: `env.unwrapped`, or the robot inside one of Gymnasium-Robotics' mazes."""
    outer: Any = env.unwrapped
    return getattr(outer, "point_env", getattr(outer, "ant_env", outer))


def control_timestep(env: AnyEnv) -> float:
    """Seconds between environment steps, or nan where the environment does not say.

    Looked for as `control_dt` of a wrapper, `dt` (Gymnasium's MuJoCo and robotics environments), `control_timestep`
    (dm_control, OGBench), and physics time step times `frame_skip`.
    """
    robot = inner_robot(env)
    value = getattr(robot, "dt", getattr(robot, "control_timestep", None))
    if env.has_wrapper_attr("control_dt"):
        value = env.get_wrapper_attr("control_dt")
    if callable(value):
        value = value()
    if value is None and hasattr(robot, "model") and hasattr(robot, "frame_skip"):
        value = robot.model.opt.timestep * robot.frame_skip
    if isinstance(value, int | float | np.number) and 0 < value < math.inf:
        return float(value)
    return math.nan


class ActionAdapter:
    """Turns flat float32 actions in real units into what the environment's box space wants.

    Args:
        space: a `Box` with finite bounds; any dtype and shape, asymmetric bounds.

    Raises:
        EnvError: the space is not a box or has an infinite or empty range; the message says how to wrap it.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        if not isinstance(space, spaces.Box):
            hint = ""
            if isinstance(space, spaces.Discrete):
                first = f"{space.start} + " if space.start else ""
                hint = (
                    "; wrap it, for example in gymnasium.wrappers.TransformAction(env, lambda a: "
                    f"{first}int(a.argmax()), Box(0, 1, ({space.n},)))"
                )
            raise EnvError(f"the action space must be a Box (continuous or integer), got {space}{hint}")
        low, high = space.low.ravel(), space.high.ravel()
        if space.dtype is None or low.size == 0:
            raise EnvError(f"the action space must have at least one dimension, got {space}")
        for index, (a, b) in enumerate(zip(low, high, strict=True)):
            if not (math.isfinite(a) and math.isfinite(b)):
                raise EnvError(
                    f"the action space must be bounded, got [{a}, {b}] in dimension {index}; declare the real limits, "
                    "or wrap it in gymnasium.wrappers.TransformAction(env, lambda a: a, Box(low, high))"
                )
            if not a < b:
                raise EnvError(f"action bounds must satisfy low < high, got [{a}, {b}] in dimension {index}")
        self._low, self._high = low, high
        self._shape, self._dtype = space.shape, space.dtype
        self._rounds = np.issubdtype(space.dtype, np.integer)
        self.low = tuple(float(x) for x in low)
        self.high = tuple(float(x) for x in high)
        self.space = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)

    def __call__(self, action: NDArray[np.floating[Any]]) -> NDArray[Any]:
        """Clip, reshape and cast an action `[A]`; integer spaces get the nearest integer.

        Raises:
            EnvError: the action has another shape or is not finite.
        """
        flat = np.asarray(action)
        if flat.shape != (len(self.low),):
            raise EnvError(f"the action must have shape ({len(self.low)},), got {flat.shape}")
        if not np.isfinite(flat).all():
            raise EnvError(f"the action must be finite, got {flat.tolist()}")
        if self._rounds:
            native = np.rint(flat).clip(self._low, self._high).astype(self._dtype)
        else:
            # Clipped in the environment's own precision: float32(0.1) lies outside a float64 bound of 0.1.
            native = flat.astype(self._dtype).clip(self._low, self._high)
        return native.reshape(self._shape)


@dataclasses.dataclass(frozen=True)
class _Leaf:
    key: str
    path: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    spec: ArraySpec
    target: np.dtype[Any]


class ObservationAdapter:
    """Turns observations of a box or nested dict space into a flat dict of arrays with sorted keys.

    A single array becomes `{"observation": array}`; nested keys are joined with `/`. uint8 arrays of three dimensions
    stay images; everything else becomes float32, and a scalar a vector of one.

    Args:
        space: a `Box`, a `MultiBinary`, or a (nested) `Dict` of these.

    Raises:
        EnvError: the space contains anything else, or nothing.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self._single = not isinstance(space, spaces.Dict)
        self._leaves = sorted(_leaves(space, ()), key=lambda leaf: leaf.key)
        keys = [leaf.key for leaf in self._leaves]
        if len(set(keys)) != len(keys) or not keys:
            raise EnvError(f"the observation space must have arrays with distinct names, got {keys}")
        self.specs = {leaf.key: leaf.spec for leaf in self._leaves}

    def __call__(self, obs: Any) -> Obs:
        """Check and convert one observation; the arrays are fresh copies.

        Raises:
            EnvError: a key is missing, or an array has another shape or dtype or is not finite.
        """
        return {leaf.key: self._read(leaf, obs) for leaf in self._leaves}

    def vector(self, obs: Any) -> NDArray[np.float32]:
        """The same as one float32 vector, arrays in the order of their keys."""
        return np.concatenate([self._read(leaf, obs).ravel() for leaf in self._leaves], dtype=np.float32)

    def _read(self, leaf: _Leaf, obs: Any) -> NDArray[Any]:
        # A single array may also come named, as a goal of `info["goal"]` may.
        path = ("observation",) if self._single and isinstance(obs, Mapping) else leaf.path
        for key in path:
            if not isinstance(obs, Mapping) or key not in obs:
                got = sorted(obs) if isinstance(obs, Mapping) else type(obs).__name__
                raise EnvError(f"the observation must have the key {leaf.key!r} as its space says, got {got}")
            obs = obs[key]
        array = check_array(leaf.key, obs, leaf.shape, leaf.dtype)
        return np.array(array, leaf.target).reshape(leaf.spec.shape)


def _leaves(space: spaces.Space[Any], path: tuple[str, ...]) -> Iterator[_Leaf]:
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from _leaves(inner, (*path, str(key)))
        return
    name = "/".join(path) or "observation"
    if not isinstance(space, spaces.Box | spaces.MultiBinary) or space.dtype is None or space.shape is None:
        raise EnvError(
            f"the observation space must be built of Box, MultiBinary and Dict, got {space} for {name!r}; wrap the "
            "environment in gymnasium.wrappers.FlattenObservation"
        )
    image = space.dtype == np.uint8 and len(space.shape) == 3
    target = np.dtype(np.uint8 if image else np.float32)
    yield _Leaf(name, path, space.shape, np.dtype(space.dtype), ArraySpec(space.shape or (1,), target.name), target)
