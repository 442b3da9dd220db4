"""Costs against numbers worked out by hand; every option; the seam to planners."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from forethought.agent.imagination import Trajectory, imagine
from forethought.agent.objectives import (
    DisagreementObjective,
    GoalObjective,
    GoalOptions,
    ImaginedCost,
    ObjectiveError,
)
from forethought.agent.world_model.model import WorldModel
from forethought.planners import PlannerError, RiskOptions

Maker = Callable[..., Any]
E, B, N, H = 3, 2, 4, 5


@pytest.fixture(scope="module")
def model(toy_model: Maker) -> WorldModel:
    found: WorldModel = toy_model(ensemble_size=E)
    return found


@pytest.fixture(scope="module")
def quasimetric(toy_model: Maker) -> WorldModel:
    found: WorldModel = toy_model(distance="quasimetric", distance_members=3)
    return found


@pytest.fixture(scope="module")
def scene(toy_spec: Maker, model: WorldModel, toy_obs: Maker, toy_actions: Maker) -> tuple[Tensor, Tensor, Tensor]:
    """Latents now `[B, Z]`, goals `[B, G]` and actions `[B, N, H, A]`."""
    with torch.no_grad():
        z, goal = model.encode(toy_obs(toy_spec(), (B,))), model.embed_goal(toy_obs(toy_spec(), (B,), 1))
    return z, goal, toy_actions(toy_spec(), (B, N, H))


def goal_costs(model: WorldModel, scene: tuple[Tensor, Tensor, Tensor], **options: Any) -> Tensor:
    z, goal, actions = scene
    with torch.no_grad():
        return ImaginedCost(model, GoalObjective(GoalOptions(**options)), z, goal)(actions)


# -- by hand -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("summed", [True, False])
@pytest.mark.parametrize("members", [1, 3])
@torch.no_grad()
def test_latent_l2_by_hand(model: WorldModel, scene: tuple[Tensor, Tensor, Tensor], summed: bool, members: int) -> None:
    z, goal, actions = scene
    latents = imagine(model, z, actions, members).latents
    expected = torch.zeros(members, B, N)
    for e in range(members):
        for b in range(B):
            for n in range(N):
                by_step = (latents[e, b, n] - goal[b]).square().mean(-1)
                expected[e, b, n] = by_step.sum() if summed else by_step[-1]
    costs = goal_costs(model, scene, cost="latent_l2", summed=summed, members=members)
    assert costs.shape == (B, N)
    assert torch.allclose(costs, expected.mean(0), rtol=1e-4)


@torch.no_grad()
def test_time_to_goal_is_the_head_summed_over_the_horizon(
    model: WorldModel, scene: tuple[Tensor, Tensor, Tensor]
) -> None:
    z, goal, actions = scene
    latents = imagine(model, z, actions, 1).latents[0]
    expected = torch.stack([model.steps_to_goal(latents[b], goal[b])[0].sum(-1) for b in range(B)])
    assert torch.allclose(goal_costs(model, scene), expected, rtol=1e-4)


@torch.no_grad()
def test_risk_counts_members_of_the_distance_too(quasimetric: WorldModel, scene: tuple[Tensor, Tensor, Tensor]) -> None:
    z, goal, actions = scene
    latents = imagine(quasimetric, z, actions, 1).latents[0]
    each = quasimetric.steps_to_goal(latents, goal[:, None, None]).sum(-1)
    assert each.shape == (3, B, N)
    assert torch.allclose(goal_costs(quasimetric, scene, risk=RiskOptions("worst")), each.amax(0), rtol=1e-4)


@torch.no_grad()
def test_effort_is_the_squared_normalised_action(model: WorldModel, scene: tuple[Tensor, Tensor, Tensor]) -> None:
    _, _, actions = scene
    low, high = torch.tensor(model.spec.action_low), torch.tensor(model.spec.action_high)
    effort = (2 * (actions - low) / (high - low) - 1).square().sum((-2, -1))
    difference = goal_costs(model, scene, effort=0.5) - goal_costs(model, scene)
    assert torch.allclose(difference, 0.5 * effort, atol=1e-3)


@torch.no_grad()
def test_risk_reduces_the_costs_of_the_members(model: WorldModel, scene: tuple[Tensor, Tensor, Tensor]) -> None:
    z, goal, actions = scene
    latents = imagine(model, z, actions, E).latents
    each = model.goal_distance(latents, goal[:, None, None]).sum(-1)
    for kind, expected in (
        ("mean", each.mean(0)),
        ("worst", each.amax(0)),
        ("mean_std", each.mean(0) + each.std(0, correction=0)),
    ):
        costs = goal_costs(model, scene, cost="latent_l2", members=E, risk=RiskOptions(kind))
        assert torch.allclose(costs, expected, rtol=1e-4), kind
    assert torch.allclose(goal_costs(model, scene, cost="latent_l2", members=1), each[0], rtol=1e-4)


@torch.no_grad()
def test_disagreement_is_the_negative_variance_over_members(model: WorldModel) -> None:
    latents = torch.zeros(2, 1, 3, 2, 4)  # two members, three candidates, two steps
    latents[1, 0, 1] = 2.0  # one apart from the mean on either side: variance 1 in every dimension
    latents[1, 0, 2, 1] = 4.0  # variance 4, at one step of two
    trajectory = Trajectory(torch.zeros(1, 4), latents, torch.zeros(1, 3, 2, 2))
    objective = DisagreementObjective()
    assert objective.members is None
    assert objective(model, trajectory, None).tolist() == [[0.0, -2.0, -4.0]]
    assert objective(model, trajectory, torch.ones(1, 4)).tolist() == [[0.0, -2.0, -4.0]]


@torch.no_grad()
def test_disagreement_imagines_with_every_member(model: WorldModel, scene: tuple[Tensor, Tensor, Tensor]) -> None:
    z, _, actions = scene
    costs = ImaginedCost(model, DisagreementObjective(), z, None)(actions)
    latents = imagine(model, z, actions, E).latents
    assert torch.allclose(costs, -latents.var(0, unbiased=False).mean(-1).sum(-1), rtol=1e-4)
    assert (costs < 0).all()


# -- the seam ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_candidates_and_problems_do_not_see_each_other(model: WorldModel, scene: tuple[Tensor, Tensor, Tensor]) -> None:
    z, goal, actions = scene
    costs = goal_costs(model, scene)
    assert torch.allclose(goal_costs(model, (z, goal, actions[:, 1:3])), costs[:, 1:3], rtol=1e-4)
    assert torch.allclose(goal_costs(model, (z[1:], goal[1:], actions[1:])), costs[1:], rtol=1e-4)
    assert not torch.allclose(goal_costs(model, (z, goal.flip(0), actions)), costs, rtol=1e-3)
    assert not torch.allclose(goal_costs(model, (z.flip(0), goal, actions)), costs, rtol=1e-3)


@torch.no_grad()
def test_half_precision_models_are_asked_in_half_and_answer_in_full(
    model: WorldModel, toy_model: Maker, scene: tuple[Tensor, Tensor, Tensor]
) -> None:
    half = toy_model(ensemble_size=E).to(torch.bfloat16)
    costs, coarse = goal_costs(model, scene), goal_costs(half, scene)
    assert coarse.dtype == torch.float32
    assert torch.allclose(coarse, costs, rtol=0.1)
    assert not torch.equal(coarse, costs)


def test_costs_are_differentiable_by_actions(model: WorldModel, scene: tuple[Tensor, Tensor, Tensor]) -> None:
    z, goal, actions = scene
    leaf = actions.clone().requires_grad_()
    ImaginedCost(model, GoalObjective(GoalOptions()), z, goal)(leaf).sum().backward()
    assert leaf.grad is not None
    assert (leaf.grad != 0).all()
    model.zero_grad()


# -- options and errors ------------------------------------------------------------------------------------------------

# field -> (a value that is not the default, options under which it matters)
CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "cost": ("latent_l2", {}),
    "summed": (False, {}),
    "effort": (0.1, {}),
    "members": (3, {}),
    "risk": (RiskOptions("worst"), {"members": 3}),
}


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(GoalOptions)])
def test_every_option_changes_the_result(field: str, model: WorldModel, scene: tuple[Tensor, Tensor, Tensor]) -> None:
    assert field in CHANGES, f"add {field} to CHANGES, with a value that changes the result"
    value, context = CHANGES[field]
    base = goal_costs(model, scene, **context)
    assert torch.equal(base, goal_costs(model, scene, **context)), "the comparison must be deterministic"
    assert not torch.allclose(base, goal_costs(model, scene, **{**context, field: value}), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cost": "cosine"}, "cost must be one of time_to_goal, latent_l2, got 'cosine'"),
        ({"members": 0}, "members must be at least 1, got 0"),
        ({"effort": -0.1}, "effort must be at least 0, got -0.1"),
        ({"effort": float("nan")}, "effort must be at least 0, got nan"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ObjectiveError) as error:
        GoalOptions(**options)
    assert str(error.value) == message


def test_bad_risk_is_refused() -> None:
    with pytest.raises(PlannerError, match="kind must be one of"):
        RiskOptions("best")


def test_more_members_than_the_ensemble_has_are_refused(
    model: WorldModel, scene: tuple[Tensor, Tensor, Tensor]
) -> None:
    with pytest.raises(ObjectiveError, match="members must be at most ensemble_size=3, got 4"):
        goal_costs(model, scene, members=4)


def test_a_goal_objective_needs_a_goal(model: WorldModel, scene: tuple[Tensor, Tensor, Tensor]) -> None:
    z, _, actions = scene
    with pytest.raises(ObjectiveError, match="goal must be given to a goal objective, got None"):
        ImaginedCost(model, GoalObjective(GoalOptions()), z, None)(actions)
