"""The DeepMind Control Suite (Tassa et al. 2018) and dm_control's other tasks, by way of Shimmy."""

import contextlib
import math
import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec as RegisteredEnv

from .gymnasium_adapter import AnyEnv, make_gymnasium
from .rendering import RenderingUnavailable, require


def register() -> None:
    """Register the ids `dm_control/...` with Gymnasium; takes a second or two when first called."""
    # dm_control settles on an OpenGL backend for good when it is imported, by default on one that needs a display.
    if "MUJOCO_GL" not in os.environ:
        with contextlib.suppress(RenderingUnavailable):  # the state needs no pictures
            require()
    with warnings.catch_warnings():
        # Without a display, glfw complains about that on import.
        warnings.simplefilter("ignore")
        import shimmy  # noqa: F401  (registers on import)


def make_dm_control(
    registered: RegisteredEnv, kwargs: Mapping[str, Any], image_size: int | None
) -> tuple[AnyEnv, int | None]:
    """Make a dm_control task without its time limit.

    Args:
        registered: an entry of Gymnasium's registry that Shimmy made.
        kwargs: `task_kwargs`, `environment_kwargs` and the like, as Shimmy takes them.
        image_size: height and width of what `render()` returns; None for an environment that is not drawn.

    Returns:
        The environment, and its own time limit in environment steps or None.

    Raises:
        EnvError: the constructor raised; the cause is chained.
        RenderingUnavailable: pictures are wanted and no OpenGL backend works here.
    """
    arguments = dict(kwargs)
    # Some models are drawn at random when they are built (`lqr`), before any reset could seed that.
    if "task_name" in getattr(registered.entry_point, "keywords", {}):
        arguments["task_kwargs"] = {"random": 0} | dict(arguments.get("task_kwargs") or {})
    if image_size is not None:
        require()
        render_kwargs = {"height": image_size, "width": image_size, "camera_id": 0}
        arguments["render_kwargs"] = render_kwargs | dict(arguments.get("render_kwargs") or {})
    env, _ = make_gymnasium(registered, arguments, drawn=image_size is not None)
    adapter: Any = env.unwrapped
    # From here on, episodes differ unless a reset is seeded.
    adapter.np_random = np.random.RandomState()
    return env, lift_time_limit(adapter)


def lift_time_limit(adapter: Any) -> int | None:
    """Let the episodes of the dm_control environment inside `adapter` run for ever; returns the steps they had."""
    inner = adapter._env
    if hasattr(inner, "_step_limit"):  # dm_control.rl.control.Environment
        limit, inner._step_limit = inner._step_limit, math.inf
    elif hasattr(inner, "_time_limit"):  # dm_control.composer.Environment
        limit, inner._time_limit = inner._time_limit / inner.control_timestep(), math.inf
    else:
        return None
    # 10 s / 0.01 s is not always 1000 in floating point.
    return math.ceil(limit - 1e-6) if math.isfinite(limit) else None
