import copy

import pytest
import torch
from torch.nn import functional as F

from forethought.agent.world_model.stacked import StackedLinear, StackedMLP, StackedNorm

E, N, Z = 3, 5, 4


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def random_mlp(members: int) -> StackedMLP:
    net = StackedMLP(members, [Z, 8, 6, 2], last_scale=1.0)
    with torch.no_grad():
        for i, parameter in enumerate(net.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    return net


def test_stacked_linear_is_one_linear_layer_per_member() -> None:
    layer, x = StackedLinear(E, Z, 6), noise(E, N, Z)
    expected = torch.stack([F.linear(x[e], layer.weight[e].T, layer.bias[e, 0]) for e in range(E)])
    assert torch.allclose(layer(x), expected, atol=1e-6)
    for members in (1, 2):
        assert torch.allclose(layer(x[:members]), expected[:members], atol=1e-6)
    bound = Z**-0.5
    assert layer.weight.abs().max() <= bound
    assert layer.weight.std() > 0.4 * bound


def test_stacked_norm_is_one_layer_norm_per_member() -> None:
    layer, x = StackedNorm(E, Z), 3 + 2 * noise(E, N, Z)
    with torch.no_grad():
        layer.gain.copy_(noise(E, 1, Z))
        layer.bias.copy_(noise(E, 1, Z) + 1)
    expected = torch.stack([F.layer_norm(x[e], (Z,), layer.gain[e, 0], layer.bias[e, 0]) for e in range(E)])
    for members in (1, 2, 3):
        assert torch.allclose(layer(x[:members]), expected[:members], atol=1e-5)


@pytest.mark.parametrize("members", [1, 2])
@torch.no_grad()
def test_freezing_changes_nothing_but_speed(members: int) -> None:
    net, x = random_mlp(members), noise(members, N, Z)
    frozen = copy.deepcopy(net)
    frozen.freeze()
    before = x.clone()
    assert torch.allclose(frozen(x), net(x), atol=1e-6)
    assert torch.equal(x, before), "the input was overwritten"


def test_frozen_networks_still_pass_gradients_to_their_input() -> None:
    net, x = random_mlp(1), noise(1, N, Z)
    frozen = copy.deepcopy(net)
    frozen.freeze()
    gradients = []
    for one in (net, frozen):
        leaf = x.clone().requires_grad_()
        one(leaf).square().sum().backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    assert torch.allclose(*gradients, atol=1e-5)


def test_the_last_layer_starts_as_asked() -> None:
    net = StackedMLP(E, [Z, 8, 2], last_scale=0.0)
    assert net(noise(E, N, Z)).abs().max() == 0
