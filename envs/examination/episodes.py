"""Checks of how episodes begin, follow from their seeds, answer to actions, and end."""

from collections.abc import Sequence

from .evidence import REPLAYED, Episode, Evidence, Verdict, difference
from .interface import Check

_ROUNDING = 1e-5
"""Differences up to here come from the order of floating-point operations."""


def seeding(evidence: Evidence) -> Verdict:
    """The same seed and actions give the same episode in a new instance."""
    if evidence.twin is None:
        return Verdict("skipped", "not played to its end")
    if not isinstance(evidence.twin, Episode):
        return Verdict(
            "error",
            f"a second instance failed: {evidence.twin}",
            "let instances share nothing: several are made at once for collection and evaluation",
        )
    advice = "draw from self.np_random, which super().reset(seed=seed) seeds, and from nothing else"
    if evidence.global_draws:
        advice += f"; it draws from {' and '.join(evidence.global_draws)}"
    return _compared(
        evidence,
        evidence.twin,
        "with the same seed and actions, a second instance",
        advice,
        "the same in two instances",
    )


def state_over_reset(evidence: Evidence) -> Verdict:
    """The same seed and actions give the same episode again, whatever was played in between."""
    if not isinstance(evidence.twin, Episode):
        return Verdict("skipped", "see seeding")
    if not isinstance(evidence.again, Episode):
        return Verdict("error", f"the first seed again failed: {evidence.again}", "make reset() forget everything")
    if _apart(evidence.episodes[0], evidence.twin) > _ROUNDING:
        return Verdict("skipped", "see seeding")
    advice = "let reset() put back everything that an episode changes: counters, goals, the whole simulation"
    return _compared(
        evidence, evidence.again, "with the same seed and actions again, later,", advice, "nothing is left over"
    )


def different_seeds(evidence: Evidence) -> Verdict:
    """Other seeds give other episodes."""
    starts = [*evidence.episodes, *evidence.starts]
    if len(starts) < 2:
        return Verdict("skipped", "fewer than two episodes began")
    first = starts[0].start
    for other in starts[1:]:
        if difference(first.obs, other.start.obs) or _goal_apart(first.info, other.start.info):
            return Verdict("ok", f"{len(starts)} seeds, different starts or goals")
    return Verdict(
        "warning",
        f"{len(starts)} episodes with seeds of their own began with the same observation",
        "vary the start or the goal: held-out episodes are no test of anything if all are the same",
    )


def global_generators(evidence: Evidence) -> Verdict:
    """Nothing is drawn from generators that all of a process share."""
    if evidence.global_draws:
        return Verdict(
            "warning",
            f"it draws from or seeds the global generator of {' and '.join(evidence.global_draws)}",
            "draw from self.np_random: with several environments in a process, each would change what the others draw",
        )
    return Verdict("ok", "left alone") if evidence.episodes else Verdict("skipped", "no episode began")


def effect_of_actions(evidence: Evidence) -> Verdict:
    """Other actions lead elsewhere."""
    if not isinstance(evidence.otherwise, Episode) or not isinstance(evidence.again, Episode):
        return Verdict("skipped", "see state over reset")
    if _apart(evidence.again, evidence.otherwise) > 0:
        return Verdict("ok", "opposite actions lead elsewhere")
    return Verdict(
        "warning",
        f"{len(evidence.otherwise.steps)} opposite actions changed no observation",
        "see that step() uses its action, and that observations show what it does: there is nothing to learn otherwise",
    )


def time_limit(evidence: Evidence) -> Verdict:
    """Episodes end some time."""
    options, native = evidence.options, evidence.native_limit
    if options.max_episode_steps is not None:
        return Verdict("ok", f"{options.max_episode_steps} decisions, by the option max_episode_steps")
    if native is not None:
        return Verdict("ok", f"{native} steps, registered")
    cut = [len(episode.steps) for episode in evidence.episodes if episode.over and episode.steps[-1].truncated]
    if cut:
        return Verdict("ok", f"its own: truncated after {', '.join(map(str, sorted(set(cut))))} steps")
    if not evidence.episodes:
        return Verdict("skipped", "no episode began")
    return Verdict(
        "warning",
        f"none is registered, and no episode was truncated in {len(evidence.steps)} steps; 1000 will be assumed",
        "gymnasium.register(..., max_episode_steps=N), or env_options.max_episode_steps=N",
    )


