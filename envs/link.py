"""The way between an agent and a simulated robot: commands and observations that come late, or never."""

import copy
import math
from collections import deque
from typing import Any

import gymnasium
import numpy as np
from typing_extensions import override

from .gymnasium_adapter import AnyEnv, control_timestep
from .spec import EnvError, LinkOptions


class Link(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that is reached over a link with latency, jitter and losses.

    The environment goes on in its own steps (frames) of `dt` seconds; a decision, for which one command is sent and one
    observation received, lasts `frames` of them. The robot holds the last command that arrived; one that was overtaken
    by a newer is ignored. The agent sees the newest observation that had time to arrive, never one older than it has
    seen. Rewards, ends of episodes and `info` are those of the robot, at once: they are for whoever watches. Every step
    adds to `info` whether the command was lost (`command_lost`) and how old what is seen is (`observation_age`, in
    seconds).

    A robot is at rest before its first command: its action is then the one nearest to zero.

    Args:
        env: any environment that says its `dt`.
        options: of the link.
        frames: environment steps per decision.

    Raises:
        EnvError: nobody knows how long a step of the environment is.
    """

    def __init__(self, env: AnyEnv, options: LinkOptions, frames: int = 1) -> None:
        super().__init__(env)
        self._options, self._frames, self._dt = options, frames, control_timestep(env)
        if math.isnan(self._dt):
            raise EnvError("link needs an environment that says how long a step takes, in dt, and this one does not")
        self._rng = np.random.default_rng()
        self._begin(None)

    @property
    def period_s(self) -> float:
        """Seconds between decisions."""
        return self._dt * self._frames

    @property
    def latency_s(self) -> float:
        """Seconds that a command takes to the robot and what comes of it back, on average."""
        options = self._options
        return options.command_latency + options.observation_latency + 2 * options.jitter

    def decided_after(self, seconds: float) -> None:
        """Say that the coming command is sent that long after the observation that it answers; else it is at once.

        The robot has gone on with the command before, for more than a decision's frames if that is how long it took.
        """
        self._thought_s = seconds

    @override
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, with nothing on its way; what the link does follows from the seed, too."""
        if seed is not None:
            self._rng = np.random.default_rng([seed, 0x11])
        obs, info = self.env.reset(seed=seed, options=options)
        self._begin(obs)
        return obs, info

    @override
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One frame; the first of a decision sends the command."""
        frame = self._frame % self._frames
        total = 0.0
        if frame == 0:
            for _ in range(self._send(action)):
                obs, reward, terminated, truncated, info = self._advance()
                total += float(reward)
                if terminated or truncated:
                    return obs, total, terminated, truncated, {**info, **self._notes}
        self._frame += 1
        obs, reward, terminated, truncated, info = self._advance()
        if frame == self._frames - 1 or terminated or truncated:
            obs = self._receive()
        return obs, total + float(reward), terminated, truncated, {**info, **self._notes}

    def _begin(self, obs: Any) -> None:
        self._frame, self._ticks, self._thought_s = 0, 0, 0.0
        self._command: Any = None  # in force
        self._sent, self._newest = 0, 0
        self._under_way: list[tuple[float, int, Any]] = []
        self._seen: deque[tuple[int, Any]] = deque([(0, copy.deepcopy(obs))])
        self._notes: dict[str, Any] = {"command_lost": False, "observation_age": 0.0}

    def _send(self, action: Any) -> int:
        """Put a command under way; returns the frames beyond a decision's that it was late by."""
        lost, jitter_s = self._draw(self._options.command_loss)
        thought_s, self._thought_s = self._thought_s, 0.0
        self._sent += 1
        self._notes["command_lost"] = lost
        if not lost:
            due_s = self._ticks * self._dt + thought_s + self._options.command_latency + jitter_s
            self._under_way.append((due_s, self._sent, np.array(action)))
        return max(0, round((thought_s - self.period_s) / self._dt))

    def _advance(self) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One frame of the robot, with the newest command that has arrived by the middle of it."""
        middle_s = (self._ticks + 0.5) * self._dt
        for due_s, number, action in self._under_way:
            if due_s <= middle_s and number > self._newest:
                self._newest, self._command = number, action
        self._under_way = [packet for packet in self._under_way if packet[0] > middle_s]
        result = self.env.step(self._rest() if self._command is None else self._command)
        self._ticks += 1
        self._seen.append((self._ticks, copy.deepcopy(result[0])))
        return result

    def _receive(self) -> Any:
        """The observation that the agent sees at the end of a decision."""
        lost, jitter_s = self._draw(self._options.observation_loss)
        latest = self._ticks - round((self._options.observation_latency + jitter_s) / self._dt)
        while not lost and len(self._seen) > 1 and self._seen[1][0] <= latest:
            self._seen.popleft()
        at, obs = self._seen[0]
        self._notes = {**self._notes, "observation_age": (self._ticks - at) * self._dt}
        return copy.deepcopy(obs)

    def _draw(self, loss: float) -> tuple[bool, float]:
        """Whether a packet is lost, and how much longer it takes; the same draws whatever the options are."""
        return bool(self._rng.random() < loss), float(self._rng.exponential()) * self._options.jitter

    def _rest(self) -> Any:
        space: Any = self.env.action_space
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
