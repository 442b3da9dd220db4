"""Train and evaluate every task of the results table, from scratch, on held-out goals.

    python benchmarks/goal_reaching.py                              everything; hours
    python benchmarks/goal_reaching.py --tasks reacher --seeds 0    one training and its evaluation
    python benchmarks/goal_reaching.py --only-eval                  evaluate the trainings of an earlier call again

Each training and each evaluation is a `forethought` process of its own, and the result file holds both command lines.
A training that was interrupted goes on where it was; what has a result file is left alone (`--resume never` starts
everything over). `python benchmarks/render_tables.py` then brings the numbers into the pages that show them.

Arms: `default` is the agent as it comes; what else a task has is a look inside. Where observations are vectors,
`learned` plans in learned features alone and `identity` in the normalised state alone, which tells a fault of the
representation from one of dynamics or planning. Where ways lead round walls, `pairwise` learns distances from pairs of
one episode.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainings import outcome, parse, wanted

from forethought.agent.files import write_json

ARMS = ("default", "identity", "learned", "pairwise")
RESULTS = Path(__file__).parent / "results" / "goal_reaching"


@dataclass(frozen=True)
class Task:
    """One row of a table."""

    title: str
    """What the table calls it."""
    overrides: tuple[str, ...]
    """What `forethought train` is told, beside seed and folder; the rest comes from preset and defaults."""
    seeds: tuple[int, ...]
    """Trainings."""
    bar: float | None
    """Success rate, over all trainings, that counts as solved; None where nobody set one."""
    limit_s: float
    """Seconds that the longest training may take."""
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What arms beside the default override, by their names."""
    evaluation: tuple[str, ...] = ()
    """What `forethought eval` is told beside seed, episodes and switches."""
    table: str = "goal_reaching"
    """`goal_reaching`, or `ways` for what straight-line distance does not reach."""
    reported: str = ""
    """What others report, and for what."""

    @property
    def arms(self) -> dict[str, tuple[str, ...]]:
        """What each arm overrides, by its name."""
        return {"default": (), **self.others}


def halves(learned_dim: int) -> dict[str, tuple[str, ...]]:
    """The two halves of the latent on their own: the state, and `learned_dim` features, about twice as many numbers."""
    learned = ("world_model.encoder=learned", f"world_model.latent_dim={learned_dim}")
    return {"identity": ("world_model.encoder=identity",), "learned": learned}


PAIRWISE = {"pairwise": ("world_model.distance=pairwise",)}

TASKS = {
    "pointmass": Task("PointMass", ("env=forethought/PointMass-v0",), (0, 1, 2), 0.99, 120, halves(8)),
    "reacher": Task("Reacher", ("env=forethought/Reacher-v0",), (0, 1, 2), 0.99, 120, halves(8)),
    "cartpole": Task(
        "Cartpole",
        ("env=forethought/Cartpole-v0",),
        (0, 1, 2),
        0.98,
        300,
        halves(16),
        # 250 decisions of 80 physics steps each are slow to plan for: fewer candidates, a longer view.
        evaluation=("evaluation.true_horizon=30", "evaluation.true_samples=32", "evaluation.true_iterations=2"),
    ),
    "push": Task("Push", ("env=forethought/Push-v0",), (0,), 0.9, 1200, halves(16)),
    "fetch_reach": Task("FetchReach-v4", ("env=FetchReach-v4",), (0, 1, 2), 0.95, 600, halves(32)),
    "reacher_pixels": Task("Reacher from 64x64 pixels", ("preset=reacher_pixels",), (0,), 0.9, 1500),
    "rooms": Task("Rooms: two rooms and a door", ("preset=rooms",), (0, 1, 2), 0.95, 300, PAIRWISE, table="ways"),
    "pointmaze": Task(
        "OGBench pointmaze-medium, its five tasks",
        ("preset=pointmaze",),
        (0, 1, 2),
        0.8,
        3600,
        PAIRWISE,
        # Memory has a table of its own: here the planner is on its own.
        evaluation=(
            "agent.configurator.mode=plan",
            "agent.replan_every=1",
            "planner.horizon=10",
            "planner.num_samples=128",
            "planner.iterations=4",
        ),
        table="ways",
        reported="QRL 82 %, with OGBench's data",
    ),
    "fetch_push": Task(
        "FetchPush-v4",
        ("preset=fetch_push",),
        (0,),
        0.6,
        5400,
        # Ten million steps of a simulator that makes some hundreds a second.
        evaluation=("evaluation.true_dynamics=false",),
        table="ways",
    ),
    "antmaze": Task(
        "AntMaze_UMaze-v5",
        ("preset=antmaze",),
        (0,),
        None,
        5400,
        # An ant's simulator makes too few steps a second for a search in it.
        evaluation=("evaluation.true_dynamics=false",),
        table="ways",
    ),
    "two_room": Task(
        "TwoRoom from 64x64 pixels",
        ("preset=two_room",),
        (0,),
        0.97,
        2700,
        evaluation=("env_options.goal_ahead=25",),
        table="ways",
        reported="LeWM 87 %, PLDM 97 %, RC-aux 98 %, with an expert's data",
    ),
    "swm_reacher": Task(
        "stable-worldmodel's Reacher from 64x64 pixels",
        ("preset=swm_reacher",),
        (0,),
        0.88,
        2700,
        evaluation=("env_options.goal_ahead=25",),
        table="ways",
        reported="LeWM 86 %, PLDM 78 %, RC-aux 87 %",
    ),
    "pusht": Task(
        "stable-worldmodel's PushT from 64x64 pixels",
        ("preset=pusht",),
        (0,),
        None,
        2700,
        evaluation=("env_options.goal_ahead=25",),
        table="ways",
        reported="LeWM 96 %, with people's data",
    ),
}


