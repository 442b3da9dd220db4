"""Acting in environments: policies, and the one loop that turns them into episodes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from ...envs.spec import EnvError, EnvSpec
from ...planners.base import Plan, Planner
from ...planners.noise import colour_matrix, sample_noise
from ..agent import Agent, Carry, select
from ..configurator import MODES, REACT
from ..limits import ActionLimits
from ..memory.store import Episode, EpisodeStore

Obs = Mapping[str, NDArray[Any]]
Array = NDArray[Any]


class Step(Protocol):
    """What one vectorised step gives; every array has `B` rows."""

    @property
    def obs(self) -> dict[str, Array]:
        """Observations `{key: [B, ...]}`."""
        ...

    @property
    def reward(self) -> Array:
        """Rewards `[B]`."""
        ...

    @property
    def terminated(self) -> Array:
        """Whether episodes ended by themselves `[B]`."""
        ...

    @property
    def truncated(self) -> Array:
        """Whether episodes were cut off by their time limit `[B]`."""
        ...

    @property
    def success(self) -> Array:
        """Whether the environments called this step a success `[B]`."""
        ...


class Environments(Protocol):
    """What the training code needs of vectorised environments (`envs.vector.VectorEnv` is one)."""

    num_envs: int

    @property
    def env_spec(self) -> EnvSpec:
        """The environment that all rows are copies of."""
        ...

    def reset(self, seeds: Sequence[int], indices: Sequence[int] | None = None) -> tuple[Any, Any]:
        """Start episodes; returns observations and goals (None without goals) of all rows."""
        ...

    @property
    def goal(self) -> Obs | None:
        """A copy of the goals of all rows as they are now, None without goals: an environment may move them."""
        ...

    def change_goals(self, seeds: Sequence[int], indices: Sequence[int]) -> Obs:
        """Give running rows other goals without a reset; returns the goals of all rows."""
        ...

    def step(self, actions: Array, active: Array | None = None) -> Step:
        """Step the active rows with actions `[B, A]`."""
        ...

    def behaviour(self, index: int, seed: int) -> Callable[[], Array] | None:
        """Gives the next action of what one row's environment brings to collect with; None where it brings nothing."""
        ...

    def simulator_states(self) -> Array | None:
        """Physics states `[B, S]`, for baselines only."""
        ...

    def simulator_goals(self) -> Obs | None:
        """Goals `{key: [B, ...]}` as a simulator takes them, for baselines only."""
        ...

    def render(self, index: int, goal: bool = True) -> Array:
        """A picture of one row, with its goal or, where it can be left out, without."""
        ...


class Policy(Protocol):
    """Chooses actions for a batch of episodes."""

    def reset(self, seeds: Sequence[int], goal: Obs | None) -> None:
        """Start one episode per seed; `goal` has one row each."""
        ...

    def act(self, obs: Obs, rows: Array) -> Array:
        """Actions `[b, A]` in real units for the episodes `rows [b]` that still run, seen as `obs {key: [b, ...]}`."""
        ...

    def change_goals(self, goal: Obs, rows: Array, anew: bool = True) -> None:
        """Go on toward other goals `{key: [b, ...]}` in the episodes `rows [b]`; nothing where goals do not matter.

        Args:
            goal: the goals.
            rows: the episodes.
            anew: whether there is as much time as for the first ones again; a goal that moves leaves what is left.
        """
        return


class RandomPolicy(Policy):
    """Uniform actions, each held for a random number of decisions between 1 and `max_hold`.

    Holding makes exploration of second-order systems wide where fresh noise at every decision averages out. Where the
    spec limits how fast actions change, they follow as fast as they may. Every episode has a generator of its own, so
    that it does not depend on what else is collected beside it.
    """

    def __init__(self, spec: EnvSpec, max_hold: int = 1) -> None:
        self.spec, self.max_hold = spec, max_hold
        self.actions = np.zeros((0, 0, spec.action_dim), np.float32)
        self.time = 0

    @override
    def reset(self, seeds: Sequence[int], goal: Obs | None) -> None:
        self.actions = np.stack([self._sequence(np.random.default_rng([seed, 0xAC7])) for seed in seeds])
        self.time = 0

    def _sequence(self, rng: np.random.Generator) -> Array:
        steps = self.spec.max_episode_steps
        holds = rng.integers(1, self.max_hold + 1, steps)
        draws = rng.uniform(self.spec.action_low, self.spec.action_high, (steps, self.spec.action_dim))
        held: Array = np.repeat(draws, holds, axis=0)[:steps].astype(np.float32)
        limits = ActionLimits.of(self.spec)
        return held if limits is None else limits.follow(torch.from_numpy(held), limits.rest()).numpy()

    @override
    def act(self, obs: Obs, rows: Array) -> Array:
        actions: Array = self.actions[rows, self.time]
        self.time += 1
        return actions


