"""Tasks to measure planners on in true MuJoCo dynamics, from one motor to twenty-one."""

from collections.abc import Mapping
from types import MappingProxyType

from .base import PlanningTask, Rollout
from .gym import DoublePendulum, GymAnt, GymHopper, GymPusher, PushPuck
from .suite import (
    AcrobotSwingup,
    CartpoleSwingup,
    CheetahRun,
    CupCatch,
    FingerTurn,
    HopperHop,
    HumanoidStand,
    PendulumSparse,
    ReacherHard,
    WalkerRun,
)

__all__ = ["PLANNING_TASKS", "PlanningTask", "Rollout"]

PLANNING_TASKS: Mapping[str, type[PlanningTask]] = MappingProxyType(
    {
        task.name: task
        for task in (
            PendulumSparse,
            CartpoleSwingup,
            AcrobotSwingup,
            DoublePendulum,
            ReacherHard,
            CupCatch,
            FingerTurn,
            PushPuck,
            HopperHop,
            GymHopper,
            WalkerRun,
            CheetahRun,
            GymPusher,
            GymAnt,
            HumanoidStand,
        )
    }
)
"""Every task by name, from few motors to many."""
