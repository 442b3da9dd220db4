"""Returns that others report, to stand beside ours.

`dmcontrol_state_returns.csv`: DeepMind Control from state observations, by environment frame (action repeat counted):
mean, least and greatest return over the seeds of TD-MPC2, SAC, DreamerV3 and TD-MPC, from the result files that Hansen,
Su and Wang publish with "TD-MPC2: scalable, robust world models for continuous control" (2024,
https://github.com/nicklashansen/tdmpc2). Kept here are eight tasks, up to 500,000 frames.
"""

import csv
from functools import cache
from pathlib import Path

METHODS = {"tdmpc2": "TD-MPC2", "sac": "SAC", "dreamerv3": "DreamerV3"}
"""Those that are shown: name in the file, name to show."""

Curve = dict[int, float]
"""Mean return by frames."""


def reported_returns(env_id: str) -> dict[str, Curve]:
    """What others report for an environment, by the name of the method; empty where nothing is known."""
    task = env_id.removeprefix("dm_control/").removesuffix("-v0").replace("ball_in_cup", "cup")
    found = _table().get(task, {}) if env_id.startswith("dm_control/") else {}
    return {label: found[method] for method, label in METHODS.items() if method in found}


@cache
def _table() -> dict[str, dict[str, Curve]]:
    table: dict[str, dict[str, Curve]] = {}
    with Path(__file__).with_name("dmcontrol_state_returns.csv").open() as file:
        for row in csv.DictReader(file):
            curve = table.setdefault(row["task"], {}).setdefault(row["method"], {})
            curve[int(row["env_frames"])] = float(row["mean_return"])
    return table
