"""Planning in a learned model, in the environment that it was learned from."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from typing_extensions import override

from ...planners.base import Planner
from ..agent import Agent
from ..memory.store import Episode as StoredEpisode
from ..training.rollout import AgentPolicy, Environments, Policy, RandomPolicy, run_episodes
from .arena import Arena, BenchError, Episode, Frame, Meter, Settings


class LearnedModel(Arena):
    """An agent whose planner is exchanged; it sees observations, and its own model scores the candidates.

    Args:
        name: by which it is shown.
        agent: trained; its planner gives the horizon.
        environments: one row, of what it was trained for.
        horizon: another horizon; None takes that of the run.
    """

    differentiable = True
    optimum = None

    def __init__(self, name: str, agent: Agent, environments: Environments, horizon: int | None = None) -> None:
        self.name, self.agent, self.environments = name, agent, environments
        spec = environments.env_spec
        self.for_goals = agent.model.purpose == "goal"
        self.summary = f"{spec.env_id} in the model of a run, for {'goals' if self.for_goals else 'reward'}"
        self.source = spec.env_id
        self.horizon = horizon or agent.planner.horizon
        self.decisions, self.control_dt = spec.max_episode_steps, spec.control_dt
        self.action_low, self.action_high = (torch.tensor(b) for b in (spec.action_low, spec.action_high))

    @override
    def play(self, planner: Planner[Any], seed: int, generator: torch.Generator, settings: Settings) -> Episode:
        meter = Meter(planner, settings.budget)
        options = dataclasses.replace(
            self.agent.options, replan_every=settings.replan_every, deadline_s=settings.deadline_s
        )
        agent = Agent(self.agent.model, meter, self.agent.objective, options, generator)
        policy = AgentPolicy(agent) if settings.decisions is None else _First(AgentPolicy(agent), settings.decisions)
        try:
            (episode,) = run_episodes(self.environments, policy, [seed], stop_on_success=self.for_goals)
        except _Enough:
            return Episode(seed, [0.0], None, meter.milliseconds, meter.evaluations, [])
        return self._episode(episode, seed, meter)

    @override
    def play_random(self, seed: int) -> Episode:
        policy = RandomPolicy(self.environments.env_spec)
        (episode,) = run_episodes(self.environments, policy, [seed], stop_on_success=self.for_goals)
        return self._episode(episode, seed, None)

    def _episode(self, episode: StoredEpisode, seed: int, meter: Meter[Any] | None) -> Episode:
        rewards = episode.rewards.astype(np.float64).tolist()
        solved = bool(episode.success.any())
        return Episode(
            seed=seed,
            rewards=rewards + [0.0] * (self.decisions - len(rewards)),
            solved=solved if self.for_goals or solved else None,
            milliseconds=[] if meter is None else meter.milliseconds,
            evaluations=[] if meter is None else meter.evaluations,
            actions=episode.actions.astype(np.float64).tolist(),
        )

    @override
    def frames(self, episode: Episode, size: int) -> Iterator[Frame]:
        self.environments.reset([episode.seed], [0])
        yield self._frame(size)
        active = np.arange(self.environments.num_envs) == 0
        for action in episode.actions:
            actions = np.tile(np.asarray(action, np.float32), (self.environments.num_envs, 1))
            self.environments.step(actions, active)
            yield self._frame(size)

    def _frame(self, size: int) -> Frame:
        try:
            frame = np.asarray(self.environments.render(0))
        except Exception as error:  # render() is anybody's code, and no comparison may fail for want of a picture
            raise BenchError(f"{self.name} cannot be drawn: {error}") from error
        stride = max(1, math.ceil(len(frame) / size))
        return np.ascontiguousarray(frame[::stride, ::stride])


class _Enough(Exception):  # noqa: N818  (a signal between two functions here)
    """A trial has seen enough decisions."""


class _First(Policy):
    """A policy that stops the episode after some decisions."""

    def __init__(self, policy: Policy, decisions: int) -> None:
        self.policy, self.left = policy, decisions

    @override
    def reset(self, seeds: Any, goal: Any) -> None:
        self.policy.reset(seeds, goal)

    @override
    def act(self, obs: Any, rows: Any) -> Any:
        if self.left == 0:
            raise _Enough
        self.left -= 1
        return self.policy.act(obs, rows)
