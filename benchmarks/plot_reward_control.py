"""Draw the learning curves of control by reward, by frames and by minutes, beside what others report.

python benchmarks/plot_reward_control.py        results/reward_control/*.json -> docs/images/reward_control.png
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from reward_control import RESULTS, TASKS

from forethought.agent.files import read_json

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "reward_control.png"
COLOURS = {"TD-MPC2": "tab:orange", "SAC": "tab:gray", "DreamerV3": "tab:green"}


def smooth(values: np.ndarray[Any, Any], over: int = 9) -> np.ndarray[Any, Any]:
    """Moving average with shorter windows at the ends."""
    window = np.ones(min(over, len(values)))
    averaged: np.ndarray[Any, Any] = np.convolve(values, window, "same")
    counts: np.ndarray[Any, Any] = np.convolve(np.ones_like(values), window, "same")
    smoothed: np.ndarray[Any, Any] = averaged / counts
    return smoothed


def draw_frames(axes: Axes, name: str, results: list[dict[str, Any]]) -> None:
    """Return against frames: training episodes, the evaluation at the end, and others at 0 and 100,000 frames."""
    for method, reported in TASKS[name].reported.items():
        axes.plot(*zip(*sorted(reported.items()), strict=True), "o--", color=COLOURS[method], ms=4, lw=1, label=method)
    for i, result in enumerate(results):
        curve = np.array(result["curve"])
        axes.plot(curve[:, 0], smooth(curve[:, 2]), color="tab:blue", lw=1.5, label=None if i else "ours, exploring")
        axes.plot(
            result["frames"], result["return_mean"], "s", color="tab:blue", label=None if i else "ours, evaluated"
        )
    axes.set_title(TASKS[name].env, fontsize=9, loc="left")
    axes.set_xlabel("frames", fontsize=8)


def draw_minutes(axes: Axes, results: list[dict[str, Any]]) -> None:
    """Return against minutes of wall clock, collection and validation included."""
    for result in results:
        curve = np.array(result["curve"])
        axes.plot(curve[:, 1] / 60, smooth(curve[:, 2]), color="tab:blue", lw=1.5)
        axes.plot(result["train_seconds"] / 60, result["return_mean"], "s", color="tab:blue")
    axes.set_xlabel("minutes", fontsize=8)
    axes.set_xlim(left=0)


def main() -> None:
    """Write the picture."""
    found = [read_json(path) for path in sorted(RESULTS.glob("*.json"))]
    shown = {name: [r for r in found if r["task"] == name] for name in TASKS}
    shown = {name: results for name, results in shown.items() if results}
    if not shown:
        raise SystemExit(f"{RESULTS} holds no results: `python benchmarks/reward_control.py` makes them")
    columns = min(4, len(shown))
    lines = -(-len(shown) // columns)
    figure, grid = plt.subplots(2 * lines, columns, figsize=(3 * columns, 4.4 * lines), squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for i, (name, results) in enumerate(shown.items()):
        above, below = grid[2 * (i // columns), i % columns], grid[2 * (i // columns) + 1, i % columns]
        draw_frames(above, name, results)
        draw_minutes(below, results)
        for axes in (above, below):
            axes.set_visible(True)
            axes.set_ylim(-20, 1020)
            axes.tick_params(labelsize=7)
            axes.grid(alpha=0.3)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.05 / lines, 1, 1))
    figure.savefig(PICTURE, dpi=110, metadata={"Software": None})
    print(f"{PICTURE} drawn from {len(found)} results")


if __name__ == "__main__":
    main()
