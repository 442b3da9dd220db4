"""Checks of what an episode is about: goals, success and rewards, in the conventions of `envs.goals`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from ..goals import make_goal_reader
from ..spec import EnvError
from .evidence import Episode, Evidence, Moment, Verdict, difference
from .interface import Check

_GOAL_NAMES = ("goal", "goals", "target", "goal_state", "goal_pos", "target_pos", "target_position", "goal_position")
_SUCCESS_WORDS = ("succ", "solved", "reached", "complete", "goal_achieved")
_LARGEST_RETURN = 2e4  # symexp(10), where the two-hot bins of the critic end
_LARGEST_REWARD, _SMALLEST_SPREAD = 1e3, 1e-3


def goals(evidence: Evidence) -> Verdict:
    """Goals are stated in one of the two conventions, differ, and are not reached from the start."""
    starts = _starts(evidence)
    if not starts:
        return Verdict("skipped", "no episode began")
    try:
        reader = make_goal_reader(evidence.env.observation_space)
        stated = [reader.read_goal(moment.obs, _info(moment)) for moment in starts]
        here: list[Any] = [reader.read_obs(moment.obs) for moment in starts]
    except EnvError as error:
        advice = "return desired_goal and achieved_goal of one size, or a goal in the form of an observation"
        return Verdict("error", str(error), advice)
    given = [goal for goal in stated if goal is not None]
    if not given:
        return _without_goals(evidence, starts)
    if len(given) < len(stated):
        return Verdict(
            "error",
            f'info["goal"] was there after {len(given)} of {len(stated)} resets',
            'put info["goal"] there after every reset; a step may leave it out',
        )
    kind = reader.spec(starts[0].obs, _info(starts[0]))
    achieved = kind is not None and kind.kind == "achieved"
    if achieved:
        here = [{"desired_goal": obs["achieved_goal"]} for obs in here]
    reached = sum(difference(obs, goal) == 0 for obs, goal in zip(here, given, strict=True))
    if 2 * reached >= len(starts):
        return Verdict(
            "warning",
            f"the goal was where the episode began in {reached} of {len(starts)} resets",
            "draw a goal that is not reached yet, and see that achieved_goal and desired_goal are not one array",
        )
    if len(starts) > 1 and all(difference(given[0], goal) == 0 for goal in given):
        return Verdict(
            "warning",
            f"the same goal in all {len(starts)} resets",
            "draw the goal from self.np_random at every reset: the agent would learn the way to one place",
        )
    form = "desired_goal beside achieved_goal" if achieved else 'full observations in info["goal"]'
    return Verdict("ok", f"{form}, different in {len(starts)} resets")


def success(evidence: Evidence) -> Verdict:
    """`info["success"]` is a truth value, and not already true when an episode begins."""
    infos = [_info(step) for step in evidence.steps]
    if not infos:
        return Verdict("skipped", "no step could be taken")
    name = next((n for n in ("success", "is_success") if any(n in info for info in infos)), None)
    has_goals = _has_goals(evidence)
    if name is None:
        return _without_success(evidence, infos, has_goals)
    for info in infos:
        value = np.asarray(info.get(name, False))
        if value.size != 1 or value.dtype.kind not in "biuf" or float(value.item()) not in (0.0, 1.0):
            return Verdict(
                "error",
                f"info[{name!r}] was {info[name]!r:.60}, which is not a truth value",
                "return a bool: bool(0.3) is True, and an array of several has no truth value",
            )
    first = [e.steps[0] for e in [*evidence.episodes, *evidence.starts] if e.steps]
    early = sum(bool(_info(step).get(name, False)) for step in first)
    if 2 * early >= len(first):
        return Verdict(
            "warning",
            f"{early} of {len(first)} episodes were a success after one random step",
            "see that success means the task and starts are not solved already; no agent could show anything",
        )
    solved = sum(any(bool(_info(s).get(name, False)) for s in e.steps) for e in evidence.episodes)
    return Verdict("ok", f"info[{name!r}]; random actions had it in {solved} of {len(evidence.episodes)} episodes")


def reward(evidence: Evidence) -> Verdict:
    """Rewards differ, and are of a size that can be learned from."""
    steps = evidence.steps
    rewards = np.array([np.asarray(step.reward, np.float64).mean() for step in steps])
    if not steps or not np.isfinite(rewards).all():
        return Verdict("skipped", "no finite rewards")
    low, high, mean = rewards.min(), rewards.max(), rewards.mean()
    size = f"{low:.3g} to {high:.3g} per step, {mean:.3g} on average"
    if low == high:
        if _has_goals(evidence):
            return Verdict("ok", f"always {low:g}; planning for goals does not need it")
        if any(step.terminated for step in steps):
            return Verdict("ok", f"always {low:g}; what counts is how long an episode lasts")
        return Verdict(
            "warning",
            f"always {low:g} in {len(steps)} random steps, and there are no goals",
            "reward progress, or state goals: random actions must find some difference to learn from",
        )
    advice = "scale it to about 1 per step: gymnasium.wrappers.TransformReward(env, lambda r: scale * r)"
    returns = [sum(float(np.asarray(s.reward).mean()) for s in episode.steps) for episode in evidence.episodes]
    largest = max(returns, key=abs)
    if max(-low, high) > _LARGEST_REWARD or abs(largest) > _LARGEST_RETURN:
        return Verdict("warning", f"large: {size}, returns up to {largest:.3g}", advice)
    if high - low < _SMALLEST_SPREAD:
        return Verdict("warning", f"hardly any difference: {size}", advice)
    return Verdict("ok", f"{size}; returns {min(returns):.3g} to {max(returns):.3g}")


def _without_goals(evidence: Evidence, starts: list[Moment]) -> Verdict:
    space = evidence.env.observation_space
    names = {*_info(starts[0]), *(space.spaces if isinstance(space, spaces.Dict) else ())}
    alike = sorted(name for name in names if str(name).lower() in (*_GOAL_NAMES, "desired_goal"))
    if alike:
        return Verdict(
            "warning",
            f"none in a form that is known, but {', '.join(map(repr, alike))} looks like one",
            'state it as a full observation in info["goal"] at every reset, or as desired_goal beside achieved_goal in '
            "the observation; or train with objective=reward",
        )
    return Verdict("ok", "none: train with objective=reward")


def _without_success(evidence: Evidence, infos: list[dict[str, Any]], has_goals: bool) -> Verdict:
    keys = {str(key) for info in infos for key in info}
    alike = sorted(key for key in keys if any(word in key.lower() for word in _SUCCESS_WORDS))
    if alike:
        return Verdict(
            "warning",
            f"not in info under 'success', but {', '.join(map(repr, alike))} looks like it",
            'return it as info["success"] too: success rates are measured by it',
        )
    if has_goals:
        return Verdict("warning", "info says nothing of success", 'return info["success"]: success rates will be 0')
    return Verdict("ok", "none: agents are measured by their return")


def _has_goals(evidence: Evidence) -> bool:
    try:
        reader = make_goal_reader(evidence.env.observation_space)
        return any(reader.read_goal(moment.obs, _info(moment)) is not None for moment in _starts(evidence)[:1])
    except EnvError:  # the check `goals` has said so
        return True


def _starts(evidence: Evidence) -> list[Moment]:
    return [episode.start for episode in _all(evidence)]


def _all(evidence: Evidence) -> Iterator[Episode]:
    yield from evidence.episodes
    yield from evidence.starts


def _info(moment: Moment) -> dict[str, Any]:
    return moment.info if isinstance(moment.info, dict) else {}


CHECKS: dict[str, Check] = {"goals": goals, "success": success, "reward": reward}
