from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought import UnknownNameError
from forethought.agent.bench.analytic import LinearQuadratic
from forethought.agent.bench.arena import BenchError, Settings, TrueDynamics
from forethought.agent.bench.budget import contender, fit, fit_time, shape, tuned_contenders
from forethought.planners import PLANNERS, Plan, PlannerEntry

ARENA = TrueDynamics(LinearQuadratic(), horizon=3)


@pytest.mark.parametrize("name", PLANNERS)
@given(budget=st.integers(32, 400))
@settings(max_examples=6, deadline=None)
def test_budgets_are_equal_in_what_is_really_spent(name: str, budget: int) -> None:
    fitted = fit(contender(name, {}), ARENA, budget)
    play = Settings(budget=budget, decisions=3)  # refuses more
    episode = ARENA.play(fitted.planner, 0, torch.Generator().manual_seed(0), play)
    assert max(episode.evaluations) == fitted.evaluations
    rounds = fitted.options["iterations"] + fitted.options.get("refine_iterations", 0)
    # One sample more in every round would be too much: a gradient counts three times, elites of `sample_gradient` too.
    assert budget - 6 * rounds - 6 < fitted.evaluations <= budget
    assert fitted.uses_gradients == (name in ("gradient", "sample_gradient"))


@pytest.mark.parametrize("name", ["cem", "icem", "mppi"])
def test_larger_budgets_mean_more_rounds_and_larger_ones(name: str) -> None:
    small, large = (fit(contender(name, {}), ARENA, budget).options for budget in (64, 2048))
    for option in ("iterations", "num_samples", "num_elites"):
        assert small[option] < large[option]
    assert shape(name, 10**6) == {"iterations": 6}


def test_what_is_given_is_kept() -> None:
    given_options = {"iterations": 4, "num_elites": 5, "noise_beta": 1.0}
    fitted = fit(contender("cem", given_options), ARENA, 100)
    assert {name: fitted.options[name] for name in given_options} == given_options
    assert (fitted.options["num_samples"], fitted.evaluations) == (25, 100)


def test_a_variant_has_a_name_of_its_own() -> None:
    cold = contender("cold", {"planner": "mppi", "temperature": 0.1})
    assert (cold.label, cold.planner, cold.options) == ("cold", "mppi", {"temperature": 0.1})


def test_early_stops_do_not_make_the_budget_look_larger() -> None:
    fitted = fit(contender("cem", {"early_stop_std": 10.0, "iterations": 4}), ARENA, 100)
    assert fitted.evaluations == 100


