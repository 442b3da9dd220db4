"""Evaluation on held-out episodes: scores with intervals, decision times, and what the model imagines."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from ... import ForethoughtError
from ..agent import Agent
from ..memory.store import Episode
from ..world_model.control import ControlHeads
from ..world_model.model import WorldModel
from .probing import latents_of, linear_probe
from .rollout import Array, Environments, Policy, Step, run_episodes


class EvaluationError(ForethoughtError):
    """Evaluation options out of range."""


@dataclass
class EvaluationOptions:
    """What is measured, on how many held-out episodes."""

    episodes: int = 100
    """Held-out episodes (goals) of every row."""
    seed: int = 0
    """Chooses the held-out episodes; never one that was trained on."""
    num_envs: int = 50
    """Episodes planned for at once; decision times are always measured one by one."""
    random: bool = True
    """Measure a random policy beside the planner."""
    policy: bool = True
    """Measure the policy prior alone, where there is one (objective=reward)."""
    latent_l2: bool = False
    """Measure the same planner with plain latent distance as cost."""
    true_dynamics: bool = True
    """Measure a planner on the true simulator, where there is one."""
    true_samples: int = 64
    """Candidates per iteration of the planner on the true simulator."""
    true_iterations: int = 3
    """Iterations of the planner on the true simulator."""
    true_horizon: int | None = None
    """Horizon of the planner on the true simulator, in decisions; None takes that of the agent's planner."""
    probe_episodes: int = 20
    """Episodes of random held actions, half of which a linear probe of the latents is fitted to; 0 does without."""
    timed_episodes: int = 3
    """Episodes run one by one to time single decisions; they make the video too."""
    video: bool = True
    """Write rollout.mp4 of the timed episodes (their first 600 steps), where OpenGL is at hand."""
    report: bool = True
    """Draw report.html anew, which takes some seconds; without, a report of before stays as it is."""
    goals_per_episode: int = 1
    """Goals one after the other, without a reset in between, each with the time limit of an episode; success is to
    reach them all. For environments that can change their goal."""
    remember: bool = False
    """Live the episodes one after the other and keep each in the memory, with the ways that were found and those that
    were tried in vain. The next evaluation with this memory begins where this one ended."""
    goal: str | None = None
    """File with one goal for all episodes: a picture where the model sees pixels, JSON where it reads vectors. The
    environment cannot judge it: distances are measured instead of success."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise EvaluationError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.goal is not None and self.goals_per_episode > 1:
            raise EvaluationError(f"goals_per_episode must be 1 with goal={self.goal}, got {self.goals_per_episode}")
        if self.true_samples < 2:
            raise EvaluationError(f"true_samples must be at least 2, got {self.true_samples}")
        if self.probe_episodes < 0 or self.probe_episodes == 1:
            raise EvaluationError(f"probe_episodes must be 0 or at least 2, got {self.probe_episodes}")
        if not 0 <= self.seed <= MAX_SEED:
            raise EvaluationError(f"seed must be between 0 and {MAX_SEED}, got {self.seed}")


_COUNTS = (
    "episodes",
    "num_envs",
    "true_iterations",
    "true_horizon",
    "timed_episodes",
    "goals_per_episode",
)

SEED_DOMAINS = {"train": 0, "validation": 1, "test": 2, "collect": 3}
_DOMAIN_SIZE = 2**29

MAX_SEED = 2**63 - 1
"""The largest seed that every generator takes."""

MAX_FRAMES = 600
"""Pictures that a video holds at most; they are all in memory until it is written."""


def episode_seeds(domain: str, seed: int, start: int, count: int) -> list[int]:
    """Environment seeds for episodes `start .. start+count-1` of a run.

    Domains (`train`, `validation`, `test`, `collect`) are disjoint ranges of integers, so no evaluation episode can
    have been trained on, and what is collected before a training is not collected in it again.
    """
    rngs = (np.random.default_rng([seed, SEED_DOMAINS[domain], start + i]) for i in range(count))
    return [SEED_DOMAINS[domain] * _DOMAIN_SIZE + int(rng.integers(_DOMAIN_SIZE)) for rng in rngs]


def is_held_out(seed: object) -> bool:
    """Whether a seed is that of an episode to validate or test with."""
    return isinstance(seed, int) and seed // _DOMAIN_SIZE in (SEED_DOMAINS["validation"], SEED_DOMAINS["test"])


def success_interval(successes: int, episodes: int) -> list[float]:
    """Wilson score interval (1927) at 95 %."""
    interval = stats.binomtest(successes, episodes).proportion_ci(0.95, method="wilson")
    return [float(interval.low), float(interval.high)]


def mean_interval(values: Sequence[float], seed: int = 0) -> list[float]:
    """Percentile bootstrap interval of the mean at 95 % (Efron 1979); a point where all values agree."""
    data = np.asarray(values, np.float64)
    if len(data) < 2 or np.ptp(data) == 0:
        return [float(data.mean()), float(data.mean())]
    rng = np.random.default_rng(seed)
    result = stats.bootstrap((data,), np.mean, n_resamples=2000, method="percentile", rng=rng)
    return [float(result.confidence_interval.low), float(result.confidence_interval.high)]


def until_success(episode: Episode) -> Episode:
    """An episode as far as its first success, or all of it."""
    end = int(episode.success.argmax()) + 1
    if not episode.success.any() or end == len(episode.actions):
        return episode
    return dataclasses.replace(
        episode,
        obs={key: array[: end + 1] for key, array in episode.obs.items()},
        actions=episode.actions[:end],
        rewards=episode.rewards[:end],
        success=episode.success[:end],
        terminated=False,
        truncated=False,
    )


def score(episodes: Sequence[Episode], has_goals: bool = True, goals_per_episode: int = 1) -> dict[str, Any]:
    """Success, return and steps to the goal of finished episodes.

    Success is the environment's own signal; None, as is its interval, where there are neither goals nor successes. With
    several goals per episode it is to have reached them all, steps are those of each that was reached, and `per_goal`
    says of the first, second, ... goal how often it was `given` (all before it were reached) and `reached`.
    """
    ways = [np.diff(np.flatnonzero(e.success)[:goals_per_episode] + 1, prepend=0) for e in episodes]
    reached = [len(way) == goals_per_episode for way in ways]
    steps = sorted(int(length) for way in ways for length in way)
    returns = [float(e.rewards.sum()) for e in episodes]
    known = has_goals or any(reached)
    return {
        "episodes": len(episodes),
        "success_rate": float(np.mean(reached)) if known else None,
        "success_ci": success_interval(sum(reached), len(reached)) if known else None,
        "return_mean": float(np.mean(returns)),
        "return_ci": mean_interval(returns),
        "returns": [round(value, 3) for value in returns],
        "steps_to_goal": {
            "mean": float(np.mean(steps)) if steps else None,
            "median": float(np.median(steps)) if steps else None,
            "p90": float(np.percentile(steps, 90)) if steps else None,
            "values": steps,
        },
        **({"per_goal": _per_goal(ways, goals_per_episode)} if goals_per_episode > 1 else {}),
    }


def _per_goal(ways: Sequence[Array], goals: int) -> list[dict[str, Any]]:
    rows = []
    for number in range(goals):
        steps = [int(way[number]) for way in ways if len(way) > number]
        given = sum(len(way) >= number for way in ways)
        rows.append(
            {
                "given": given,
                "reached": len(steps),
                "success_rate": len(steps) / given if given else None,
                "success_ci": success_interval(len(steps), given) if given else None,
                "median_steps": float(np.median(steps)) if steps else None,
            }
        )
    return rows


@torch.no_grad()
def distances_to_goal(agent: Agent, episodes: Sequence[Episode], goal_obs: Mapping[str, Array]) -> dict[str, Any]:
    """How far the states of episodes are from one goal, as the model sees it.

    Args:
        agent: whose model measures.
        episodes: of any lengths.
        goal_obs: the goal `{key: [...]}`.

    Returns:
        `steps` (predicted) and `latent` (root mean square in goal space), each with medians over the episodes of the
        distance at the `start`, the `final` and the `least` one, and by decision the `median`, `low` and `high` (10 and
        90 %) of those that still run.
    """
    model = agent.model
    goal = agent.embed_goal({k: v[None] for k, v in goal_obs.items()})
    steps, latent = [], []
    for episode in episodes:
        z = latents_of(agent, episode)
        steps.append(model.steps_to_goal(z, goal).mean(dim=0).cpu().numpy())
        latent.append(model.goal_distance(z, goal).sqrt().cpu().numpy())
    return {"steps": _over_time(steps), "latent": _over_time(latent)}


def _over_time(rows: Sequence[Array]) -> dict[str, Any]:
    table = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = values
    low, middle, high = np.nanquantile(table, [0.1, 0.5, 0.9], axis=0)
    return {
        "start": float(np.median([values[0] for values in rows])),
        "final": float(np.median([values[-1] for values in rows])),
        "least": float(np.median([values.min() for values in rows])),
        "median": middle.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
    }


def decision_time(milliseconds: Sequence[float], warmup: int = 3) -> dict[str, Any]:
    """Median and 99th percentile of decision times, the first few left out."""
    values = np.asarray(milliseconds[warmup:] or milliseconds, np.float64)
    return {
        "p50": float(np.percentile(values, 50)),
        "p99": float(np.percentile(values, 99)),
        "values": [round(float(v), 3) for v in values],
    }


def run_arm(
    environments: Environments,
    policy: Policy,
    seeds: Sequence[int],
    on_wave: Callable[[int], None] | None = None,
    stop_on_success: bool = True,
    goals_per_episode: int = 1,
) -> list[Episode]:
    """Episodes of one policy on the given seeds, in waves of at most `environments.num_envs`."""
    episodes: list[Episode] = []
    for first in range(0, len(seeds), environments.num_envs):
        wave = seeds[first : first + environments.num_envs]
        episodes += run_episodes(
            environments, policy, wave, stop_on_success=stop_on_success, goals_per_episode=goals_per_episode
        )
        if on_wave is not None:
            on_wave(len(episodes))
    return episodes


def film(
    environments: Environments,
    policy: Policy,
    seeds: Sequence[int],
    frames: list[Array] | None,
    stop_on_success: bool = True,
    draw_goal: bool = True,
    goals_per_episode: int = 1,
) -> list[Episode]:
    """Episodes one by one, at batch size 1; `frames`, if not None, gets pictures of the first `MAX_FRAMES` steps."""
    episodes = []
    for seed in seeds:

        def on_step(rows: Array, step: Step) -> None:
            if frames is not None and len(frames) < MAX_FRAMES:
                frames.append(environments.render(int(rows[0]), draw_goal))

        episodes += run_episodes(
            environments, policy, [seed], stop_on_success=stop_on_success, goals_per_episode=goals_per_episode,
            on_step=on_step,
        )  # fmt: skip
    return episodes


@torch.no_grad()
def prediction_error(agent: Agent, episodes: Sequence[Episode]) -> dict[str, float]:
    """How far off the agent's expectations were, decision by decision, in units of the latents (root mean square).

    Returns:
        `model`, with what the agent learned within each episode where it adapts, and `persistence`, that of "nothing
        changes".
    """
    lengths = torch.tensor([len(e.actions) for e in episodes])
    latents = [latents_of(agent, episode) for episode in episodes]
    actions = [torch.as_tensor(episode.actions, device=agent.device) for episode in episodes]
    z, taken = (torch.nn.utils.rnn.pad_sequence(rows, batch_first=True) for rows in (latents, actions))
    correction = agent.init(len(episodes)).correction
    wrong, moved = [], []
    for t in range(taken.shape[1]):
        correction, error = agent.adapt(correction, z[:, t], taken[:, t], z[:, t + 1])
        goes_on = lengths > t
        wrong.append(error[goes_on])
        moved.append((z[:, t + 1] - z[:, t])[goes_on])
    return {
        "model": float(torch.cat(wrong).square().mean().sqrt()),
        "persistence": float(torch.cat(moved).square().mean().sqrt()),
    }


@torch.no_grad()
def diagnose(
    agent: Agent,
    episodes: Sequence[Episode],
    acted: Sequence[Episode] = (),
    probed: Sequence[Episode] = (),
    curves: int = 3,
    pairs: int = 2000,
) -> dict[str, Any]:
    """How well the world model imagines held-out episodes, and what its latents know.

    Args:
        agent: whose model is looked at.
        episodes: held out; full-length ones with varied actions say most.
        acted: episodes of the agent itself, for the calibration of its distances or values; `episodes` if there are
            none.
        probed: held-out episodes with the true state among their observations; without, there is no linear probe.
        curves: episodes drawn as curves.
        pairs: state-goal pairs for the calibration of time to goal, or states for that of the value, at most.

    Returns:
        `imagination` (real and open-loop imagined curves, in normalised units), `imagination_error` by horizon beside
        that of a model that says "nothing changes", `linear_probe`, and `calibration` of the steps to a goal (with rank
        correlation, mean absolute error and the standard deviation between the members of a quasimetric) or
        `value_calibration` of the value functions.
    """
    model = agent.model
    chosen = sorted(episodes, key=lambda e: -len(e.actions))[: max(curves, 10)]
    length = min(len(e.actions) for e in chosen)
    obs = {
        k: torch.as_tensor(np.stack([e.obs[k][: length + 1] for e in chosen]), device=agent.device)
        for k in model.spec.obs
    }
    actions = torch.as_tensor(np.stack([e.actions[:length] for e in chosen]), device=agent.device)
    real = model.encode_sequence(obs, actions)  # [K, T+1, Z]
    dreamed = model.rollout(real[:, 0].expand(model.members, -1, -1), actions).mean(dim=0)
    dreamed = torch.cat([real[:, :1], dreamed], dim=1)
    error = (dreamed - real).square().mean(dim=(0, 2)).sqrt()
    still = (real[:, :1] - real).square().mean(dim=(0, 2)).sqrt()
    names, real_curves, dreamed_curves = _readable(model, obs, real, dreamed)
    return {
        "imagination": {
            "names": names,
            "real": real_curves[:curves].tolist(),
            "imagined": dreamed_curves[:curves].tolist(),
        },
        "imagination_error": {
            "horizon": list(range(1, length + 1)),
            "model": error[1:].tolist(),
            "persistence": still[1:].tolist(),
        },
        "linear_probe": linear_probe(agent, probed),
        **(
            {"calibration": _calibration(agent, acted or episodes, pairs)}
            if model.control is None
            else {"value_calibration": _value_calibration(agent, model.control, acted or episodes, pairs)}
        ),
    }


def _readable(
    model: WorldModel, obs: Mapping[str, Tensor], real: Tensor, dreamed: Tensor
) -> tuple[list[str], NDArray[np.float32], NDArray[np.float32]]:
    """Latents as curves with names: what they hold of the state, a probe's reading, or their principal components."""
    if model.probe is not None or model.measured_dim:
        names = [
            f"{k}[{i}]" if model.spec.obs[k].size > 1 else k
            for k in model.vector_keys
            for i in range(model.spec.obs[k].size)
        ]
        read = model.probe(dreamed) if model.probe is not None else dreamed[..., : model.measured_dim]
        return names[:6], model.probe_target(obs)[..., :6].cpu().numpy(), read[..., :6].cpu().numpy()
    centre = real.mean(dim=(0, 1))
    basis = torch.linalg.svd((real - centre).flatten(0, 1), full_matrices=False).Vh[:4].T
    names = [f"principal component {i + 1}" for i in range(basis.shape[1])]
    return names, ((real - centre) @ basis).cpu().numpy(), ((dreamed - centre) @ basis).cpu().numpy()


