import torch

from forethought.agent.world_model.dynamics import EnsembleDynamics
from forethought.agent.world_model.stacked import StackedLinear, StackedNorm

E, N, Z, A = 3, 5, 4, 2


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_dynamics_start_close_to_nothing_changes() -> None:
    dynamics, z = EnsembleDynamics(Z, A, 32, 2, E), noise(E, N, Z)
    moved = (dynamics(z, noise(N, A)) - z).detach().abs()
    assert 0 < moved.mean() < 0.1


def test_number_of_layers_and_members() -> None:
    dynamics = EnsembleDynamics(Z, A, 32, 3, E)
    weights = [m.weight.shape for m in dynamics.modules() if isinstance(m, StackedLinear)]
    assert weights == [(E, Z + A, 32), (E, 32, 32), (E, 32, 32), (E, 32, Z)]
    assert sum(isinstance(m, StackedNorm) for m in dynamics.modules()) == 3


def test_a_member_teaches_itself_alone() -> None:
    dynamics = EnsembleDynamics(Z, A, 16, 1, E)
    dynamics(noise(E, N, Z), noise(N, A))[1].square().sum().backward()
    for name, parameter in dynamics.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad[1].abs().sum() > 0, name
        assert parameter.grad[[0, 2]].abs().sum() == 0, name


def test_all_members_see_the_same_action() -> None:
    dynamics, z, action = EnsembleDynamics(Z, A, 16, 1, E), noise(E, N, Z), noise(N, A)
    apart = [dynamics(z, action[i : i + 1].expand(N, A))[:, i] for i in range(N)]
    assert torch.allclose(dynamics(z, action), torch.stack(apart, dim=1), atol=1e-6)


@torch.no_grad()
def test_slow_motion_survives_half_precision() -> None:
    dynamics = EnsembleDynamics(2, 1, 4, 1, 1).to(torch.bfloat16)
    last = dynamics.net.layers[-1]
    last.weight.zero_()
    last.bias.fill_(2.0**-10)  # far below what bfloat16 resolves at 1.5
    z, action = torch.full((1, 3, 2), 1.5), torch.zeros(3, 1)
    for _ in range(32):
        z = dynamics(z, action)
    assert z.dtype == torch.float32
    assert torch.allclose(z, torch.tensor(1.5 + 2.0**-5))