@pytest.mark.parametrize(
    ("label", "options", "error", "message"),
    [
        ("cemm", {}, UnknownNameError, "unknown planner 'cemm': did you mean cem"),
        ("cem", {"temprature": 1}, UnknownNameError, "unknown option of planner 'cem' 'temprature'"),
        ("cem", {"num_samples": 9}, BenchError, "options.cem.num_samples cannot be set: it follows from budgets="),
        ("cem", {"horizon": 9}, BenchError, "options.cem.horizon cannot be set: it follows from horizon="),
    ],
)
def test_refuses_what_it_does_not_know(label: str, options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        contender(label, options)


def test_a_budget_that_is_too_small_says_so() -> None:
    with pytest.raises(BenchError, match="budget=8 is too small for cem: num_elites must be"):
        fit(contender("cem", {"num_elites": 9}), ARENA, 8)
    with pytest.raises(BenchError, match="budget=20 is too small for cem: it spends 24"):
        fit(contender("cem", {"iterations": 12, "num_elites": 2}), ARENA, 20)


def test_options_out_of_range_are_explained() -> None:
    with pytest.raises(BenchError, match="temperature must be above 0"):
        fit(contender("mppi", {"temperature": -1.0}), ARENA, 64)


class Walker:
    """A planner of the plain protocol, with options of its own: it scores what it is told to."""

    def __init__(self, low: torch.Tensor, high: torch.Tensor, options: Any) -> None:
        self.options, self.actions = options, ((low + high) / 2).expand(1, options.tries, options.horizon, -1)
        self.horizon = options.horizon

    def init(self, batch_size: int) -> int:
        return 0

    def advance(self, state: int, steps: int) -> int:
        return state + steps

    def plan(self, cost_fn: Any, state: int, generator: Any, seeds: Any = None, deadline_s: Any = None) -> Any:
        costs = cost_fn(self.actions)
        nothing = torch.zeros(1, dtype=torch.long)
        return Plan(self.actions[:, 0], costs[:, 0], costs[:, :1], nothing, costs[:, 0], 1, 0.0), state


@dataclass
class WalkerOptions:
    """Without `num_samples`."""

    horizon: int = 5
    tries: int = 12


def test_planners_of_others_need_no_more_than_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = PlannerEntry(Walker, WalkerOptions)
    monkeypatch.setattr("forethought.agent.bench.budget.find_planner", lambda name: entry)
    fitted = fit(contender("walker", {"tries": 9}), ARENA, 20)
    assert (fitted.evaluations, fitted.options) == (9, {"horizon": 3, "tries": 9})
    with pytest.raises(BenchError, match="budget=8 is too small for walker: it spends 12"):
        fit(contender("walker", {}), ARENA, 8)


class Clock:
    """Time that passes with every evaluation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ms_per_evaluation: float) -> None:
        self.now, self.pace = 0.0, ms_per_evaluation
        monkeypatch.setattr("forethought.agent.bench.arena.perf_counter", lambda: self.now)

    def rewards(self, world: LinearQuadratic, state: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        self.now += 1e-3 * self.pace * len(actions)
        return LinearQuadratic.rewards(world, state, actions)


@pytest.mark.parametrize("name", ["random_shooting", "cem", "icem"])
def test_a_budget_of_time_becomes_as_many_samples_as_fit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = LinearQuadratic()
    clock = Clock(monkeypatch, ms_per_evaluation=0.1)
    monkeypatch.setattr(world, "rewards", lambda state, actions: clock.rewards(world, state, actions))
    fitted = fit_time(contender(name, {}), TrueDynamics(world, horizon=2), 20.0, seed=0)
    assert 160 <= fitted.evaluations <= 180  # nine tenths of 200


def test_too_little_time_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    world = LinearQuadratic()
    clock = Clock(monkeypatch, ms_per_evaluation=10.0)
    monkeypatch.setattr(world, "rewards", lambda state, actions: clock.rewards(world, state, actions))
    with pytest.raises(BenchError, match="budget of 1 ms is too small for cem on lqr: the smallest takes 1"):
        fit_time(contender("cem", {}), TrueDynamics(world, horizon=2), 1.0, seed=0)


KNOWN = {"mppi": {"lqr": {"temperature": 0.1, "noise_beta": 2.0}}}


def test_a_tuned_planner_has_options_for_each_arena() -> None:
    plain = [contender("cem", {}), contender("cold", {"planner": "mppi", "temperature": 0.01})]
    *same, tuned = tuned_contenders(plain, KNOWN)
    assert same == plain
    assert (tuned.label, tuned.planner) == ("cold_tuned", "mppi")
    assert tuned.on("lqr").options == {"temperature": 0.01, "noise_beta": 2.0}  # what was given counts first
    with pytest.raises(BenchError, match="no options are tuned for it"):
        tuned.on("pendulum")
    assert plain[1].on("pendulum") is plain[1]


def test_what_is_not_tuned_says_so() -> None:
    with pytest.raises(BenchError, match="tuned must be false for cem: options are tuned for mppi"):
        tuned_contenders([contender("cem", {})], KNOWN)
    with pytest.raises(BenchError, match="must not name 'mppi_tuned' with tuned=true"):
        tuned_contenders([contender("mppi", {}), contender("mppi_tuned", {"planner": "mppi"})], KNOWN)
