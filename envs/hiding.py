"""Partial observability: observations, and goals that are observations, without some of their numbers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from .. import UnknownNameError
from .goals import GoalReader
from .gymnasium_adapter import Obs
from .spec import ArraySpec, EnvError, GoalSpec

_PART = re.compile(r"(?P<key>.+?)(\[(?P<first>\d+)(?P<range>:(?P<end>\d+)?)?\])?")


class Veil:
    """Takes numbers out of flat dicts of arrays.

    Args:
        specs: of the arrays.
        hide: what is taken out: `velocity` for a whole array, `observation[3]`, `observation[8:17]` or
            `observation[8:]` for numbers of a vector. What is left of a vector is a shorter one.

    Raises:
        UnknownNameError: there is no array of that name.
        EnvError: a part lies outside its array or belongs to a picture, or nothing is left.
    """

    def __init__(self, specs: Mapping[str, ArraySpec], hide: Sequence[str]) -> None:
        self._kept = {key: np.arange(spec.size) for key, spec in specs.items()}
        for name in hide:
            key, part = _parse(name, specs)
            self._kept[key] = np.setdiff1d(self._kept[key], np.arange(specs[key].size)[part])
        self._from = dict(specs)
        self.specs = {key: self._rest(key) for key, kept in self._kept.items() if len(kept)}
        """Of what is left."""
        if not self.specs:
            raise EnvError(f"hide must leave something to be seen of {sorted(specs)}, got {list(hide)}")

    def _rest(self, key: str) -> ArraySpec:
        spec, kept = self._from[key], self._kept[key]
        return spec if len(kept) == spec.size else ArraySpec((len(kept),), spec.dtype)

    def __call__(self, arrays: Mapping[str, NDArray[Any]]) -> Obs:
        """What is left of arrays `{key: [..., *shape]}`."""
        return {key: self._show(key, arrays[key]) for key in self.specs}

    def _show(self, key: str, array: NDArray[Any]) -> NDArray[Any]:
        if self.specs[key] == self._from[key]:
            return array
        lead = array.shape[: array.ndim - len(self._from[key].shape)]
        return array.reshape(*lead, -1)[..., self._kept[key]]


def _parse(name: str, specs: Mapping[str, ArraySpec]) -> tuple[str, slice]:
    """The array that `name` is of, and which of its numbers."""
    found = None if name in specs else _PART.fullmatch(name)  # a name may have brackets of its own
    key = name if found is None else found["key"]
    if key not in specs:
        raise UnknownNameError("observation to hide", key, specs)
    if found is None or found["first"] is None:
        return key, slice(None)
    first = int(found["first"])
    end = int(found["end"] or specs[key].size) if found["range"] else first + 1
    if specs[key].is_image:
        raise EnvError(f"hide takes pictures as a whole, {key!r}, got {name!r}")
    if not first < end <= specs[key].size:
        raise EnvError(f"hide must name some of the {specs[key].size} numbers of {key!r}, got {name!r}")
    return key, slice(first, end)


class VeiledGoals(GoalReader):
    """Observations and goals of another reader through a veil.

    A goal that is an observation lacks what observations lack: it is a place where velocities are hidden, whatever
    speed it is reached with. Success remains the environment's own, which sees everything.

    Args:
        reader: reads all of it.
        hide: see `Veil`.

    Raises:
        UnknownNameError: as `Veil`.
        EnvError: as `Veil`.
    """

    def __init__(self, reader: GoalReader, hide: Sequence[str]) -> None:
        self._reader = reader
        self.veil = Veil(reader.obs_specs, hide)
        self.obs_specs = self.veil.specs

    @override
    def spec(self, raw_obs: Any, info: Mapping[str, Any]) -> GoalSpec | None:
        goal = self._reader.spec(raw_obs, info)
        key = None if goal is None else goal.achieved_key
        if key is not None and self.obs_specs.get(key) != self._reader.obs_specs[key]:
            raise EnvError(f"hide must leave {key!r} alone, which goals are compared with")
        return goal

    @override
    def read_obs(self, raw_obs: Any) -> Obs:
        return self.veil(self._reader.read_obs(raw_obs))

    @override
    def read_goal(self, raw_obs: Any, info: Mapping[str, Any]) -> Obs | None:
        goal = self._reader.read_goal(raw_obs, info)
        return goal if goal is None or "desired_goal" in goal else self.veil(goal)
