"""What a plan costs beside its cost function: built-in planners and those of others, turn by turn.

    pip install -e 'examples/third_party_planners[cma,nevergrad,mppi,worldmodel]'    what is not installed is left out
    python benchmarks/planner_speed.py

The cost is a squared distance to a target, which takes next to no time, so what is measured is the planner itself.
Every planner makes as many rounds of as many candidates; what else is scored, such as a mean or a warm start, is
counted with the evaluations. One plan after the other in one process and on one thread. Medians in milliseconds, the
ratio to the built-in planner of the same kind, and the cost of the plans that were found.
"""

import argparse
import sys
from importlib import metadata
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from forethought import UnknownNameError
from forethought.agent import provenance
from forethought.agent.files import write_json
from forethought.planners import CostFn, PlannerError, make_planner

RESULT = Path(__file__).parent / "results" / "planner_speed.json"
HORIZON, CANDIDATES, ROUNDS = 25, 64, 4
ACTIONS = (1, 6, 21)
TWINS = {
    "swm_cem": "cem",
    "swm_icem": "icem",
    "swm_mppi": "mppi",
    "pytorch_mppi": "mppi",
    "cma_es": "icem",
    "nevergrad": "icem",
}
"""Planners of others, and the built-in one to compare them with; what has no twin stands beside the default."""
PACKAGES = ("stable-worldmodel", "pytorch-mppi", "cma", "nevergrad")


class Counted:
    """The squared distance to a target `[H, A]`, and how many candidates were scored."""

    def __init__(self, target: Tensor) -> None:
        self.target, self.evaluations = target, 0

    def __call__(self, actions: Tensor) -> Tensor:
        """Costs `[B, N]` of candidates `[B, N, H, A]`."""
        self.evaluations += actions.shape[0] * actions.shape[1]
        return (actions - self.target).square().mean(dim=(-1, -2))


def made(name: str, actions: int) -> Any:
    """A planner for that many actions; None where its package is not installed."""
    bound = torch.ones(actions)
    try:
        return make_planner(name, -bound, bound, horizon=HORIZON, num_samples=CANDIDATES, iterations=ROUNDS)
    except (UnknownNameError, PlannerError, ImportError) as error:
        print(f"left out: {name} ({error})", file=sys.stderr)
        return None


def measure(actions: int, plans: int) -> dict[str, Any]:
    """Every planner that is there, with that many actions."""
    names = [*dict.fromkeys(TWINS.values()), *TWINS]
    planners = {name: planner for name in names if (planner := made(name, actions)) is not None}
    target = 0.6 * torch.sin(torch.arange(HORIZON)[:, None] / 4 + torch.arange(actions))
    times: dict[str, list[float]] = {name: [] for name in planners}
    costs: dict[str, list[float]] = {name: [] for name in planners}
    evaluations = dict.fromkeys(planners, 0)
    for number in range(plans + 3):
        for name, planner in planners.items():
            counted = Counted(target)
            cost: CostFn = counted
            began = perf_counter()
            plan, _ = planner.plan(cost, planner.init(1), torch.Generator().manual_seed(number))
            if number >= 3:  # the first ones allocate
                times[name].append(1e3 * (perf_counter() - began))
                costs[name].append(float(plan.cost[0]))
                evaluations[name] = counted.evaluations
    rows = {}
    for name in planners:
        twin = TWINS.get(name)
        ratio = None if twin is None else median(times[name]) / median(times[twin])
        rows[name] = {
            "p50_ms": median(times[name]),
            "evaluations": evaluations[name],
            "cost": sum(costs[name]) / len(costs[name]),
            "twin": twin,
            "ratio": ratio,
        }
        print(f"{actions} actions, {name}: {rows[name]}")
    return {"actions": actions, "planners": rows}


def main() -> None:
    """Measure all sizes and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=int, default=30, help="plans of each that are timed")
    plans = parser.parse_args().plans
    torch.set_num_threads(1)
    rows = [measure(actions, plans) for actions in ACTIONS]
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    setting = {"horizon": HORIZON, "candidates": CANDIDATES, "rounds": ROUNDS, "packages": packages}
    write_json(RESULT, provenance.of_result() | setting | {"rows": rows})


if __name__ == "__main__":
    main()
