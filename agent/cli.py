"""The command line: `forethought <command>`, with Hydra overrides where a command takes a configuration."""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from typing_extensions import override

from .. import ForethoughtError, UnknownNameError, __version__
from .memory import commands as memory_commands
from .memory import model_commands

if TYPE_CHECKING:
    from ..configs.schema import BenchConfig, Config, EvalConfig
    from ..envs.examination import Finding

_EXAMPLES = {
    "quickstart": """
  forethought quickstart                       learn to reach with a two-link arm, evaluate, film (runs/reacher)
  forethought quickstart out=runs/first        choose the run folder
  forethought quickstart out=runs/third seed=3 episodes=200   from another seed, evaluated on more held-out goals""",
    "collect": """
  forethought collect env=forethought/Reacher-v0 steps=20000 out=data/reacher
  forethought collect env=Pendulum-v1 steps=5000 out=data/pendulum seed=7
  forethought collect env=my_robot:MyArm-v0 steps=1000 out=data/arm training.max_hold=4""",
    "train": """
  forethought train env=forethought/Reacher-v0 out=runs/reacher
  forethought train env=dm_control/cartpole-swingup-v0 objective=reward out=runs/swingup
  forethought train env=forethought/Cartpole-v0 out=runs/cartpole resume=auto      (goes on where it was killed)
  forethought train -m env=forethought/Reacher-v0 seed=0,1,2 world_model.latent_dim=4,8 out=runs/sizes    a sweep""",
    "eval": """
  forethought eval run=runs/reacher episodes=100
  forethought eval run=runs/reacher planner=cem planner.num_samples=500 seed=1
  forethought eval run=runs/reacher objective.cost=latent_l2 evaluation.true_dynamics=false
  forethought eval run=runs/reacher goal=goal.json               toward a goal of your own
  forethought eval -m run=runs/reacher planner.horizon=4,8,12 out=runs/horizons    a sweep""",
    "drive": """
  forethought drive run=runs/arm                                 1000 decisions in wall-clock time
  forethought drive run=runs/arm steps=10000 log=drive.mcap fallback=hold surprise=5
  forethought drive run=runs/arm env_options.link.command_latency=0.02 env_options.link.command_loss=0.05
  forethought drive run=runs/arm 'env_options.action_rate=[20]' 'env_options.action_acceleration=[2000]'""",
    "goal": """
  forethought goal run=runs/reacher out=goal.json
  forethought goal run=runs/reacher out=goal.json seed=3         that of another held-out episode
  forethought goal run=runs/pixels out=goal.png                  a picture, where the model sees pixels""",
    "export": """
  forethought export run=runs/reacher out=reacher                a folder to share: weights, model card, scores
  forethought export run=runs/reacher out=reacher checkpoint=last
  forethought export run=reacher out=again                       what was exported is as good as a run""",
    "bench": """
  forethought bench planners                                     every planner on the default tasks: some 15 minutes
  forethought bench planners tasks=quick                         a minute, to see how it works
  forethought bench planners planners=icem,mppi tasks=cartpole_swingup,walker_run budgets=64,256,1024 episodes=10
  forethought bench planners planners=mppi,cold options.cold.planner=mppi options.cold.temperature=0.1
  forethought bench planners 'budgets=[]' budgets_ms=5,20        equal time instead of equal evaluations
  forethought bench planners tasks=none models=runs/reacher      in a learned model
  forethought bench planners -m planners=icem tasks=hopper_hop 'options.icem.noise_beta=interval(0.1,4)' sweep.trials=20
  forethought bench planners --options                           every option with its default and meaning
  forethought bench tasks                                        what there is to be compared on""",
    "envs": """
  forethought envs                             everything that can be made here
  forethought envs reacher                     ids that contain a word
  forethought envs dm_control""",
    "doctor": """
  forethought doctor                           versions, cores, rendering, extras""",
    "check-env": """
  forethought check-env my_robot:MyArm-v0                           what is wrong with it, and what to do
  forethought check-env FetchReach-v4 env_options.action_repeat=2   made as `train` would make it
  forethought check-env my_robot:MyArm-v0 --strict --json found.json""",
    "check-planner": """
  forethought check-planner icem               puts a planner through the contract of planners
  forethought check-planner my_planner         one that an installed package offers (entry point forethought.planners)
  forethought check-planner my_planner horizon=5 num_samples=64 --json found.json   other options; for programs""",
    "memory": """
  forethought memory ls runs/reacher/memory
  forethought memory inspect runs/reacher/memory --episode 12
  forethought memory verify runs/reacher/memory
  forethought memory forget runs/reacher/memory --episodes 3,5-9 --dry-run
  forethought memory compact runs/reacher/memory
  forethought memory nearest runs/reacher/memory --run runs/reacher --episode 12 --step 30
  forethought memory graph runs/reacher/memory --run runs/reacher --out graph.png""",
}


