"""Skills: what an agent learned by reward in one place, as the actions of another that plans with it somewhere else.

The one above says where to go, the one below moves the joints that way: a hierarchy in which each level has its own
model, its own stride and its own actions (Sutton, Precup and Singh, "Between MDPs and semi-MDPs", 1999).
"""

import copy
import functools
import math
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..envs.gymnasium_adapter import control_timestep
from ..envs.registry import make_raw
from ..envs.spec import EnvError, EnvOptions
from .agent import Agent
from .build import load_alone
from .runs import RunError, card_of, open_checkpoint, skill_id
from .threads import threads_for


class Body(Protocol):
    """Between a robot and what a skill knows of it: `env.unwrapped.skill` where skills are learned."""

    command_size: int
    """Numbers that a command has, each between -1 and 1."""

    def reset(self) -> None:
        """An episode begins."""

    def perceive(self, observation: NDArray[Any], command: NDArray[Any]) -> NDArray[np.float32]:
        """What the skill sees of the robot's observation, when it is told to do this, which is not zero.

        Raises:
            EnvError: the observation is that of another robot.
        """

    def actuate(self, action: NDArray[Any]) -> NDArray[np.float32]:
        """What the robot does for an action of the skill."""


class Skilled(gymnasium.Wrapper[Any, NDArray[np.float32], Any, Any]):
    """An environment whose actions are commands to an agent, which acts there by its policy, without planning.

    Observations, goals and success are the environment's. A command is followed for one environment step, or with
    `action_repeat` for as many; the agent below sees each of them. A command of zeros is rest: the robot's own action
    of zeros, or what is nearest to it.

    Args:
        env: with the body that the skill was learned with.
        run: folder of a run in an environment with a `skill`, trained with `objective=reward`.

    Raises:
        RunError: there is no such run, or it learned no skill.
        CheckpointError: its weights are damaged.
        EnvError: `env` has another body.
    """

    # Those of the robot are not those of commands.
    action_rate: tuple[float, ...] = ()
    action_acceleration: tuple[float, ...] = ()

    def __init__(self, env: gymnasium.Env[Any, Any], run: str) -> None:
        super().__init__(env)
        self._agent, self._body, self.skill_id = _open(run)
        spec, own = self._agent.model.spec, env.action_space
        low, high = np.array(spec.action_low, np.float32), np.array(spec.action_high, np.float32)
        if (
            not isinstance(own, spaces.Box)
            or own.shape != low.shape
            or not (np.allclose(own.low, low) and np.allclose(own.high, high))
        ):
            raise EnvError(
                f"env_options.skill={run} moves a body whose actions are from {list(spec.action_low)} to "
                f"{list(spec.action_high)}, not one with {own}"
            )
        if not math.isclose(control_timestep(env), spec.control_dt):
            raise EnvError(
                f"env_options.skill={run} acts every {spec.control_dt:g} s, this environment every "
                f"{control_timestep(env):g} s"
            )
        self._rest = np.clip(np.zeros_like(low), low, high)
        self.action_space = spaces.Box(-1.0, 1.0, (self._body.command_size,), np.float32)
        self._seen: Any = None
        (self._key,) = spec.obs

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; the agent begins anew, too."""
        self._seen, info = self.env.reset(seed=seed, options=options)
        self._body.reset()
        self._carry = self._agent.init(1)
        return self._seen, info

    def step(self, action: NDArray[np.float32]) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Let the agent follow a command `[C]` for one environment step.

        Raises:
            EnvError: the observation is that of another robot.
        """
        native = self._rest
        if np.any(action):
            view = self._body.perceive(_vector(self._seen), action)
            with threads_for(0):
                chosen, self._carry, _ = self._agent.act({self._key: view[None]}, self._carry, None)
            native = self._body.actuate(chosen[0].numpy())
        self._seen, reward, terminated, truncated, info = self.env.step(native)
        return self._seen, reward, terminated, truncated, info

    def behaviour(self, seed: int) -> None:
        """None: what the environment would do of its own accord is not a command."""


def _vector(observation: Any) -> NDArray[Any]:
    """The robot's own numbers: an observation itself, or what it calls so beside its goals."""
    return np.asarray(observation["observation"] if isinstance(observation, dict) else observation)


def _open(run: str) -> tuple[Agent, Body, str]:
    """The agent of a run, which reacts, a body such as it knows, and which skill at which update that is."""
    weights = Path(run).expanduser() / "best.safetensors"
    agent, body, name = _read(run, weights.stat().st_mtime_ns if weights.exists() else 0)
    return agent, copy.deepcopy(body), name


@functools.lru_cache(maxsize=1)
def _read(run: str, written: int) -> tuple[Agent, Body, str]:
    """As `_open`, once for all environments of a process; agents that react keep nothing between decisions."""
    try:
        path, saved = open_checkpoint(Path(run).expanduser(), "best")
    except RunError as error:
        raise RunError(f"env_options.skill: {error}") from error
    card = card_of(path, saved)
    config, options = card["config"], EnvOptions.from_json(card["config"]["env_options"])
    raw, _ = make_raw(config["env"], EnvOptions(kwargs=options.kwargs))
    body = getattr(raw.unwrapped, "skill", None)
    raw.close()
    if body is None or config["objective"]["name"] != "reward":
        raise RunError(
            f"env_options.skill={run} must be a run with objective=reward in an environment with a skill, such as "
            f"forethought/AntWalk-v0, got objective={config['objective']['name']} in {config['env']}"
        )
    if options.action_repeat != 1 or options.observation != "state" or options.hide:
        raise RunError(
            f"env_options.skill={run} must have been trained with action_repeat=1 on all of the state, got "
            f"action_repeat={options.action_repeat}, observation={options.observation} and hide={options.hide}"
        )
    return load_alone(run, mode="react"), body, skill_id(path, saved)
