import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from forethought.agent.bench.statistics import (
    as_good_as_best,
    difference_interval,
    gain,
    interquartile_mean,
    normalise,
    rank,
)

RNG = np.random.default_rng(0)
GOOD, BAD = RNG.normal(0.8, 0.05, (3, 20)), RNG.normal(0.3, 0.05, (3, 20))


@given(
    scores=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=10), random=st.floats(-100, 0), best=st.floats(0.1, 100)
)
def test_normalised_scores_are_0_for_random_and_1_for_the_best(scores: list[float], random: float, best: float) -> None:
    values = normalise(np.array([random, best, *scores]), random, best)
    assert values[:2] == pytest.approx([0.0, 1.0])
    ordered = values[np.argsort([random, best, *scores])]
    assert (np.diff(ordered) >= -1e-9).all()


def test_where_nothing_is_better_than_random_all_scores_are_0() -> None:
    assert (normalise(np.array([1.0, 2.0]), 2.0, 2.0) == 0).all()


def test_the_interquartile_mean_leaves_out_the_quarters() -> None:
    assert interquartile_mean(np.array([100.0, 1.0, 2.0, -100.0])) == 1.5


def test_a_clear_winner_is_always_first() -> None:
    ranking = rank({"bad": list(BAD), "good": list(GOOD)}, seed=0)
    good, bad = ranking.standings["good"], ranking.standings["bad"]
    assert (good.first, bad.first) == (1.0, 0.0)
    assert (good.mean_rank, bad.mean_rank) == (1.0, 2.0)
    assert ranking.ranks == {"good": [1.0, 0.0], "bad": [0.0, 1.0]}
    assert (ranking.leader_stays, ranking.kendall_tau) == (1.0, 1.0)
    assert good.iqm_ci[0] < good.iqm < good.iqm_ci[1]
    assert good.mean == pytest.approx(GOOD.mean())
    assert good.regret == pytest.approx(1 - GOOD.mean())
    assert bad.iqm_ci[1] < good.iqm_ci[0]


def test_twins_share_the_lead() -> None:
    ranking = rank({"a": list(GOOD), "b": list(GOOD), "c": list(BAD)}, seed=0)
    assert ranking.standings["a"].first == ranking.standings["b"].first == 1.0
    assert ranking.standings["a"].mean_rank == 1.5


def test_rivals_that_cannot_be_told_apart_take_turns() -> None:
    noise = np.random.default_rng(3).normal(0.5, 0.3, (2, 3, 20))
    ranking = rank({"a": list(noise[0]), "b": list(noise[1])}, seed=0)
    assert 0.02 < ranking.standings["a"].first < 0.98
    assert ranking.kendall_tau < 0.97


def test_the_bootstrap_is_paired_and_follows_the_seed() -> None:
    shifted = [arena + 0.01 for arena in GOOD]  # better in every single episode, though less than episodes differ
    ranking = rank({"a": list(GOOD), "b": shifted}, seed=0)
    assert ranking.standings["b"].first == 1.0
    assert rank({"a": list(GOOD)}, seed=1) == rank({"a": list(GOOD)}, seed=1)
    assert rank({"a": list(GOOD)}, seed=1) != rank({"a": list(GOOD)}, seed=2)


def test_intervals_are_stratified_by_task() -> None:
    """Tasks that differ do not widen an interval: nobody draws tasks at random."""
    tasks = [np.full(10, 0.1), np.full(10, 0.9)]
    standing = rank({"a": tasks}, seed=0).standings["a"]
    assert standing.mean_ci == (pytest.approx(0.5), pytest.approx(0.5))


def test_the_interval_of_the_mean_is_that_of_scipy() -> None:
    data = RNG.normal(size=40)
    expected = stats.bootstrap((data,), np.mean, n_resamples=4000, method="percentile", rng=0).confidence_interval
    assert rank({"a": [data]}, seed=0).standings["a"].mean_ci == pytest.approx(tuple(expected), abs=0.03)


def test_as_good_as_the_best_is_who_cannot_be_told_from_it() -> None:
    data = np.random.default_rng(1).normal(size=30)
    rivals = {"best": data, "near": data[::-1] - 0.05, "behind": data - 0.05, "far": data - 3.0}
    assert as_good_as_best(rivals, seed=0) == {"best", "near"}


@given(st.floats(-9, 9), st.floats(-9, 9), st.floats(-9, 9), st.floats(0.1, 9), st.floats(-9, 9))
def test_the_gain_on_the_default_knows_no_units(
    score: float, default: float, random: float, unit: float, zero: float
) -> None:
    found = gain(score, default, random)
    assert abs(found) <= 1 + 1e-12
    assert (found > 0, found < 0) == (score > default, score < default)
    assert gain(score + 1, default, random) >= found - 1e-12
    if abs(score - random) + abs(default - random) > 1e-3:
        scaled = gain(*(zero + unit * value for value in (score, default, random)))
        assert scaled == pytest.approx(found, abs=1e-6)


def test_twice_as_far_from_random_actions_is_a_gain_of_a_third() -> None:
    assert gain(2, 1, 0) == pytest.approx(1 / 3)
    assert gain(1, 2, 0) == pytest.approx(-1 / 3)
    assert gain(1, 0, 0) == 1  # the default does nothing
    assert gain(0, 0, 0) == 0


def test_the_interval_of_a_difference_is_paired() -> None:
    episodes = np.random.default_rng(0).normal(0, 100, 30)  # differ far more than the planners do
    low, high = difference_interval(episodes + np.linspace(0.9, 1.1, 30), episodes, seed=0)
    assert 0.95 < low < 1 < high < 1.05
    assert difference_interval(episodes, episodes, seed=0) == (0, 0)
