"""Checks of what an environment declares and returns: spaces, the five values of a step, shapes, bounds, numbers."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from ... import ForethoughtError
from ..checks import EnvTimeoutError, check_form, check_reset_result, check_step_result
from ..goals import make_goal_reader
from ..gymnasium_adapter import ActionAdapter
from ..registry import make_env
from ..spec import EnvError
from .evidence import Evidence, Verdict, arrays

_HUGE_BOUND = 1e4
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_AGENT_STEPS = 50

Check = Callable[[Evidence], Verdict]


def action_space(evidence: Evidence) -> Verdict:
    """A bounded box, and not one whose bounds are only there to be bounds."""
    space: Any = evidence.env.action_space
    try:
        adapter = ActionAdapter(space)
    except EnvError as error:
        advice = (
            "Forethought searches real-valued actions between bounds: declare such, or look for a variant that has "
            "them, often an argument of the constructor (env_options.kwargs.continuous=true)"
        )
        return Verdict("error", str(error), advice)
    low, high = min(adapter.low), max(adapter.high)
    if max(-low, high) > _HUGE_BOUND:
        return Verdict(
            "warning",
            f"actions from {low:g} to {high:g}",
            "declare the limits that the robot really has: random actions are drawn, and plans searched, in between",
        )
    return Verdict("ok", f"{len(adapter.low)} actions from {low:g} to {high:g}, {space.dtype}")


def observation_space(evidence: Evidence) -> Verdict:
    """Boxes that the agent can read, and images that it can see as such."""
    space: Any = evidence.env.observation_space
    if isinstance(space, spaces.Dict):
        pictures = {key: value for key, value in space.items() if isinstance(value, spaces.Box)}
    else:
        pictures = {"observation": space} if isinstance(space, spaces.Box) else {}
    try:
        specs = make_goal_reader(space).obs_specs
    except EnvError as error:
        return Verdict("error", str(error), "build the space of Box, MultiBinary and Dict; FlattenObservation helps")
    for key, box in pictures.items():
        shape = box.shape
        if len(shape) == 3 and shape[0] in (1, 3, 4) and min(shape[1:]) > 4:
            return Verdict(
                "warning",
                f"observation {key!r} of shape {list(shape)} looks like an image with its channels first",
                "return uint8 [height, width, channels]: np.moveaxis(image, 0, -1)",
            )
        if len(shape) == 3 and shape[2] in (1, 3, 4) and min(shape[:2]) > 4 and box.dtype != np.uint8:
            return Verdict(
                "warning",
                f"observation {key!r} of shape {list(shape)} looks like an image, but has dtype {box.dtype}",
                "return uint8 from 0 to 255; everything else is read as a vector of numbers",
            )
    return Verdict("ok", ", ".join(f"{key} {spec.dtype}{list(spec.shape)}" for key, spec in specs.items()))


def reset(evidence: Evidence) -> Verdict:
    """`reset(seed=..., options=...)` returns `(obs, info)`."""
    advice = "follow gymnasium.Env: def reset(self, *, seed=None, options=None) -> tuple[obs, dict]"
    if evidence.fault is not None and evidence.fault_in == "reset":
        return Verdict("error", str(evidence.fault), advice)
    for episode in [*evidence.episodes, *evidence.starts]:
        try:
            check_reset_result((episode.start.obs, episode.start.info))
        except EnvError as error:
            return Verdict("error", f"reset() {error}", advice)
    return Verdict("ok", f"{len(evidence.episodes) + len(evidence.starts)} resets, each with a seed")


def step(evidence: Evidence) -> Verdict:
    """`step(action)` returns the five values of Gymnasium's interface."""
    advice = "follow gymnasium.Env: step(action) -> obs, float, bool, bool, dict"
    if evidence.fault is not None and evidence.fault_in == "step":
        return Verdict("error", str(evidence.fault), advice)
    if not evidence.steps:
        return Verdict("skipped", "no step could be taken")
    for number, moment in enumerate(evidence.steps, start=1):
        # Whether it is finite is another check.
        reward = 0.0 if _not_finite(moment.reward) else moment.reward
        try:
            check_step_result((moment.obs, reward, moment.terminated, moment.truncated, moment.info))
        except EnvError as error:
            return Verdict("error", f"step {number}: step() {error}", advice)
    return Verdict("ok", f"{len(evidence.steps)} steps of random actions, the ends of the bounds among them")


def shapes_and_dtypes(evidence: Evidence) -> Verdict:
    """Observations have the shapes and dtypes that their space declares."""
    cast: dict[str, str] = {}
    seen = False
    for moment in evidence.moments:
        for key, space, value in _with_spaces(evidence.env.observation_space, moment.obs):
            seen = True
            if isinstance(space, spaces.Box):
                assert space.dtype is not None  # what a Box always has
                try:
                    array = check_form(key, value, space.shape, space.dtype)
                except EnvError as error:
                    return Verdict("error", str(error), "return what the space declares, or declare what you return")
                if array.dtype != space.dtype:
                    cast[key] = f"observation {key!r} is declared {space.dtype} and comes as {array.dtype}"
            elif not space.contains(value):
                problem = f"observation {key!r} is not in its space {space}: {value!r:.100}"
                return Verdict("error", problem, "return what the space declares, or declare what you return")
    if not seen:
        return Verdict("skipped", "nothing was observed")
    if cast:
        advice = f"cast before you return: {next(iter(cast))}.astype(dtype); other tools do not cast for you"
        return Verdict("warning", "; ".join(cast.values()), advice)
    return Verdict("ok", "as the space declares")


