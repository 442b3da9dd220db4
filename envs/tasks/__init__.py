"""Forethought's own tasks; importing this package registers them with Gymnasium, and nothing else.

Ids with goals: `forethought/Reacher-v0`, `forethought/PointMass-v0`, `forethought/Cartpole-v0`, `forethought/Push-v0`,
`forethought/Rooms-v0`, `forethought/Maze-v0`. Ids with a reward, for a working memory: `forethought/Cue-v0`,
`forethought/Screen-v0`; to learn a skill by, with the extra `robotics`: `forethought/AntWalk-v0`. MuJoCo is only
imported when one of them is made.
"""

import gymnasium

_DECISIONS = {"Reacher": 50, "PointMass": 50, "Cartpole": 250, "Push": 100, "Rooms": 100, "Maze": 400}
_REWARD_DECISIONS = {"Cue": 18, "Screen": 12}
_SKILL_DECISIONS = {"AntWalk": 200}
_MODULES = {"Rooms": "maze", "Cue": "unseen", "Screen": "unseen", "AntWalk": "walk"}

TASK_IDS: tuple[str, ...] = tuple(f"forethought/{name}-v0" for name in _DECISIONS)
"""Ids of the own tasks with goals."""
REWARD_TASK_IDS: tuple[str, ...] = tuple(f"forethought/{name}-v0" for name in _REWARD_DECISIONS)
"""Ids of the own tasks with a reward that need a working memory."""
SKILL_TASK_IDS: tuple[str, ...] = tuple(f"forethought/{name}-v0" for name in _SKILL_DECISIONS)
"""Ids of the own tasks with a reward that a skill is learned by."""

for _name, _decisions in (_DECISIONS | _REWARD_DECISIONS | _SKILL_DECISIONS).items():
    gymnasium.register(
        id=f"forethought/{_name}-v0",
        entry_point=f"{__name__}.{_MODULES.get(_name, _name.lower())}:{_name}",
        max_episode_steps=_decisions,
    )
