"""MPPI of pytorch-mppi: a controller that rolls out dynamics by itself and hands out neither candidates nor costs."""

from dataclasses import dataclass

import torch
from pytorch_mppi import MPPI
from torch import Tensor
from typing_extensions import override

from forethought.planners import HostedOptions, HostedPlanner, PlannerEntry, PlannerError, Trial, seeds_for


@dataclass
class PytorchMPPIOptions(HostedOptions):
    """Options of pytorch-mppi."""

    temperature: float = 1.0
    """Its lambda: candidates weigh exp(-cost / temperature), in the units of the cost function."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise PlannerError(f"temperature must be above 0, got {self.temperature}")


class PytorchMPPI(HostedPlanner):
    """Model predictive path integral control: Williams et al., "Information theoretic MPC" (2017).

    Its dynamics are made to do nothing and its running cost is zero, so that all it asks for is the terminal cost,
    which knows whole sequences of actions: exactly its K candidates. As it knows one problem at a time and scores
    within `command`, each iteration is commanded twice with the same random numbers. The first time tells what it asks
    for, and all problems are then scored in one call of the cost function; the second time it hears the costs.
    """

    options: PytorchMPPIOptions

    @override
    def search(self, trial: Trial, generator: torch.Generator) -> None:
        mean = trial.start
        unknown = mean.new_zeros(len(mean), self.options.num_samples)
        while trial.goes_on():
            numbers = seeds_for(len(mean), generator)
            asked, _ = self._command(mean, unknown, numbers)
            costs = trial.score(asked)
            _, mean = self._command(mean, costs, numbers)
        trial.score(mean[:, None])  # what it would act by: a mean, which is none of the candidates

    def _command(self, mean: Tensor, costs: Tensor, numbers: list[int]) -> tuple[Tensor, Tensor]:
        """Candidates `[B, N, H, A]` around means `[B, H, A]`, and the next means, given costs `[B, N]`."""
        asked, after = list[Tensor](), list[Tensor]()
        for start, cost, number in zip(mean, costs, numbers, strict=True):

            def terminal(states: Tensor, actions: Tensor, cost: Tensor = cost) -> Tensor:
                asked.append(actions[0])
                return cost

            controller = MPPI(
                dynamics=lambda state, action: state,
                running_cost=lambda state, action: state.new_zeros(len(state)),
                nx=1,
                noise_sigma=self.options.init_std**2 * torch.eye(self.box.dim).to(mean),
                num_samples=self.options.num_samples,
                horizon=self.horizon,
                device=mean.device,
                terminal_state_cost=terminal,
                lambda_=self.options.temperature,
                u_min=-torch.ones(self.box.dim).to(mean),
                u_max=torch.ones(self.box.dim).to(mean),
                U_init=start.clone(),
            )
            with torch.random.fork_rng(devices=[mean.device] if mean.is_cuda else []):
                torch.manual_seed(number)  # it draws from the global generator and takes no other
                controller.command(mean.new_zeros(1), shift_nominal_trajectory=False)
            after.append(controller.get_action_sequence())
        return torch.stack(asked), torch.stack(after)


ENTRY = PlannerEntry(PytorchMPPI, PytorchMPPIOptions)