class BehaviourPolicy(Policy):
    """The policy that an environment brings to collect with, see `envs.goal_ahead.Aimable`.

    What it wants is clipped to the bounds, as the environment would; limits of how fast actions change are not kept.

    Args:
        environments: that will be acted in.

    Raises:
        EnvError: at the start of an episode, if the environment brings none.
    """

    def __init__(self, environments: Environments) -> None:
        self.environments = environments
        self.behaviours: list[Callable[[], Array]] = []
        spec = environments.env_spec
        self.low, self.high = (np.asarray(bound, np.float32) for bound in (spec.action_low, spec.action_high))

    @override
    def reset(self, seeds: Sequence[int], goal: Obs | None) -> None:
        self.behaviours = []
        for index, seed in enumerate(seeds):
            behaviour = self.environments.behaviour(index, seed)
            if behaviour is None:
                raise EnvError(
                    f"training.behaviour must be false with {self.environments.env_spec.env_id}, "
                    "which brings no policy to collect with"
                )
            self.behaviours.append(behaviour)

    @override
    def act(self, obs: Obs, rows: Array) -> Array:
        wanted = np.stack([np.asarray(self.behaviours[row](), np.float32).reshape(-1) for row in rows])
        return wanted.clip(self.low, self.high)


@dataclass
class PlanStatistics:
    """What a planning policy saw of its planner, one entry per plan; times also of decisions made without one.

    Costs are means, invalid candidates a sum over the episodes that were planned for at once.
    """

    cost: list[float] = field(default_factory=list)
    improvement: list[float] = field(default_factory=list)
    invalid: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    horizons: list[int] = field(default_factory=list)
    """How many of its actions counted."""
    modes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(MODES), np.int64))
    """How often the configurator chose each of `MODES`."""

    def add(self, plan: Plan | None, milliseconds: float, mode: Tensor | None = None, horizon: int = 0) -> None:
        """Note one decision: its plan, if there was one, how long it took, and what was chosen for it."""
        if mode is not None:
            self.modes += np.bincount(mode.cpu().numpy(), minlength=len(MODES))
        self.milliseconds.append(milliseconds)
        if plan is None:
            return
        self.cost.append(float(plan.cost.mean()))
        self.improvement.append(float((plan.best_costs[:, 0] - plan.cost).mean()))
        self.invalid.append(float(plan.num_invalid.sum()))
        self.horizons.append(horizon or plan.actions.shape[1])

    def summary(self) -> dict[str, float]:
        """Means by metric name, and the sum of the invalid candidates; empty before the first decision."""
        chosen = self.modes.sum()
        shares = {f"mode/{m}": float(n / chosen) for m, n in zip(MODES, self.modes, strict=True)} if chosen else {}
        if not self.cost:
            return shares
        return shares | {
            "plan/cost": float(np.mean(self.cost)),
            "plan/improvement": float(np.mean(self.improvement)),
            "plan/invalid": float(np.sum(self.invalid)),
            "plan/horizon": float(np.mean(self.horizons)),
            "plan/batch_ms": float(np.mean(self.milliseconds)),
        }


