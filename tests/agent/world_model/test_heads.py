import math

import torch

from forethought.agent.world_model.heads import InverseDynamicsHead, Probe, TimeToGoalHead

B, N, Z, G = 2, 5, 6, 3


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_time_to_goal_is_positive_and_broadcasts() -> None:
    head = TimeToGoalHead(Z, G, 16)
    z, point, goal = noise(4, B, N, Z), noise(4, B, N, G, seed=1), noise(B, 1, G, seed=2)
    steps = head(z, point, goal)
    assert steps.shape == (4, B, N)
    assert (steps > 0).all()
    assert torch.allclose(steps, head(z, point, goal.expand(4, B, N, G)), atol=1e-5)


def test_time_to_goal_reads_state_point_and_goal() -> None:
    head = TimeToGoalHead(Z, G, 16)
    z, point, goal = noise(N, Z), noise(N, G, seed=1), noise(N, G, seed=2)
    steps = head(z, point, goal)
    assert not torch.allclose(head(z.flip(0), point, goal), steps)
    assert not torch.allclose(head(z, point.flip(0), goal), steps)
    assert not torch.allclose(head(z, point, goal.flip(0)), steps)
    # the point only counts by its distance from the goal, the same on both sides
    assert torch.allclose(head(z, 2 * goal - point, goal), steps, atol=1e-5)


def test_time_to_goal_is_in_steps_and_not_negative() -> None:
    head = TimeToGoalHead(Z, G, 16)
    inputs = noise(N, Z), noise(N, G, seed=1), noise(N, G, seed=2)
    last = head.body[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.zeros_(last.weight)
    for bias, steps in ((-50.0, 0.0), (math.log(math.expm1(2.0)), 2 * TimeToGoalHead.SCALE)):
        torch.nn.init.constant_(last.bias, bias)
        assert torch.allclose(head(*inputs), torch.full((N,), steps), atol=1e-4)


def test_probe_teaches_itself_alone() -> None:
    probe, z = Probe(Z, 4, 8), noise(N, Z).requires_grad_()
    out = probe(z)
    assert out.shape == (N, 4)
    out.sum().backward()
    assert z.grad is None
    assert all(p.grad is not None for p in probe.parameters())


def test_inverse_dynamics_teaches_both_latents() -> None:
    head, z, after = InverseDynamicsHead(Z, 2, 8), noise(N, Z).requires_grad_(), noise(N, Z, seed=1).requires_grad_()
    actions = head(z, after)
    assert actions.shape == (N, 2)
    assert not torch.allclose(actions, head(after, z))
    actions.square().sum().backward()
    assert z.grad is not None
    assert after.grad is not None
    assert (z.grad != 0).any()
    assert (after.grad != 0).any()
