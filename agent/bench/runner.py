"""The comparison: every planner on every arena at every budget, cell by cell, each of which can be resumed."""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..files import FileError, read_json, write_json
from ..provenance import versions
from ..training.evaluate import episode_seeds
from ..training.loop import Progress
from .arena import Arena, BenchError, Episode, Settings
from .budget import Contender, Fitted, fit, fit_time

RANDOM = "random"
"""Label of uniform random actions, which every arena is played with once."""


@dataclass
class BenchOptions:
    """What is compared, and on how much."""

    planners: list[str] = field(
        default_factory=lambda: ["random_shooting", "cem", "icem", "mppi", "gradient", "sample_gradient"]
    )
    """Planners by name, built-in or of an installed package; other names are variants, see `options`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of single planners, as options.mppi.temperature=0.1; options.cold.planner=mppi makes `cold` a variant of
    mppi. What is not given is the planner's own default, with rounds and elites that fit the budget."""
    budgets: list[int] = field(default_factory=lambda: [64])
    """Evaluations per plan: candidates scored, each over the whole horizon. A candidate with its gradient is three."""
    budgets_ms: list[float] = field(default_factory=list)
    """Milliseconds per plan, on this machine; as many samples as fit, and a deadline."""
    episodes: int = 5
    """Episodes of every cell; all planners play the same ones. More can be added to a comparison later."""
    seed: int = 0
    """Chooses the episodes and the planners' random numbers."""
    horizon: int | None = None
    """Decisions that all planners look ahead; None takes the horizon of each task."""
    replan_every: int = 1
    """Decisions per plan."""
    video: bool = True
    """Film the first episode of every planner, side by side, where OpenGL is at hand."""

    def __post_init__(self) -> None:
        for name in ("episodes", "replan_every", "horizon"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BenchError(f"{name} must be at least 1, got {value}")
        if self.seed < 0:
            raise BenchError(f"seed must be 0 or more, got {self.seed}")
        if not self.planners:
            raise BenchError("planners must name at least one, got none")
        if RANDOM in self.planners:
            raise BenchError(f"planners must not name {RANDOM!r}: it is always there, as the zero of the scale")
        for name in ("planners", "budgets", "budgets_ms"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise BenchError(f"{name} must not hold anything twice, got {values}")
        if not self.budgets and not self.budgets_ms:
            raise BenchError("budgets or budgets_ms must hold at least one budget, got none")
        for name in ("budgets", "budgets_ms"):
            for budget in getattr(self, name):
                if not budget > 0:
                    raise BenchError(f"{name} must be positive, got {budget}")


@dataclass(frozen=True)
class Budget:
    """What a plan may spend: evaluations, or milliseconds."""

    amount: float
    in_ms: bool

    def __str__(self) -> str:
        return f"{self.amount:g}ms" if self.in_ms else f"{self.amount:g}"


@dataclass(frozen=True)
class Cell:
    """One planner on one arena at one budget.

    Args:
        arena: name.
        planner: label; `random` for random actions.
        budget: None for random actions.
        options: all options of the planner.
        evaluations: that a plan was made to spend.
        episodes: played.
    """

    arena: str
    planner: str
    budget: Budget | None
    options: dict[str, Any]
    evaluations: int
    episodes: list[Episode]


@dataclass(frozen=True)
class Refusal:
    """Why there is no cell."""

    arena: str
    planner: str
    budget: Budget
    reason: str


def budgets_of(options: BenchOptions) -> list[Budget]:
    """All budgets, evaluations first."""
    return [*(Budget(b, False) for b in options.budgets), *(Budget(b, True) for b in options.budgets_ms)]


def run(
    arenas: Sequence[Arena], contenders: Sequence[Contender], options: BenchOptions, out: Path, progress: Progress
) -> tuple[list[Cell], list[Refusal]]:
    """Play what is not played yet.

    Every episode is on file once it is over. Each cell is a file under `out/cells`; a cell that was played with other
    options is refused, not overwritten.

    Raises:
        BenchError: no planner can be used on any arena; or `out` holds results of other options.
        FileError: `out` cannot be written, or a file in it is damaged.
    """
    folder = out / "cells"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make {folder}: {error.strerror or error}") from error
    seeds = episode_seeds("test", options.seed, 0, options.episodes)
    cells, refusals = list[Cell](), list[Refusal]()
    jobs = [(arena, entry, budget) for arena in arenas for entry in contenders for budget in budgets_of(options)]
    total, done = (len(jobs) + len(arenas)) * options.episodes, 0

    def report(note: str, episodes: int = 1) -> None:
        nonlocal done
        done += episodes
        progress.advance("episodes", done, total, note)

    for arena in arenas:

        def random_episode(seed: int, arena: Arena = arena) -> Episode:
            return arena.play_random(seed)

        setup = {"arena": arena.name, "planner": RANDOM, "decisions": arena.decisions, "seed": options.seed}
        made = {"options": dict[str, Any](), "evaluations": 0, "allowed": 0}
        path = folder / f"{_file(arena.name, RANDOM)}.json"
        episodes = _episodes(path, setup, made, seeds, random_episode, report)
        cells.append(Cell(arena.name, RANDOM, None, {}, 0, episodes))
        for _, entry, budget in (job for job in jobs if job[0] is arena):
            cell = _cell(arena, entry, budget, options, folder, seeds, report)
            if isinstance(cell, Refusal):
                refusals.append(cell)
                report("", options.episodes)
            else:
                cells.append(cell)
    if len(cells) == len(arenas):
        raise BenchError(f"no planner can be used on any task: {refusals[0].planner}: {refusals[0].reason}")
    return cells, refusals


def _cell(
    arena: Arena,
    entry: Contender,
    budget: Budget,
    options: BenchOptions,
    folder: Path,
    seeds: Sequence[int],
    report: Callable[..., None],
) -> Cell | Refusal:
    path = folder / f"{_file(arena.name, entry.label, str(budget))}.json"
    try:
        entry = entry.on(arena.name)
    except BenchError as error:
        return Refusal(arena.name, entry.label, budget, str(error))
    setup = {
        "arena": arena.name, "planner": entry.label, "budget": str(budget), "registered": entry.planner,
        "given": dict(entry.options), "horizon": arena.horizon, "decisions": arena.decisions, "seed": options.seed,
        "replan_every": options.replan_every,
    }  # fmt: skip
    try:
        fitted = _fitted(arena, entry, budget, options, path)
    except BenchError as error:
        return Refusal(arena.name, entry.label, budget, str(error))
    if fitted.uses_gradients and not arena.differentiable:
        return Refusal(arena.name, entry.label, budget, "needs gradients, and MuJoCo has none")
    limits = (budget.amount / 1e3, None) if budget.in_ms else (None, int(budget.amount))
    settings = Settings(options.replan_every, *limits)

    def play(seed: int) -> Episode:
        # A generator for each episode, so that none depends on which were played before it.
        generator = torch.Generator().manual_seed(_mixed(options.seed, seed))
        return arena.play(fitted.planner, seed, generator, settings)

    made = {"options": fitted.options, "evaluations": fitted.evaluations, "allowed": fitted.allowed}
    episodes = _episodes(path, setup, made, seeds, play, report)
    return Cell(arena.name, entry.label, budget, fitted.options, fitted.evaluations, episodes)


def _fitted(arena: Arena, entry: Contender, budget: Budget, options: BenchOptions, path: Path) -> Fitted:
    """The planner; one that was fitted to this machine's time before is made the same way again."""
    if not budget.in_ms:
        return fit(entry, arena, int(budget.amount))
    if path.exists():
        return fit(entry, arena, int(_read(path)["allowed"]))
    return fit_time(entry, arena, budget.amount, options.seed)


def _episodes(
    path: Path,
    setup: dict[str, Any],
    made: dict[str, Any],
    seeds: Sequence[int],
    play: Callable[[int], Episode],
    report: Callable[..., None],
) -> list[Episode]:
    """Episodes of a cell: those on file, and those that are missing."""
    episodes = list[Episode]()
    if path.exists():
        stored = _read(path)
        if stored["setup"] != setup or stored["options"] != made["options"]:
            changed = [k for k in setup if stored["setup"].get(k) != setup[k]] or ["options"]
            raise BenchError(
                f"{path} was played with another {', '.join(changed)}: choose another out=, or delete what is there"
            )
        try:
            episodes = [Episode(**episode) for episode in stored["episodes"]]
        except TypeError as error:
            raise FileError(f"cannot read {path}: {error}") from error
    name = f"{setup['arena']} {setup['planner']} {setup.get('budget', '')}".strip()
    kept = len(episodes[: len(seeds)])
    if kept:
        report(name, kept)
    for seed in seeds[kept:]:
        episodes.append(play(seed))
        stored_episodes = [dataclasses.asdict(e) | ({"actions": []} if i else {}) for i, e in enumerate(episodes)]
        write_json(path, {"setup": setup} | made | {"versions": versions(), "episodes": stored_episodes})
        report(f"{name}: {episodes[-1].score:.3f}")
    return episodes[: len(seeds)]


def _read(path: Path) -> dict[str, Any]:
    stored = read_json(path)
    if not {"setup", "options", "allowed", "episodes"} <= stored.keys():
        raise FileError(f"cannot read {path}: it is not a cell of a comparison")
    return stored


def _file(*names: str) -> str:
    return "--".join(re.sub(r"[^\w.=+-]", "_", name) for name in names)


def _mixed(*numbers: int) -> int:
    """A seed that follows from several."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=7).digest(), "big")
