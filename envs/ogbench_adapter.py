"""Makes OGBench environments (Park et al. 2025, "OGBench: Benchmarking Offline Goal-Conditioned RL") repeatable.

They draw tasks, start positions and goals from numpy's global generator and from action spaces that nobody seeds;
`reset(seed=...)` reaches neither.
"""

import contextlib
import importlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec as RegisteredEnv
from numpy import random as numpy_random

from .gymnasium_adapter import PRECISION_WARNING, AnyEnv, make_gymnasium
from .rendering import RenderingUnavailable, require


def make_ogbench(
    registered: RegisteredEnv, kwargs: Mapping[str, Any], image_size: int | None
) -> tuple[AnyEnv, int | None]:
    """Make an OGBench environment without its time limit.

    Args:
        registered: an entry of Gymnasium's registry that `ogbench` made.
        kwargs: of the environment's constructor.
        image_size: height and width of what `render()` returns; None for an environment that is not drawn.

    Returns:
        The environment, and its registered time limit in environment steps or None.

    Raises:
        EnvError: the constructor raised; the cause is chained.
    """
    if image_size is not None:
        _use_working_backend()
        kwargs = {"height": image_size, "width": image_size, **kwargs}
    elif kwargs.get("render_mode") == "rgb_array":  # for videos, which need not be possible
        with contextlib.suppress(RenderingUnavailable):
            _use_working_backend()
    env, limit = make_gymnasium(registered, kwargs, drawn=image_size is not None)
    return SeededOGBench(env, render_goal=image_size is not None), limit


class SeededOGBench(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Lends the environment a generator of its own in place of numpy's global one, during each call.

    The global generator is the same object with the same state after a call as before it.

    Args:
        env: an environment registered by `ogbench`.
        render_goal: whether every reset also puts a picture of the goal into `info["goal_rendered"]`.
    """

    def __init__(self, env: AnyEnv, render_goal: bool = False) -> None:
        super().__init__(env)
        self._bits = np.random.MT19937()
        self._options = {"render_goal": True} if render_goal else {}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=PRECISION_WARNING, category=UserWarning)
            _keep_action_space(env.unwrapped)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; with a seed, everything that is drawn in the episode follows from it."""
        if seed is not None:
            self._bits = np.random.MT19937(seed)
            self.env.action_space.seed(seed)
        with self._own_generator():
            return self.env.reset(seed=seed, options=self._options | (options or {}))

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step; teleporters and cellular worlds draw here too."""
        with self._own_generator():
            return self.env.step(action)

    def close(self) -> None:
        """Close the environment and its renderer, which it leaves to the interpreter's exit otherwise."""
        for name in ("custom_renderer", "_renderer"):
            renderer = getattr(self.env.unwrapped, name, None)
            if renderer is not None:
                renderer.close()
        super().close()

    @contextlib.contextmanager
    def _own_generator(self) -> Iterator[None]:
        shared = numpy_random.mtrand.get_bit_generator()
        numpy_random.mtrand.set_bit_generator(self._bits)
        try:
            yield
        finally:
            numpy_random.mtrand.set_bit_generator(shared)


def _keep_action_space(robot: Any) -> None:
    """Give an environment that makes its action space anew at every look one that stays, and so can be seeded."""
    original = type(robot)
    if isinstance(getattr(original, "action_space", None), property):
        attributes = {"action_space": robot.action_space, "__module__": original.__module__}
        robot.__class__ = type(original.__name__, (original,), attributes)


def _use_working_backend() -> None:
    """Make `mujoco.Renderer` draw with the backend that works here, not with the one that mujoco's import assumed."""
    import mujoco

    renderer_module: Any = sys.modules[mujoco.Renderer.__module__]
    renderer_module.gl_context.GLContext = importlib.import_module(f"mujoco.{require()}").GLContext
