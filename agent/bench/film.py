"""Videos of planners side by side."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..report.video import Frame, VideoError, annotate, side_by_side, write_video
from ..training.evaluate import MAX_FRAMES
from .arena import Arena, BenchError, Episode
from .runner import RANDOM, Cell

_SIZE = 240
_MAX_TILES = 8
_DEFAULT_FPS = 10.0


def film(arena: Arena, cells: Sequence[Cell], path: Path) -> str | None:
    """Write a video of the first episode of every planner at its largest budget, the random actions first.

    Returns:
        why there is none; None if there is.

    Raises:
        FileError: the video cannot be written.
    """
    shown: dict[str, Episode] = {}
    for cell in (*(c for c in cells if c.planner == RANDOM), *(c for c in cells if c.planner != RANDOM)):
        shown[cell.planner] = cell.episodes[0]  # budgets come in order, so that the last one stays
    chosen = dict(list(shown.items())[:_MAX_TILES])
    length = min(MAX_FRAMES, max(len(e.actions) for e in chosen.values()) + 1)
    dt = arena.control_dt
    try:
        write_video(path, _frames(arena, chosen, length), fps=1 / dt if np.isfinite(dt) else _DEFAULT_FPS)
    except (VideoError, BenchError) as error:
        path.unlink(missing_ok=True)
        return str(error)
    return None


def _frames(arena: Arena, episodes: dict[str, Episode], length: int) -> Iterator[Frame]:
    # One after the other: some renderers are not to be used in turns.
    films = {
        name: [f for f, _ in zip(arena.frames(e, _SIZE), range(length), strict=False)] for name, e in episodes.items()
    }
    if not all(films.values()):
        raise BenchError(f"{arena.name} has no pictures")
    for step in range(length):
        tiles = []
        for name, frames in films.items():
            total = sum(episodes[name].rewards[:step])
            tiles.append(annotate(frames[min(step, len(frames) - 1)], [f"{name}  {total:.1f}"]))
        yield side_by_side(*tiles)