class AgentPolicy(Policy):
    """The agent as a policy.

    Args:
        agent: decides.
        noise: Gaussian exploration, in units of the half-range of the actions.
        plan_noise: more of it, in units of the spread that the search ended with: wide where it found no preference.
        noise_beta: colour of the noise over an episode, 0 white and 1 pink, see `planners.noise`.
        switch_every: decisions after which each episode takes over the goal of the next one, so that exploration keeps
            travelling; an agent that hovers at its goal teaches the time-to-goal head that near takes long. 0 never; an
            episode that runs alone keeps its own.
        goal_obs: one goal `{key: [...]}` for all episodes, in place of those that the environment states.
        limit: decisions that there are for each goal; None for those of an episode as the agent was trained.
    """

    def __init__(
        self,
        agent: Agent,
        noise: float = 0.0,
        switch_every: int = 0,
        plan_noise: float = 0.0,
        noise_beta: float = 0.0,
        goal_obs: Obs | None = None,
        limit: int | None = None,
    ) -> None:
        self.agent, self.noise, self.plan_noise, self.switch_every = agent, noise, plan_noise, switch_every
        self.goal_obs = goal_obs
        self.steps = agent.model.spec.max_episode_steps
        self.limit = self.steps if limit is None else limit
        self.colour: Tensor | None = None
        if noise_beta:
            self.colour = colour_matrix(self.steps, noise_beta, dtype=torch.float32, device=agent.device)
        self.draws, self.spread = torch.zeros(0), torch.zeros(0)
        self.time = 0
        self.due = torch.zeros(0, dtype=torch.int64)  # the time by which each goal should be reached
        self.statistics = PlanStatistics()
        low, high = (
            torch.tensor(b, device=agent.device) for b in (agent.model.spec.action_low, agent.model.spec.action_high)
        )
        self.low, self.high = low, high
        self.carry: Carry | None = None
        self.goal: Tensor | None = None
        self.rows = np.zeros(0, np.int64)

    @override
    def reset(self, seeds: Sequence[int], goal: Obs | None) -> None:
        self.carry = self.agent.init(len(seeds))
        if self.goal_obs is not None:
            goal = {k: np.repeat(v[None], len(seeds), axis=0) for k, v in self.goal_obs.items()}
        for_goals = self.agent.model.purpose == "goal"
        self.goal = self.agent.embed_goal(goal) if goal is not None and for_goals else None
        self.rows, self.time = np.arange(len(seeds)), 0
        self.due = torch.full((len(seeds),), self.limit, device=self.agent.device)
        self.spread = torch.zeros(len(seeds), 1, device=self.agent.device)
        if self.noise or self.plan_noise:
            shape = (1, len(seeds), self.steps, self.agent.model.spec.action_dim)
            like = torch.zeros((), device=self.agent.device)
            self.draws = sample_noise(shape, self.colour, self.agent.generator, like)[0]

    @override
    def change_goals(self, goal: Obs, rows: Array, anew: bool = True) -> None:
        if self.goal is None or self.goal_obs is not None or (self.switch_every and not anew):
            return
        at = torch.as_tensor(np.searchsorted(self.rows, rows), device=self.agent.device)
        self.goal = self.goal.index_copy(0, at, self.agent.embed_goal(goal))
        if anew:
            self.due[at] = self.time + self.limit

    @override
    def act(self, obs: Obs, rows: Array) -> Array:
        assert self.carry is not None
        if self.switch_every and self.time and self.time % self.switch_every == 0 and self.goal is not None:
            self.goal = self.goal.roll(1, dims=0)
        self.time += 1
        if len(rows) != len(self.rows):  # some episodes have ended: plan for the others only
            keep = torch.as_tensor(np.searchsorted(self.rows, rows), device=self.agent.device)
            self.carry, self.rows = select(self.carry, keep), rows
            self.goal = None if self.goal is None else self.goal[keep]
            self.due, self.spread = self.due[keep], self.spread[keep]
        start, before = perf_counter(), self.carry
        action, self.carry, plan = self.agent.act(obs, self.carry, self.goal, left=self._left())
        mode = self.carry.mode
        reacts = plan is None and mode is not None and bool((mode == REACT).all())
        if plan is not None or reacts:
            self.statistics.add(plan, 1e3 * (perf_counter() - start), mode, self.carry.horizon)
        if self.noise or self.plan_noise:
            noise = self.draws[torch.as_tensor(rows, device=action.device), (self.time - 1) % self.steps]
            if plan is not None:
                self.spread = plan.std.unsqueeze(1)
            elif reacts:
                self.spread = torch.zeros_like(self.spread)
            # Between plans it is that of the last one.
            size = (self.noise**2 + (self.plan_noise * self.spread) ** 2).sqrt()
            action = self.agent.limited(action + size * noise * (self.high - self.low) / 2, before)
        action = torch.minimum(torch.maximum(action, self.low), self.high)
        # A recurrent belief must hear what was done, not what was planned.
        self.carry = replace(self.carry, action=action)
        return action.cpu().numpy()

    def _left(self) -> Tensor | None:
        """Decisions left for the goals, `[B]`; None where they are only to keep an episode going, or overdue."""
        left = self.due - (self.time - 1)
        return None if self.switch_every or bool((left < 1).any()) else left


