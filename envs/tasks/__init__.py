"""Forethought's own goal tasks; importing this package registers them with Gymnasium, and nothing else.

Ids: `forethought/Reacher-v0`, `forethought/PointMass-v0`, `forethought/Cartpole-v0`, `forethought/Push-v0`,
`forethought/Rooms-v0`, `forethought/Maze-v0`. MuJoCo is only imported when one of them is made.
"""

import gymnasium

_DECISIONS = {"Reacher": 50, "PointMass": 50, "Cartpole": 250, "Push": 100, "Rooms": 100, "Maze": 400}
_MODULES = {"Rooms": "maze"}

TASK_IDS: tuple[str, ...] = tuple(f"forethought/{name}-v0" for name in _DECISIONS)
"""Ids of the own tasks."""

for _name, _decisions in _DECISIONS.items():
    gymnasium.register(
        id=f"forethought/{_name}-v0",
        entry_point=f"{__name__}.{_MODULES.get(_name, _name.lower())}:{_name}",
        max_episode_steps=_decisions,
    )
