"""What models and planners learn of an environment: `EnvSpec`, and nothing else."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .. import ForethoughtError


class EnvError(ForethoughtError):
    """An environment that is unknown, unsupported, or breaks its contract."""


@dataclass(frozen=True)
class ArraySpec:
    """One observation array, without batch dimension.

    A `uint8` array of three dimensions `[height, width, channels]` is an image (channels = 3 x stacked frames);
    everything else is a vector after flattening.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def is_image(self) -> bool:
        """Whether the array is a picture that goes through the convolutional encoder."""
        return self.dtype == "uint8" and len(self.shape) == 3

    @property
    def size(self) -> int:
        """Number of scalars."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GoalSpec:
    """How the environment states its goals.

    `kind="observation"`: a goal is a full observation, with the keys and shapes of `EnvSpec.obs` (OGBench's
    `info["goal"]`). `kind="achieved"`: a goal is a vector `desired_goal` of `dim` numbers, to be compared with the
    observation array named `achieved_key` (Gymnasium-Robotics' GoalEnv).
    """

    kind: Literal["observation", "achieved"]
    achieved_key: str | None = None
    dim: int | None = None


@dataclass(frozen=True)
class EnvSpec:
    """All that models and planners learn of an environment.

    Actions are flat float32 vectors `[A]` in real units, inside `[action_low, action_high]` (finite, per dimension,
    possibly asymmetric).

    Args:
        env_id: the id that makes the environment again.
        obs: flat dictionary of observation arrays; keys sorted.
        action_low: lower bounds, `A` numbers in the units of the environment.
        action_high: upper bounds, each above its lower bound.
        control_dt: seconds between decisions, action repeat included; `nan` where the environment does not say.
        max_episode_steps: decisions until truncation.
        goal: how goals are stated; None for an environment without goals.
        action_rate: most that each action may change per second, `A` numbers; None where nothing limits it.
        action_acceleration: most that this rate may change per second, `A` numbers; None where nothing limits it.
        skill: which skill, at which update of its training, actions are commands to; None where they are the robot's.
    """

    env_id: str
    obs: dict[str, ArraySpec]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    control_dt: float
    max_episode_steps: int
    goal: GoalSpec | None = None
    action_rate: tuple[float, ...] | None = None
    action_acceleration: tuple[float, ...] | None = None
    skill: str | None = None

    @property
    def action_dim(self) -> int:
        """Number of action dimensions, `A`."""
        return len(self.action_low)

    def to_json(self) -> dict[str, Any]:
        """The spec as plain JSON values; `from_json` is its inverse."""
        data = dataclasses.asdict(self)
        if math.isnan(self.control_dt):
            data["control_dt"] = None
        if self.skill is None:  # as specs were before there were skills
            del data["skill"]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "EnvSpec":
        """Rebuild a spec from `to_json`.

        Raises:
            EnvError: a field is missing or malformed.
        """
        try:
            goal = data["goal"]
            return cls(
                env_id=str(data["env_id"]),
                obs={k: ArraySpec(tuple(v["shape"]), str(v["dtype"])) for k, v in data["obs"].items()},
                action_low=tuple(float(x) for x in data["action_low"]),
                action_high=tuple(float(x) for x in data["action_high"]),
                control_dt=math.nan if data["control_dt"] is None else float(data["control_dt"]),
                max_episode_steps=int(data["max_episode_steps"]),
                goal=None if goal is None else GoalSpec(goal["kind"], goal["achieved_key"], goal["dim"]),
                # Specs that were written before there were limits have none.
                action_rate=_floats(data.get("action_rate")),
                action_acceleration=_floats(data.get("action_acceleration")),
                skill=data.get("skill"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EnvError(f"malformed environment spec: {error!r}") from error


def _floats(values: Any) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(x) for x in values)


@dataclass
class ShiftOptions:
    """How a MuJoCo environment differs from the one that was written: factors, and where its cameras stand."""

    mass: float = 1.0
    """Factor on the masses and inertias of all bodies."""
    gear: float = 1.0
    """Factor on the gears of all actuators: what a control comes to as a force."""
    friction: float = 1.0
    """Factor on the friction of all geoms in contact, and of joints and tendons."""
    damping: float = 1.0
    """Factor on the damping of all joints."""
    camera: float = 0.0
    """Metres by which every camera of the model is moved to its right."""

    def __post_init__(self) -> None:
        for name in (f.name for f in dataclasses.fields(self)):
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise EnvError(f"shift.{name} must be a finite number, got {value!r}")
            if name != "camera" and value <= 0:
                raise EnvError(f"shift.{name} is a factor and must be positive, got {value!r}")


@dataclass
class LinkOptions:
    """How commands and observations travel between the agent and a simulated robot; by default at once."""

    command_latency: float = 0.0
    """Seconds that a command takes to the robot, which goes on with the one before until then."""
    observation_latency: float = 0.0
    """Seconds that an observation is old when the agent sees it."""
    jitter: float = 0.0
    """Mean of the seconds that each of them takes longer, exponentially distributed."""
    command_loss: float = 0.0
    """Share of the commands that never arrive; the robot goes on with the last one that did."""
    observation_loss: float = 0.0
    """Share of the observations that never arrive; the agent sees the last one that did."""

    def __post_init__(self) -> None:
        for name in (f.name for f in dataclasses.fields(self)):
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise EnvError(f"link.{name} must be a finite number of at least 0, got {value!r}")
            if name.endswith("loss") and value >= 1:
                raise EnvError(f"link.{name} is a share and must be below 1, got {value!r}")


@dataclass
class EnvOptions:
    """How an environment is made; the same options for every kind of environment."""

    action_repeat: int = 1
    """Environment steps per decision; rewards are summed, success is any."""
    max_episode_steps: int | None = None
    """Decisions until truncation; None keeps the environment's own limit (1000 where it has none), or with `goal_ahead`
    twice that."""
    goal_ahead: int | None = None
    """Environment steps ahead along an episode of its own that the goal of an episode lies; None keeps the goals that
    the environment draws."""
    observation: str = "state"
    """`state`, `pixels` or `both`."""
    hide: list[str] = field(default_factory=list)
    """Observations that the agent does not see, nor in goals: `velocity` for a whole array, `observation[8:17]` for
    some numbers of one."""
    image_size: int = 64
    """Height and width of rendered observations, in pixels."""
    frame_stack: int = 2
    """Rendered frames stacked along the channels, newest last."""
    step_timeout_s: float = 60.0
    """Seconds after which a reset or step counts as hung and raises; 0 waits for ever."""
    skill: str | None = None
    """Run folder of an agent that acts here on commands: actions are then what it is to do, not what its joints do.
    Made for that are runs in `forethought/AntWalk-v0`, in OGBench's ant mazes."""
    shift: ShiftOptions = field(default_factory=ShiftOptions)
    """Changes of the physical world, to see how an agent stands them; for environments on MuJoCo."""
    link: LinkOptions = field(default_factory=LinkOptions)
    """Latency, jitter and losses between the agent and a simulated robot, in steps of the environment's own `dt`."""
    action_rate: list[float] = field(default_factory=list)
    """Most that each action may change per second, in its units; one number for all or one for each. Empty takes what
    the environment says in its `action_rate`."""
    action_acceleration: list[float] = field(default_factory=list)
    """Most that this rate may change per second, likewise; empty takes the environment's `action_acceleration`."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the environment's constructor."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "EnvOptions":
        """Rebuild options from what `dataclasses.asdict` made of them.

        Raises:
            EnvError: a value is out of range.
        """
        kinds = {"shift": ShiftOptions, "link": LinkOptions}
        return cls(**{**data, **{name: kind(**data.get(name, {})) for name, kind in kinds.items()}})
