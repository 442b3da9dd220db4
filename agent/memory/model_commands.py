"""What `forethought memory nearest`, `graph` and `compact --run` do: a memory as the model of a run sees it.

What is heavy is imported where it is needed, so that `--help` is quick.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ... import ForethoughtError, UnknownNameError
from ..files import write_bytes
from .commands import Add, compact

if TYPE_CHECKING:
    from ..agent import Agent
    from .graph import LandmarkGraph
    from .store import EpisodeStore

Load = Callable[[Path, str], "Agent"]
"""Loads the agent of a run folder from the checkpoint of this name."""
ACTIONS = ("nearest", "graph", "compact")
"""What needs a model, the last only with `--run`."""


class ViewError(ForethoughtError):
    """Something of a memory that cannot be shown."""


def add_actions(add: Add) -> None:
    """Make a parser of every action; `add(name, help)` makes an empty one."""
    nearest = add("nearest", "the moments of other episodes that a run's model takes for most like one")
    graph = add("graph", "the landmarks in the memory and the ways between them, in numbers and as a picture")
    for action in (nearest, graph):
        action.add_argument("dir", type=Path, help="folder of the memory")
        action.add_argument("--run", type=Path, required=True, help="folder of the run whose model looks")
        action.add_argument("--checkpoint", default="best", help="best (default) or last")
    nearest.add_argument("--episode", type=int, required=True, help="number of the episode")
    nearest.add_argument("--step", type=int, required=True, help="decisions since its start")
    nearest.add_argument("-k", type=int, default=5, dest="count", help="how many (default 5)")
    graph.add_argument("--out", type=Path, default=Path("graph.png"), help="the picture (default graph.png)")
    graph.add_argument(
        "--axes", nargs=2, metavar="NAME", help="what is drawn across and upwards, such as position[0] position[1]"
    )
    graph.add_argument("--keep", action="store_true", help="keep it in the memory, where agents go on from it")


def run(parsed: argparse.Namespace, console: Console, load: Load) -> int:
    """Carry out the action of a parsed command line; returns the exit code."""
    agent = load(parsed.run, parsed.checkpoint)
    if agent.model.purpose != "goal":
        raise ViewError(f"run={parsed.run} must have been trained with objective=goal, which measures distances")
    return {"nearest": _nearest, "graph": _graph, "compact": _compact}[parsed.action](parsed, console, agent)


def _nearest(parsed: argparse.Namespace, console: Console, agent: "Agent") -> int:
    import torch

    from .graph import Ruler
    from .index import RetrievalOptions, make_search, open_index
    from .moments import moments_of
    from .store import EpisodeStore

    model, episode = agent.model, parsed.episode
    if parsed.count < 1:
        raise ViewError(f"k must be at least 1, got {parsed.count}")
    with EpisodeStore.open(parsed.dir) as store, torch.no_grad():
        ids = store.ids(spec=model.spec)
        if episode not in ids:
            raise ViewError(f"episode must be one of {model.spec.env_id} in {parsed.dir}, got {episode}")
        length = int(store.lengths([episode])[0])
        if not 0 <= parsed.step <= length:
            raise ViewError(f"step must be between 0 and {length}, got {parsed.step}")
        index = open_index(model, store, RetrievalOptions())
        here = int(((index.moments == (episode, parsed.step)).all(axis=1)).argmax())
        others = torch.from_numpy((index.moments[:, 0] != episode).nonzero()[0])
        rows, apart = make_search(index.latents[others], "exact").nearest(index.latents[here : here + 1], parsed.count)
        found = others[rows[0]]

        def goal_of(row: int) -> torch.Tensor:
            number, step = index.moments[row].tolist()
            lived = store.get(number)
            return moments_of(model, lived.obs, lived.actions)[1][step : step + 1]

        ruler, z = Ruler(model), index.latents
        states, aim = ruler.states(z[here : here + 1]), ruler.goals(goal_of(here))
        table = Table(title=f"most like episode {episode}, step {parsed.step}")
        for column in ("episode", "step", "steps there", "steps back", "latent distance"):
            table.add_column(column, justify="right")
        for row, distance in zip(found.tolist(), apart[0].tolist(), strict=True):
            there = float(ruler.steps(states, ruler.goals(goal_of(row))))
            back = float(ruler.steps(ruler.states(z[row : row + 1]), aim))
            table.add_row(*map(str, index.moments[row].tolist()), f"{there:.1f}", f"{back:.1f}", f"{distance:.3g}")
        console.print(table)
    return 0


def _graph(parsed: argparse.Namespace, console: Console, agent: "Agent") -> int:
    from ..report.plots import landmark_plot
    from .graph import open_graph, save_graph
    from .store import EpisodeStore

    EpisodeStore.open(parsed.dir).close()  # mode "a" would make a memory where there is none
    with EpisodeStore.open(parsed.dir, "a" if parsed.keep else "r") as store:
        axes = _axes(agent, parsed.axes)
        graph = open_graph(agent.model, store, agent.options.graph)
        if parsed.keep:
            save_graph(graph, store)
        real, walked, failed = ~graph.imagined, graph.walked > 0, graph.failed > 0
        table = Table("")
        table.add_column("number", justify="right")
        for name, count in (
            ("landmarks", int(real.sum())), ("imagined", int((~real).sum())), ("edges", len(graph.edges)),
            ("walked", int(walked.sum())), ("failed", int(failed.sum())),
        ):  # fmt: skip
            table.add_row(name, str(count))
        console.print(f"{agent.model.spec.env_id} in {parsed.dir}:", markup=False, highlight=False, soft_wrap=True)
        console.print(table)
        if not real.any():
            raise ViewError(f"{parsed.dir} must hold episodes of {agent.model.spec.env_id} to draw landmarks, got none")
        kept = real[graph.edges].all(axis=1)
        number = real.cumsum() - 1  # of each landmark among those that somebody was at
        picture = landmark_plot(
            _places(graph, store, axes), number[graph.edges[kept]], graph.walked[kept], graph.failed[kept],
            [f"{key}[{i}]" for key, i in axes],
        )  # fmt: skip
    write_bytes(parsed.out, picture)
    console.print(f"picture: {parsed.out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _compact(parsed: argparse.Namespace, console: Console, agent: "Agent") -> int:
    from .graph import NOTE, open_graph, save_graph
    from .moments import note_name
    from .store import EpisodeStore

    EpisodeStore.open(parsed.dir).close()  # mode "a" would make a memory where there is none
    with EpisodeStore.open(parsed.dir, "a") as store:
        if store.note(note_name(NOTE, agent.model.spec)) is None:
            raise ViewError(f"{parsed.dir} must keep landmarks of {agent.model.spec.env_id} to merge them, got none")
        graph = open_graph(agent.model, store, agent.options.graph)
        graph.merge()
        save_graph(graph, store)
    console.print(f"{len(graph)} landmarks", markup=False, highlight=False, soft_wrap=True)
    return compact(parsed, console)


def _axes(agent: "Agent", names: list[str] | None) -> list[tuple[str, int]]:
    """The two observed numbers that are drawn, by key and place in the flattened array."""
    spec = agent.model.spec
    known = [(key, i) for key in agent.model.vector_keys for i in range(spec.obs[key].size)]
    if names is None:
        if len(known) < 2:
            raise ViewError(f"{spec.env_id} must observe two numbers beside pictures to be drawn, got {len(known)}")
        return known[:2]
    chosen = []
    for name in names:
        match = re.fullmatch(r"(.+)\[(\d+)\]", name)
        if match is None or (match[1], int(match[2])) not in known:
            raise UnknownNameError("axis", name, [f"{key}[{i}]" for key, i in known])
        chosen.append((match[1], int(match[2])))
    return chosen


def _places(graph: "LandmarkGraph", store: "EpisodeStore", axes: list[tuple[str, int]]) -> Any:
    """What was observed at the landmarks that somebody was at, `[n, 2]`."""
    import numpy as np

    places = []
    with store.reading() as reader:
        for episode, step in graph.moments[~graph.imagined].tolist():
            rows = {key: reader.rows(episode, f"obs/{key}", step, step + 1) for key, _ in axes}
            places.append([float(rows[key].reshape(-1)[i]) for key, i in axes])
    return np.array(places)
