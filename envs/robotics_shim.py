"""Makes Gymnasium-Robotics 1.4 work with MuJoCo 3.12 and later.

There, `mujoco.mjtJoint.mjJNT_HINGE == numpy.int32(3)` is False, although the same comparison is True the other way
round. `gymnasium_robotics.utils.mujoco_utils` asserts `joint_type in (mjJNT_HINGE, mjJNT_SLIDE)`, which compares in the
first way, so that no Fetch, Hand or Kitchen environment can be made.
"""

import types
from typing import Any

import mujoco
import numpy as np


class _MujocoWithIntegers(types.ModuleType):
    """The module `mujoco`, but with plain integers for the types of joints."""

    def __init__(self) -> None:
        super().__init__("mujoco")
        members = mujoco.mjtJoint.__members__
        self.mjtJoint = types.SimpleNamespace(**{key: int(value) for key, value in members.items()})

    def __getattr__(self, name: str) -> Any:
        return getattr(mujoco, name)


def apply() -> None:
    """Give that one module of Gymnasium-Robotics integers to compare with; does nothing where it is not needed."""
    from gymnasium_robotics.utils import mujoco_utils

    needed = np.int32(3) not in (mujoco.mjtJoint.mjJNT_HINGE,)
    if needed and not isinstance(mujoco_utils.mujoco, _MujocoWithIntegers):
        mujoco_utils.mujoco = _MujocoWithIntegers()
