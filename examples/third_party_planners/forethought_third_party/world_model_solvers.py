"""Solvers of stable-worldmodel: loops that ask a model for the cost of candidates, for many problems at once."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_worldmodel.policy import PlanConfig
from stable_worldmodel.solver import CEMSolver, ICEMSolver, MPPISolver
from torch import Tensor
from typing_extensions import override

from forethought.planners import HostedOptions, HostedPlanner, PlannerEntry, PlannerError, Trial


class OutOfTimeError(Exception):
    """Ends a solver between two of its iterations, which it does not offer by itself."""


class TrialModel:
    """What a solver takes for its world model: it has parameters, whose dtype it computes in, and costs."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial

    def parameters(self) -> Iterator[Tensor]:
        """One tensor, in the dtype of the bounds."""
        yield self.trial.start

    def get_cost(self, info_dict: dict[str, Any], action_candidates: Tensor) -> Tensor:
        """Costs `[B, N]` of candidates `[B, N, H, A]`."""
        if not self.trial.goes_on():
            raise OutOfTimeError
        return self.trial.score(action_candidates)


@dataclass
class SolverOptions(HostedOptions):
    """Options of every solver."""

    topk: int = 30
    """Candidates of lowest cost that the search learns from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.topk <= self.num_samples:
            raise PlannerError(f"topk must be between 2 and num_samples={self.num_samples}, got {self.topk}")


@dataclass
class ICEMSolverOptions(SolverOptions):
    """Options of the iCEM solver."""

    noise_beta: float = 2.0
    """Colour of the noise along the horizon; 0 is white."""
    alpha: float = 0.1
    """Part of the old mean and spread that survives an iteration."""
    n_elite_keep: int = 5
    """Candidates that outlive an iteration."""


@dataclass
class MPPISolverOptions(SolverOptions):
    """Options of the MPPI solver."""

    temperature: float = 0.5
    """Candidates weigh exp(-cost / temperature), in the units of the cost function."""


class SolverPlanner(HostedPlanner):
    """A solver of stable-worldmodel (Maes et al. 2026); a subclass says which.

    CEM and MPPI know no bounds there: a candidate outside costs what it costs when clamped, as in an environment that
    clips, and the solver goes on with what it drew. The mean that a solver returns is scored last.
    """

    options: SolverOptions
    kind: type[Any]

    @property
    def special(self) -> dict[str, Any]:
        """Arguments that only this kind of solver has."""
        return {}

    @override
    def search(self, trial: Trial, generator: torch.Generator) -> None:
        start = trial.start
        batch_size, options = len(start), self.options
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(OutOfTimeError):  # it prints its times
            solver = self.kind(
                TrialModel(trial), batch_size=batch_size, num_samples=options.num_samples, var_scale=options.init_std,
                n_steps=options.iterations, topk=options.topk, device=start.device, **self.special,
            )  # fmt: skip
            solver.torch_gen = generator  # by itself it draws the same numbers in every plan of every planner
            box = gymnasium.spaces.Box(-1.0, 1.0, (batch_size, self.box.dim), np.float32)
            plan_config = PlanConfig(horizon=self.horizon, receding_horizon=1)
            solver.configure(action_space=box, n_envs=batch_size, config=plan_config)
            found = solver.solve({"problem": torch.arange(batch_size)}, init_action=start.clone())
            trial.score(found["actions"][:, None])


class CEMSolverPlanner(SolverPlanner):
    """Its cross-entropy method."""

    kind = CEMSolver


class ICEMSolverPlanner(SolverPlanner):
    """Its iCEM."""

    options: ICEMSolverOptions
    kind = ICEMSolver

    @property
    @override
    def special(self) -> dict[str, Any]:
        names = ("noise_beta", "alpha", "n_elite_keep")
        return {name: getattr(self.options, name) for name in names}


class MPPISolverPlanner(SolverPlanner):
    """Its MPPI."""

    options: MPPISolverOptions
    kind = MPPISolver

    @property
    @override
    def special(self) -> dict[str, Any]:
        return {"temperature": self.options.temperature}


CEM = PlannerEntry(CEMSolverPlanner, SolverOptions)
ICEM = PlannerEntry(ICEMSolverPlanner, ICEMSolverOptions)
MPPI = PlannerEntry(MPPISolverPlanner, MPPISolverOptions)