SimulatorCosts = Callable[[Array, Array, Obs], Array]
"""States `[B, S]`, actions `[B, N, H, A]`, goals `{key: [B, ...]}` -> costs `[B, N]`."""


class SimulatorPolicy(Policy):
    """A planner on the true simulator: the ceiling that a perfect world model would give the same planner."""

    def __init__(
        self, costs: SimulatorCosts, planner: Planner[Any], environments: Environments, generator: torch.Generator
    ) -> None:
        self.costs, self.planner, self.environments, self.generator = costs, planner, environments, generator
        self.statistics = PlanStatistics()
        self.state: Any = None
        self.goal: Obs = {}
        self.rows = np.zeros(0, np.int64)

    @override
    def reset(self, seeds: Sequence[int], goal: Obs | None) -> None:
        self.goal = self.environments.simulator_goals() or {}
        self.state, self.rows = None, np.arange(len(seeds))

    @override
    def change_goals(self, goal: Obs, rows: Array, anew: bool = True) -> None:
        self.goal = self.environments.simulator_goals() or {}

    @override
    def act(self, obs: Obs, rows: Array) -> Array:
        states = self.environments.simulator_states()
        assert states is not None
        if self.state is None:
            self.state = self.planner.init(len(rows))
        else:
            if len(rows) != len(self.rows):
                self.state = select(self.state, torch.as_tensor(np.searchsorted(self.rows, rows)))
            self.state = self.planner.advance(self.state, 1)
        self.rows = rows
        goal = {k: v[rows] for k, v in self.goal.items()}

        def cost_fn(actions: Tensor) -> Tensor:
            return torch.from_numpy(self.costs(states[rows], actions.numpy().astype(np.float64), goal)).to(actions)

        start = perf_counter()
        plan, self.state = self.planner.plan(cost_fn, self.state, self.generator)
        self.statistics.add(plan, 1e3 * (perf_counter() - start))
        return plan.actions[:, 0].numpy()


@dataclass
class _Recorder:
    """Steps of the rows that ran, as they came, `[b, ...]` each; cut into episodes at the end, when it is cheap."""

    obs: list[dict[str, Array]]
    actions: list[Array] = field(default_factory=list)
    rewards: list[Array] = field(default_factory=list)
    success: list[Array] = field(default_factory=list)

    def add(self, rows: Array, actions: Array, step: Step) -> None:
        """Take in what these rows did and what it gave."""
        self.obs.append({k: v[rows] for k, v in step.obs.items()})
        self.actions.append(actions[rows])
        self.rewards.append(step.reward[rows])
        self.success.append(step.success[rows])

    def episodes(self, lengths: Array) -> Iterator[dict[str, Any]]:
        """Arrays of each row's `Episode`."""
        for row, length in enumerate(lengths.tolist()):
            # All rows began together: before this one in a step are those of the rows before that ran as long.
            at = (lengths[:row, None] > np.arange(length)).sum(axis=0).tolist()

            def cut(steps: list[Array], at: list[int] = at) -> Array:
                return np.stack([step[k] for step, k in zip(steps, at, strict=False)])

            yield {
                "obs": {
                    k: np.concatenate([v[row : row + 1], cut([o[k] for o in self.obs[1:]])])
                    for k, v in self.obs[0].items()
                },
                "actions": cut(self.actions),
                "rewards": cut(self.rewards).astype(np.float32),
                "success": cut(self.success).astype(bool),
            }


