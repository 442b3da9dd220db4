"""The same environment in another world: heavier bodies, weaker motors, more friction, a camera out of place."""

from typing import Any

import gymnasium
import mujoco
import numpy as np
from typing_extensions import override

from .gymnasium_adapter import AnyEnv
from .simulator import find_physics
from .spec import EnvError, ShiftOptions


class ShiftedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Changes the environment's own MuJoCo model, so that whatever steps, draws or copies that model sees the change.

    Some environments compile their model at the first reset, others at every one; each new model is changed once.

    Args:
        env: any environment on MuJoCo physics: Gymnasium's, dm_control's by way of Shimmy, our own tasks, ...
        shift: the changes.
    """

    def __init__(self, env: AnyEnv, shift: ShiftOptions) -> None:
        super().__init__(env)
        self._shift = shift
        self._shifted: mujoco.MjModel | None = None

    @override
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset, and see to it that what is stepped from now on is the shifted model.

        Raises:
            EnvError: there is no MuJoCo model, or nothing in it that could be changed as asked.
        """
        result = self.env.reset(seed=seed, options=options)
        model = find_model(self.env)
        if model is None:
            raise EnvError("shift needs an environment on MuJoCo that shows its model, and this one has none")
        if model is not self._shifted:
            apply_shift(model, self._shift)
            self._shifted = model
        return result


def find_model(env: AnyEnv) -> mujoco.MjModel | None:
    """The MuJoCo model that an environment steps, dm_control's included; None if it has none (or hides it)."""
    physics = find_physics(env)
    if physics is not None:
        return physics[0]
    suite = getattr(getattr(env.unwrapped, "_env", None), "physics", None)
    model = getattr(getattr(suite, "model", None), "ptr", None)
    return model if isinstance(model, mujoco.MjModel) else None


def apply_shift(model: mujoco.MjModel, shift: ShiftOptions) -> None:
    """Change a compiled model in place.

    Raises:
        EnvError: a change would change nothing, because the model has no such thing.
    """
    changed = {
        "mass": (model.body_mass, model.body_inertia),
        "gear": (model.actuator_gear,),
        "friction": (model.geom_friction, model.pair_friction, model.dof_frictionloss, model.tendon_frictionloss),
        "damping": (model.dof_damping,),
    }
    for name, arrays in changed.items():
        factor = getattr(shift, name)
        if factor == 1:
            continue
        if not any(array.any() for array in arrays):
            raise EnvError(f"shift.{name}={factor:g} changes nothing: the model has no {name}")
        for array in arrays:
            array *= factor
    if shift.camera:
        if not model.ncam:
            raise EnvError(f"shift.camera={shift.camera:g} changes nothing: the model has no camera")
        for index in range(model.ncam):
            turn = np.empty(9)
            mujoco.mju_quat2Mat(turn, model.cam_quat[index])
            model.cam_pos[index] += shift.camera * turn.reshape(3, 3)[:, 0]
    # What the compiler derived from all this (subtree masses, inverse weights, places of tracking cameras) follows; but
    # not the welds, which some environments have set anew since.
    welds = model.eq_data.copy()
    mujoco.mj_setConst(model, mujoco.MjData(model))
    model.eq_data[:] = welds