class ConsoleProgress:
    """Progress for a person: a live bar on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = console.is_terminal
        self._said: dict[str, int] = {}
        self._tasks: dict[str, Any] = {}
        self._bar = RichProgress(
            TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"), console=console, disable=not self.live,
        )  # fmt: skip

    def __enter__(self) -> "ConsoleProgress":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def advance(self, stage: str, done: int, total: int, note: str = "") -> None:
        """`done` of `total` in `stage`; plain lines come at every tenth of the way."""
        if self.live:
            if stage not in self._tasks:
                self._tasks[stage] = self._bar.add_task(stage, total=total, note=note)
            self._bar.update(self._tasks[stage], completed=done, total=total, note=note)
            return
        tenth = 10 * done // max(total, 1)
        if self._said.get(stage) != tenth:
            self._said[stage] = tenth
            self.message(f"{stage}: {done}/{total} {note}".rstrip())

    def message(self, text: str) -> None:
        """One line that stays."""
        _say(self.console, text)


class _Parser(argparse.ArgumentParser):
    """Wrong usage is an error like any other: one line, exit code 2, with the nearest command."""

    @override
    def error(self, message: str) -> Any:
        raise UsageError(f"{message} (see `{self.prog} --help`)")

    @override
    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise UnknownNameError(action.dest, str(value), map(str, action.choices))


class UsageError(ForethoughtError):
    """A command line that cannot be understood."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `forethought`, with an entry per command."""
    parser = _Parser(
        prog="forethought",
        description="A robot planning agent: learns a latent world model, remembers, and thinks before it acts.",
        epilog="`forethought <command> --help` shows examples.",
    )
    parser.add_argument("--version", action="version", version=f"forethought {__version__}")
    debug = _Parser(add_help=False)
    debug.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="command")

    def add(name: str, text: str, overrides: str | None = None) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", parents=[debug],
            epilog="examples:" + _EXAMPLES[name], formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        if overrides is not None:
            sub.add_argument("overrides", nargs="*", metavar="key=value", help=overrides)
        return sub

    add("quickstart", "train, evaluate and film a reaching arm in about two minutes", "out= seed= episodes= threads=")
    add("collect", "fill a memory with episodes of random held actions", "options of a run; see `train --options`")
    train = add("train", "learn a world model from own experience and plan with it", "options of the run")
    evaluate = add("eval", "evaluate a run on held-out episodes, with report and video", "run=, episodes=, planner=, …")
    drive = add("drive", "drive a robot in wall-clock time with the agent of a run", "run=, steps=, log=, fallback=, …")
    add("goal", "write a goal of a run's environment into a file, for `eval goal=`", "run= out= seed= checkpoint=")
    add("export", "write an agent into a folder to share: weights, model card, scores", "run= out= checkpoint=")
    bench = add("bench", "compare planners at equal budgets, with intervals and a report", "options; see --options")
    for configured in (train, evaluate, drive, bench):
        configured.add_argument("--options", action="store_true", help="list every option with its default and meaning")
    for swept in (train, evaluate, bench):
        text = "a sweep: every value of seed=0,1,2 or 'range(4,16,2)', or a search with sweep.trials=20"
        swept.add_argument("-m", "--multirun", action="store_true", help=text)
    envs = add("envs", "list the environments that can be made here")
    envs.add_argument("filter", nargs="?", default="", help="only ids that contain this")
    add("doctor", "check this installation (an environment: check-env)")
    check = add("check-env", "examine an environment: what is wrong with it, and what to do about it")
    check.add_argument("env", metavar="ID", help="environment id, `module:EnvId` for your own")
    check.add_argument("overrides", nargs="*", metavar="env_options.key=value", help="how it is made, as for `train`")
    check.add_argument("--seed", type=int, default=0, help="of the first episode and of the actions (default: 0)")
    check.add_argument("--steps", type=int, default=1000, help="environment steps of random actions (default: 1000)")
    check.add_argument("--strict", action="store_true", help="exit with 1 for warnings, too")
    check.add_argument("--json", metavar="FILE", help="write the findings as JSON; - for the standard output alone")
    planner = add("check-planner", "put a planner, of your own or another's, through the contract of planners")
    planner.add_argument("name", help="of the planner, built in or offered by an installed package")
    planner.add_argument("overrides", nargs="*", metavar="option=value", help="options of the planner")
    planner.add_argument("--json", metavar="FILE", help="write the findings as JSON; - for the standard output alone")
    memory = add("memory", "look into a memory on disk, thin it out, and exchange it with other tools")
    actions = memory.add_subparsers(dest="action", metavar="action", required=True)

    def action(name: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", parents=[debug])

    memory_commands.add_actions(action)
    model_commands.add_actions(action)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 well, 1 found faults, 2 an error, 130 interrupted)."""
    # Threads that wait by spinning slow each other down many times where cores are shared; set before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    console = Console()
    argv = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parser = build_parser()
        parsed = parser.parse_args(flags_last(argv))
        if parsed.command is None:
            parser.print_help()
            return 0
        with _quiet():
            return _COMMANDS[parsed.command](parsed, console)
    except ForethoughtError as error:
        if "--debug" in argv:
            raise
        line = " ".join(f"error: {error}".split())
        Console(stderr=True).print(line, style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted", style="red")
        return 130


def flags_last(argv: Sequence[str]) -> list[str]:
    """`--multirun` and `--options` behind the overrides, between which argparse does not take them."""
    flags = ("-m", "--multirun", "--options")
    return [*(word for word in argv if word not in flags), *(word for word in argv if word in flags)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Deprecation warnings of other packages are for their developers, not for our users."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        logging.getLogger("absl").setLevel(logging.ERROR)  # dm_control's models use old attributes of MuJoCo
        yield


_QUICKSTART_KEYS = ("out", "seed", "episodes", "threads")
_GOAL_KEYS = ("run", "out", "seed", "checkpoint")
_EXPORT_KEYS = ("run", "out", "checkpoint")


# -- commands; what is heavy is imported where it is needed, so that `--help` is quick ---------------------------------


def _quickstart(parsed: argparse.Namespace, console: Console) -> int:
    from ..configs.register import load
    from ..configs.schema import EvalConfig

    given = {"out": "runs/reacher", **dict(_split(o) for o in parsed.overrides)}
    for key in given:
        if key not in _QUICKSTART_KEYS:
            raise UnknownNameError("key of quickstart (`train` takes all)", key, _QUICKSTART_KEYS)
    episodes = given.pop("episodes", "100")
    load(EvalConfig, ["run=.", f"evaluation.episodes={episodes}"])  # before minutes are spent, not after
    overrides = ["preset=reacher", *(f"{k}={v}" for k, v in given.items())]
    run_dir = _run_training(overrides, console)
    shared = [f"threads={given['threads']}"] if "threads" in given else []
    return _run_evaluation([f"run={run_dir}", f"episodes={episodes}", *shared], console)


def _train(parsed: argparse.Namespace, console: Console) -> int:
    if parsed.options:
        from ..configs.schema import Config

        return _print_options(Config, parsed.overrides, console, parsed.multirun)
    if parsed.multirun:
        return _sweep(parsed.command, parsed.overrides, console)
    _run_training(parsed.overrides, console)
    return 0


def _training_config(overrides: Sequence[str]) -> tuple["Config", str | None]:
    """The configuration, and the preset that was chosen for it."""
    from ..configs.register import load, with_preset
    from ..configs.schema import Config

    chosen, preset = with_preset(overrides)
    return load(Config, chosen), preset


def _run_training(overrides: Sequence[str], console: Console) -> Path:
    from .jobs.train import train

    config, preset = _training_config(overrides)
    with ConsoleProgress(console) as progress:
        if preset:
            purpose = f"tuned for {config.env}" if preset != "nano" else "for two CPU cores; preset=base is for a GPU"
            progress.message(f"preset={preset}: {purpose} (preset=default turns it off)")
        return train(config, progress)


def _eval(parsed: argparse.Namespace, console: Console) -> int:
    if parsed.options:
        from ..configs.schema import EvalConfig

        return _print_options(EvalConfig, parsed.overrides, console, parsed.multirun)
    if parsed.multirun:
        return _sweep(parsed.command, parsed.overrides, console)
    return _run_evaluation(parsed.overrides, console)


def _goal(parsed: argparse.Namespace, console: Console) -> int:
    from ..configs.register import load
    from ..configs.schema import EvalConfig
    from .jobs.goal import save_goal

    given = _given("goal", _GOAL_KEYS, parsed.overrides)
    seed = load(EvalConfig, ["run=.", f"evaluation.seed={given.get('seed', 0)}"]).evaluation.seed
    path = save_goal(given["run"], given["out"], seed, given.get("checkpoint", "best"))
    _say(console, f"goal: {path}")
    return 0


def _export(parsed: argparse.Namespace, console: Console) -> int:
    from .export import export_run

    given = _given("export", _EXPORT_KEYS, parsed.overrides)
    files = export_run(given["run"], given["out"], given.get("checkpoint", "best"))
    _say(console, f"in {given['out']}: {', '.join(files)}")
    return 0


def _given(command: str, keys: Sequence[str], overrides: Sequence[str]) -> dict[str, str]:
    """What a command from a run to a file was given, `run=` and `out=` at least."""
    given = dict(map(_split, overrides))
    for key in given:
        if key not in keys:
            raise UnknownNameError(f"key of {command}", key, keys)
    for key in ("run", "out"):
        if key not in given:
            raise UsageError(f"{key} must be given: {key}=…")
    return given


_SHORT = {"episodes": "evaluation.episodes", "seed": "evaluation.seed", "goal": "evaluation.goal"}


def _evaluation_config(overrides: Sequence[str]) -> "EvalConfig":
    """What the run was trained with, and on top what the user says."""
    from ..configs.register import load
    from ..configs.schema import EvalConfig
    from .runs import overrides_of_run, read_card

    overrides = ["=".join((_SHORT.get(k, k), v)) for k, v in map(_split, overrides)]
    given = dict(map(_split, overrides))
    if "run" not in given:
        raise UsageError("eval needs the folder of a run: run=runs/…")
    card = read_card(Path(given["run"]).expanduser(), given.get("checkpoint", "best"))
    return load(EvalConfig, [*overrides_of_run(card["config"], given), *overrides])


def _run_evaluation(overrides: Sequence[str], console: Console) -> int:
    from .jobs.evaluate import evaluate

    config = _evaluation_config(overrides)
    with ConsoleProgress(console) as progress:
        result = evaluate(config, progress)
    console.print(_result_table(result) if result.get("goal") is None else _distance_table(result))
    if "per_goal" in result:
        console.print(_goals_table(result["per_goal"]))
    times = result["decision_ms"]
    console.print(f"decision time: median {times['p50']:.1f} ms, p99 {times['p99']:.1f} ms (one episode at a time)")
    files = ["eval.json", "diagnostics.json", "metrics.jsonl", "weights", "memory"]
    if result["video"] is None:
        _say(console, f"no video: {result['video_reason']}")
    else:
        files.insert(0, result["video"])
    if config.evaluation.report:
        files.insert(0, "report.html")
    _say(console, f"in {config.run}: {', '.join(files)}")
    return 0


def with_brackets(overrides: Sequence[str]) -> list[str]:
    """`planners=cem,mppi` as `planners=[cem,mppi]`, which would have to be quoted in some shells."""
    pairs = map(_split, overrides)
    return [f"{k}=[{v}]" if k in _BENCH_LISTS and not v.startswith("[") else f"{k}={v}" for k, v in pairs]


_BENCH_ACTIONS = ("planners", "tasks")
_BENCH_LISTS = ("planners", "tasks", "models", "budgets", "budgets_ms")


def _bench_config(overrides: Sequence[str]) -> "BenchConfig":
    from ..configs.register import load
    from ..configs.schema import BenchConfig

    return load(BenchConfig, with_brackets(overrides))


def _bench(parsed: argparse.Namespace, console: Console) -> int:
    from ..configs.schema import BenchConfig

    if not parsed.overrides or "=" in parsed.overrides[0]:
        raise UsageError(f"bench needs what to do: one of {', '.join(_BENCH_ACTIONS)} (see `forethought bench --help`)")
    action, *given = parsed.overrides
    if action not in _BENCH_ACTIONS:
        raise UnknownNameError("action of bench", action, _BENCH_ACTIONS)
    if parsed.options:
        return _print_options(BenchConfig, given, console, parsed.multirun)
    from .bench.results import refused_lines
    from .jobs.bench import TASK_GROUPS, bench_planners, bench_tasks, make_arena

    if action == "tasks":
        console.print(_tasks_table([make_arena(name) for name in bench_tasks()], TASK_GROUPS))
        return 0
    if parsed.multirun:
        return _sweep(parsed.command, given, console)
    config = _bench_config(given)
    with ConsoleProgress(console) as progress:
        results = bench_planners(config, progress)
    for ranking in results["rankings"]:
        console.print(_standings_table(ranking, len(results["tasks"])))
    for line in refused_lines(results):
        _say(console, f"not played: {line}")
    _say(console, f"in {config.out}: report.html, table.md, results.json, cells")
    return 0


def _sweep(command: str, overrides: Sequence[str], console: Console) -> int:
    from .jobs.sweep import run

    configure = {"train": _training_config, "eval": _evaluation_config, "bench": _bench_config}[command]
    lists = _BENCH_LISTS if command == "bench" else ()
    return run(command, overrides, lists, configure, lambda: ConsoleProgress(console), console)


def _standings_table(ranking: dict[str, Any], tasks: int) -> Table:
    among = "all tasks" if len(ranking["tasks"]) == tasks else f"{len(ranking['tasks'])} of {tasks} tasks"
    stays = f"the leader stays first in {ranking['leader_stays']:.0%} of resamples"
    table = Table(title=f"budget {ranking['budget']}, {among}", caption=f"0 random, 1 best; {stays}")
    for column in ("", "IQM", "95 % interval", "regret", "mean rank", "first in"):
        table.add_column(column, justify="left" if not column else "right")
    for name, s in sorted(ranking["standings"].items(), key=lambda item: -item[1]["iqm"]):
        interval = "{:.2f} to {:.2f}".format(*s["iqm_ci"])
        row = (f"{s['iqm']:.2f}", interval, f"{s['regret']:.2f}", f"{s['mean_rank']:.2f}", f"{s['first']:.0%}")
        table.add_row(escape(name), *row)
    return table


def _tasks_table(arenas: Sequence[Any], groups: dict[str, tuple[str, ...]]) -> Table:
    caption = "; ".join(f"{name}: {len(tasks)}" for name, tasks in groups.items())
    table = Table("task", "actions", "horizon", "decisions", "what", "source", caption=f"groups, by size: {caption}")
    for arena in arenas:
        numbers = (str(len(arena.action_low)), str(arena.horizon), str(arena.decisions))
        table.add_row(arena.name, *numbers, escape(arena.summary), escape(arena.source))
    return table


_SHORT_DRIVE = {key: f"drive.{key}" for key in ("steps", "fallback", "surprise", "seed")}


def _drive(parsed: argparse.Namespace, console: Console) -> int:
    from ..configs.register import load
    from ..configs.schema import DriveConfig
    from .jobs.drive import drive
    from .runs import overrides_of_run, read_card

    if parsed.options:
        return _print_options(DriveConfig, parsed.overrides, console)
    overrides = ["=".join((_SHORT_DRIVE.get(k, k), v)) for k, v in map(_split, parsed.overrides)]
    given = dict(map(_split, overrides))
    if "run" not in given:
        raise UsageError("drive needs the folder of a run: run=runs/…")
    card = read_card(Path(given["run"]).expanduser(), given.get("checkpoint", "best"))
    config = load(DriveConfig, [*overrides_of_run(card["config"], given, limits=True), *overrides])

    def live(driven: Any) -> None:
        row = driven.summary()
        line = f"{row['steps']} decisions, {row['episodes']} episodes, {row['successes']} successes, "
        line += f"p99 {row['sent_ms']['p99']:.1f} ms, {row['late']} late, {row['overruns']} overruns, "
        _say(console, f"{line}{sum(row['fallbacks'].values())} fallbacks")

    # Without a live bar, whose thread would take its share of every period.
    progress = ConsoleProgress(console)
    result = drive(config, progress, live)
    console.print(_drive_table(result))
    _say(console, f"in {config.run}: drive.json" + ("" if config.log is None else f"; log: {config.log}"))
    return 0


def _drive_table(result: dict[str, Any]) -> Table:
    fallbacks = result["fallbacks"]
    table = Table(title=f"{escape(result['env'])} at {1e3 / result['period_ms']:.4g} Hz", show_header=False)

    def quantiles(times: dict[str, float] | None) -> str:
        ranks = {"p50": "p50", "p99": "p99", "p99.9": "p99.9", "max": "most"}
        return "-" if times is None else ", ".join(f"{name} {times[rank]:.1f} ms" for rank, name in ranks.items())

    rows = {
        "decisions": str(result["steps"]),
        "decision time": quantiles(result["decision_ms"]),
        "command after": quantiles(result["sent_ms"]),
        "late decisions": str(result["late"]),
        "overruns": f"{result['overruns']} (period {result['period_ms']:.4g} ms)",
        "fallbacks": ", ".join(f"{reason} {count}" for reason, count in fallbacks.items()),
        "held back by limits": str(result["limited"]),
    }
    if result["success_rate"] is not None:
        rows["successes"] = f"{result['successes']} of {result['episodes']} episodes"
    if result["return_mean"] is not None:
        rows["return"] = f"{result['return_mean']:.1f}"
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def _result_table(result: dict[str, Any]) -> Table:
    several = f" of {result['goals_per_episode']} goals" if result.get("goals_per_episode", 1) > 1 else ""
    table = Table(title=f"{escape(result['env'])}: {result['episodes']} held-out episodes{several}")
    goals = result["success_rate"] is not None
    columns = ("success", "95 % interval", "steps to goal (median)", "return") if goals else ("return", "95 % interval")
    for column in ("", *columns):
        table.add_column(column, justify="left" if not column else "right")
    rows = {"planner": result, "random": result["random"], "true dynamics": result["true_dynamics"], **result["arms"]}
    for name, row in rows.items():
        if row is None:
            continue
        cells = [f"{row['return_mean']:.1f}"]
        if goals:
            steps = row["steps_to_goal"]["median"]
            success = [f"{row['success_rate']:.1%}", "{:.1%} to {:.1%}".format(*row["success_ci"])]
            cells = [*success, "-" if steps is None else f"{steps:.0f}", *cells]
        else:
            cells.append("{:.1f} to {:.1f}".format(*row["return_ci"]))
        table.add_row(name, *cells)
    return table


def _goals_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Success of the planner at the first, second, ... goal of its episodes."""
    table = Table("goal", "given", "reached", "95 % interval", "steps (median)")
    for number, row in enumerate(rows, start=1):
        interval = "{:.1%} to {:.1%}".format(*row["success_ci"]) if row["given"] else "-"
        steps = "-" if row["median_steps"] is None else f"{row['median_steps']:.0f}"
        table.add_row(str(number), str(row["given"]), str(row["reached"]), interval, steps)
    return table


