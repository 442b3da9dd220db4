"""Checks of what surrounds a task: time, speed, pictures, and what goes to other processes."""

from collections.abc import Callable
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled

from ... import ForethoughtError
from ..goals import make_goal_reader
from ..gymnasium_adapter import AnyEnv, control_timestep
from ..pixels import Pixels
from ..rendering import RenderingUnavailable, require
from ..simulator import find_physics
from ..spec import EnvOptions
from .evidence import Evidence, Verdict, pictured
from .interface import Check

_SLOW_STEPS, _SLOW_PICTURES = 100.0, 20.0
_PICTURES = 10
_IMAGE_SIZE = 64


def control_step(evidence: Evidence) -> Verdict:
    """The environment says how long a step takes."""
    seconds = control_timestep(evidence.env)
    if np.isnan(seconds):
        return Verdict("ok", "not said: an attribute dt, in seconds, would set the speed of videos")
    if not 1e-4 <= seconds <= 10:
        return Verdict("warning", f"{seconds:g} s", "let the attribute dt be the seconds between two steps")
    return Verdict("ok", f"{seconds:g} s")


def speed(evidence: Evidence) -> Verdict:
    """It is fast enough to learn from."""
    if not evidence.steps_timed or evidence.step_seconds <= 0:
        return Verdict("skipped", "no step could be timed")
    per_second = evidence.steps_timed / evidence.step_seconds
    found = f"{_rate(per_second)} steps per second, without what an agent computes"
    if per_second < _SLOW_STEPS:
        return Verdict(
            "warning",
            f"{found}; 20,000 steps take {20_000 / per_second / 60:.0f} minutes",
            "draw nothing in step(), take larger physics steps, or decide less often: env_options.action_repeat",
        )
    return Verdict("ok", found)


def rendering(evidence: Evidence) -> Verdict:
    """`render()` gives pictures, for the videos of an evaluation."""
    if not evidence.episodes:
        return Verdict("skipped", "no episode began")
    modes = evidence.env.metadata.get("render_modes") or ()
    if "rgb_array" not in modes:
        return Verdict(
            "warning",
            f"metadata['render_modes'] is {list(modes)}: no videos, no pictures to learn from",
            "offer render_mode='rgb_array' and let render() return uint8 [height, width, 3]",
        )
    advice = "with render_mode='rgb_array', let render() return uint8 [height, width, 3]"
    try:
        env = _drawn(evidence, pictured(evidence.options))
        evidence.guard.call("reset", env.reset, seed=evidence.seed)
        picture: Any = evidence.guard.call("render", env.render)
    except ForethoughtError as error:
        if isinstance(error, RenderingUnavailable) or isinstance(error.__cause__, RenderingUnavailable):
            return Verdict("skipped", str(error))
        if isinstance(error.__cause__, ImportError | DependencyNotInstalled):
            return Verdict("warning", str(error), "install what it names; without it there are no videos")
        return Verdict("error", str(error), advice)
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        got = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        return Verdict("error", f"render() returned {got}", advice)
    if picture.min() == picture.max():
        return Verdict("warning", "the picture is of one colour", "see that camera and lights face the scene")
    return Verdict("ok", f"pictures of {picture.shape[1]} x {picture.shape[0]}")


def picture_speed(evidence: Evidence) -> Verdict:
    """Pictures come fast enough to learn from, drawn as `observation="pixels"` draws them."""
    if not evidence.episodes or "rgb_array" not in (evidence.env.metadata.get("render_modes") or ()):
        return Verdict("skipped", "see rendering")
    try:
        nice = _drawn(evidence, pictured(evidence.options))
        evidence.guard.call("reset", nice.reset, seed=evidence.seed)
        plain = _per_second(evidence, nice.render)
        env = _drawn(evidence, replace(evidence.options, observation="pixels", image_size=_IMAGE_SIZE, hide=[]))
        reader = make_goal_reader(env.observation_space)
        pixels = Pixels(env, reader.obs_specs, _IMAGE_SIZE, 1)  # before the first picture, which some draw in reset()
        evidence.guard.call("reset", env.reset, seed=evidence.seed)
        obs = reader.read_obs(evidence.episodes[0].start.obs)
        evidence.guard.call("render", pixels.reset, obs)
        fast = _per_second(evidence, lambda: pixels.step(obs))
    except ForethoughtError as error:
        return Verdict("skipped", f"see rendering: {error}")
    source = f"observation {pixels.source!r}" if pixels.source else f"{_IMAGE_SIZE} x {_IMAGE_SIZE}, fast preset"
    found = f"{_rate(fast)} per second ({source}); {_rate(plain)} by render()"
    if fast < _SLOW_PICTURES:
        return Verdict(
            "warning", found, "give the environment a method render_pixels(size) that draws small and without shadows"
        )
    return Verdict("ok", found)


def workers(evidence: Evidence) -> Verdict:
    """What goes from process to process can be pickled."""
    env, wrong = evidence.env, {}
    parts = {
        "the options": evidence.options.kwargs,
        "the action space": env.action_space,
        "the observation space": env.observation_space,
        "what step() returned": evidence.last_step,
    }
    for name, part in parts.items():
        if (reason := _unpicklable(part)) is not None:
            wrong[name] = reason
    if wrong:
        return Verdict(
            "warning",
            "; ".join(f"{name} cannot be pickled: {reason}" for name, reason in wrong.items()),
            "keep simulators, viewers, functions and locks out of info, spaces and arguments: workers could not get "
            "them through a pipe",
        )
    itself = "" if _unpicklable(env) is None else " (the environment itself cannot; workers make their own)"
    return Verdict("ok", f"spaces, options, observations and info can be pickled{itself}")


def closing(evidence: Evidence) -> Verdict:
    """`close()` works, twice, and after a reset."""
    env = evidence.env
    try:
        env.close()
        env.close()
    except Exception as error:
        return Verdict(
            "warning",
            f"close() raised {type(error).__name__}: {error}",
            "free what is there and forget it, so that closing twice does no harm",
        )
    return Verdict("ok", "twice without harm")


def _drawn(evidence: Evidence, options: EnvOptions) -> AnyEnv:
    if find_physics(evidence.env) is not None:
        require()  # or MuJoCo would look for a display
    return evidence.make(options)[0]


def _per_second(evidence: Evidence, draw: Callable[[], object]) -> float:
    evidence.guard.call("render", draw)  # the first takes longer
    began = evidence.clock()
    for _ in range(_PICTURES):
        draw()
    return _PICTURES / max(evidence.clock() - began, 1e-9)


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2g}"


def _unpicklable(value: Any) -> str | None:
    try:
        ForkingPickler.dumps(value)
    except Exception as error:  # classes raise what they like
        return f"{type(error).__name__}: {error}"[:120]
    return None


CHECKS: dict[str, Check] = {
    "control step": control_step,
    "speed": speed,
    "rendering": rendering,
    "picture speed": picture_speed,
    "workers": workers,
}
