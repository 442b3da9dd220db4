"""Optimisers of Nevergrad by name: ask and tell as well, with parameters that know their bounds."""

from dataclasses import dataclass
from typing import Any

import nevergrad
import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from forethought import UnknownNameError
from forethought.planners import HostedOptions, HostedPlanner, PlannerEntry, Trial, seeds_for

WORST = 1e20
"""What Nevergrad is told of an invalid candidate; it complains about infinity."""


@dataclass
class NevergradOptions(HostedOptions):
    """Options of Nevergrad's optimisers."""

    optimizer: str = "TwoPointsDE"
    """Name in Nevergrad's registry, such as `DE`, `PSO`, `CMA`, `OnePlusOne`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer not in nevergrad.optimizers.registry:
            raise UnknownNameError("Nevergrad optimizer", self.optimizer, nevergrad.optimizers.registry)


class Numbers:
    """Numbers of its own from numpy's global generator inside this context; the global state is put back after it."""

    def __init__(self, seed: int) -> None:
        self._own = np.random.RandomState(seed).get_state()

    def __enter__(self) -> None:
        self._global = np.random.get_state()
        np.random.set_state(self._own)

    def __exit__(self, *error: object) -> None:
        self._own = np.random.get_state()
        np.random.set_state(self._global)


class Nevergrad(HostedPlanner):
    """Rapin and Teytaud, "Nevergrad: a gradient-free optimization platform" (2018).

    Every problem has an optimiser of its own; they go in step, so that each iteration is one call of the cost function.
    """

    options: NevergradOptions

    @override
    def search(self, trial: Trial, generator: torch.Generator) -> None:
        start = trial.start
        streams = [Numbers(seed) for seed in seeds_for(len(start), generator)]
        optimizers = list[Any]()
        for x, numbers in zip(start, streams, strict=True):
            with numbers:
                optimizers.append(self._optimizer(x))
        while trial.goes_on():
            asked = list[list[Any]]()
            for optimizer, numbers in zip(optimizers, streams, strict=True):
                with numbers:
                    asked.append([optimizer.ask() for _ in range(self.options.num_samples)])
            values = np.array([[candidate.value for candidate in candidates] for candidates in asked])
            costs = trial.score(torch.as_tensor(values)).clamp(max=WORST).tolist()
            for optimizer, numbers, candidates, cost in zip(optimizers, streams, asked, costs, strict=True):
                with numbers:
                    for candidate, value in zip(candidates, cost, strict=True):
                        optimizer.tell(candidate, value)

    def _optimizer(self, x: Tensor) -> Any:
        space = nevergrad.p.Array(init=x.double().cpu().numpy(), lower=-1, upper=1)
        space.set_mutation(sigma=self.options.init_std)
        size = self.options.num_samples
        return nevergrad.optimizers.registry[self.options.optimizer](
            space, budget=size * self.options.iterations, num_workers=size
        )


ENTRY = PlannerEntry(Nevergrad, NevergradOptions)
