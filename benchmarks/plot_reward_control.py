"""Draw the learning curves of control by reward, by frames and by minutes, beside what others report.

python benchmarks/plot_reward_control.py        results/reward_control/*.json -> docs/images/reward_control.png
"""

import csv
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from reward_control import FRAMES, RESULTS, TASKS

from forethought.agent.files import read_json

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "reward_control.png"
REFERENCE = ROOT / "benchmarks" / "reference" / "dmcontrol_state_returns.csv"
OTHERS = {"tdmpc2": ("TD-MPC2", "tab:orange"), "sac": ("SAC", "tab:gray"), "dreamerv3": ("DreamerV3", "tab:green")}


def smooth(values: np.ndarray[Any, Any], over: int = 9) -> np.ndarray[Any, Any]:
    """Moving average with shorter windows at the ends."""
    window = np.ones(min(over, len(values)))
    averaged: np.ndarray[Any, Any] = np.convolve(values, window, "same")
    counts: np.ndarray[Any, Any] = np.convolve(np.ones_like(values), window, "same")
    smoothed: np.ndarray[Any, Any] = averaged / counts
    return smoothed


def draw_frames(axes: Axes, name: str, results: list[dict[str, Any]], rows: list[dict[str, str]]) -> None:
    """Return against frames: training episodes, the evaluation at the end, and others at 0 and 100,000 frames."""
    for method, (label, colour) in OTHERS.items():
        known = [r for r in rows if r["task"] == TASKS[name].reference and r["method"] == method]
        known = sorted((r for r in known if int(r["env_frames"]) <= FRAMES), key=lambda r: int(r["env_frames"]))
        frames = [int(r["env_frames"]) for r in known]
        axes.plot(frames, [float(r["mean_return"]) for r in known], "o--", color=colour, ms=4, lw=1, label=label)
    for i, result in enumerate(results):
        curve = np.array(result["curve"])
        axes.plot(curve[:, 0], smooth(curve[:, 2]), color="tab:blue", lw=1.5, label=None if i else "ours, exploring")
        axes.plot(
            result["frames"], result["return_mean"], "s", color="tab:blue", label=None if i else "ours, evaluated"
        )
    axes.set_title(TASKS[name].reference, fontsize=9, loc="left")
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
    with REFERENCE.open() as file:
        rows = list(csv.DictReader(file))
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
        draw_frames(above, name, results, rows)
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
