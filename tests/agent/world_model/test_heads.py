import torch

from forethought.agent.world_model.heads import InverseDynamicsHead, Probe

N, Z = 5, 6


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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
