from collections.abc import Callable
from typing import Any

import pytest
import torch

from forethought.agent.imagination import imagine

Maker = Callable[..., Any]
B, N, H = 2, 3, 4


@pytest.mark.parametrize("members", [1, 2, 3])
@torch.no_grad()
def test_imagination_is_repeated_steps(
    members: int, toy_spec: Maker, toy_model: Maker, toy_obs: Maker, toy_actions: Maker
) -> None:
    spec, model = toy_spec(), toy_model(ensemble_size=3)
    z, actions = model.encode(toy_obs(spec, (B,))), toy_actions(spec, (B, N, H))
    trajectory = imagine(model, z, actions, members)
    assert trajectory.actions is actions
    assert trajectory.latents.shape == (members, B, N, H, model.latent_dim)
    for b in range(B):
        for n in range(N):
            state = z[b].expand(members, 1, -1)
            for t in range(H):
                state = model.step(state, actions[b, n, t : t + 1])
                assert torch.allclose(trajectory.latents[:, b, n, t], state[:, 0], atol=1e-5), (b, n, t)


@torch.no_grad()
def test_the_future_does_not_change_the_past(
    toy_spec: Maker, toy_model: Maker, toy_obs: Maker, toy_actions: Maker
) -> None:
    spec, model = toy_spec(), toy_model()
    z, actions = model.encode(toy_obs(spec, (B,))), toy_actions(spec, (B, N, H))
    changed = actions.clone()
    changed[:, :, 2:] = changed[:, :, 2:].flip(1)
    one, two = imagine(model, z, actions, 1).latents, imagine(model, z, changed, 1).latents
    assert torch.equal(one[..., :2, :], two[..., :2, :])
    assert not torch.allclose(one[..., 2:, :], two[..., 2:, :])


def test_actions_and_present_get_gradients(
    toy_spec: Maker, toy_model: Maker, toy_obs: Maker, toy_actions: Maker
) -> None:
    spec, model = toy_spec(), toy_model()
    z = model.encode(toy_obs(spec, (B,))).detach().requires_grad_()
    actions = toy_actions(spec, (B, N, H)).requires_grad_()
    imagine(model, z, actions, 2).latents[..., -1, :].square().sum().backward()
    assert z.grad is not None
    assert actions.grad is not None
    assert (actions.grad != 0).all()