def _calibration(agent: Agent, episodes: Sequence[Episode], pairs: int) -> dict[str, Any]:
    """Steps as predicted from states of episodes to the goals that they reached, and as taken.

    Hindsight: the goal is the state in which an episode succeeded, or where none of them did, the last of each.
    """
    model, rng = agent.model, np.random.default_rng(0)
    goal_key = model.spec.goal.achieved_key if model.spec.goal and model.achieved is not None else None
    reached = any(episode.success.any() for episode in episodes)
    heads: list[Tensor] = []
    taken: list[Array] = []
    for episode in episodes:
        z, begin = latents_of(agent, episode), 0
        for end in (np.flatnonzero(episode.success) + 1).tolist() if reached else [len(episode.actions)]:
            goal_obs = {k: v[end : end + 1] for k, v in episode.obs.items()}
            goal = agent.embed_goal(goal_obs if goal_key is None else {"desired_goal": goal_obs[goal_key]})
            heads.append(model.steps_to_goal(z[begin : end + 1], goal))
            taken.append(np.arange(end - begin, -1, -1))
            begin = end
    steps, true = torch.cat(heads, dim=1).cpu().double().numpy(), np.concatenate(taken)
    if len(true) > pairs:
        chosen = rng.choice(len(true), pairs, replace=False)
        steps, true = steps[:, chosen], true[chosen]
    predicted = steps.mean(axis=0)
    constant = np.ptp(predicted) == 0 or np.ptp(true) == 0
    return {
        "predicted": predicted.tolist(),
        "true": true.tolist(),
        "disagreement": steps.std(axis=0).tolist() if len(steps) > 1 else None,
        "rank_correlation": None if constant else float(stats.spearmanr(predicted, true).statistic),
        "mean_absolute_error": float(np.abs(predicted - true).mean()),
        "goals": len(taken),
        "reached": reached,
    }


def _value_calibration(
    agent: Agent, heads: ControlHeads, episodes: Sequence[Episode], pairs: int
) -> dict[str, list[float]]:
    """Values of states that the agent met, against the discounted return that followed there."""
    model, rng = agent.model, np.random.default_rng(0)
    per_episode = max(1, pairs // len(episodes))
    predicted: list[float] = []
    true: list[float] = []
    tail = math.ceil(3 / (1 - heads.discount))  # where a time limit cut the return short, what is left says nothing
    for episode in episodes:
        steps, returns = len(episode.actions), np.zeros(len(episode.actions) + 1)
        for t in reversed(range(steps)):
            returns[t] = episode.rewards[t] + heads.discount * returns[t + 1]
        known = steps if episode.terminated else max(1, steps - tail)
        z = latents_of(agent, episode)
        chosen = rng.choice(known, min(per_episode, known), replace=False)
        actions = model.normalize_action(torch.as_tensor(episode.actions[chosen], device=agent.device))
        predicted += heads.expected(heads.value_logits(torch.cat([z[chosen], actions], dim=-1))).mean(dim=0).tolist()
        true += returns[chosen].tolist()
    return {"predicted": predicted, "true": true}
