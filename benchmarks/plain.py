"""The planning mathematics of control by reward as it is usually written: module by module, step by step, in float32.

A yardstick for `speed.py`, with the weights of one of our models: no stacked heads, no half precision, no copy for
planning, no threads over candidates, no compilation. With the same noise it finds the same plan.
"""

from typing import cast

import torch
from torch import Tensor, nn

from forethought.agent.world_model.control import symexp
from forethought.agent.world_model.model import WorldModel
from forethought.agent.world_model.stacked import StackedLinear, StackedMLP, StackedNorm
from forethought.planners.mppi import MPPIOptions


def unstacked(net: StackedMLP, member: int) -> nn.Sequential:
    """One member of a stacked network as plain layers."""
    layers: list[nn.Module] = []
    for i, layer in enumerate(net.layers):
        stacked = cast(StackedLinear, layer)
        _, fan_in, fan_out = stacked.weight.shape
        linear = nn.Linear(fan_in, fan_out)
        linear.weight.data.copy_(stacked.weight[member].T)
        linear.bias.data.copy_(stacked.bias[member, 0])
        layers.append(linear)
        if i < len(net.norms):
            norm, norms = nn.LayerNorm(fan_out), cast(StackedNorm, net.norms[i])
            norm.weight.data.copy_(norms.gain[member, 0])
            norm.bias.data.copy_(norms.bias[member, 0])
            layers += [norm, nn.SiLU()]
    return nn.Sequential(*layers).requires_grad_(requires_grad=False)


class PlainPlanner(nn.Module):
    """MPPI over a world model with one dynamics member, for one problem; actions lie in [-1, 1].

    Args:
        model: whose weights are copied.
        options: of MPPI, with `return_mean` and neither colour nor knots.
        policy_trajectories: candidates of the policy prior.
    """

    def __init__(self, model: WorldModel, options: MPPIOptions, policy_trajectories: int) -> None:
        super().__init__()
        heads = model.control
        assert heads is not None
        self.options, self.policy_trajectories, self.discount = options, policy_trajectories, heads.discount
        self.dynamics = unstacked(model.dynamics.net, 0)
        self.reward, self.policy = unstacked(heads.reward, 0), unstacked(heads.policy, 0)
        self.values = nn.ModuleList([unstacked(heads.value, k) for k in range(heads.value.members)])
        self.limit, self.action_dim = heads.twohot.limit, heads.action_dim
        self.model = model

    def number(self, logits: Tensor) -> Tensor:
        """Expected number of a distribution over bins."""
        support = torch.linspace(-self.limit, self.limit, logits.shape[-1])
        return symexp((torch.softmax(logits, -1) * support).sum(-1))

    def act(self, z: Tensor, noise: Tensor | None) -> Tensor:
        """Actions of the policy prior."""
        mean, spread = self.policy(z).chunk(2, dim=-1)
        if noise is None:
            return torch.tanh(mean)
        return torch.tanh(mean + noise * torch.exp(-5 + 3 * (torch.tanh(spread) + 1)))

    def returns(self, z: Tensor, actions: Tensor) -> Tensor:
        """Estimated returns `[N]` of actions `[N, H, A]` from latents `[N, Z]`."""
        total, discount = torch.zeros(len(z)), 1.0
        for t in range(actions.shape[1]):
            taken = torch.cat([z, actions[:, t]], dim=-1)
            total = total + discount * self.number(self.reward(taken))
            z = z + self.dynamics(taken)
            discount *= self.discount
        taken = torch.cat([z, self.act(z, None)], dim=-1)
        value = torch.stack([self.number(net(taken)) for net in self.values]).mean(0)
        return total + discount * value

    @torch.no_grad()
    def forward(self, obs: dict[str, Tensor], warm: Tensor, generator: torch.Generator) -> Tensor:
        """The plan `[H, A]` for what is seen, from the last plan `[H, A]` shifted by a step."""
        options = self.options
        z = self.model.encode(obs)[0]
        shape = (self.policy_trajectories, options.horizon, self.action_dim)
        noise = torch.randn(1, *shape, generator=generator)[0]
        noise[0] = 0
        state, proposals = z.expand(self.policy_trajectories, -1), []
        for t in range(options.horizon):
            action = self.act(state, noise[:, t])
            proposals.append(action)
            if t < options.horizon - 1:
                state = state + self.dynamics(torch.cat([state, action], dim=-1))
        mean, std = warm, torch.full_like(warm, options.init_std)
        for iteration in range(options.iterations):
            shape = (options.num_samples, options.horizon, self.action_dim)
            candidates = (mean + std * torch.randn(1, *shape, generator=generator)[0]).clamp(-1, 1)
            if iteration == 0:
                candidates[0] = mean
                candidates[1 : 1 + self.policy_trajectories] = torch.stack(proposals, dim=1)
            costs = -self.returns(z.expand(len(candidates), -1), candidates)
            lowest, index = costs.topk(options.num_elites or len(costs), largest=False)
            elites = candidates[index]
            above = lowest - lowest.min()
            weights = torch.softmax(-above / (options.temperature * above.std(unbiased=False)), dim=0)[:, None, None]
            new = (weights * elites).sum(0)
            spread = (weights * (elites - new).square()).sum(0).sqrt()
            mean = new + options.momentum * (mean - new)
            std = (spread + options.momentum * (std - spread)).clamp(options.min_std, options.max_std)
        return mean