def _distance_table(result: dict[str, Any]) -> Table:
    """An evaluation toward a goal that the environment does not know."""
    title = f"{escape(result['env'])}: {result['episodes']} held-out episodes toward {escape(result['goal'])}"
    table = Table(title=title, caption="medians; the environment does not know this goal")
    for column in ("", "predicted steps", "least", "latent distance", "least"):
        table.add_column(column, justify="left" if not column else "right")
    for name, row in {"planner": result, "random": result["random"], **result["arms"]}.items():
        if row is not None:
            cells = []
            for kind in ("steps", "latent"):
                distance = row["distance"][kind]
                cells += [f"{distance['start']:.3g} to {distance['final']:.3g}", f"{distance['least']:.3g}"]
            table.add_row(name, *cells)
    return table


def _print_options(root: type[Any], overrides: Sequence[str], console: Console, multirun: bool = False) -> int:
    from ..configs.register import describe
    from ..configs.schema import SweepConfig

    rows = describe(root, [o for o in overrides if "=" in o])
    if multirun:  # whose `out` stands for that of a single job
        rows = [*(row for row in rows if row[0] != "out"), *describe(SweepConfig, [])]
    if not console.is_terminal:  # one line each, for grep
        for key, default, meaning in rows:
            _say(console, f"{key}={default}  # {meaning}")
        return 0
    table = Table("option", "default", "meaning", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
    return 0


def _collect(parsed: argparse.Namespace, console: Console) -> int:
    from ..configs.register import load, with_preset
    from ..configs.schema import Config
    from .jobs.collect import collect

    chosen, _ = with_preset(parsed.overrides)
    with ConsoleProgress(console) as progress:
        folder, episodes, transitions = collect(load(Config, chosen), progress)
    _say(console, f"{folder}: {episodes} episodes, {transitions} transitions")
    return 0


def _envs(parsed: argparse.Namespace, console: Console) -> int:
    from ..envs.registry import list_envs

    found = 0
    for source, ids in list_envs().items():
        shown = [i for i in ids if parsed.filter.lower() in i.lower() or parsed.filter.lower() == source.lower()]
        if shown:
            console.print(f"[bold]{source}[/bold] ({len(shown)})")
            console.print("  " + "\n  ".join(shown), markup=False, highlight=False)
        found += len(shown)
    if not found:
        raise UsageError(f"no environment id contains {parsed.filter!r}")
    return 0


def _doctor(parsed: argparse.Namespace, console: Console) -> int:
    from .doctor import examine

    findings = examine()
    table = Table("", "check", "found", box=None)
    for finding in findings:
        mark = {True: "[green]ok[/green]", False: "[red]fault[/red]", None: "[yellow]note[/yellow]"}[finding.ok]
        table.add_row(mark, escape(finding.name), escape(finding.text))
    console.print(table)
    return 0 if all(f.ok is not False for f in findings) else 1


def _check_planner(parsed: argparse.Namespace, console: Console) -> int:
    from ..configs.register import load
    from ..configs.schema import EvalConfig
    from ..planners import find_planner, make_planner
    from ..planners.contract import check_planner

    entry = find_planner(parsed.name)
    options = load(EvalConfig, ["run=.", f"planner={parsed.name}", *(f"planner.{o}" for o in parsed.overrides)]).planner
    findings = list(check_planner(lambda low, high: make_planner(parsed.name, low, high, options), entry.lacks))
    failed = [finding for finding in findings if finding.outcome == "failed"]
    report = {"planner": parsed.name, "options": dataclasses.asdict(options), "version": __version__}
    report |= {"passed": not failed, "findings": [dataclasses.asdict(finding) for finding in findings]}
    if _handed_over(report, parsed.json, console):
        return int(bool(failed))
    table = Table("", "check", "", "found", box=None)
    for finding in findings:
        mark = {"passed": "[green]ok[/green]", "failed": "[red]fault[/red]", "absent": "[yellow]absent[/yellow]"}
        kind = "required" if finding.required else "optional"
        table.add_row(mark[finding.outcome], escape(finding.check), kind, escape(finding.text))
    console.print(table)
    verdict = f"{len(failed)} of {len(findings)} promises are not kept" if failed else "keeps the contract of planners"
    _say(console, f"{parsed.name}: {verdict}")
    return int(bool(failed))


def _check_env(parsed: argparse.Namespace, console: Console) -> int:
    from ..configs.register import load
    from ..configs.schema import Config
    from ..envs.examination import examine, worst
    from .doctor import report

    for key, _ in map(_split, parsed.overrides):
        if not key.startswith("env_options."):
            raise UsageError(f"check-env takes options of the environment, env_options.{key}=…, got {key!r}")
    options = load(Config, [f"env={parsed.env}", *parsed.overrides]).env_options
    findings = examine(parsed.env, options, seed=parsed.seed, steps=parsed.steps)
    content = report(parsed.env, options, parsed.seed, parsed.steps, findings)
    if not _handed_over(content, parsed.json, console):
        console.print(_findings_table(findings))
        levels = Counter(finding.level for finding in findings)
        counts = ", ".join(f"{levels[level]} {level}" for level in ("ok", "warning", "error", "skipped"))
        _say(console, f"{len(findings)} checks: {counts}")
    return int(worst(findings) in (("error", "warning") if parsed.strict else ("error",)))


def _handed_over(content: dict[str, Any], file: str | None, console: Console) -> bool:
    """Write findings as JSON into a file, if one is named; `-` prints them instead, and then nothing else is to be."""
    from .files import write_json

    if file == "-":
        _say(console, json.dumps(content, indent=2))
        return True
    if file is not None:
        write_json(Path(file), content)
    return False


def _findings_table(findings: Sequence["Finding"]) -> Table:
    colours = {"ok": "green", "warning": "yellow", "error": "red", "skipped": "dim"}
    table = Table("", "check", "found", box=None)
    for finding in findings:
        colour = colours[finding.level]
        advice = f"\n[{colour}]→[/{colour}] {escape(finding.advice)}" if finding.advice else ""
        table.add_row(f"[{colour}]{finding.level}[/{colour}]", finding.name, escape(finding.found) + advice)
    return table


def _memory(parsed: argparse.Namespace, console: Console) -> int:
    if parsed.action not in model_commands.ACTIONS or parsed.run is None:
        return memory_commands.run(parsed, console)
    from .build import load_alone

    return model_commands.run(parsed, console, load_alone)


def _say(console: Console, text: str) -> None:
    """One plain line, however long."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _split(override: str) -> tuple[str, str]:
    key, separator, value = override.partition("=")
    if not separator:
        raise UsageError(f"expected key=value, got {override!r}")
    return key, value


_COMMANDS: dict[str, Callable[[argparse.Namespace, Console], int]] = {
    "quickstart": _quickstart,
    "collect": _collect,
    "train": _train,
    "eval": _eval,
    "drive": _drive,
    "goal": _goal,
    "export": _export,
    "bench": _bench,
    "envs": _envs,
    "doctor": _doctor,
    "check-planner": _check_planner,
    "check-env": _check_env,
    "memory": _memory,
}

if __name__ == "__main__":
    sys.exit(main())