@dataclass(frozen=True)
class Job:
    """One training and its evaluation."""

    task: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its result file and of its run folder."""
        return f"{self.task}-{self.arm}-{self.seed}"

    def train_command(self, run: Path, extra: Sequence[str]) -> list[str]:
        """What trains it, or goes on with it."""
        task = TASKS[self.task]
        overrides = [*task.overrides, *task.arms[self.arm], f"seed={self.seed}", f"out={run}"]
        return ["forethought", "train", *overrides, *extra]

    def eval_command(self, run: Path, episodes: int, extra: Sequence[str]) -> list[str]:
        """What evaluates it, on held-out goals of its own. Slow baselines are measured beside the first seed only."""
        ours, first = self.arm == "default", self.seed == TASKS[self.task].seeds[0]
        wanted = {"random": ours, "true_dynamics": ours and first, "latent_l2": ours and first}
        switches = [f"evaluation.{name}={str(on).lower()}" for name, on in wanted.items()]
        # Pictures are not what is measured here.
        switches += ["evaluation.video=false", *TASKS[self.task].evaluation]
        return ["forethought", "eval", f"run={run}", f"episodes={episodes}", f"seed={self.seed}", *switches, *extra]


def jobs(tasks: Sequence[str], seeds: Sequence[int] | None, arms: Sequence[str] = ARMS) -> Iterator[Job]:
    """What there is to do; `seeds=None` takes those of each task."""
    for task in tasks:
        for arm in [arm for arm in TASKS[task].arms if arm in arms]:
            # The other arms are a look inside, not a claim: their first seed is enough.
            own = TASKS[task].seeds if arm == "default" else TASKS[task].seeds[:1]
            for seed in own if seeds is None else seeds:
                yield Job(task, arm, seed)


def result_of(job: Job, run: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate; returns the content of the result file."""
    train = job.train_command(run, arguments.extra)
    evaluate = job.eval_command(run, arguments.episodes, arguments.extra)
    return outcome(job, train, evaluate, run)


def main() -> None:
    """Carry out what is asked for and write one JSON file per training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="columns of the table")
    arguments = parse(parser, TASKS, "held-out goals", least_episodes=100, results=RESULTS)
    for job in jobs(arguments.tasks, arguments.seeds, arguments.arms):
        path, run = arguments.out / f"{job.name}.json", arguments.runs / job.name
        if not wanted(path, run, arguments):
            continue
        result = result_of(job, run, arguments)
        write_json(path, result)
        success, seconds = result["success_rate"], result["train_seconds"]
        print(f"{job.name}: {success:.1%} of {result['episodes']} goals, trained in {seconds:.0f} s")


if __name__ == "__main__":
    main()