def ends(evidence: Evidence) -> Verdict:
    """`terminated` where the task is over, `truncated` where the clock ran out."""
    over = [episode for episode in evidence.episodes if episode.over]
    terminated = [episode for episode in over if episode.steps[-1].terminated]
    cut = [episode for episode in over if not episode.steps[-1].terminated]
    if not evidence.steps:
        return Verdict("skipped", "no step could be taken")
    advice = (
        "return truncated=True, terminated=False when only the time is up (or leave it to the registered "
        "max_episode_steps): after a terminated episode the agent believes that nothing more could have been gained"
    )
    if any(isinstance(e.steps[-1].info, dict) and e.steps[-1].info.get("TimeLimit.truncated") for e in terminated):
        return Verdict("warning", "terminated is set where info says TimeLimit.truncated, the old way", advice)
    lengths = {len(episode.steps) for episode in terminated}
    solved = any(_solved(episode) for episode in terminated)
    if len(terminated) > 1 and len(lengths) == 1 and not cut and not solved and min(lengths) > 1:
        found = f"all {len(terminated)} episodes terminated after exactly {min(lengths)} steps, as a time limit would"
        return Verdict("warning", found, advice)
    if terminated and lengths == {1}:
        found = f"{len(terminated)} episodes terminated at their first step"
        return Verdict("warning", found, "see that an episode does not begin in a state that ends it")
    stopped = sorted({len(episode.steps) for episode in cut})
    if len(stopped) > 1:
        return Verdict(
            "warning",
            f"episodes were truncated after {', '.join(map(str, stopped[:5]))} steps, which no clock does",
            "return terminated=True, truncated=False where the task is over: fallen, crashed, done",
        )
    ended = f"{len(terminated)} terminated, {len(cut)} truncated" if over else "none ended by itself"
    return Verdict("ok", f"of {len(evidence.episodes)} episodes {ended}")


def _solved(episode: Episode) -> bool:
    info = episode.steps[-1].info
    return isinstance(info, dict) and bool(info.get("success", info.get("is_success", False)))


def _goal_apart(a: object, b: object) -> bool:
    goals = [info.get("goal") if isinstance(info, dict) else None for info in (a, b)]
    return all(goal is not None for goal in goals) and difference(*goals) > 0


def _apart(a: Episode, b: Episode) -> float:
    """The largest difference of two episodes over what both have, rewards and ends included."""
    pairs = list(zip(_seen(a), _seen(b), strict=False))
    return max(difference(x, y) for x, y in pairs)


def _seen(episode: Episode) -> Sequence[object]:
    return [(m.obs, m.reward, bool(m.terminated), bool(m.truncated)) for m in episode.moments]


def _compared(evidence: Evidence, other: Episode, what: str, advice: str, fine: str) -> Verdict:
    first = evidence.episodes[0]
    steps = len(first.steps[:REPLAYED])
    for number, (x, y) in enumerate(zip(_seen(first), _seen(other), strict=False)):
        apart = difference(x, y)
        if apart > 0:
            where = f"at step {number}" if number else "at the reset"
            worst = _apart(first, other)
            found = f"{what} differed {where} by {apart:.2g}, within {steps} steps by {worst:.2g}"
            return Verdict("error" if worst > _ROUNDING else "warning", found, advice)
    return Verdict("ok", f"{fine}: {steps} steps compared")


CHECKS: dict[str, Check] = {
    "seeding": seeding,
    "state over reset": state_over_reset,
    "different seeds": different_seeds,
    "global generators": global_generators,
    "effect of actions": effect_of_actions,
    "time limit": time_limit,
    "ends of episodes": ends,
}
