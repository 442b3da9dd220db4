"""Learning control by reward: which loss teaches what, targets by hand, every option, and that it really learns."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from forethought.agent.memory.sampler import SequenceBatch
from forethought.agent.training.learner import Learner, LearnerError, LearnerOptions
from forethought.agent.world_model.control import ControlHeads
from forethought.agent.world_model.model import WorldModel, WorldModelOptions
from forethought.envs.spec import EnvSpec

Maker = Callable[..., Any]
LATENT = {"inverse_dynamics": 0.0, "variance": 0.0, "covariance": 0.0}
"""The losses on latents that presets for reward switch off."""


@pytest.fixture(scope="module")
def spec(toy_spec: Maker) -> EnvSpec:
    made: EnvSpec = toy_spec("state", None)
    return made


def learner_of(
    spec: EnvSpec,
    *,
    model: dict[str, Any] | None = None,
    terminates: bool = True,
    opinionated: bool = True,
    **options: Any,
) -> Learner:
    """With random reward and value functions where `opinionated`; else they start without an opinion."""
    architecture = {"latent_dim": 8, "hidden_dim": 24, "ensemble_size": 1, "probe": False, "bins": 33, "discount": 0.9}
    made = WorldModel(spec, WorldModelOptions(**{**architecture, **(model or {})}), purpose="reward")
    heads = heads_of(made)
    heads.get_buffer("has_terminated").fill_(terminates)
    for i, net in enumerate((heads.reward, heads.value, heads.target) if opinionated else ()):
        last = net.layers[-1].weight
        last.data.copy_(torch.randn(last.shape, generator=torch.Generator().manual_seed(i)))
    return Learner(made, LearnerOptions(**{**LATENT, **options}), 100, torch.Generator().manual_seed(0))


def heads_of(model: WorldModel) -> ControlHeads:
    assert model.control is not None
    return model.control


@pytest.fixture
def batch(spec: EnvSpec, toy_batch: Maker) -> SequenceBatch:
    made: SequenceBatch = toy_batch(spec, batch=6, length=3, pairs=0)
    terminated = torch.zeros(6, 3, dtype=torch.bool)
    terminated[::2, -1] = True
    return dataclasses.replace(
        made, rewards=torch.rand(6, 3, generator=torch.Generator().manual_seed(5)), terminated=terminated
    )


TAUGHT = {
    "prediction": {"encoder", "dynamics"},
    "reward": {"encoder", "dynamics", "control.reward"},
    "value": {"encoder", "dynamics", "control.value"},
    "termination": {"encoder", "dynamics", "control.termination"},
    "policy": {"control.policy"},
}


@pytest.mark.parametrize("term", TAUGHT)
def test_losses_teach_what_they_should(term: str, spec: EnvSpec, batch: SequenceBatch) -> None:
    learner = learner_of(spec)
    terms, _ = learner.losses(batch)
    assert terms.keys() == TAUGHT.keys()
    terms[term].backward()
    taught = {n for n, p in learner.model.named_parameters() if p.grad is not None and (p.grad != 0).any()}
    assert {".".join(n.split(".")[: 2 if n.startswith("control") else 1]) for n in taught} == TAUGHT[term]


def test_termination_is_learned_once_an_episode_has_ended(spec: EnvSpec, batch: SequenceBatch) -> None:
    assert "termination" not in learner_of(spec, terminates=False).losses(batch)[0]


@torch.no_grad()
def test_reward_and_value_by_hand(spec: EnvSpec, batch: SequenceBatch) -> None:
    learner = learner_of(spec, rho=0.5)
    model, heads = learner.model, heads_of(learner.model)
    terms, z = learner.losses(batch)
    learner.generator.manual_seed(0)
    noise = torch.randn(2, 1, 6, 3, spec.action_dim, generator=learner.generator)[0, 0]  # the target's
    here, weights = z[:, 0], torch.tensor([1.0, 0.5, 0.25]) * 3 / 1.75
    reward, value = torch.zeros(()), torch.zeros(())
    for t in range(3):
        action = model.normalize_action(batch.actions[:, t])
        taken = torch.cat([here, action], -1)
        reward += weights[t] * heads.twohot.loss(heads.reward_logits(taken), batch.rewards[:, t]).mean() / 3
        follow = torch.cat([z[:, t + 1], heads.act(z[:, t + 1], noise[:, t])], -1)
        ahead = heads.expected(heads.value_logits(follow, which="target")).amin(0)
        target = batch.rewards[:, t] + 0.9 * torch.where(batch.terminated[:, t], 0.0, ahead)
        value += weights[t] * heads.twohot.loss(heads.value_logits(taken), target).mean() / 3
        here = model.step(here[None], batch.actions[:, t])[0]
    assert torch.allclose(terms["reward"], reward, rtol=1e-4)
    assert torch.allclose(terms["value"], value, rtol=1e-4)


@torch.no_grad()
def test_only_better_actions_are_imitated(spec: EnvSpec, batch: SequenceBatch) -> None:
    """Distillation adds the squared distance to actions whose value is above that of the policy's own draw."""

    def policy_loss(weight: float) -> Tensor:
        return learner_of(spec, distillation=weight, rho=1.0).losses(batch)[0]["policy"]

    learner = learner_of(spec)
    model, heads = learner.model, heads_of(learner.model)
    z = model.encode_sequence(batch.obs, batch.actions)
    imagined = torch.cat([z[:, :1], model.rollout(z[None, :, 0], batch.actions)[0, :, :-1]], 1)
    actions = model.normalize_action(batch.actions)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 1, 6, 3, spec.action_dim, generator=generator)
    chosen = heads.choose(imagined, noise[1, 0])
    known = heads.expected(heads.value_logits(torch.cat([imagined, actions], -1))).mean(0)
    own = heads.expected(heads.value_logits(torch.cat([imagined, chosen.action], -1))).mean(0)
    better = known > own
    assert 0 < better.sum() < better.numel()
    distance = (chosen.mean - actions).square().sum(-1)
    assert torch.allclose(policy_loss(2.0) - policy_loss(0.0), 2 * (distance * better).mean(), rtol=1e-3, atol=1e-5)


