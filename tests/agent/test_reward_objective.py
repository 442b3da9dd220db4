"""Expected returns of imagined plans against numbers worked out by hand, and proposals of the policy prior."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from forethought.agent import objectives, threads
from forethought.agent.imagination import imagine
from forethought.agent.objectives import (
    GoalObjective,
    GoalOptions,
    ImaginedCost,
    ObjectiveError,
    RewardObjective,
    RewardOptions,
)
from forethought.agent.world_model.control import ControlHeads
from forethought.agent.world_model.model import WorldModel, WorldModelOptions
from forethought.planners import RiskOptions

Maker = Callable[..., Any]
B, N, H, E, K = 2, 3, 4, 2, 3


def random_heads(model: WorldModel) -> ControlHeads:
    """Reward and value start out certain of nothing; here they have opinions."""
    assert model.control is not None
    for i, net in enumerate((model.control.reward, model.control.value)):
        last = net.layers[-1].weight
        last.data.copy_(3 * torch.randn(last.shape, generator=torch.Generator().manual_seed(i)))
    return model.control


@pytest.fixture
def model(toy_spec: Maker) -> WorldModel:
    options = WorldModelOptions(latent_dim=8, hidden_dim=24, ensemble_size=E, value_members=K, bins=33, discount=0.8)
    made = WorldModel(toy_spec(goal=None), options, purpose="reward").eval()
    random_heads(made)
    return made


@pytest.fixture
def scene(model: WorldModel, toy_obs: Maker, toy_actions: Maker) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return model.encode(toy_obs(model.spec, (B,))), toy_actions(model.spec, (B, N, H))


def costs_of(model: WorldModel, scene: tuple[Tensor, Tensor], **options: Any) -> Tensor:
    with torch.no_grad():
        return ImaginedCost(model, RewardObjective(RewardOptions(**options)), scene[0], None)(scene[1])


@torch.no_grad()
def by_hand(model: WorldModel, scene: tuple[Tensor, Tensor], terminates: bool) -> Tensor:
    """Returns `[K * E, B, N]`, one candidate at a time."""
    heads, (z, actions) = model.control, scene
    assert heads is not None
    latents, returns = imagine(model, z, actions, E).latents, torch.zeros(K, E, B, N)
    for e in range(E):
        for b in range(B):
            for n in range(N):
                here, alive = z[b], torch.tensor(1.0)
                for t in range(H):
                    taken = torch.cat([here, model.normalize_action(actions[b, n, t])])
                    returns[:, e, b, n] += 0.8**t * alive * heads.expected(heads.reward_logits(taken))
                    here = latents[e, b, n, t]
                    alive = alive * (heads.alive(here) if terminates else 1.0)
                value = heads.expected(heads.value_logits(torch.cat([here, heads.act(here)])))
                returns[:, e, b, n] += 0.8**H * alive * value
    return returns.flatten(0, 1)


@pytest.mark.parametrize("terminates", [False, True])
def test_cost_is_minus_the_expected_return(model: WorldModel, scene: tuple[Tensor, Tensor], terminates: bool) -> None:
    assert model.control is not None
    model.control.get_buffer("has_terminated").fill_(terminates)
    expected = by_hand(model, scene, terminates)
    assert torch.allclose(costs_of(model, scene, members=E), -expected.mean(0), rtol=1e-3, atol=1e-3)
    careful = costs_of(model, scene, members=E, risk=RiskOptions("mean_std", beta=2.0))
    assert torch.allclose(careful, -expected.mean(0) + 2 * expected.std(0, correction=0), rtol=1e-3, atol=1e-3)


def test_one_member_imagines_alone(model: WorldModel, scene: tuple[Tensor, Tensor]) -> None:
    expected = by_hand(model, scene, terminates=False).reshape(K, E, B, N)[:, 0]
    assert torch.allclose(costs_of(model, scene), -expected.mean(0), rtol=1e-3, atol=1e-3)


def noise_for(model: WorldModel, count: int) -> Tensor:
    return torch.randn(B, count, H, model.spec.action_dim, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_the_policy_proposes_its_own_rollouts(model: WorldModel, scene: tuple[Tensor, Tensor]) -> None:
    z, heads = scene[0], model.control
    assert heads is not None
    objective = RewardObjective(RewardOptions(policy_trajectories=5))
    assert objective.num_seeds == 5
    seeds = objective.seeds(model, z, noise_for(model, 5))
    assert seeds.shape == (B, 5, H, model.spec.action_dim)
    low, high = torch.tensor(model.spec.action_low), torch.tensor(model.spec.action_high)
    assert ((seeds >= low - 1e-6) & (seeds <= high + 1e-6)).all()
    here = z
    for t in range(H):  # the first one is the mean of the policy, step by step
        action = model.denormalize_action(heads.act(here))
        assert torch.allclose(seeds[:, 0, t], action, atol=1e-5)
        here = model.step(here[None], action)[0]
    assert not torch.allclose(seeds[:, 0], seeds[:, 1])


@torch.no_grad()
def test_options_of_the_proposals(model: WorldModel, scene: tuple[Tensor, Tensor]) -> None:
    def seeds(**options: Any) -> Tensor:
        return RewardObjective(RewardOptions(**options)).seeds(model, scene[0], noise_for(model, 8))

    assert RewardObjective(RewardOptions(policy_trajectories=0)).num_seeds == 0
    quiet = seeds(policy_noise=0.0)
    assert torch.allclose(quiet, quiet[:, :1].expand_as(quiet), atol=1e-5)
    half, whole = seeds(policy_noise=0.5), seeds()
    assert torch.equal(half[:, 0], whole[:, 0])
    assert not torch.allclose(half[:, 1:], whole[:, 1:])


def test_halves_on_two_threads_cost_the_same(
    model: WorldModel, toy_actions: Maker, scene: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forethought.agent.threads.WORTH_SHARING", model.product_size(B * 20))
    parts: list[int] = []
    in_parallel = threads.in_parallel
    monkeypatch.setattr(objectives, "in_parallel", lambda calls: parts.append(len(calls)) or in_parallel(calls))
    actions, before = toy_actions(model.spec, (B, 41, H)), torch.get_num_threads()
    cost_fn = ImaginedCost(model, RewardObjective(RewardOptions()), scene[0], None)
    try:
        with torch.no_grad():
            torch.set_num_threads(1)
            alone = cost_fn(actions)
            torch.set_num_threads(2)
            shared = cost_fn(actions)
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(alone, shared, rtol=1e-4, atol=1e-4)
    assert parts == [2]


def test_an_objective_needs_its_heads(model: WorldModel, toy_model: Maker, scene: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ObjectiveError, match="objective=goal needs a world model trained for it, got one for reward"):
        ImaginedCost(model, GoalObjective(GoalOptions()), scene[0], scene[0])(scene[1])
    goal_model: WorldModel = toy_model()
    z = torch.zeros(B, goal_model.latent_dim)
    with pytest.raises(ObjectiveError, match="objective=reward needs a world model trained for it, got one for goal"):
        ImaginedCost(goal_model, RewardObjective(RewardOptions()), z, None)(scene[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": 0}, "members must be at least 1, got 0"),
        ({"policy_trajectories": -1}, "policy_trajectories must be at least 0, got -1"),
        ({"policy_noise": -0.5}, "policy_noise must be at least 0, got -0.5"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ObjectiveError, match=message):
        RewardOptions(**options)
