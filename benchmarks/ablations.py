"""What each part is worth: the agent for two rooms and a door, again and again with one thing changed.

    python benchmarks/ablations.py                          everything; an hour
    python benchmarks/ablations.py --tasks pairwise --seeds 0
    python benchmarks/ablations.py --only-eval              evaluate the trainings of an earlier call again

Every row is trained with three seeds, or where only planning changes evaluated with the weights of the row it is
compared with, on the same 100 held-out goals per seed. Calls, resume and result files are as for `goal_reaching.py`.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainings import carry_out, parse, wanted, without_lists

from forethought.agent.files import write_json

RESULTS = Path(__file__).parent / "results" / "ablations"
PRESET = "rooms"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Ablation:
    """One row of the table."""

    title: str
    """What the table calls it."""
    training: tuple[str, ...] = ()
    """What `forethought train` is told beside preset, seed and folder."""
    evaluation: tuple[str, ...] = ()
    """What `forethought eval` is told beside run, seed and episodes."""


LEARNED = ("world_model.encoder=learned", "world_model.latent_dim=8")
EVALUATIONS = "planner.num_samples=96"
"""Without iCEM's shrinking, as many candidates in four iterations."""

ROWS = {
    "default": Ablation("**the preset as it is**"),
    "latent_l2": Ablation("latent L2 instead of learned distance", evaluation=("objective.cost=latent_l2",)),
    "pairwise": Ablation("pairwise instead of quasimetric distance", ("world_model.distance=pairwise",)),
    "terminal": Ablation("cost of the last step only", evaluation=("objective.summed=false",)),
    "no_floor": Ablation("learned distance without its floor", ("world_model.distance_floor=false",)),
    "careful": Ablation(
        "a penalty where distances disagree",
        evaluation=("objective.risk.kind=mean_std", "objective.risk.beta=1.0"),
    ),
    "one_step": Ablation(
        "one step of prediction, as many transitions", ("learner.window=1", "learner.batch_size=2048")
    ),
    "two_models": Ablation(
        "two models that imagine, a penalty where they disagree",
        (
            "world_model.ensemble_size=2",
            "objective.members=2",
            "objective.risk.kind=mean_std",
            "objective.risk.beta=1.0",
        ),
    ),
    "round": Ablation("one round of planning among the data", ("training.rounds=1", "training.initial_fraction=0.7")),
    "state": Ablation("the state alone as latent", ("world_model.encoder=identity",)),
    "learned": Ablation("**learned features alone as latent**", LEARNED),
    "learned_no_inverse": Ablation("… without inverse dynamics", (*LEARNED, "learner.inverse_dynamics=0")),
    "learned_no_vicreg": Ablation(
        "… without variance and covariance", (*LEARNED, "learner.variance=0", "learner.covariance=0")
    ),
    "learned_neither": Ablation(
        "… without any of them",
        (*LEARNED, "learner.inverse_dynamics=0", "learner.variance=0", "learner.covariance=0"),
    ),
    "learned_sigreg": Ablation(
        "… with SIGReg instead of variance and covariance",
        (*LEARNED, "learner.variance=0", "learner.covariance=0", "learner.sigreg=0.1"),
    ),
    "cem": Ablation("CEM instead of iCEM", evaluation=("planner=cem", "planner.horizon=10", EVALUATIONS)),
    "mppi": Ablation("MPPI instead of iCEM", evaluation=("planner=mppi", "planner.horizon=10", EVALUATIONS)),
    "random_shooting": Ablation(
        "random shooting instead of iCEM",
        evaluation=("planner=random_shooting", "planner.horizon=10", "planner.num_samples=384"),
    ),
    "gradient": Ablation(
        "gradient descent, each gradient counted as three evaluations",
        evaluation=(
            "planner=gradient",
            "planner.horizon=10",
            "planner.num_samples=12",
            "planner.iterations=11",
        ),
    ),
}


def evaluates(name: str) -> str:
    """The row whose weights a row is evaluated with."""
    return name if ROWS[name].training else "default"


def result_of(name: str, seed: int, run: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, unless that is done, and evaluate; returns the content of the result file."""
    row = ROWS[name]
    extra = arguments.extra
    told = [f"preset={PRESET}", *ROWS[evaluates(name)].training]
    train = ["forethought", "train", *told, f"seed={seed}", f"out={run}", *extra]
    switches = ["evaluation.random=false", "evaluation.true_dynamics=false", "evaluation.video=false"]
    evaluate = ["forethought", "eval", f"run={run}", f"episodes={arguments.episodes}", f"seed={seed}", *switches]
    evaluation, made_by = carry_out(train, [*evaluate, *row.evaluation, *extra], run)
    return {**without_lists(evaluation), "row": name, "seed": seed, **made_by}


def main() -> None:
    """Carry out what is asked for and write one JSON file per row and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments = parse(parser, ROWS, "held-out goals", least_episodes=100, results=RESULTS)
    for seed in arguments.seeds or SEEDS:
        for name in arguments.tasks:
            path, run = arguments.out / f"{name}-{seed}.json", arguments.runs / f"{evaluates(name)}-{seed}"
            if not wanted(path, run, arguments, borrowed=evaluates(name) != name):
                continue
            result = result_of(name, seed, run, arguments)
            write_json(path, result)
            print(f"{name}, seed {seed}: {result['success_rate']:.1%} of {result['episodes']} goals")


if __name__ == "__main__":
    main()
