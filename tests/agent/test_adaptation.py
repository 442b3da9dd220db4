"""Adaptation while acting: learns each episode's world from its own transitions, and forgets it at the end."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from forethought.agent.agent import Agent, AgentOptions, Carry, select
from forethought.agent.compilation import cpp_compiler
from forethought.agent.imagination import imagine
from forethought.agent.objectives import GoalObjective, GoalOptions, RewardObjective, RewardOptions
from forethought.agent.world_model.model import WorldModel, WorldModelOptions
from forethought.envs.spec import ArraySpec, EnvSpec
from forethought.planners import make_planner

Maker = Callable[..., Any]
H = 3
SPEC = EnvSpec("Toy-v0", {"x": ArraySpec((2,), "float32")}, (-1.0, 0.0), (3.0, 0.5), 0.1, 20, None)


def agent_of(
    rate: float, purpose: str = "goal", options: Mapping[str, Any] = {}, planner: Any = None, **model: Any
) -> Agent:
    size = {"latent_dim": 3, "hidden_dim": 16, "ensemble_size": 2, "bins": 9, **model}
    world = WorldModel(SPEC, WorldModelOptions(**size), purpose=purpose).eval()
    low, high = torch.tensor(SPEC.action_low), torch.tensor(SPEC.action_high)
    if planner is None:
        planner = make_planner("icem", low, high, horizon=H, num_samples=16, iterations=2, num_elites=4)
    objective = GoalObjective(GoalOptions(members=2)) if purpose == "goal" else RewardObjective(RewardOptions())
    settings = AgentOptions(**{"plan_dtype": "float32", "adapt_rate": rate, **options})
    return Agent(world, planner, objective, settings, torch.Generator().manual_seed(0))


def transitions(agent: Agent, batch: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Latents before, actions and latents after, which have nothing to do with each other."""
    generator = torch.Generator().manual_seed(seed)
    z, ahead = (torch.randn(batch, agent.model.latent_dim, generator=generator) for _ in range(2))
    return z, torch.rand(batch, 2, generator=generator) / 2, ahead


def observations(batch: int, steps: int, seed: int = 0) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [{"x": torch.randn(batch, 2, generator=generator)} for _ in range(steps)]


def goal_of(agent: Agent, batch: int) -> Tensor | None:
    return torch.zeros(batch, agent.model.goal_dim) if agent.model.purpose == "goal" else None


def corrections(agent: Agent, seen: list[dict[str, Tensor]]) -> Tensor:
    """What an episode comes to."""
    batch = len(seen[0]["x"])
    carry = agent.init(batch)
    for obs in seen:
        _, carry, _ = agent.act(obs, carry, goal_of(agent, batch))
    assert carry.correction is not None
    return carry.correction


# -- one step ----------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(rate=st.floats(0.01, 1.0), seed=st.integers(0, 1000), batch=st.integers(1, 3))
def test_a_step_takes_in_its_share_of_the_error(rate: float, seed: int, batch: int) -> None:
    agent = agent_of(rate)
    transition = transitions(agent, batch, seed)
    correction, before = agent.adapt(agent.init(batch).correction, *transition)
    _, after = agent.adapt(correction, *transition)
    size = agent.model.normalize_action(transition[1]).square().sum(dim=-1, keepdim=True)
    torch.testing.assert_close(after, (1 - rate * size.clamp(max=1.0)) * before, rtol=1e-3, atol=1e-4)


def test_the_error_is_that_of_the_mean_of_the_members_that_imagine() -> None:
    agent = agent_of(0.5)
    z, action, ahead = transitions(agent, 2)
    correction, error = agent.adapt(None, z, action, ahead)
    assert correction is None
    with torch.no_grad():
        expected = agent.model.step(z.expand(2, -1, -1), action).mean(dim=0)
    torch.testing.assert_close(error, ahead - expected)


def test_actions_that_do_something_else_are_learned() -> None:
    agent = agent_of(0.5, ensemble_size=2)
    generator = torch.Generator().manual_seed(1)
    correction = agent.init(1).correction
    assert correction is not None
    true = 0.3 * torch.randn(correction.shape, generator=generator)
    sizes = []
    for seed in range(400):
        z, action, _ = transitions(agent, 1, seed)
        with torch.no_grad():
            plain = agent.model.step(z.expand(2, -1, -1), action).mean(dim=0)
            ahead = plain + agent.model.normalize_action(action) @ true[0]
        correction, error = agent.adapt(correction, z, action, ahead)
        sizes.append(float(error.norm()))
    assert max(sizes[-20:]) < 0.02 * max(sizes[:20])


# -- imagining with it -------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_each_problem_is_imagined_with_its_own_correction() -> None:
    model, batch, samples = agent_of(0.5).model, 2, 3
    z, _, _ = transitions(agent_of(0.5), batch)
    actions = torch.rand(batch, samples, H, 2) / 2
    correction = torch.randn(batch, 2, model.latent_dim)
    seen = imagine(model, z, actions, 2, correction).latents
    for b in range(batch):
        for n in range(samples):
            state = z[b].expand(2, 1, -1)
            for t in range(H):
                action = actions[b, n, t : t + 1]
                state = model.step(state, action) + model.normalize_action(action) @ correction[b]
                torch.testing.assert_close(seen[:, b, n, t], state[:, 0], rtol=1e-4, atol=1e-4)
    nothing = imagine(model, z, actions, 2, torch.zeros_like(correction)).latents
    assert torch.equal(nothing, imagine(model, z, actions, 2).latents)


