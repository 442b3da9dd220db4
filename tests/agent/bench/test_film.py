from pathlib import Path
from typing import Any

import imageio.v3 as iio
import torch

from forethought.agent.bench.arena import Settings, TrueDynamics
from forethought.agent.bench.budget import contender, fit
from forethought.agent.bench.film import film
from forethought.agent.bench.runner import Budget, Cell


def cells(arena: TrueDynamics[Any]) -> list[Cell]:
    planner = fit(contender("cem", {}), arena, 24).planner
    played = [arena.play(planner, 0, torch.Generator().manual_seed(seed), Settings()) for seed in range(2)]
    random = Cell(arena.name, "random", None, {}, 0, [arena.play_random(0)])
    return [
        random,
        *(Cell(arena.name, "cem", Budget(b, False), {}, b, [e]) for b, e in zip((8, 24), played, strict=True)),
    ]


def test_planners_run_side_by_side_at_their_largest_budget(reach: TrueDynamics[Any], tmp_path: Path) -> None:
    assert film(reach, cells(reach), tmp_path / "x.mp4") is None
    video = iio.imread(tmp_path / "x.mp4", plugin="pyav")
    assert len(video) == reach.decisions + 1
    assert video.shape[2] == 2 * 240 + 4  # random and cem, once


def test_what_has_no_pictures_says_so(lqr: TrueDynamics[Any], tmp_path: Path) -> None:
    assert film(lqr, cells(lqr), tmp_path / "x.mp4") == "lqr has no pictures"
    assert not (tmp_path / "x.mp4").exists()
