"""What is seen of an environment while it is examined: episodes of random actions, recorded once for all checks."""

import copy
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from gymnasium import spaces

from ..checks import Guard
from ..gymnasium_adapter import AnyEnv
from ..registry import make_raw
from ..spec import EnvError, EnvOptions

STARTS = 5
"""Episodes that are begun with seeds of their own, and left after one step."""
REPLAYED = 50
"""Steps of the first episode that are carried out again to compare."""
PATIENCE_S = 60.0
"""Seconds of stepping after which a slow environment has been seen enough of, whatever `steps` says."""

Level = Literal["ok", "warning", "error", "skipped"]


class Verdict(NamedTuple):
    """What a check says."""

    level: Level
    """`error`: it breaks the contract, or Forethought cannot use it; `warning`: it works, and is likely not what was
    meant; `skipped`: nothing can be said."""
    found: str
    """What was found."""
    advice: str = ""
    """What to do about it; empty where all is well."""


@dataclass(frozen=True)
class Moment:
    """What one reset or step returned, as it was right then: observations are copies."""

    obs: Any
    info: Any
    reward: Any = 0.0
    terminated: Any = False
    truncated: Any = False


@dataclass
class Episode:
    """An episode: its start, and the steps with the actions that led to them."""

    seed: int
    start: Moment
    actions: list[Any] = field(default_factory=list)
    steps: list[Moment] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether the environment ended it."""
        return bool(self.steps) and bool(self.steps[-1].terminated or self.steps[-1].truncated)

    @property
    def moments(self) -> list[Moment]:
        """The start and all steps."""
        return [self.start, *self.steps]


class Evidence:
    """One environment, made and played: what all checks look at.

    Everything is recorded as it came, also where it breaks the contract; play stops where it cannot go on, and `fault`
    says why.

    Args:
        env_id: as of `make_env`.
        options: how it is made.
        seed: of the first episode and of the actions; later episodes have the seeds that follow.
        steps: environment steps of random actions in all; fewer where they take longer than `PATIENCE_S`.
        clock: seconds, for speeds.

    Raises:
        ForethoughtError: the environment cannot be made.
    """

    def __init__(self, env_id: str, options: EnvOptions, seed: int, steps: int, clock: Callable[[], float]) -> None:
        self.env_id, self.options, self.seed, self.clock = env_id, options, seed, clock
        self._made: list[AnyEnv] = []
        self.guard = Guard(env_id, options.step_timeout_s)
        self.env, self.native_limit = self.make(options)
        self.episodes: list[Episode] = []
        """Played until the environment or its registered time limit ended them; the last one may be cut off."""
        self.starts: list[Episode] = []
        """Further episodes of at most one step."""
        self.fault: EnvError | None = None
        """Why play could not go on."""
        self.fault_in: Literal["reset", "step"] = "reset"
        """What was called last."""
        self.mutated: set[str] = set()
        """What the environment changed after it had returned or been given it: `observation`, `action`."""
        self.step_seconds, self.steps_timed = 0.0, 0
        self.last_step: Any = None
        """What the last step returned, untouched."""
        generators = _global_generators()
        try:
            self._play(steps)
        except EnvError as error:
            self.fault = error
        now = _global_generators()
        self.global_draws = [name for name in now if now[name] != generators[name]]
        """Global random generators that the environment drew from or seeded."""
        self.twin: Episode | EnvError | None = None
        """The beginning of the first episode once more, in a second instance."""
        self.again: Episode | EnvError | None = None
        """The same in the first instance, after all those episodes."""
        self.otherwise: Episode | EnvError | None = None
        """The same with other actions."""
        if self.fault is None:
            actions = self.episodes[0].actions[:REPLAYED]
            self.twin = self._replay(None, actions)
            self.again = self._replay(self.env, actions)
            self.otherwise = self._replay(self.env, [_opposite(self.env.action_space, a) for a in actions])

    def make(self, options: EnvOptions) -> tuple[AnyEnv, int | None]:
        """A further instance and its own time limit; it is closed with the others.

        Raises:
            ForethoughtError: it cannot be made.
        """
        env, limit = make_raw(self.env_id, options)
        self._made.append(env)
        return env, limit

    @property
    def moments(self) -> Iterator[Moment]:
        """All that was recorded."""
        for episode in [*self.episodes, *self.starts]:
            yield from episode.moments

    @property
    def steps(self) -> list[Moment]:
        """All steps of the long episodes."""
        return [step for episode in self.episodes for step in episode.steps]

    def close(self) -> None:
        """Close every instance that was made, whatever they raise."""
        for env in self._made:
            try:
                env.close()
            except Exception:  # the check `closing` has said so
                continue
        self._made.clear()

    def _play(self, steps: int) -> None:
        space = copy.deepcopy(self.env.action_space)
        space.seed(self.seed)
        left, number = steps, 0
        while left and self.step_seconds < PATIENCE_S:
            episode = self._begin(self.env, self.seed + number, self.episodes)
            for step in range(min(left, self.native_limit or left)):
                self._advance(self.env, episode, _action(space, step), timed=True)
                left -= 1
                if episode.over or self.step_seconds >= PATIENCE_S:
                    break
            number += 1
        for seed in range(self.seed + number, self.seed + number + STARTS):
            self._advance(self.env, self._begin(self.env, seed, self.starts), space.sample())

    def _begin(self, env: AnyEnv, seed: int, episodes: list[Episode]) -> Episode:
        self.fault_in = "reset"
        result: Any = self.guard.call("reset", env.reset, seed=seed, options=None)
        if not isinstance(result, tuple) or len(result) != 2:
            raise EnvError(f"reset() must return (obs, info), got {result!r:.100}")
        episode = Episode(seed, Moment(_copied(result[0]), _kept(result[1])))
        self._returned = result[0]
        episodes.append(episode)
        return episode

    def _advance(self, env: AnyEnv, episode: Episode, action: Any, timed: bool = False) -> None:
        self.fault_in = "step"
        given = copy.deepcopy(action)
        began = self.clock()
        result: Any = self.guard.call("step", env.step, given)
        if timed:
            self.step_seconds += self.clock() - began
            self.steps_timed += 1
        if not isinstance(result, tuple) or len(result) != 5:
            old = " of 4 (the Gym API before 0.26)" if isinstance(result, tuple) and len(result) == 4 else ""
            raise EnvError(
                f"step() must return (obs, reward, terminated, truncated, info), got a {type(result).__name__}{old}"
            )
        obs, reward, terminated, truncated, info = self.last_step = result
        if difference(given, action):
            self.mutated.add("action")
        if difference(self._returned, episode.moments[-1].obs):
            self.mutated.add("observation")
        self._returned = obs
        episode.actions.append(action)
        episode.steps.append(Moment(_copied(obs), _kept(info), reward, terminated, truncated))

    def _replay(self, env: AnyEnv | None, actions: Sequence[Any]) -> Episode | EnvError:
        """The first episode with these actions, in `env` or in a new instance; or why it could not be played."""
        try:
            episode = self._begin(env := env or self.make(self.options)[0], self.seed, [])
            for action in actions:
                self._advance(env, episode, action)
                if episode.over:
                    break
        except EnvError as error:
            return error
        return episode


def difference(a: Any, b: Any) -> float:
    """Largest difference of two observations, relative to one more than their size: 0 if they are the same, `inf` if
    they cannot be compared."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return max((difference(a[key], b[key]) for key in a), default=0.0) if a.keys() == b.keys() else math.inf
    if isinstance(a, tuple) and isinstance(b, tuple):
        pairs = zip(a, b, strict=False)
        return max((difference(x, y) for x, y in pairs), default=0.0) if len(a) == len(b) else math.inf
    try:
        x, y = np.asarray(a), np.asarray(b)
    except ValueError:  # ragged lists
        return 0.0 if a == b else math.inf
    if x.shape != y.shape:
        return math.inf
    if x.dtype.kind not in "biuf" or y.dtype.kind not in "biuf":
        return 0.0 if np.array_equal(x, y) else math.inf
    x, y = x.astype(np.float64), y.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(x - y) / (1.0 + np.abs(x)))
    return float(np.nan_to_num(apart, nan=math.inf).max(initial=0.0))


