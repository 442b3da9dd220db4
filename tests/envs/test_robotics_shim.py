import mujoco
import numpy as np
import pytest

from forethought.envs import robotics_shim

pytest.importorskip("gymnasium_robotics")


def test_joint_types_compare_and_the_rest_of_mujoco_is_as_ever():
    from gymnasium_robotics.utils import mujoco_utils

    robotics_shim.apply()
    seen = mujoco_utils.mujoco
    assert np.int32(3) in (seen.mjtJoint.mjJNT_HINGE,)
    assert np.int32(2) not in (seen.mjtJoint.mjJNT_HINGE,)
    assert seen.mj_name2id is mujoco.mj_name2id
    assert seen.mjtObj is mujoco.mjtObj
    robotics_shim.apply()
    assert mujoco_utils.mujoco is seen
    assert isinstance(mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint)