def run_episodes(
    environments: Environments,
    policy: Policy,
    seeds: Sequence[int],
    *,
    stop_on_success: bool = False,
    goals_per_episode: int = 1,
    meta: Mapping[str, Any] | None = None,
    on_step: Callable[[Array, Step], None] | None = None,
) -> list[Episode]:
    """One episode per seed, all at once.

    Args:
        environments: with at least as many rows as seeds.
        policy: acts on the rows that still run.
        seeds: of the episodes; also noted in their metadata.
        stop_on_success: end an episode (for the caller; it is neither terminated nor truncated) at its first success.
        goals_per_episode: with more than one, the environment states another goal, without a reset, at each success but
            the last, where the episode ends; so it does where a goal takes longer than its share of the time limit.
        meta: further metadata of every episode.
        on_step: called after each step with the rows that were stepped and what the step gave.

    Returns:
        Episodes in the order of the seeds.
    """
    count = len(seeds)
    obs, goal = environments.reset(list(seeds), list(range(count)))
    goals = None if goal is None else {k: np.array(v[:count]) for k, v in goal.items()}
    recorder, told = _Recorder([{k: np.array(v[:count]) for k, v in obs.items()}]), goals
    lengths, reached, since = (np.zeros(count, np.int64) for _ in range(3))
    patience = environments.env_spec.max_episode_steps // goals_per_episode
    terminated, truncated = np.zeros(count, bool), np.zeros(count, bool)
    policy.reset(seeds, goals)
    active = np.zeros(environments.num_envs, bool)
    active[:count] = True
    actions = np.zeros((environments.num_envs, environments.env_spec.action_dim), np.float32)
    while active.any():
        rows = np.flatnonzero(active)
        actions[rows] = policy.act({k: v[rows] for k, v in obs.items()}, rows)
        step = environments.step(actions, active)
        obs = step.obs
        recorder.add(rows, actions, step)
        lengths[rows] += 1
        terminated[rows], truncated[rows] = step.terminated[rows], step.truncated[rows]
        over = step.terminated | step.truncated
        active &= ~(over | step.success if stop_on_success and goals_per_episode == 1 else over)
        if on_step is not None:
            on_step(rows, step)
        if goals_per_episode > 1:
            reached += step.success[:count]
            late = (lengths - since >= patience) & ~step.success[:count]
            active[:count] &= (reached < goals_per_episode) & ~late
            again = np.flatnonzero(active[:count] & step.success[:count])
            if len(again):
                new = [_goal_seed(seeds[row], int(reached[row])) for row in again.tolist()]
                changed = environments.change_goals(new, again.tolist())
                policy.change_goals({k: v[again] for k, v in changed.items()}, again)
                since[again] = lengths[again]
                told = {k: np.array(v[:count]) for k, v in changed.items()}
        told = _follow_goals(environments, policy, told, active[:count])
    shared = dict(meta or {})
    return [
        Episode(
            **recorded,
            terminated=bool(terminated[i]),
            truncated=bool(truncated[i]),
            goal=None if goals is None else {k: v[i] for k, v in goals.items()},
            meta={**shared, "seed": int(seeds[i])},
        )
        for i, recorded in enumerate(recorder.episodes(lengths))
    ]


def _follow_goals(
    environments: Environments, policy: Policy, told: dict[str, Array] | None, active: Array
) -> dict[str, Array] | None:
    """Tell the policy of goals that the environments have moved in episodes that run; returns what it knows now."""
    goals = environments.goal if told is not None else None
    if told is None or goals is None:
        return told
    count = len(active)
    now = {k: v[:count] for k, v in goals.items()}
    moved = active & np.any([(now[k] != told[k]).reshape(count, -1).any(axis=1) for k in told], axis=0)
    rows = np.flatnonzero(moved)
    if len(rows):
        policy.change_goals({k: v[rows] for k, v in now.items()}, rows, anew=False)
    return now


def _goal_seed(seed: int, number: int) -> int:
    """Seed of a later goal of the episode with a seed; the first follows from the reset."""
    return int(np.random.default_rng([seed, 0x60A1, number]).integers(2**31))


def live_or_recall(
    store: EpisodeStore,
    environments: Environments,
    policy: Callable[[], Policy],
    seeds: Sequence[int],
    keys: Sequence[str],
    meta: Mapping[str, Any],
) -> tuple[list[int], bool]:
    """A wave of episodes, from the store if they are in it under their keys, else lived through and stored.

    They are stored as a whole or not at all; an interrupted wave is lived through again, from the same seeds.

    Args:
        store: open for appending.
        environments: with at least as many rows as seeds.
        policy: makes the policy, if it is needed.
        seeds: one for each episode.
        keys: of the episodes in the store.
        meta: further metadata of every episode.

    Returns:
        ids of the episodes, and whether they were lived through now.
    """
    known = [i for i in map(store.find, keys) if i is not None]
    if len(known) == len(keys):
        return known, False
    return store.append_many(run_episodes(environments, policy(), seeds, meta=meta), keys), True
