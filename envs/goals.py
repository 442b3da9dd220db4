"""How environments state goals, brought to two conventions: a full observation, or a vector to be achieved."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces

from .gymnasium_adapter import Obs, ObservationAdapter
from .spec import ArraySpec, EnvError, GoalSpec


def success(info: Mapping[str, Any]) -> bool:
    """Whether the environment calls this moment a success: `info["success"]`, else `info["is_success"]`, else False."""
    return bool(info.get("success", info.get("is_success", False)))


class GoalReader(Protocol):
    """Splits what an environment returns into an observation and a goal."""

    obs_specs: dict[str, ArraySpec]
    """What observations consist of, keys sorted."""

    def spec(self, raw_obs: Any, info: Mapping[str, Any]) -> GoalSpec | None:
        """How goals are stated, given what one reset returned; None without goals."""

    def read_obs(self, raw_obs: Any) -> Obs:
        """The observation without its goal, as a flat dict."""

    def read_goal(self, raw_obs: Any, info: Mapping[str, Any]) -> Obs | None:
        """The goal as a flat dict, or None if nothing is said about it here."""


class InfoGoals:
    """Goals that are full observations in `info["goal"]`, at least after each reset (OGBench); or no goals at all.

    Args:
        space: of the environment's observations.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self._adapter = ObservationAdapter(space)
        self.obs_specs = self._adapter.specs

    def spec(self, raw_obs: Any, info: Mapping[str, Any]) -> GoalSpec | None:
        """Full observations, if the reset gave one."""
        return None if self.read_goal(raw_obs, info) is None else GoalSpec("observation")

    def read_obs(self, raw_obs: Any) -> Obs:
        """The whole observation."""
        return self._adapter(raw_obs)

    def read_goal(self, raw_obs: Any, info: Mapping[str, Any]) -> Obs | None:
        """`info["goal"]`, in the form of an observation.

        Raises:
            EnvError: it has not the keys, shapes and dtypes of an observation.
        """
        goal = info.get("goal")
        if goal is None:
            return None
        try:
            return self._adapter(goal)
        except EnvError as error:
            raise EnvError(f'info["goal"] must be an observation: {error}') from error


class AchievedGoals:
    """Goals that stand beside the observation as `desired_goal`, to be compared with `achieved_goal` (GoalEnv).

    Nested goals (Franka Kitchen) become one vector, in the order of their sorted keys.

    Args:
        space: of the environment's observations.

    Raises:
        EnvError: `achieved_goal` is missing or has not the size of `desired_goal`.
    """

    def __init__(self, space: spaces.Dict) -> None:
        if "achieved_goal" not in space.spaces:
            raise EnvError("an observation with desired_goal must also have achieved_goal, to be compared with it")
        rest = {k: v for k, v in space.spaces.items() if k not in ("achieved_goal", "desired_goal")}
        self._desired = ObservationAdapter(space["desired_goal"])
        self._achieved = ObservationAdapter(space["achieved_goal"])
        self._rest = ObservationAdapter(spaces.Dict(rest)) if rest else None
        self._dim = _size(self._desired)
        if self._dim != _size(self._achieved):
            raise EnvError(
                f"desired_goal must have as many numbers as achieved_goal, got {self._dim} and {_size(self._achieved)}"
            )
        specs = {"achieved_goal": ArraySpec((self._dim,), "float32"), **(self._rest.specs if self._rest else {})}
        self.obs_specs = dict(sorted(specs.items()))

    def spec(self, raw_obs: Any, info: Mapping[str, Any]) -> GoalSpec | None:
        """A vector, always."""
        return GoalSpec("achieved", "achieved_goal", self._dim)

    def read_obs(self, raw_obs: Any) -> Obs:
        """The observation without `desired_goal`."""
        obs = self._rest(raw_obs) if self._rest else {}
        obs["achieved_goal"] = self._achieved.vector(_part(raw_obs, "achieved_goal"))
        return {key: obs[key] for key in self.obs_specs}

    def read_goal(self, raw_obs: Any, info: Mapping[str, Any]) -> Obs | None:
        """`{"desired_goal": [G]}`."""
        return {"desired_goal": self._desired.vector(_part(raw_obs, "desired_goal"))}


def make_goal_reader(space: spaces.Space[Any]) -> GoalReader:
    """The reader for the convention that an observation space belongs to."""
    if isinstance(space, spaces.Dict) and "desired_goal" in space.spaces:
        return AchievedGoals(space)
    return InfoGoals(space)


def _size(adapter: ObservationAdapter) -> int:
    return int(np.sum([spec.size for spec in adapter.specs.values()]))


def _part(raw_obs: Any, key: str) -> Any:
    if not isinstance(raw_obs, Mapping) or key not in raw_obs:
        raise EnvError(f"the observation must have the key {key!r} as its space says")
    return raw_obs[key]
