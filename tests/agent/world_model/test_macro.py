"""Macro-actions: what a stretch of actions comes to is told in a few numbers, of which those near 0 were seen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from forethought.agent.training.checkpoint import CheckpointError, restore_module
from forethought.agent.training.learner import Learner, LearnerError, LearnerOptions
from forethought.agent.world_model.encoders import SimNorm
from forethought.agent.world_model.macro import MacroModel
from forethought.agent.world_model.model import WorldModel, WorldModelError, WorldModelOptions

Maker = Callable[..., Any]
K, M = 5, 2


def windows(count: int, seed: int, length: int = K) -> tuple[Tensor, Tensor]:
    """A point that actions push, each held for the whole window: upward as often as downward, to the right alone."""
    generator = torch.Generator().manual_seed(seed)
    held = torch.rand(count, 1, 2, generator=generator) * torch.tensor([1.0, 2.0]) - torch.tensor([0.0, 1.0])
    actions = held.expand(-1, length, -1)
    start = torch.randn(count, 1, 2, generator=generator)
    return torch.cat([start, start + 0.2 * actions.cumsum(dim=1)], dim=1), actions


@pytest.fixture(scope="module")
def learned() -> MacroModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MacroModel(2, 2, 32, K, M, nn.Identity())
    optimizer, generator = torch.optim.Adam(model.parameters(), lr=3e-3), torch.Generator().manual_seed(0)
    for seed in range(600):
        z, actions = windows(256, seed)
        optimizer.zero_grad()
        model.loss(z, actions, torch.randn(256, 1, M, generator=generator)).backward()
        optimizer.step()
    return model


@torch.no_grad()
def test_a_jump_leads_where_the_actions_lead(learned: MacroModel) -> None:
    z, actions = windows(512, 1000)
    macro, _ = learned.encode(z[:, 0], actions)
    missed = (learned.jump(z[:, 0], macro) - z[:, K]).norm(dim=-1)
    nothing = (z[:, 0] - z[:, K]).norm(dim=-1)
    assert missed.mean() < 0.1 * nothing.mean()


@torch.no_grad()
def test_what_was_seen_is_standard_normal(learned: MacroModel) -> None:
    z, actions = windows(2048, 1001)
    mean, log_std = learned.encode(z[:, 0], actions)
    drawn = mean + log_std.exp() * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    assert drawn.mean(dim=0).abs().max() < 0.2
    assert (drawn.std(dim=0) - 1).abs().max() < 0.25


@torch.no_grad()
def test_within_two_deviations_jumps_are_like_those_seen_and_beyond_they_are_not(learned: MacroModel) -> None:
    z = torch.zeros(4096, 2)
    drawn = 2 * torch.rand(4096, M, generator=torch.Generator().manual_seed(0)) - 1

    def outside(limit: float) -> Tensor:
        """How far jumps end from where actions can lead: x from 0 to 1, y from -1 to 1."""
        ahead = learned.jump(z, limit * drawn)
        nearest = torch.stack([ahead[:, 0].clamp(0, 1), ahead[:, 1].clamp(-1, 1)], dim=-1)
        return (ahead - nearest).norm(dim=-1).mean()

    assert outside(2.0) < 0.05
    assert outside(8.0) > 0.25


@torch.no_grad()
def test_the_loss_by_hand() -> None:
    model = MacroModel(3, 2, 8, K, M, nn.Identity())
    z, actions, noise = torch.randn(2, 8, 3), torch.randn(2, 7, 2), torch.randn(2, 3, M)
    missed, divergence = torch.zeros(3), 0.0
    for b in range(2):
        for t in range(3):
            mean, log_std = model.encode(z[b, t], actions[b, t : t + K])
            posterior = torch.distributions.Normal(mean, log_std.exp())
            prior = torch.distributions.Normal(torch.zeros(M), torch.ones(M))
            divergence += float(torch.distributions.kl_divergence(posterior, prior).sum()) / 6
            missed += (model.jump(z[b, t], mean + noise[b, t] * log_std.exp()) - z[b, t + K]).square() / 6
    expected = (float(missed.log().sum()) / 2 + MacroModel.PRICE * divergence) / 3
    assert float(model.loss(z, actions, noise)) == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_jumps_stay_in_bounded_latents() -> None:
    model = MacroModel(8, 2, 16, K, M, SimNorm(8))
    assert torch.allclose(model.jump(torch.randn(4, 8), torch.randn(4, M)).sum(dim=-1), torch.ones(4))


# -- in a world model --------------------------------------------------------------------------------------------------


def learner(model: WorldModel, **options: Any) -> Learner:
    return Learner(model, LearnerOptions(**options), 10, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("burn_in", [0, 1])
def test_it_learns_beside_the_world_model_and_teaches_it_nothing(
    burn_in: int, toy_spec: Maker, toy_model: Maker, toy_batch: Maker
) -> None:
    spec = toy_spec()
    model = toy_model(spec, macro_stride=3, recurrence="gru")
    terms, _ = learner(model, window=4, burn_in=burn_in).losses(toy_batch(spec, length=4))
    terms["macro"].backward()
    taught = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None and (p.grad != 0).any()}
    assert taught == {"macro"}


def test_the_rest_learns_as_without_it(toy_spec: Maker, toy_model: Maker, toy_batch: Maker) -> None:
    spec, weights = toy_spec(), []
    for stride in (0, 3):
        model = toy_model(spec, macro_stride=stride)
        learning = learner(model, window=4, grad_clip=1e-3)
        metrics = [learning.update(toy_batch(spec, seed=seed)) for seed in range(3)]
        assert ("loss/macro" in metrics[0]) == bool(stride)
        weights.append(torch.cat([p.flatten() for n, p in model.named_parameters() if not n.startswith("macro.")]))
    assert torch.equal(*weights)


@pytest.mark.parametrize(("option", "value"), [("macro_stride", 4), ("macro_dim", 3), ("macro", 0.5)])
def test_every_option_changes_the_result(
    option: str, value: float, toy_spec: Maker, toy_model: Maker, toy_batch: Maker
) -> None:
    spec = toy_spec()

    def run(**changed: Any) -> Tensor:
        weight = {"macro": changed.pop("macro", 1.0)}
        model = toy_model(spec, **{"macro_stride": 3, **changed})
        learning = learner(model, window=4, **weight)
        for seed in range(2):
            total = learning.update(toy_batch(spec, seed=seed))["loss/total"]
        return total

    assert torch.equal(run(), run())
    assert not torch.equal(run(), run(**{option: value}))


def test_windows_that_are_too_short_are_refused(toy_model: Maker) -> None:
    with pytest.raises(LearnerError, match=r"window - burn_in must be at least world_model.macro_stride=6, got 5"):
        learner(toy_model(macro_stride=6), window=7, burn_in=2)
    learner(toy_model(macro_stride=5), window=7, burn_in=2)
    learner(toy_model(macro_stride=6), window=7, burn_in=2, macro=0.0)


def test_it_is_for_goals(toy_spec: Maker) -> None:
    with pytest.raises(WorldModelError, match=r"macro_stride must be 0 with objective=reward, .*, got 4"):
        WorldModel(toy_spec(goal=None), WorldModelOptions(macro_stride=4), purpose="reward")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"macro_stride": 1}, "macro_stride must be 0, for none, or at least 2, got 1"),
        ({"macro_stride": -2}, "macro_stride must be 0, for none, or at least 2, got -2"),
        ({"macro_dim": 0}, "macro_dim must be at least 1, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(WorldModelError) as error:
        WorldModelOptions(**options)
    assert str(error.value) == message


def test_checkpoints_are_with_or_without(toy_model: Maker, tmp_path: Path) -> None:
    file, (first, other, without) = (
        tmp_path / "weights.safetensors",
        (toy_model(seed=seed, macro_stride=stride) for seed, stride in ((0, 4), (1, 4), (1, 0))),
    )
    save_file(first.state_dict(), file)
    restore_module(other, load_file(file), file)
    z, macro = torch.randn(3, first.latent_dim), torch.randn(3, 4)
    assert torch.equal(first.macro.jump(z, macro), other.macro.jump(z, macro))
    with pytest.raises(CheckpointError, match=r"tensor macro\..* is unknown"):
        restore_module(without, load_file(file), file)
    save_file(without.state_dict(), file)
    with pytest.raises(CheckpointError, match=r"tensor macro\..* is missing"):
        restore_module(other, load_file(file), file)