# -- episodes ----------------------------------------------------------------------------------------------------------


def test_without_a_rate_there_is_nothing_to_carry() -> None:
    agent = agent_of(0.0)
    carry = agent.init(2)
    for obs in observations(2, 3):
        _, carry, _ = agent.act(obs, carry, goal_of(agent, 2))
        assert carry.correction is None


@pytest.mark.parametrize("options", [{}, {"replan_every": 3}, {"plan_dtype": "bfloat16"}, {"deadline_s": 1e-9}])
@pytest.mark.parametrize("purpose", ["goal", "reward"])
def test_every_decision_teaches(purpose: str, options: dict[str, Any]) -> None:
    agent = agent_of(0.5, purpose, options)
    carry, last = agent.init(2), torch.zeros(())
    for t, obs in enumerate(observations(2, 4)):
        _, carry, _ = agent.act(obs, carry, goal_of(agent, 2))
        assert carry.correction is not None
        assert torch.equal(carry.correction, torch.zeros_like(carry.correction)) == (t == 0)
        assert not torch.equal(carry.correction, last)
        # An untrained critic finds rest as good as anything, and who rests learns nothing of what actions do.
        last, carry = carry.correction, replace(carry, action=torch.tensor([[2.5, 0.4], [-1.0, 0.1]]))


def test_episodes_side_by_side_learn_what_each_would_alone() -> None:
    class Still:
        """Plans nothing, so that episodes meet the same actions side by side as alone."""

        horizon = H

        def __init__(self) -> None:
            self.costs: list[Tensor] = []

        def init(self, batch_size: int) -> Tensor:
            return torch.zeros(batch_size)

        def advance(self, state: Tensor, steps: int) -> Tensor:
            return state

        def plan(self, cost_fn: Any, state: Tensor, *rest: Any) -> Any:
            from forethought.planners import Plan

            actions = torch.full((len(state), H, 2), 0.25)
            self.costs.append(cost_fn(actions.unsqueeze(1))[:, 0])
            zero = torch.zeros(len(state))
            return Plan(actions, zero, zero.unsqueeze(1), zero, zero, 1, 0.0), state

    together, alone = observations(3, 5), []
    agent = agent_of(0.5, planner=Still())
    both = corrections(agent, together)
    seen = torch.stack(agent.planner.costs)  # type: ignore[attr-defined]
    for row in range(3):
        agent = agent_of(0.5, planner=Still())
        alone.append(corrections(agent, [{"x": obs["x"][row : row + 1]} for obs in together]))
        costs = torch.stack(agent.planner.costs)  # type: ignore[attr-defined]
        torch.testing.assert_close(seen[:, row : row + 1], costs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_a_new_episode_knows_nothing_of_the_last() -> None:
    agent = agent_of(0.5)
    runs = []
    for _ in range(2):
        agent.generator.manual_seed(0)
        runs.append(corrections(agent, observations(2, 4)))
    assert torch.equal(*runs)
    before = {k: v.clone() for k, v in agent.imagined.state_dict().items()}
    corrections(agent, observations(2, 4, seed=1))
    assert all(torch.equal(v, before[k]) for k, v in agent.imagined.state_dict().items())


def test_what_was_done_is_what_teaches_not_what_was_planned() -> None:
    agent, (first, second) = agent_of(0.5), observations(1, 2)
    _, carry, _ = agent.act(first, agent.init(1), goal_of(agent, 1))
    done = replace(carry, action=torch.tensor([[2.5, 0.4]]))
    results = []
    for each in (carry, done):
        _, after, _ = agent.act(second, each, goal_of(agent, 1))
        assert after.correction is not None
        results.append(after.correction)
    assert not torch.equal(*results)


def test_episodes_that_end_take_their_corrections_with_them() -> None:
    carry = Carry(planner=None, correction=torch.arange(3.0).reshape(3, 1, 1))
    kept = select(carry, torch.tensor([2, 0])).correction
    assert kept is not None
    assert kept.flatten().tolist() == [2.0, 0.0]


# -- compiled ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(cpp_compiler() is None, reason="needs a C++ compiler")
@pytest.mark.slow
def test_compiled_code_is_made_once_and_plans_the_same() -> None:
    seen, plans = observations(1, 5), []
    for choice in ("auto", "never"):
        agent = agent_of(0.5, options={"compile": choice})
        carry, actions = agent.init(1), []
        for t, obs in enumerate(seen):
            # What is compiled at the first two decisions, without and with a plan before, serves all that follow.
            with torch.compiler.set_stance("fail_on_recompile" if t >= 2 else "default"):
                action, carry, _ = agent.act(obs, carry, goal_of(agent, 1))
            actions.append(action)
        assert carry.correction is not None
        plans.append((torch.cat(actions), carry.correction))
    for auto, never in zip(*plans, strict=True):
        torch.testing.assert_close(auto, never, rtol=1e-3, atol=1e-3)
