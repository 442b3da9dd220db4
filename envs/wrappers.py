"""`ForethoughtEnv`: what every environment looks like to the rest of Forethought."""

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from .checks import Guard, check_limit, check_options, check_reset_result, check_step_result
from .goals import make_goal_reader, success
from .gymnasium_adapter import ActionAdapter, AnyEnv, Obs, control_timestep
from .hiding import VeiledGoals
from .pixels import Pixels
from .spec import ArraySpec, EnvError, EnvOptions, EnvSpec, GoalSpec

DEFAULT_EPISODE_STEPS = 1000
"""Environment steps until truncation where neither the options nor the environment say."""


class ForethoughtEnv(gymnasium.Wrapper[Obs, NDArray[np.float32], Any, Any]):
    """An environment in Forethought's conventions, checked at every reset and step.

    - Observations are flat dicts of float32 arrays and uint8 images with sorted keys, as `env_spec.obs` says.
    - Actions are flat float32 vectors `[A]` in real units; they are clipped to their bounds.
    - `info["success"]` is always there, and with goals `info["goal"]`: a flat dict, with the keys of an observation or
      `{"desired_goal": [G]}`, as `env_spec.goal` says. `info["frames"]` counts the environment steps of the call.
    - A step is a decision: `action_repeat` environment steps with the same action, or fewer if the episode ends.
      Rewards are summed, success is any.
    - After `max_episode_steps` decisions an episode that has not terminated is truncated.

    The environment is reset once, without a seed, to see how it states goals and whether it keeps its contract.

    Args:
        env: any Gymnasium environment with a bounded box action space.
        env_id: the id that makes it again.
        options: how it is presented; their `kwargs` have been used to make `env`.
        native_limit: its own time limit in environment steps, for `max_episode_steps=None`.

    Raises:
        EnvError: options, spaces or the trial reset break the contract.
    """

    def __init__(
        self, env: AnyEnv, env_id: str, options: EnvOptions | None = None, native_limit: int | None = None
    ) -> None:
        super().__init__(env)
        options = options or EnvOptions()
        check_options(options)
        self._options = options
        self._guard = Guard(env_id, options.step_timeout_s)
        self._running = False
        self._decisions = 0
        self._goal: Obs | None = None
        try:
            self._actions = ActionAdapter(env.action_space)
            self._goals = make_goal_reader(env.observation_space)
            if options.hide:
                self._goals = VeiledGoals(self._goals, options.hide)
        except EnvError as error:
            raise EnvError(f"{env_id}: {error}") from error
        self._pixels: Pixels | None = None
        if options.observation != "state":
            self._pixels = Pixels(env, self._goals.obs_specs, options.image_size, options.frame_stack)
        obs_specs = self._obs_specs()
        self.env_spec = EnvSpec(
            env_id=env_id,
            obs=obs_specs,
            action_low=self._actions.low,
            action_high=self._actions.high,
            control_dt=control_timestep(env) * options.action_repeat,
            max_episode_steps=options.max_episode_steps
            or math.ceil((native_limit or DEFAULT_EPISODE_STEPS * options.action_repeat) / options.action_repeat),
            goal=self._guard.call("reset", self._goal_spec),
            action_rate=self._limit("action_rate", options.action_rate),
            action_acceleration=self._limit("action_acceleration", options.action_acceleration),
            skill=env.get_wrapper_attr("skill_id") if env.has_wrapper_attr("skill_id") else None,
        )
        self.action_space = self._actions.space
        space: Any = spaces.Dict({key: _space(spec) for key, spec in obs_specs.items()})
        self.observation_space = space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Start an episode; the same seed starts the same one.

        Raises:
            EnvError: the environment raised, hung or broke its contract.
        """
        self._running = False
        result = self._guard.call("reset", self._reset, seed, options)
        self._running, self._decisions = True, 0
        return result

    def step(self, action: NDArray[np.float32]) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Take one decision.

        Args:
            action: `[A]`, real units.

        Raises:
            EnvError: the environment raised, hung or broke its contract, or there is no running episode.
        """
        if not self._running:
            raise EnvError(f"{self.env_spec.env_id}: step() needs a running episode; call reset() first")
        self._running = False  # stays so if the step fails
        obs, reward, terminated, truncated, info = self._guard.call("step", self._step, action)
        self._decisions += 1
        if not terminated and self._decisions >= self.env_spec.max_episode_steps:
            truncated = True
        self._running = not (terminated or truncated)
        return obs, reward, terminated, truncated, info

    def change_goal(self, seed: int) -> Obs:
        """Another goal in the middle of the episode, which goes on as it is; returns what `info["goal"]` will be.

        The environment needs a method `change_goal(seed)` that returns the goal as it states it.

        Raises:
            EnvError: it has none, raised or broke its contract, or there is no running episode.
        """
        if not self._running:
            raise EnvError(f"{self.env_spec.env_id}: change_goal() needs a running episode; call reset() first")
        if self.env_spec.goal is None or not hasattr(self.unwrapped, "change_goal"):
            raise EnvError(
                f"{self.env_spec.env_id} cannot change its goal within an episode: it has no method change_goal(seed)"
            )
        self._goal = self._guard.call("change_goal", self._change_goal, seed)
        return self._goal

    def show(self, arrays: Obs) -> Obs:
        """What the agent sees of observations of the state `{key: [..., *shape]}` that are complete."""
        return self._goals.veil(arrays) if isinstance(self._goals, VeiledGoals) else arrays

    def _change_goal(self, seed: int) -> Obs:
        inner: Any = self.unwrapped
        raw = inner.change_goal(seed)
        goal = self._read_goal({"desired_goal": raw}, {"goal": raw})  # whichever way it states them
        if goal is None:
            raise EnvError("change_goal(seed) must return the goal, got None")
        return goal

    def _reset(self, seed: int | None, options: dict[str, Any] | None) -> tuple[Obs, dict[str, Any]]:
        raw_obs, raw_info = check_reset_result(self.env.reset(seed=seed, options=options))
        obs = self._goals.read_obs(raw_obs)
        image = self._pixels.reset(obs) if self._pixels else None
        self._goal = self._read_goal(raw_obs, raw_info)
        if self._goal is None and self.env_spec.goal is not None:
            raise EnvError('info["goal"] must be there after every reset')
        return self._present(obs, image), self._info(raw_info, success(raw_info), 0)

    def _step(self, action: NDArray[np.float32]) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        native = self._actions(action)
        total, succeeded, frames = 0.0, False, 0
        while True:
            raw_obs, reward, terminated, truncated, raw_info = check_step_result(self.env.step(native))
            total += reward
            succeeded = succeeded or success(raw_info)
            frames += 1
            if terminated or truncated or frames == self._options.action_repeat:
                break
        obs = self._goals.read_obs(raw_obs)
        image = self._pixels.step(obs) if self._pixels else None
        if self.env_spec.goal is not None:
            self._goal = self._read_goal(raw_obs, raw_info) or self._goal
        return self._present(obs, image), total, terminated, truncated, self._info(raw_info, succeeded, frames)

    def _info(self, raw_info: dict[str, Any], succeeded: bool, frames: int) -> dict[str, Any]:
        info = {**raw_info, "success": succeeded, "frames": frames}
        if self._goal is not None:
            info["goal"] = self._goal
        return info

    def _present(self, arrays: Obs, image: NDArray[np.uint8] | None) -> Obs:
        """State and picture as the options want them, keys sorted."""
        if self._pixels is None or image is None:
            return arrays
        if self._options.observation == "pixels":
            return {"pixels": image}
        both = {key: value for key, value in arrays.items() if key != self._pixels.source} | {"pixels": image}
        return dict(sorted(both.items()))

    def _read_goal(self, raw_obs: Any, raw_info: dict[str, Any]) -> Obs | None:
        goal = self._goals.read_goal(raw_obs, raw_info)
        if goal is None or self._pixels is None or (spec := self.env_spec.goal) is None or spec.kind == "achieved":
            return goal
        return self._present(goal, self._pixels.goal(goal, raw_info))

    def _limit(self, name: str, chosen: list[float]) -> tuple[float, ...] | None:
        """A limit of the actions: as chosen, or else as the environment says in an attribute of that name."""
        size = len(self._actions.low)
        if not chosen and self.env.has_wrapper_attr(name):
            chosen = np.asarray(self.env.get_wrapper_attr(name), np.float64).ravel().tolist()
            check_limit(name, chosen)
        if not chosen:
            return None
        if len(chosen) not in (1, size):
            raise EnvError(f"{name} must be one number or one for each of {size} actions, got {chosen}")
        return tuple(float(x) for x in (chosen if len(chosen) == size else chosen * size))

    def _obs_specs(self) -> dict[str, ArraySpec]:
        specs = self._goals.obs_specs
        if self._pixels is None:
            return specs
        if self._options.observation == "pixels":
            return {"pixels": self._pixels.spec}
        both = {key: spec for key, spec in specs.items() if key != self._pixels.source} | {"pixels": self._pixels.spec}
        return dict(sorted(both.items()))

    def _goal_spec(self) -> GoalSpec | None:
        """How goals are stated, found out by one reset."""
        raw_obs, raw_info = check_reset_result(self.env.reset())
        spec = self._goals.spec(raw_obs, raw_info)
        obs = self._goals.read_obs(raw_obs)
        if self._pixels is None:
            return spec
        self._pixels.reset(obs)
        if spec is None or (spec.kind == "achieved" and self._options.observation == "both"):
            return spec
        goal = self._goals.read_goal(raw_obs, raw_info)
        if goal is None or self._pixels.goal(goal, raw_info) is None:
            raise EnvError(
                f'observation must be "state" for this goal task, got {self._options.observation!r}: it cannot draw '
                "its goal; give the environment the methods render_pixels(size) and render_goal_pixels(size), "
                "which return uint8 [size, size, 3]"
            )
        return GoalSpec("observation")


def _space(spec: ArraySpec) -> spaces.Box:
    if spec.is_image:
        return spaces.Box(0, 255, spec.shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, spec.shape, np.float32)
