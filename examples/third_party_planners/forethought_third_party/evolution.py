"""CMA-ES of pycma: an optimiser with ask and tell, which knows one problem at a time."""

import math
from collections.abc import Callable
from typing import Any

import cma
import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from forethought.planners import HostedOptions, HostedPlanner, PlannerEntry, Trial, seeds_for


class CMAES(HostedPlanner):
    """Covariance matrix adaptation over the whole sequence of actions: Hansen, "The CMA evolution strategy" (2016).

    Every problem has a strategy of its own; they go in step, so that each iteration is one call of the cost function.
    """

    @override
    def search(self, trial: Trial, generator: torch.Generator) -> None:
        start = trial.start
        numbers = seeds_for(len(start), generator)
        strategies = [self._strategy(x, seed) for x, seed in zip(start, numbers, strict=True)]
        while trial.goes_on():
            asked = [strategy.ask() for strategy in strategies]
            costs = trial.score(torch.as_tensor(np.array(asked)).reshape(len(start), -1, *start.shape[1:]))
            for strategy, candidates, cost in zip(strategies, asked, costs, strict=True):
                strategy.tell(candidates, cost.tolist())

    def _strategy(self, x: Tensor, seed: int) -> Any:
        # Its numbers come from numpy's global generator, unless it is given others. A start on the very bounds is
        # mapped to where its search space folds back, so it is drawn in by a hair.
        options = {
            "bounds": [-1, 1],
            "popsize": self.options.num_samples,
            "randn": _normal_numbers(seed),
            "seed": math.nan,
            "verbose": -9,
        }
        centre = x.flatten().double().cpu().numpy().clip(-0.999, 0.999)
        return cma.CMAEvolutionStrategy(centre, self.options.init_std, options)


def _normal_numbers(seed: int) -> Callable[..., Any]:
    generator = np.random.default_rng(seed)
    return lambda *shape: generator.standard_normal(shape)


ENTRY = PlannerEntry(CMAES, HostedOptions)
