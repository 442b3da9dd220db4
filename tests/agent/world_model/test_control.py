import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from forethought.agent.world_model.control import ControlHeads, TwoHot, episode_discount, symexp, symlog

Z, A, B = 5, 2, 7


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def heads() -> ControlHeads:
    """With random last layers, which start at zero."""
    made = ControlHeads(Z, A, 16, 33, 2, 0.9)
    with torch.no_grad():
        for i, net in enumerate((made.reward, made.value, made.target)):
            last = net.layers[-1].weight
            last.copy_(noise(*last.shape, seed=i))
    return made


@given(st.floats(-20000, 20000))
def test_symlog_has_an_inverse(x: float) -> None:
    value = torch.tensor(x, dtype=torch.float64)
    assert math.isclose(float(symexp(symlog(value))), x, rel_tol=1e-9, abs_tol=1e-12)


@given(st.floats(-20000, 20000))
def test_the_best_distribution_has_the_number_as_its_mean(x: float) -> None:
    """The cross-entropy is lowest at the two-hot weights themselves, and their mean is the number."""
    twohot, value = TwoHot(65), torch.tensor(x)
    position = float((symlog(value) + 10) / twohot.width)
    low = min(math.floor(position), 63)
    weights = torch.zeros(65)
    weights[low], weights[low + 1] = 1 - (position - low), position - low
    logits = weights.clamp(min=1e-12).log()
    assert math.isclose(float(symlog(twohot.mean(logits))), float(symlog(value)), abs_tol=1e-3)
    entropy = -(weights * weights.clamp(min=1e-12).log()).sum()
    assert math.isclose(float(twohot.loss(logits, value)), float(entropy), abs_tol=1e-3)
    assert twohot.loss(logits + noise(65), value) >= twohot.loss(logits, value)
    assert twohot.loss(logits.roll(1), value) > twohot.loss(logits, value) + 1


def test_numbers_beyond_the_last_bin_are_cut() -> None:
    twohot = TwoHot(11, limit=2.0)
    logits = torch.zeros(11)
    assert twohot.loss(logits, torch.tensor(1e9)) == twohot.loss(logits, symexp(torch.tensor(2.0)))


def test_half_precision_keeps_the_numbers_exact() -> None:
    twohot, logits = TwoHot(65), torch.full((65,), -100.0)
    logits[40] = 100.0
    assert torch.equal(twohot.to(torch.bfloat16).mean(logits.bfloat16()), TwoHot(65).mean(logits))


def test_the_policy_is_a_squashed_gaussian(heads: ControlHeads) -> None:
    z, draw = noise(B, Z), noise(B, A, seed=1)
    chosen = heads.choose(z, draw)
    out = heads.policy(z[None])[0]
    log_std = -5 + 3 * (torch.tanh(out[..., A:]) + 1)
    gaussian = Normal(out[..., :A], log_std.exp())
    squashed = TransformedDistribution(gaussian, TanhTransform(cache_size=1))
    action = torch.tanh(out[..., :A] + draw * log_std.exp())
    assert torch.allclose(chosen.action, action, atol=1e-6)
    assert torch.allclose(chosen.mean, torch.tanh(out[..., :A]))
    expected = squashed.log_prob(action).sum(-1)
    inside = action.abs().amax(-1) < 0.99  # torch's own form rounds beyond
    assert inside.sum() > 2
    assert torch.allclose(chosen.log_p[inside], expected[inside], atol=1e-3)
    assert torch.equal(heads.act(z), chosen.mean)
    assert torch.equal(heads.act(z, draw), chosen.action)


def test_frozen_values_teach_their_input_only(heads: ControlHeads) -> None:
    taken = noise(B, Z + A).requires_grad_()
    frozen = heads.value_logits(taken, which="frozen")
    assert torch.equal(frozen, heads.value_logits(taken))
    frozen.square().sum().backward()
    assert taken.grad is not None
    assert all(p.grad is None for p in heads.parameters())


def test_the_target_follows(heads: ControlHeads) -> None:
    taken = noise(B, Z + A)
    before = [p.clone() for p in heads.target.parameters()]
    heads.follow(0.75)
    for old, new, value in zip(before, heads.target.parameters(), heads.value.parameters(), strict=True):
        assert torch.allclose(new, old + 0.25 * (value - old), atol=1e-6)
    heads.follow(0.0)
    assert torch.allclose(heads.value_logits(taken, which="target"), heads.value_logits(taken), atol=1e-6)
    assert all(not p.requires_grad for p in heads.target.parameters())


def test_shapes(heads: ControlHeads) -> None:
    taken, z = noise(3, B, Z + A), noise(3, B, Z)
    assert heads.reward_logits(taken).shape == (3, B, 33)
    assert heads.value_logits(taken).shape == (2, 3, B, 33)
    assert heads.expected(heads.value_logits(taken)).shape == (2, 3, B)
    assert heads.act(z).shape == (3, B, A)
    alive = heads.alive(z)
    assert alive.shape == (3, B)
    assert ((alive > 0) & (alive < 1)).all()


@pytest.mark.parametrize(("steps", "discount"), [(1, 0.95), (250, 0.98), (500, 0.99), (10**6, 0.995)])
def test_discount_follows_from_the_length_of_an_episode(steps: int, discount: float) -> None:
    assert math.isclose(episode_discount(steps), discount)
