"""Options of planners searched for on each planning task, and whether they are better on episodes never searched on.

    python benchmarks/tuning.py                                  icem on all default tasks; hours
    python benchmarks/tuning.py --tasks lqr pendulum --planners icem mppi
    python benchmarks/tuning.py --trials 40                      a longer search, which goes on from a shorter one

For every task and planner: a search (`forethought bench planners --multirun`) on the episodes of seed 1000, then the
best three of it and the defaults on more of these. The best of the four is written to
`configs/tuned_planners/<task>.yaml`, where `forethought bench planners tuned=true` finds it, and played beside the
defaults on the episodes of seed 0, which are those that `bench planners` plays by default. Results go to
`results/tuning/<task>.json`. An interrupted call goes on where it was; planners that a result holds, from as many
trials, are not searched for again.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from trainings import call

from forethought.agent import provenance
from forethought.agent.bench.statistics import difference_interval
from forethought.agent.files import read_json, write_bytes, write_json
from forethought.agent.jobs.bench import TASK_GROUPS

RESULTS = Path(__file__).parent / "results" / "tuning"
PRESETS = Path(__file__).parents[1] / "configs" / "tuned_planners"
BUDGET = 64
SEED, HELD_OUT = 1000, 0
"""Episodes of the search, and those of the check: the default of `bench planners`."""
FINALISTS = 3
SHARED = {"noise_beta": "interval(0,4)", "init_std": "interval(0.1,1)", "iterations": "int(interval(2,6))"}
SPACES = {
    "icem": {**SHARED, "num_elites": "int(interval(2,8))", "keep_elites": "interval(0,1)"},
    "cem": {**SHARED, "num_elites": "int(interval(2,8))", "momentum": "interval(0,0.5)"},
    "mppi": {**SHARED, "temperature": "tag(log,interval(0.05,2))", "momentum": "interval(0,0.5)"},
}
"""What is searched, by planner; all else is as by default."""


@dataclass(frozen=True)
class Job:
    """One planner on one task.

    Args:
        task: by name.
        planner: by name.
        runs: folder of everything played.
        threads: of every process.
    """

    task: str
    planner: str
    runs: Path
    threads: int

    @property
    def folder(self) -> Path:
        """Where its search is."""
        return self.runs / self.task / self.planner

    def _command(self, flags: Sequence[str], given: Sequence[str], seed: int, episodes: int, out: Path) -> list[str]:
        rest = [f"budgets={BUDGET}", f"seed={seed}", f"episodes={episodes}", f"threads={self.threads}", "video=false"]
        return ["forethought", "bench", "planners", *flags, f"tasks={self.task}", *given, *rest, f"out={out}"]

    def search(self, trials: int, episodes: int) -> list[str]:
        """The search."""
        space = [f"options.{self.planner}.{name}={text}" for name, text in SPACES[self.planner].items()]
        given = [f"planners={self.planner}", *space, f"sweep.trials={trials}"]
        return self._command(["-m"], given, SEED, episodes, self.folder / "search")

    def again(self, options: Mapping[str, Any], episodes: int, out: Path) -> list[str]:
        """Options on more of the episodes that were searched on."""
        given = [f"options.{self.planner}.{name}={value}" for name, value in options.items()]
        return self._command([], [f"planners={self.planner}", *given], SEED, episodes, out)

    def check(self, options: Mapping[str, Any], episodes: int, out: Path) -> list[str]:
        """The defaults and the options on held-out episodes."""
        label = f"{self.planner}_tuned"
        given = [f"planners={self.planner},{label}", f"options.{label}.planner={self.planner}"]
        given += [f"options.{label}.{name}={value}" for name, value in options.items()]
        return self._command([], given, HELD_OUT, episodes, out)


def tune(job: Job, trials: int, episodes: int, more: int) -> dict[str, Any]:
    """Search, choose, check; returns what a result file holds of a planner.

    Args:
        job: what to tune.
        trials: of the search.
        episodes: of each trial.
        more: episodes of the last choice, and of the check.
    """
    search = job.search(trials, episodes)
    call(search)
    sweep = read_json(job.folder / "search" / "sweep.json")
    ranked = sorted((t for t in sweep["trials"] if t["value"] is not None), key=lambda t: -t["value"])
    candidates: list[dict[str, Any]] = [{}, *(_options(t["values"]) for t in ranked[:FINALISTS])]
    scores = []
    for number, options in enumerate(candidates):
        out = job.folder / f"final-{number}-of-{trials}"
        call(job.again(options, more, out))
        scores.append(float(read_json(out / "results.json")["cells"][0]["score"]))
    best = max(range(len(scores)), key=lambda i: (scores[i], -i))  # the defaults, where nothing is better
    check = job.check(candidates[best], more, job.folder / f"check-{best}-of-{trials}")
    call(check)
    results = read_json(Path(check[-1].removeprefix("out=")) / "results.json")
    default, tuned = (np.asarray(cell["scores"]) for cell in results["cells"])
    return {
        "command": shlex.join(search),
        "seed": SEED,
        "space": SPACES[job.planner],
        "episodes": episodes,
        "trials": [{key: t[key] for key in ("values", "value", "error", "seconds")} for t in sweep["trials"]],
        "finals": [{"options": o, "score": s} for o, s in zip(candidates, scores, strict=True)],
        "options": candidates[best],
        "default_score": scores[0],
        "tuned_score": scores[best],
        "held_out": {
            "command": shlex.join(check),
            "seed": HELD_OUT,
            "episodes": more,
            "random_score": results["tasks"][job.task]["random"],
            "default_score": float(default.mean()),
            "tuned_score": float(tuned.mean()),
            "difference": float((tuned - default).mean()),
            "difference_ci": list(difference_interval(tuned, default, HELD_OUT)),
            "default_scores": default.tolist(),
            "tuned_scores": tuned.tolist(),
        },
    }


def _options(values: Mapping[str, str]) -> dict[str, Any]:
    """Options of the planner from the overrides of a trial."""
    return {key.rsplit(".", 1)[1]: yaml.safe_load(text) for key, text in values.items()}


def preset(task: str, planners: Mapping[str, Mapping[str, Any]]) -> str:
    """The content of `configs/tuned_planners/<task>.yaml`."""
    kept = {
        planner: {
            "options": dict(found["options"]),
            "command": found["command"],
            "seed": found["seed"],
            "trials": len(found["trials"]),
            "score": {"default": found["default_score"], "tuned": found["tuned_score"]},
            "held_out": {k: found["held_out"][f"{k}_score"] for k in ("default", "tuned")},
        }
        for planner, found in planners.items()
    }
    head = f"# Made by `python benchmarks/tuning.py --tasks {task}`, see benchmarks/results/tuning/{task}.json.\n"
    return head + str(yaml.safe_dump(kept, sort_keys=False, width=1000))


def main(arguments: Sequence[str] | None = None) -> None:
    """Tune what is asked for, one result file per task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, known = parser.add_argument, TASK_GROUPS["all"]
    add("--tasks", nargs="+", choices=known, default=TASK_GROUPS["default"], metavar="TASK", help="of `bench tasks`")
    add("--planners", nargs="+", choices=list(SPACES), default=["icem"], help="what is tuned (default: icem)")
    add("--trials", type=int, default=20, help="of each search (default: 20)")
    add("--episodes", type=int, default=5, help="of each trial (default: 5)")
    add("--more", type=int, default=20, help="episodes of the last choice and of the check (default: 20)")
    add("--threads", type=int, default=1, help="CPU threads of each process (default: 1)")
    add("--runs", type=Path, default=Path("runs/tuning"), help="folder of everything played")
    add("--out", type=Path, default=RESULTS, help="folder of the result files")
    add("--presets", type=Path, default=PRESETS, help="folder of the presets")
    parsed = parser.parse_args(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    for folder in (parsed.out, parsed.presets):
        folder.mkdir(parents=True, exist_ok=True)
    for task in parsed.tasks:
        path = parsed.out / f"{task}.json"
        planners: dict[str, Any] = read_json(path)["planners"] if path.exists() else {}
        for planner in parsed.planners:
            done = len(planners.get(planner, {}).get("trials", ()))
            if done >= parsed.trials:
                print(f"{path} holds {planner} already")
                continue
            found = tune(Job(task, planner, parsed.runs, parsed.threads), parsed.trials, parsed.episodes, parsed.more)
            planners[planner] = found
            made_by = provenance.of_result(shlex.join(["python", "benchmarks/tuning.py", *given]))
            write_json(path, {**made_by, "task": task, "budget": BUDGET, "planners": planners})
            write_bytes(parsed.presets / f"{task}.yaml", preset(task, planners).encode())
            held_out = found["held_out"]
            low, high = held_out["difference_ci"]
            print(f"{task} {planner}: {held_out['difference']:+.4g} [{low:.4g}, {high:.4g}] on held-out episodes")


if __name__ == "__main__":
    main()