def arrays(obs: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Arrays of an observation by name, nested ones joined with `/`."""
    if isinstance(obs, Mapping):
        for key, value in obs.items():
            yield from arrays(value, f"{prefix}/{key}" if prefix else str(key))
    else:
        yield prefix or "observation", obs


def pictured(options: EnvOptions) -> EnvOptions:
    """The same options for an environment whose `render()` returns pictures."""
    return replace(options, kwargs={"render_mode": "rgb_array", **options.kwargs})


def _action(space: spaces.Space[Any], step: int) -> Any:
    """A random action; at every tenth step one end of the bounds or the other, where careless limits give way."""
    if isinstance(space, spaces.Box) and space.is_bounded() and step % 10 == 9:
        return (space.high if step % 20 == 9 else space.low).copy()
    return space.sample()


def _opposite(space: spaces.Space[Any], action: Any) -> Any:
    """An action far from this one, within the space."""
    if isinstance(space, spaces.Box):
        if not space.is_bounded():
            return -action
        middle = space.low / 2 + space.high / 2  # the sum could overflow
        return np.where(action > middle, space.low, space.high).astype(space.dtype)
    if isinstance(space, spaces.Discrete):
        return space.start + (action - space.start + 1) % space.n
    return action


def _copied(obs: Any) -> Any:
    """A copy of an observation, where one can be had."""
    try:
        return copy.deepcopy(obs)
    except Exception:
        return obs


def _kept(info: Any) -> Any:
    """Copies of the arrays in an `info`; simulators, viewers and whatever else is in there stay what they are."""
    if isinstance(info, Mapping):
        return {key: _kept(value) for key, value in info.items()}
    return info.copy() if isinstance(info, np.ndarray) else info


def _global_generators() -> dict[str, Any]:
    """The states of the generators that everything in a process shares."""
    state: Any = np.random.get_state()
    return {"numpy.random": (state[1].tobytes(), *state[2:]), "random": random.getstate()}