def observation_bounds(evidence: Evidence) -> Verdict:
    """Observations stay within the bounds that their space declares."""
    beyond: dict[str, tuple[int, str]] = {}
    moments = list(evidence.moments)
    bounded = False
    for moment in moments:
        for key, space, value in _with_spaces(evidence.env.observation_space, moment.obs):
            array = np.asarray(value)
            if not isinstance(space, spaces.Box) or array.shape != space.shape or array.dtype.kind not in "biuf":
                continue
            bounded = bounded or bool(np.isfinite(space.low).any() or np.isfinite(space.high).any())
            slack = 1e-6 * (1.0 + np.abs(np.nan_to_num(array.astype(np.float64), posinf=0.0, neginf=0.0)))
            outside = (array < space.low - slack) | (array > space.high + slack)
            if outside.any():
                index = tuple(int(i) for i in np.argwhere(outside)[0])
                bounds = f"[{space.low[index]:g}, {space.high[index]:g}]"
                text = f"{key!r} was {array[index]:g} at index {list(index)}, outside {bounds}"
                count, first = beyond.get(key, (0, text))
                beyond[key] = (count + 1, first)
    if beyond:
        found = "; ".join(f"{text}, {count} of {len(moments)} times" for count, text in beyond.values())
        return Verdict(
            "warning", found, "declare the real bounds, or -inf and inf; others scale by them. Forethought does not"
        )
    if not moments:
        return Verdict("skipped", "nothing was observed")
    return Verdict("ok", "kept" if bounded else "none declared: -inf to inf")


def finite_numbers(evidence: Evidence) -> Verdict:
    """Observations and rewards are finite, and fit into float32."""
    advice = "find where it divides by zero or the simulation explodes; end the episode with terminated=True before it"
    for number, moment in enumerate(evidence.moments):
        if _not_finite(moment.reward):
            return Verdict("error", f"the reward was {moment.reward} at moment {number}", advice)
        for key, value in arrays(moment.obs):
            array = np.asarray(value)
            if array.dtype.kind != "f":
                continue
            bad = ~(np.abs(array) <= _FLOAT32_MAX)  # NaN compares as False with everything
            if bad.any():
                index = tuple(int(i) for i in np.argwhere(bad)[0])
                return Verdict("error", f"{key!r} was {array[index]} at index {list(index)}, moment {number}", advice)
    return Verdict("ok", "all") if evidence.episodes else Verdict("skipped", "nothing was observed")


def aliasing(evidence: Evidence) -> Verdict:
    """What was returned stays as it is, and the action that was given, too."""
    if "observation" in evidence.mutated:
        return Verdict(
            "warning",
            "a step changed the observation that the call before had returned",
            "return copies, obs.copy(): who keeps observations, as every replay buffer does, would keep the last one",
        )
    if "action" in evidence.mutated:
        return Verdict(
            "warning",
            "step() changed the array of the action that it was given",
            "work on a copy, action.copy(): the caller keeps what it asked for",
        )
    return Verdict("ok", "fresh arrays") if evidence.steps else Verdict("skipped", "no step could be taken")


def as_the_agent_sees_it(evidence: Evidence) -> Verdict:
    """Forethought takes it with these options, and plays on."""
    advice = "see the findings above, and the table of common errors in docs/plug-in-a-robot.md"
    if isinstance(evidence.fault, EnvTimeoutError):  # waiting once is enough
        return Verdict("error", f"refused: {evidence.fault}", advice)
    try:
        env = make_env(evidence.env_id, evidence.options)
    except ForethoughtError as error:
        return Verdict("error", f"refused: {error}", advice)
    spec = env.env_spec
    rng = np.random.default_rng(evidence.seed)
    over = True
    try:
        for _ in range(_AGENT_STEPS):
            if over:
                env.reset(seed=evidence.seed)
            action = rng.uniform(spec.action_low, spec.action_high).astype(np.float32)
            _, _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
    except EnvError as error:
        return Verdict("error", f"refused: {error}", advice)
    finally:
        env.close()
    keys = ", ".join(f"{key} {value.dtype}{list(value.shape)}" for key, value in spec.obs.items())
    goal = "no goals: objective=reward" if spec.goal is None else f"goals by {spec.goal.kind}"
    return Verdict("ok", f"observations {keys}; {spec.action_dim} actions; {goal}; {spec.max_episode_steps} decisions")


def _with_spaces(space: Any, obs: Any, key: str = "") -> Iterator[tuple[str, spaces.Space[Any], Any]]:
    """The leaves of an observation beside their spaces; what is missing is an empty array."""
    if isinstance(space, spaces.Dict):
        for name, inner in space.items():
            value = obs[name] if isinstance(obs, Mapping) and name in obs else np.empty(0)
            yield from _with_spaces(inner, value, f"{key}/{name}" if key else name)
    else:
        yield key or "observation", space, obs


def _not_finite(reward: Any) -> bool:
    return isinstance(reward, int | float | np.number) and not math.isfinite(reward)


CHECKS: dict[str, Check] = {
    "action space": action_space,
    "observation space": observation_space,
    "reset": reset,
    "step": step,
    "shapes and dtypes": shapes_and_dtypes,
    "observation bounds": observation_bounds,
    "finite numbers": finite_numbers,
    "aliasing": aliasing,
}
