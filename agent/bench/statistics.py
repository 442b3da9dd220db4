"""From scores of episodes to statements: intervals, regret, ranks, and how far any of it can be trusted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 2000

Floats = NDArray[np.float64]


def normalise(scores: Floats, random: float, best: float) -> Floats:
    """Scores on a scale on which random actions have 0 and the best has 1; 0 where the two are the same."""
    return np.zeros_like(scores) if best <= random else (scores - random) / (best - random)


def gain(score: float, default: float, random: float) -> float:
    """How much better than `default` a score is, without units: from -1, no better than random actions, to 1.

    The difference over the sum of both distances from random actions: 0 for what is as good as the default, 1/3 for
    twice as far from random actions, positive and negative alike. Units and zero of the scores do not matter, and no
    task can outweigh the others, not even one on which the default does nothing.
    """
    distance = abs(score - random) + abs(default - random)
    return (score - default) / distance if distance > 0 else 0.0


def interquartile_mean(values: Floats) -> Floats:
    """Mean of the middle half along the last axis: as robust as the median, with less variance.

    Agarwal, Schwarzer, Castro, Courville and Bellemare, "Deep reinforcement learning at the edge of the statistical
    precipice" (2021).
    """
    return np.asarray(stats.trim_mean(values, 0.25, axis=-1), np.float64)


@dataclass(frozen=True)
class Standing:
    """How one planner stands over all arenas.

    Args:
        iqm: interquartile mean of the normalised scores of all episodes, and its 95 % interval.
        mean: their mean, and its interval.
        regret: mean over the arenas of `1 - normalised score`, at least 0 in each, and its interval.
        mean_rank: mean over the arenas, 1 for the best; equal scores share a rank.
        first: share of the resamples in which its interquartile mean is the highest.
    """

    iqm: float
    iqm_ci: tuple[float, float]
    mean: float
    mean_ci: tuple[float, float]
    regret: float
    regret_ci: tuple[float, float]
    mean_rank: float
    first: float


@dataclass(frozen=True)
class Ranking:
    """All planners against each other.

    Args:
        standings: by planner.
        ranks: share of the resamples in which a planner has rank 1, 2, ..., by planner.
        leader_stays: share of the resamples in which the leader leads.
        kendall_tau: mean rank correlation of the resamples with the ranking found; 1 where nothing ever changes.
    """

    standings: dict[str, Standing]
    ranks: dict[str, list[float]]
    leader_stays: float
    kendall_tau: float


def rank(scores: Mapping[str, Sequence[Floats]], seed: int) -> Ranking:
    """Rank planners by normalised scores.

    Intervals come from a bootstrap that is stratified: episodes are resampled within each arena, never across. All
    planners have played the same episodes, and each resample takes the same of them for all.

    Args:
        scores: by planner, normalised scores `[E]` of each arena; the same arenas and episodes for all of them.
        seed: of the resampling.
    """
    names = list(scores)
    table = [np.stack([scores[name][arena] for name in names]) for arena in range(len(scores[names[0]]))]  # [P, E]
    rng = np.random.default_rng(seed)
    draws = [arena[:, rng.integers(arena.shape[1], size=(RESAMPLES, arena.shape[1]))] for arena in table]  # [P, R, E]
    every, resampled = np.concatenate(table, axis=-1), np.concatenate(draws, axis=-1)
    iqm, iqms = interquartile_mean(every), interquartile_mean(resampled)  # [P], [P, R]
    means = resampled.mean(axis=-1)
    per_arena = np.stack([arena.mean(axis=-1) for arena in table])  # [arenas, P]
    regret = np.maximum(1 - per_arena, 0).mean(axis=0)
    regrets = np.stack([np.maximum(1 - draw.mean(axis=-1), 0) for draw in draws]).mean(axis=0)
    places = stats.rankdata(-per_arena, axis=1).mean(axis=0)
    order = stats.rankdata(-iqms, axis=0, method="min")  # [P, R]
    leader = int(np.argmax(iqm))
    standings = {
        name: Standing(
            float(iqm[i]), _interval(iqms[i]), float(every[i].mean()), _interval(means[i]), float(regret[i]),
            _interval(regrets[i]), float(places[i]), float((order[i] == 1).mean()),
        )
        for i, name in enumerate(names)
    }  # fmt: skip
    shares = {name: [float((order[i] == r + 1).mean()) for r in range(len(names))] for i, name in enumerate(names)}
    return Ranking(standings, shares, float((order[leader] == 1).mean()), _mean_kendall(iqm, iqms))


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _mean_kendall(found: Floats, resamples: Floats) -> float:
    if len(found) < 2:
        return 1.0
    first, second = np.triu_indices(len(found), 1)
    agree = np.sign(found[first] - found[second])[:, None] * np.sign(resamples[first] - resamples[second])
    return float(agree.mean())


def difference_interval(first: Floats, second: Floats, seed: int) -> tuple[float, float]:
    """The 95 % interval of how much higher the mean of `first` is than that of `second`, both `[E]`.

    A paired bootstrap: both have played the same episodes, and each resample takes the same of them.
    """
    draws = np.random.default_rng(seed).integers(len(first), size=(RESAMPLES, len(first)))
    return _interval((first - second)[draws].mean(axis=1))


def as_good_as_best(scores: Mapping[str, Floats], seed: int) -> set[str]:
    """Planners whose scores `[E]` on one arena cannot be told from those of the best at 95 %, which is among them.

    A paired bootstrap of the difference: all have played the same episodes.
    """
    best = max(scores, key=lambda name: float(scores[name].mean()))
    return {
        name
        for name, values in scores.items()
        if name == best or difference_interval(scores[best], values, seed)[0] <= 0
    }
