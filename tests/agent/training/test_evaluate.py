"""Numbers of an evaluation against known ones, held-out seeds, and what the model is asked to imagine."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forethought.agent.agent import Agent, AgentOptions
from forethought.agent.memory.store import Episode
from forethought.agent.objectives import GoalObjective, GoalOptions
from forethought.agent.training import evaluate
from forethought.agent.training.evaluate import (
    SEED_DOMAINS,
    EvaluationError,
    EvaluationOptions,
    decision_time,
    diagnose,
    distances_to_goal,
    episode_seeds,
    film,
    mean_interval,
    prediction_error,
    run_arm,
    score,
    success_interval,
    until_success,
)
from forethought.agent.training.rollout import Array, Policy, RandomPolicy
from forethought.agent.world_model.model import WorldModel
from forethought.envs.spec import EnvSpec
from forethought.planners import make_planner

Maker = Callable[..., Any]


def episode_of(success: Sequence[bool], reward: float = -1.0) -> Episode:
    length = len(success)
    return Episode(
        obs={"x": np.zeros((length + 1, 1), np.float32)},
        actions=np.zeros((length, 1), np.float32),
        rewards=np.full(length, reward, np.float32),
        success=np.asarray(success, bool),
        terminated=False,
        truncated=True,
    )


# -- held-out seeds ----------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**40), start=st.integers(0, 10**9), count=st.integers(0, 20))
def test_domains_never_share_a_seed(seed: int, start: int, count: int) -> None:
    ranges = []
    for domain in SEED_DOMAINS:
        seeds = episode_seeds(domain, seed, start, count)
        assert len(seeds) == count
        ranges.append({s // 2**29 for s in seeds})
        assert all(0 <= s < 2**31 for s in seeds)
    if count:
        assert ranges == [{number} for number in range(len(SEED_DOMAINS))]


def test_seeds_follow_from_run_and_number() -> None:
    seeds = episode_seeds("train", 3, 0, 100)
    assert episode_seeds("train", 3, 40, 10) == seeds[40:50]
    assert len(set(seeds)) == 100
    assert not set(seeds) & set(episode_seeds("train", 4, 0, 100))


# -- statistics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_against_published_numbers(successes: int, episodes: int, low: float, high: float) -> None:
    assert success_interval(successes, episodes) == pytest.approx([low, high], abs=1e-4)


@given(episodes=st.integers(1, 500), data=st.data())
def test_wilson_interval_contains_the_rate(episodes: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, episodes))
    low, high = success_interval(successes, episodes)
    assert 0 <= low <= successes / episodes <= high <= 1
    assert low < high
    mirrored = success_interval(episodes - successes, episodes)
    assert mirrored == pytest.approx([1 - high, 1 - low])


def test_mean_interval() -> None:
    assert mean_interval([3.5]) == [3.5, 3.5]
    assert mean_interval([-50.0] * 20) == [-50.0, -50.0]
    values = np.random.default_rng(0).normal(2.0, 3.0, 400).tolist()
    low, high = mean_interval(values)
    assert low < np.mean(values) < high
    assert high - low == pytest.approx(2 * 1.96 * 3 / math.sqrt(400), rel=0.15)
    assert mean_interval(values) == [low, high]
    assert mean_interval(values, seed=1) != [low, high]


def test_score_by_hand() -> None:
    never, at_once, late = [False] * 4, [True, False, False, False], [False, False, True, True]
    result = score([episode_of(never), episode_of(at_once), episode_of(late), episode_of(late, reward=1.0)])
    assert result["episodes"] == 4
    assert result["success_rate"] == 0.75
    assert result["success_ci"] == success_interval(3, 4)
    assert result["return_mean"] == -2.0
    assert result["return_ci"] == mean_interval([-4, -4, -4, 4])
    assert result["steps_to_goal"] == {
        "mean": pytest.approx(7 / 3),
        "median": 3.0,
        "p90": 3.0,
        "values": [1, 3, 3],
    }
    json.dumps(result, allow_nan=False)


def test_score_of_several_goals_by_hand() -> None:
    def episode(*successes: int) -> Episode:
        return episode_of([t + 1 in successes for t in range(12)])

    result = score([episode(), episode(4), episode(2, 10), episode(3, 5)], goals_per_episode=2)
    assert result["success_rate"] == 0.5
    assert result["success_ci"] == success_interval(2, 4)
    assert result["steps_to_goal"]["values"] == [2, 2, 3, 4, 8]
    assert result["per_goal"] == [
        {"given": 4, "reached": 3, "success_rate": 0.75, "success_ci": success_interval(3, 4), "median_steps": 3.0},
        {"given": 3, "reached": 2, "success_rate": 2 / 3, "success_ci": success_interval(2, 3), "median_steps": 5.0},
    ]
    third = score([episode(2, 10)], goals_per_episode=4)["per_goal"][2:]
    assert [row["given"] for row in third] == [1, 0]
    assert third[1] == {"given": 0, "reached": 0, "success_rate": None, "success_ci": None, "median_steps": None}
    json.dumps(third, allow_nan=False)


def test_score_without_any_success() -> None:
    result = score([episode_of([False, False])])
    assert result["success_rate"] == 0.0
    assert result["steps_to_goal"] == {"mean": None, "median": None, "p90": None, "values": []}
    json.dumps(result, allow_nan=False)


def test_decision_times_leave_out_the_warm_up() -> None:
    times = [500.0, 400.0, 300.0, *range(1, 101)]
    result = decision_time(times)
    assert result["p50"] == 50.5
    assert result["p99"] == pytest.approx(99.01)
    assert result["values"] == list(range(1, 101))
    assert decision_time(times, warmup=0)["values"][0] == 500.0
    assert decision_time([7.0004, 5.0])["values"] == [7.0, 5.0]  # too few to leave any out


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, 0)
        for name in (
            "episodes",
            "num_envs",
            "true_iterations",
            "true_horizon",
            "timed_episodes",
            "goals_per_episode",
        )
    ],
)
def test_bad_options_are_refused(name: str, value: int) -> None:
    with pytest.raises(EvaluationError) as error:
        EvaluationOptions(**{name: value})
    assert str(error.value) == f"{name} must be at least 1, got {value}"


def test_a_search_of_one_candidate_is_refused() -> None:
    with pytest.raises(EvaluationError, match="true_samples must be at least 2, got 1"):
        EvaluationOptions(true_samples=1)


def test_episodes_are_scored_up_to_their_first_success() -> None:
    success = np.array([False, True, False, True])
    episode = Episode({"x": np.arange(5.0)}, np.zeros((4, 1)), np.arange(4.0), success, True, False, {}, {})
    cut = until_success(episode)
    assert (len(cut.actions), cut.obs["x"].tolist(), cut.rewards.tolist()) == (2, [0, 1, 2], [0, 1])
    assert (cut.success.tolist(), cut.terminated, cut.truncated) == ([False, True], False, False)
    at_the_end = replace(episode, success=np.array([False, False, False, True]))
    never = replace(episode, success=np.zeros(4, bool))
    assert until_success(at_the_end) is at_the_end
    assert until_success(never) is never


def test_a_goal_from_a_file_is_one_for_the_whole_episode() -> None:
    with pytest.raises(EvaluationError, match=r"goals_per_episode must be 1 with goal=x\.png, got 2"):
        EvaluationOptions(goal="x.png", goals_per_episode=2)


@pytest.mark.parametrize("count", [-1, 1])
def test_half_a_probe_is_refused(count: int) -> None:
    with pytest.raises(EvaluationError, match=f"probe_episodes must be 0 or at least 2, got {count}"):
        EvaluationOptions(probe_episodes=count)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(EvaluationError, match=f"seed must be between 0 and 9223372036854775807, got {seed}"):
        EvaluationOptions(seed=seed)


# -- arms and films ----------------------------------------------------------------------------------------------------


class Still(Policy):
    def reset(self, seeds: Sequence[int], goal: Any) -> None:
        pass

    def act(self, obs: Mapping[str, Array], rows: Array) -> Array:
        return np.zeros((len(rows), 2), np.float32)


@pytest.mark.parametrize("stop", [True, False])
def test_an_arm_runs_in_waves_and_keeps_the_order(fake_environments: Maker, stop: bool) -> None:
    seeds, waves = [5, 0, 3, 2, 9, 1, 4], []
    episodes = run_arm(fake_environments(3), Still(), seeds, on_wave=waves.append, stop_on_success=stop)
    assert waves == [3, 6, 7]
    assert [e.meta["seed"] for e in episodes] == seeds
    whole = [len(e.actions) == 3 + s % 4 for s, e in zip(seeds, episodes, strict=True)]
    assert all(whole) != stop


def test_a_film_has_a_picture_of_every_step(fake_environments: Maker) -> None:
    frames: list[Array] = []
    episodes = film(fake_environments(2), Still(), [4, 1], frames)
    assert [e.meta["seed"] for e in episodes] == [4, 1]
    assert [int(frame[0, 0, 0]) for frame in frames] == [t + 1 for e in episodes for t in range(len(e.actions))]
    assert len(film(fake_environments(2), Still(), [4], None)) == 1
    assert all(len(e.actions) <= 4 for e in episodes)  # a film ends at success


def test_a_film_does_not_fill_the_memory(fake_environments: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "MAX_FRAMES", 5)
    frames: list[Array] = []
    episodes = film(fake_environments(2), Still(), [4, 1, 2], frames)
    assert len(frames) == 5 < sum(len(e.actions) for e in episodes)


# -- diagnosis ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make_agent(toy_model: Maker) -> Callable[..., Agent]:
    def make(spec: EnvSpec, adapt_rate: float = 0.0, **options: Any) -> Agent:
        low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
        return Agent(
            toy_model(spec, **options),
            make_planner("cem", low, high, horizon=2, num_samples=8, num_elites=2),
            GoalObjective(GoalOptions()),
            AgentOptions(plan_dtype="float32", adapt_rate=adapt_rate),
            torch.Generator().manual_seed(0),
        )

    return make


@pytest.fixture(scope="module")
def noise_episodes(toy_batch: Maker) -> Callable[..., list[Episode]]:
    """Episodes of noise, of 7, 8, 9, ... transitions."""

    def make(spec: EnvSpec, count: int = 5) -> list[Episode]:
        noise = toy_batch(spec, batch=count, length=6 + count)
        lengths = range(7, 7 + count)
        return [
            Episode(
                obs={k: v[i, : n + 1].numpy() for k, v in noise.obs.items()},
                actions=noise.actions[i, :n].numpy(),
                rewards=np.zeros(n, np.float32),
                success=np.zeros(n, bool),
                terminated=False,
                truncated=True,
            )
            for i, n in enumerate(lengths)
        ]

    return make


@pytest.mark.parametrize("recurrence", ["none", "gru"])
@pytest.mark.parametrize("adapt_rate", [0.0, 0.5])
def test_the_prediction_error_is_that_of_each_episode_decision_by_decision(
    recurrence: str, adapt_rate: float, toy_spec: Maker, make_agent: Maker, noise_episodes: Maker
) -> None:
    spec = toy_spec()
    agent, episodes = make_agent(spec, adapt_rate, recurrence=recurrence), noise_episodes(spec, 3)
    wrong, moved = [], []
    with torch.no_grad():
        for episode in episodes:  # of different lengths
            obs = {k: torch.as_tensor(v).unsqueeze(0) for k, v in episode.obs.items()}
            actions = torch.as_tensor(episode.actions).unsqueeze(0)
            z, correction = agent.model.encode_sequence(obs, actions), agent.init(1).correction
            for t in range(actions.shape[1]):
                correction, error = agent.adapt(correction, z[:, t], actions[:, t], z[:, t + 1])
                wrong.append(error)
                moved.append(z[:, t + 1] - z[:, t])
    result = prediction_error(agent, episodes)
    assert result["model"] == pytest.approx(float(torch.cat(wrong).square().mean().sqrt()), rel=1e-4)
    assert result["persistence"] == pytest.approx(float(torch.cat(moved).square().mean().sqrt()), rel=1e-4)


@pytest.mark.parametrize("recurrence", ["none", "gru"])
@pytest.mark.parametrize("goal", ["observation", "achieved", None])
@pytest.mark.parametrize("observation", ["state", "pixels", "both"])
def test_a_diagnosis_is_complete_and_finite(
    observation: str, goal: str | None, recurrence: str, toy_spec: Maker, make_agent: Maker, noise_episodes: Maker
) -> None:
    spec = toy_spec(observation, goal)
    agent, episodes = make_agent(spec, recurrence=recurrence), noise_episodes(spec)
    result = diagnose(agent, episodes, (), episodes, curves=2, pairs=50)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    imagination, error, calibration = result["imagination"], result["imagination_error"], result["calibration"]
    curves = len(imagination["names"])
    assert np.shape(imagination["real"]) == np.shape(imagination["imagined"]) == (2, 8, curves)
    assert error["horizon"] == list(range(1, 8))
    assert len(error["model"]) == len(error["persistence"]) == 7
    assert len(calibration["predicted"]) == len(calibration["true"]) == 50  # of 8 + 9 + 10 + 11 + 12 states
    assert min(calibration["true"]) >= 0
    assert 8 <= max(calibration["true"]) <= 11
    assert calibration["goals"] == 5
    assert not calibration["reached"]
    assert bool(result["linear_probe"]["r2"]) == (observation != "pixels" or goal == "achieved")
    assert all(p >= 0 for p in calibration["predicted"])


def test_curves_are_named_by_what_the_probe_reads(toy_spec: Maker, make_agent: Maker, noise_episodes: Maker) -> None:
    spec = toy_spec("both")
    episodes = noise_episodes(spec)
    imagination = diagnose(make_agent(spec), episodes, curves=1)["imagination"]
    assert imagination["names"] == ["grid[0]", "grid[1]", "grid[2]", "grid[3]", "position[0]", "position[1]"]
    longest = episodes[-1]  # no statistics yet: normalised is raw
    flat = np.concatenate([longest.obs["grid"].reshape(-1, 4), longest.obs["position"]], axis=1)
    np.testing.assert_allclose(imagination["real"][0], flat[:8, :6], atol=1e-6)


def test_pictures_alone_are_shown_by_principal_components(
    toy_spec: Maker, make_agent: Maker, noise_episodes: Maker
) -> None:
    spec = toy_spec("pixels")
    imagination = diagnose(make_agent(spec), noise_episodes(spec), curves=5)["imagination"]
    assert imagination["names"] == [f"principal component {i}" for i in range(1, 5)]
    real = np.asarray(imagination["real"])
    spread = real.var(axis=(0, 1))
    assert (np.diff(spread) <= 1e-9).all()  # in the order of their variance
    starts = np.asarray(imagination["imagined"])[:, 0]
    np.testing.assert_allclose(starts, real[:, 0], atol=1e-6)


def test_a_model_that_says_nothing_changes_is_as_bad_as_persistence(
    toy_spec: Maker, make_agent: Maker, noise_episodes: Maker
) -> None:
    spec = toy_spec()
    agent = make_agent(spec)
    model: WorldModel = agent.model
    before = diagnose(agent, noise_episodes(spec))["imagination_error"]
    assert before["model"] != pytest.approx(before["persistence"], rel=1e-4)
    with torch.no_grad():
        for parameter in model.dynamics.net.layers[-1].parameters():
            parameter.zero_()
    after = diagnose(agent, noise_episodes(spec))["imagination_error"]
    assert after["model"] == pytest.approx(after["persistence"], rel=1e-4)
    obs = {k: torch.tensor(np.stack([e.obs[k][:8] for e in noise_episodes(spec)])) for k in spec.obs}
    with torch.no_grad():
        z = model.encode(obs)
    for t, value in enumerate(after["persistence"], start=1):
        assert value == pytest.approx(float((z[:, t] - z[:, 0]).square().mean().sqrt()), rel=1e-4)


@pytest.fixture
def clocks(
    toy_spec: Maker, make_agent: Maker, noise_episodes: Maker, monkeypatch: pytest.MonkeyPatch
) -> tuple[Agent, list[Episode]]:
    """Episodes that see the time alone, and an agent that reads it: three times too far, or four, or five."""
    spec = toy_spec()
    episodes = noise_episodes(spec)
    for episode in episodes:
        episode.obs["position"][:] = np.arange(len(episode.actions) + 1)[:, None]
    agent = make_agent(spec, encoder="identity")
    monkeypatch.setattr(agent.model.normalizer, "clip", None)
    factors = torch.tensor([3.0, 4.0, 5.0])[:, None]
    monkeypatch.setattr(agent.model, "steps_to_goal", lambda z, goal: factors * (goal[:, -1] - z[:, -1]))
    return agent, episodes


def test_calibration_pairs_states_with_the_goal_reached_from_them(clocks: tuple[Agent, list[Episode]]) -> None:
    agent, episodes = clocks
    one, two = episodes[0], episodes[1]
    one.success[4] = two.success[1] = two.success[5] = True  # after 5, 2 and 6 decisions; the others fail
    calibration = diagnose(agent, episodes, episodes)["calibration"]
    true = np.asarray(calibration["true"])
    assert true.tolist() == [5, 4, 3, 2, 1, 0, 2, 1, 0, 4, 3, 2, 1, 0]
    np.testing.assert_allclose(calibration["predicted"], 4 * true)
    np.testing.assert_allclose(calibration["disagreement"], true * math.sqrt(2 / 3), rtol=1e-6)
    assert calibration["rank_correlation"] == pytest.approx(1.0)
    assert calibration["mean_absolute_error"] == pytest.approx(3 * true.mean())
    assert calibration["goals"] == 3
    assert calibration["reached"]


def test_calibration_without_success_takes_what_each_episode_came_to(clocks: tuple[Agent, list[Episode]]) -> None:
    agent, episodes = clocks
    calibration = diagnose(agent, episodes)["calibration"]
    assert calibration["true"] == [t for n in range(7, 12) for t in range(n, -1, -1)]
    assert not calibration["reached"]


def test_calibration_prefers_the_episodes_of_the_agent(clocks: tuple[Agent, list[Episode]]) -> None:
    agent, episodes = clocks
    assert max(diagnose(agent, episodes, episodes[:1])["calibration"]["true"]) == 7


def test_calibration_of_a_constant_distance_has_no_rank_correlation(
    clocks: tuple[Agent, list[Episode]], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, episodes = clocks
    monkeypatch.setattr(agent.model, "steps_to_goal", lambda z, goal: torch.full((1, len(z)), 2.0))
    calibration = diagnose(agent, episodes)["calibration"]
    assert calibration["rank_correlation"] is None
    assert calibration["disagreement"] is None  # a single member


def test_distances_to_a_goal_follow_every_episode_to_its_end(clocks: tuple[Agent, list[Episode]]) -> None:
    agent, episodes = clocks  # of 7 to 11 decisions
    agent.model.steps_to_goal = lambda z, goal: torch.stack(2 * [(goal[:, -1] - z[:, -1]).abs()])  # type: ignore[method-assign]
    goal = {k: v[0].copy() for k, v in episodes[0].obs.items()}
    goal["position"][:] = 9
    result = distances_to_goal(agent, episodes, goal)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    steps = result["steps"]
    assert (steps["start"], steps["final"], steps["least"]) == (9, 1, 0)  # ends 2, 1, 0, 1 and 2 steps from it
    assert steps["median"] == pytest.approx([9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2])
    assert steps["low"] == steps["high"] == steps["median"]
    with torch.no_grad():
        first = agent.model.encode({k: torch.as_tensor(v[:1]) for k, v in episodes[0].obs.items()})
        aim = agent.model.encode({k: torch.as_tensor(v[None]) for k, v in goal.items()})
    one = distances_to_goal(agent, episodes[:1], goal)["latent"]
    assert one["start"] == pytest.approx(float((first - aim).square().mean().sqrt()))


def test_a_random_arm_can_be_diagnosed(toy_model: Maker, make_agent: Maker, fake_environments: Maker) -> None:
    environments = fake_environments(4)
    episodes = run_arm(environments, RandomPolicy(environments.env_spec), [1, 2, 3], stop_on_success=False)
    result = diagnose(make_agent(environments.env_spec), episodes)
    assert result["imagination_error"]["horizon"] == [1, 2, 3, 4]  # as long as the shortest
