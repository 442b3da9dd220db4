"""What a linear probe reads from latents: laws of its R^2, and that it sees only what the model sees."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forethought.agent.agent import Agent, AgentOptions
from forethought.agent.memory.store import Episode
from forethought.agent.objectives import GoalObjective, GoalOptions
from forethought.agent.training.probing import linear_probe, ridge_r2
from forethought.envs.spec import EnvSpec
from forethought.planners import make_planner

Maker = Callable[..., Any]


# -- the regression ----------------------------------------------------------------------------------------------------


def halves(rng: np.random.Generator, inputs: int, rows: int = 300) -> tuple[Any, Any]:
    return rng.normal(2.0, 3.0, (rows, inputs)), rng.normal(2.0, 3.0, (rows, inputs))


@given(seed=st.integers(0, 2**32), inputs=st.integers(1, 12), scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_what_is_linear_is_known_and_noise_is_not(seed: int, inputs: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x, x_out = halves(rng, inputs)
    matrix, noise = rng.normal(size=(inputs, 2)), rng.normal(size=(600, 1))

    def targets(z: Any, e: Any) -> Any:
        return scale * np.concatenate([z @ matrix + 7.0, e], axis=1)

    first, second, unknown = ridge_r2((x, targets(x, noise[:300])), (x_out, targets(x_out, noise[300:])))
    assert min(first, second) > 0.99
    assert unknown < 0.1


def test_r2_is_that_of_the_held_out_half_and_can_be_negative() -> None:
    """The probe learns y = x, and what is held out is y = -x: errors of 2x, four times the variance."""
    x = np.random.default_rng(0).normal(size=(4000, 1))
    assert ridge_r2((x, x), (x, -x), ridge=0.0)[0] == pytest.approx(1 - 4, abs=0.01)
    assert ridge_r2((x, x), (x, x), ridge=0.0)[0] == pytest.approx(1.0)


@given(seed=st.integers(0, 2**32))
def test_units_of_latents_and_quantities_do_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, x_out = halves(rng, 4)
    y, y_out = (np.tanh(z[:, :2]) + rng.normal(size=(300, 2)) for z in (x, x_out))
    units, offset = 10.0 ** rng.uniform(-2, 2, 4), rng.normal(size=4)
    before = ridge_r2((x, y), (x_out, y_out))
    after = ridge_r2((x * units + offset, 50 * y - 3), (x_out * units + offset, 50 * y_out - 3))
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_a_larger_ridge_shrinks_and_more_latents_than_states_are_no_trouble() -> None:
    rng = np.random.default_rng(0)
    x, x_out = halves(rng, 60, rows=20)
    few = ridge_r2((x, x[:, :1]), (x_out, x_out[:, :1]))
    assert np.isfinite(few).all()
    y, y_out = x[:, :1], x_out[:, :1]
    assert ridge_r2((x, y), (x_out, y_out), ridge=1e9)[0] == pytest.approx(0.0, abs=0.3)


@pytest.mark.parametrize("half", [0, 1])
def test_what_is_constant_in_either_half_has_no_r2(half: int) -> None:
    rng = np.random.default_rng(0)
    x, x_out = halves(rng, 3)
    targets = [x[:, :2].copy(), x_out[:, :2].copy()]
    targets[half][:, 1] = 1000 + rng.normal(size=300) * 1e-5  # what is left of a constant in single precision
    r2 = ridge_r2((x, targets[0]), (x_out, targets[1]))
    assert r2[0] > 0.99
    assert np.isnan(r2[1])


def test_a_latent_that_does_not_vary_is_not_blown_up() -> None:
    rng = np.random.default_rng(0)
    x, x_out = halves(rng, 3)
    x[:, 2], x_out[:, 2] = 5.0, 7.0
    assert ridge_r2((x, x[:, :1]), (x_out, x_out[:, :1]))[0] > 0.99


# -- the probe of a model ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make_agent(toy_model: Maker) -> Callable[..., Agent]:
    def make(spec: EnvSpec, **options: Any) -> Agent:
        low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
        planner = make_planner("cem", low, high, horizon=2, num_samples=8, num_elites=2)
        generator = torch.Generator().manual_seed(0)
        options_ = AgentOptions(plan_dtype="float32")
        return Agent(toy_model(spec, **options), planner, GoalObjective(GoalOptions()), options_, generator)

    return make


def bright_episodes(spec: EnvSpec, count: int = 12) -> list[Episode]:
    """The mean brightness of the picture is `position[0]`; `position[1]` is noise, and `position[2]` constant."""
    episodes = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        steps = 20 + seed
        level = rng.uniform(0, 1, steps + 1)
        grain = rng.integers(0, 20, (steps + 1, 16, 16, 3))
        position = np.stack([level, rng.normal(size=steps + 1), np.full(steps + 1, 4.0)], axis=1)
        episodes.append(
            Episode(
                obs={
                    "image": (level[:, None, None, None] * 200 + grain).astype(np.uint8),
                    "position": position.astype(np.float32),
                },
                actions=rng.uniform(spec.action_low, spec.action_high, (steps, 2)).astype(np.float32),
                rewards=np.zeros(steps, np.float32),
                success=np.zeros(steps, bool),
                terminated=False,
                truncated=True,
            )
        )
    return episodes


@pytest.mark.parametrize("recurrence", ["none", "gru"])
def test_a_model_of_pictures_is_asked_for_what_it_does_not_see(
    recurrence: str, toy_spec: Maker, make_agent: Maker
) -> None:
    agent = make_agent(toy_spec("pixels", None), recurrence=recurrence)
    episodes = bright_episodes(agent.model.spec)
    result = linear_probe(agent, episodes)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["names"] == ["position[0]", "position[1]", "position[2]"]
    brightness, noise, constant = result["r2"]
    assert brightness > 0.6
    assert noise < 0.2
    assert constant is None
    assert result["constant"] == ["position[2]"]
    assert result["r2_learned"] is None  # all of z is learned
    assert (result["episodes"], result["reason"]) == (6, None)
    assert result["states"] == sum(len(e.actions) + 1 for e in episodes[::2])


def test_a_state_inside_z_does_not_hide_what_was_learned(toy_spec: Maker, make_agent: Maker) -> None:
    agent = make_agent(toy_spec("both", None), encoder="augmented")
    with torch.no_grad():  # features that do not look at anything
        agent.model.encoder.join[-1].weight.zero_()
    episodes = bright_episodes(agent.model.spec)
    for episode in episodes:
        episode.obs["grid"] = np.random.default_rng(0).normal(size=(len(episode.actions) + 1, 2, 2)).astype("f4")
    result = linear_probe(agent, episodes)
    assert result["names"] == ["grid[0]", "grid[1]", "grid[2]", "grid[3]", *(f"position[{i}]" for i in range(3))]
    assert min(r2 for r2 in result["r2"] if r2 is not None) > 0.99
    assert max(r2 for r2 in result["r2_learned"] if r2 is not None) < 0.05
    identity = make_agent(toy_spec("state", None), encoder="identity")
    assert linear_probe(identity, episodes)["r2_learned"] is None


def test_without_a_true_state_or_episodes_there_is_a_reason(toy_spec: Maker, make_agent: Maker) -> None:
    agent = make_agent(toy_spec("pixels", None))
    episodes = bright_episodes(agent.model.spec, 2)
    assert "two episodes" in linear_probe(agent, episodes[:1])["reason"]
    assert "two episodes" in linear_probe(agent, [])["reason"]
    for episode in episodes:
        del episode.obs["position"]
    result = linear_probe(agent, episodes)
    assert (result["names"], result["r2"]) == ([], [])
    assert "nothing but pictures" in result["reason"]
