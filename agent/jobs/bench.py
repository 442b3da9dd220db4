"""Compare planners on tasks and in learned models."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ... import UnknownNameError
from ...configs.register import tuned_options
from ...configs.schema import BenchConfig
from ...envs.planning import PLANNING_TASKS
from ...envs.spec import EnvError, EnvOptions
from ...envs.vector import make_vector
from ..bench.analytic import ANALYTIC_TASKS
from ..bench.arena import Arena, BenchError, Simulation, TrueDynamics
from ..bench.budget import contender, tuned_contenders
from ..bench.film import film as film_planners
from ..bench.learned import LearnedModel
from ..bench.results import markdown, refused_lines, summarise
from ..bench.runner import run as run_bench
from ..build import load_alone
from ..files import finite, write_bytes, write_json
from ..report.comparison import write_comparison
from ..runs import read_card
from ..threads import computing_with
from ..training.loop import Progress, Silent

TASK_GROUPS: dict[str, tuple[str, ...]] = {
    "default": (
        "lqr", "rastrigin", "sparse_reach", "u_trap", "pendulum", "pendulum_sparse", "cartpole_swingup",
        "double_pendulum", "reacher_hard", "cup_catch", "finger_turn", "push", "hopper_hop", "walker_run",
        "cheetah_run", "gym_pusher", "humanoid_stand",
    ),
    "quick": ("lqr", "rastrigin", "reacher_hard"),
    "analytic": tuple(ANALYTIC_TASKS),
    "mujoco": tuple(PLANNING_TASKS),
    "all": (*ANALYTIC_TASKS, *PLANNING_TASKS),
    "none": (),
}  # fmt: skip
"""Names that stand for several tasks of `forethought bench`."""


def bench_tasks(names: Iterable[str] = ("all",)) -> list[str]:
    """Tasks that names of tasks and of groups stand for, each once.

    Raises:
        UnknownNameError: there is no such task or group.
    """
    known = {name: (name,) for name in TASK_GROUPS["all"]} | TASK_GROUPS
    chosen = dict.fromkeys(task for name in names for task in known.get(name, (name,)))
    for name in chosen:
        if name not in known:
            raise UnknownNameError("task", name, known)
    return list(chosen)


def make_arena(task: str, horizon: int | None = None) -> Arena:
    """A task of `bench_tasks`, in its true dynamics."""
    if task in ANALYTIC_TASKS:
        return TrueDynamics(ANALYTIC_TASKS[task](), horizon)
    return TrueDynamics(Simulation(PLANNING_TASKS[task]()), horizon)


def _model_arena(run: str, horizon: int | None, stack: contextlib.ExitStack) -> Arena:
    run_dir = Path(run).expanduser()
    saved = read_card(run_dir, "best")["config"]
    environments = make_vector(saved["env"], 1, EnvOptions.from_json(saved["env_options"]))
    stack.enter_context(contextlib.closing(environments))
    return LearnedModel(f"model:{run_dir.resolve().name}", load_alone(run_dir), environments, horizon)


def bench_planners(config: BenchConfig, progress: Progress | None = None, command: str | None = None) -> dict[str, Any]:
    """Compare planners; writes cells, results.json, table.md, videos and report.html into `config.out`.

    Returns:
        the content of results.json.

    Raises:
        UnknownNameError: no such task, planner or option.
        BenchError: nothing can be played, or `out` holds another comparison.
        RunError: no such run.
    """
    progress, out = progress or Silent(), Path(config.out).expanduser()
    for label in config.options:
        if label not in config.planners:
            raise UnknownNameError("planner in options", label, config.planners)
    contenders = [contender(label, config.options.get(label) or {}) for label in config.planners]
    if config.tuned:
        contenders = tuned_contenders(contenders, tuned_options())
    with computing_with(config.threads), contextlib.ExitStack() as stack:
        arenas = [make_arena(task, config.horizon) for task in bench_tasks(config.tasks)]
        arenas += [_model_arena(run, config.horizon, stack) for run in config.models]
        if len({arena.name for arena in arenas}) < max(len(arenas), 1):
            raise BenchError(f"tasks and models must hold at least one, and names once, got {[a.name for a in arenas]}")
        cells, refusals = run_bench(arenas, contenders, config, out, progress)
        results = dict(finite(summarise(arenas, cells, refusals, config, command)))
        write_json(out / "results.json", results)
        write_bytes(out / "table.md", markdown(results).encode())
        videos, missing = dict[str, Path](), "" if config.video else "video=false"
        for count, arena in enumerate(arenas if config.video else (), start=1):
            path = out / f"{arena.name.replace(':', '_')}.mp4"
            try:
                reason = film_planners(arena, [c for c in cells if c.arena == arena.name], path)
            except EnvError as error:
                reason = str(error)
            if reason is None:
                videos[arena.name] = path
            else:
                missing = reason
            progress.advance("videos", count, len(arenas), arena.name)
    page = write_comparison(out, results, refused_lines(results), videos, missing)
    progress.message(f"report: {page}")
    return results
