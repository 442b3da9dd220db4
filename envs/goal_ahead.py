"""Goals that lie some steps ahead along an episode of the environment's own (the protocol of LeWM, Maes et al. 2026).

A behaviour plays an episode. Some moment of it is the start and the moment `steps` later is the goal, so that every
goal is known to be within reach; the budget is, by custom, twice as many steps.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from .gymnasium_adapter import ActionAdapter, AnyEnv
from .spec import EnvError

MAX_HOLD = 8
"""Longest time for which the behaviour holds one random action, in environment steps."""
_ATTEMPTS = 200

Behaviour = Callable[[], NDArray[Any]]
"""Gives the next action, in the environment's own form."""


class Aimable(Protocol):
    """What an environment, or a wrapper of it, must offer beside Gymnasium's methods.

    `behaviour(seed) -> Behaviour | None`, for an episode that has just been reset, is optional. Without it, or where it
    gives None, actions are uniform and held for 1 to `MAX_HOLD` environment steps.
    """

    def here(self) -> Any:
        """The present state, in any form that `aim` takes; later steps do not change it."""

    def aim(self, goal: Any) -> dict[str, Any]:
        """Make a state, which `here` gave in any episode, the goal of the running one.

        Returns:
            `info` as a reset returns it, but with `success`: whether the environment is at that goal already.
        """


class GoalAhead(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Draws every episode's start and goal from one episode of the behaviour.

    A reset draws a seed for the environment and a number of steps `t`, plays the behaviour for `t + steps`, and keeps
    the last state as the goal. Then it resets with the same seed and plays the first `t` actions again: that is the
    start. What the simulation carries along beside its state (contacts, the solver's warm start) is thereby exactly
    what it was, and nothing but `reset` and `step` is needed to get there.

    The episode is drawn anew where the behaviour ended it before the goal, where being at the goal does not count as
    success (tasks that want a robot to stop there), and where being at the start does. Apart from that, all starts with
    `steps` more to come are equally likely, as if drawn from a data set of such episodes. (LeWM's evaluation keeps
    starts that count as success, which standing still solves: some 7 of 100 in TwoRoom.) Success is the environment's
    own, with the goal set as its own; nothing here judges.

    Args:
        env: offers `Aimable`, and plays the same episode again after a reset with the same seed.
        steps: from start to goal, in environment steps.
        episode_steps: longest episode of the behaviour, in environment steps.

    Raises:
        EnvError: the environment does not offer `Aimable`, or `steps` is longer than its episodes.
    """

    def __init__(self, env: AnyEnv, steps: int, episode_steps: int) -> None:
        super().__init__(env)
        for name in ("here", "aim"):
            if not env.has_wrapper_attr(name):
                raise EnvError(
                    f"goal_ahead needs an environment whose goal can be set: give it the methods here() and aim(goal) "
                    f"(see forethought.envs.goal_ahead.Aimable); {type(env.unwrapped).__name__} has no {name}()"
                )
        if steps > episode_steps:
            raise EnvError(f"goal_ahead must be at most the length of an episode, {episode_steps}, got {steps}")
        self._here: Callable[[], Any] = env.get_wrapper_attr("here")
        self._aim: Callable[[Any], dict[str, Any]] = env.get_wrapper_attr("aim")
        self._steps, self._latest_start = steps, episode_steps - steps
        self._actions = ActionAdapter(env.action_space)
        self._rng = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; with a seed, everything in it follows from that.

        Raises:
            EnvError: the environment does not repeat its episodes, or the behaviour gets nowhere.
        """
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        for _ in range(_ATTEMPTS):
            drawn = self._draw(options)
            if drawn is not None:
                return drawn
        raise EnvError(
            f"no start was found with goal_ahead={self._steps} in {_ATTEMPTS} episodes of the behaviour: "
            "they end too early, begin where they should end, or end where being there is no success"
        )

    def _draw(self, options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]] | None:
        """One attempt at an episode; None if it has to be drawn anew."""
        seed, behaviour_seed = (int(x) for x in self._rng.integers(2**31, size=2))
        start_step = int(self._rng.integers(self._latest_start + 1))
        before = obs = self.env.reset(seed=seed, options=options)[0]
        behaviour = self._behaviour(behaviour_seed)
        actions = []
        for step in range(start_step + self._steps):
            actions.append(np.array(behaviour()))
            obs, _, terminated, truncated, _ = self.env.step(actions[-1])
            if terminated or truncated:
                return None
            if step + 1 == start_step:
                before = obs
        goal = self._here()
        if not self._aim(goal)["success"]:
            return None
        obs = self.env.reset(seed=seed, options=options)[0]
        for action in actions[:start_step]:
            obs = self.env.step(action)[0]
        if not _same(obs, before):
            raise EnvError("goal_ahead needs an environment that repeats an episode from its seed and its actions")
        info = self._aim(goal)
        return None if info["success"] else (obs, info)

    def _behaviour(self, seed: int) -> Behaviour:
        return behaviour_of(self.env, seed) or _held_actions(self._actions, np.random.default_rng(seed))


def behaviour_of(env: AnyEnv, seed: int) -> Behaviour | None:
    """The behaviour that an environment brings for an episode that has just been reset; None where it brings none."""
    if not env.has_wrapper_attr("behaviour"):
        return None
    own: Behaviour | None = env.get_wrapper_attr("behaviour")(seed)
    return own


def _held_actions(adapter: ActionAdapter, rng: np.random.Generator) -> Behaviour:
    action: NDArray[Any] = adapter.space.low
    left = 0

    def behave() -> NDArray[Any]:
        nonlocal action, left
        if left == 0:
            action, left = rng.uniform(adapter.low, adapter.high), int(rng.integers(1, MAX_HOLD + 1))
        left -= 1
        return adapter(action)

    return behave


def _same(a: Any, b: Any) -> bool:
    """Whether two observations are equal, number by number."""
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return bool(np.array_equal(a, b))