def test_the_target_moves_with_every_update(spec: EnvSpec, batch: SequenceBatch) -> None:
    learner = learner_of(spec, target_decay=0.5)
    heads = heads_of(learner.model)
    before = [p.clone() for p in heads.target.parameters()]
    learner.update(batch)
    for old, new, value in zip(before, heads.target.parameters(), heads.value.parameters(), strict=True):
        assert torch.allclose(new, (old + value) / 2, atol=1e-6)


CHANGES: dict[str, Any] = {
    "reward": 0.5,
    "value": 0.5,
    "termination": 0.5,
    "entropy": 0.1,
    "saturation": 0.1,
    "distillation": 1.0,
    "target_decay": 0.5,
    "rho": 0.5,
    "grad_clip": 0.01,
}


@pytest.mark.parametrize("option", CHANGES)
def test_every_option_changes_the_result(option: str, spec: EnvSpec, batch: SequenceBatch) -> None:
    def run(**options: Any) -> Tensor:
        learner = learner_of(spec, **options)
        for _ in range(3):
            learner.update(batch)
        return torch.cat([p.detach().flatten() for p in learner.model.parameters()])

    assert torch.equal(run(), run())
    assert not torch.equal(run(), run(**{option: CHANGES[option]}))


@pytest.mark.parametrize("option", ["value_members", "bins", "discount"])
def test_every_architecture_option_changes_the_result(option: str, spec: EnvSpec, batch: SequenceBatch) -> None:
    def run(**model: Any) -> Tensor:
        learner = learner_of(spec, model=model)
        learner.update(batch)
        return learner.losses(batch)[0]["value"].detach()

    assert not torch.equal(run(), run(**{option: {"value_members": 3, "bins": 17, "discount": 0.5}[option]}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_decay": 1.0}, "target_decay must be in [0, 1), got 1.0"),
        *(
            ({name: -0.1}, f"{name} must be at least 0, got -0.1")
            for name in ("reward", "value", "termination", "entropy", "saturation", "distillation")
        ),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LearnerError) as error:
        LearnerOptions(**options)
    assert str(error.value) == message


@pytest.mark.slow
def test_it_learns_a_bandit(spec: EnvSpec, toy_batch: Maker) -> None:
    """Reward falls with the distance of the action from a point, every episode ends at once: all heads can be right."""
    learner = learner_of(spec, opinionated=False, learning_rate=1e-3, cosine=False)
    model, heads, best = learner.model, heads_of(learner.model), torch.tensor([0.5, -0.5])
    for step in range(800):
        batch = toy_batch(spec, batch=64, length=1, pairs=0, seed=step)
        error = (model.normalize_action(batch.actions) - best).square().sum(-1)
        ends = torch.ones(64, 1, dtype=torch.bool)
        metrics = learner.update(dataclasses.replace(batch, rewards=2 - error, terminated=ends))
    with torch.no_grad():
        z = model.encode({k: v[:, 0] for k, v in batch.obs.items()})
        taken = torch.cat([z, model.normalize_action(batch.actions[:, 0])], -1)
        truth = 2 - error[:, 0]
        for guess in (heads.expected(heads.reward_logits(taken)), *heads.expected(heads.value_logits(taken))):
            assert (guess - truth).square().mean().sqrt() < 0.2
        assert (heads.act(z) - best).abs().mean() < 0.2
        assert heads.alive(model.step(z[None], batch.actions[:, 0])[0]).mean() < 0.05
    assert torch.isfinite(metrics["loss/total"])
