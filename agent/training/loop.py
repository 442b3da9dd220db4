"""Training: collect, learn, validate, and again, as a sequence that can be killed at any moment and resumed exactly.

Data comes in phases. Phase 0 collects random held actions; each later phase collects episodes in which the agent plans
with what it has learned so far, some for its objective and some toward latents its ensemble disagrees about. After each
collection the world model takes its share of the gradient steps. Goals are learned in a few phases of many episodes,
control by reward in many phases of one or a few.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ... import ForethoughtError
from ..agent import Agent
from ..memory.sampler import SequenceSampler
from ..memory.store import EpisodeStore
from ..world_model.distance import PairwiseDistance
from .checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    numpy_state,
    optimizer_tensors,
    restore_module,
    restore_numpy,
    restore_optimizer,
    save_checkpoint,
)
from .evaluate import episode_seeds, is_held_out, run_arm, score
from .learner import Learner
from .metrics import WARNING_KEY, MetricsLogger, collapse_warning, latent_health
from .rollout import AgentPolicy, BehaviourPolicy, Environments, PlanStatistics, Policy, RandomPolicy, live_or_recall


class TrainingError(ForethoughtError):
    """Training options out of range, or a run that does not fit its folder."""


@dataclass
class TrainingOptions:
    """How much is collected, how, and how often the run is saved."""

    updates: int = 3000
    """Gradient steps in all, shared evenly by the phases."""
    initial_fraction: float = 0.5
    """Share of the decisions that phase 0 collects, before anything was learned."""
    rounds: int = 2
    """Further phases, in which the agent plans; 0 learns from random actions alone."""
    explore_fraction: float = 0.25
    """Share of the episodes of each round that seek the ensemble's disagreement instead of goals or reward."""
    noise: float = 0.3
    """Gaussian noise on planned actions while collecting, in units of the half-range of the actions."""
    plan_noise: float = 0.0
    """Further noise, in units of the spread that the search ended with: wide where it found no preference."""
    noise_beta: float = 0.0
    """Colour of either noise over an episode (power 1/f^beta): 0 white, 1 pink (Eberhard et al. 2023), 2 red."""
    switch_every: int = 15
    """Decisions after which an exploring episode turns to another goal; 0 keeps one goal per episode."""
    max_hold: int = 8
    """Random actions are held for 1 to this many decisions."""
    behaviour: bool = False
    """Collect the first phase with the policy that the environment brings for it, where random actions hardly touch
    what matters, instead of with random held actions."""
    episode_steps: int | None = None
    """Decisions per training episode; None takes the environment's own limit."""
    num_envs: int = 32
    """Episodes collected at once."""
    validation_episodes: int = 20
    """Episodes of each validation, with seeds of their own, that choose the best checkpoint; 0 skips them."""
    validate_every: int = 1
    """Phases between validations; the last phase is always validated."""
    checkpoint_every: int = 500
    """Updates between checkpoints."""
    log_every: int = 50
    """Updates between lines of the log."""

    def __post_init__(self) -> None:
        for name in ("updates", "max_hold", "num_envs", "checkpoint_every", "log_every", "validate_every"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("rounds", "validation_episodes", "noise", "plan_noise", "noise_beta", "switch_every"):
            if not getattr(self, name) >= 0:
                raise TrainingError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 < self.initial_fraction <= 1:
            raise TrainingError(f"initial_fraction must be in (0, 1], got {self.initial_fraction}")
        if not 0 <= self.explore_fraction <= 1:
            raise TrainingError(f"explore_fraction must be in [0, 1], got {self.explore_fraction}")
        if self.episode_steps is not None and self.episode_steps < 2:
            raise TrainingError(f"episode_steps must be at least 2, got {self.episode_steps}")


def first_policy_name(options: TrainingOptions) -> str:
    """What `first_policy` is called in logs and memories."""
    return "behaviour" if options.behaviour else "random"


def first_policy(environments: Environments, options: TrainingOptions) -> Policy:
    """What collects where nothing was learned yet."""
    if options.behaviour:
        return BehaviourPolicy(environments)
    return RandomPolicy(environments.env_spec, options.max_hold)


class Progress(Protocol):
    """Tells a person how far the run is."""

    def advance(self, stage: str, done: int, total: int, note: str = "") -> None:
        """`done` of `total` in `stage`."""
        ...

    def message(self, text: str) -> None:
        """One line that stays."""
        ...


class Silent:
    """Progress that nobody watches."""

    def advance(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""


@dataclass
class TrainState:
    """Where the run is; with weights, optimiser and generators, all that a checkpoint holds."""

    phase: int = 0
    collected: bool = False
    updates: int = 0
    decisions: int = 0
    episodes: list[int] = field(default_factory=list)
    adopted: int = 0
    best: list[float] = field(default_factory=list)
    finished: bool = False


FREE = (
    "config.threads ",
    "config.memory.path ",
    "config.memory.map_size ",
    "config.memory.sync ",
    "config.learner.cache_bytes ",
    "config.training.checkpoint_every ",
    "config.agent.compile ",
    "config.agent.fused ",
    "config.learner.compile ",
    "config.env_options.step_timeout_s ",
    "config.env_options.skill ",  # where it lies; the spec says which it is
)
"""What may differ when a run is resumed."""

AgentFactory = Callable[[str, torch.Generator], Agent]
"""Builds an agent on the present weights that is to `"plan"` for the objective of the run, or to `"explore"`."""


class Trainer:
    """One run.

    Args:
        learner: trains the world model.
        store: open for appending.
        environments: for collection, at least `options.num_envs` rows.
        validation: environments as they are evaluated, or None without validation.
        agents: builds agents on the present weights.
        options: see `TrainingOptions`.
        steps: decisions to collect in all.
        seed: of the run.
        run_dir: where checkpoints go.
        logger: metrics.
        progress: for a person.
        frames_per_decision: the action repeat, for the log.
        scales: whether the scales of observations follow what is collected; weights that were learned keep theirs.
        card: what `load_agent` needs beside the weights; saved in every checkpoint.
    """

    def __init__(
        self,
        learner: Learner,
        store: EpisodeStore,
        environments: Environments,
        validation: Environments | None,
        agents: AgentFactory,
        options: TrainingOptions,
        *,
        steps: int,
        seed: int,
        run_dir: Path,
        logger: MetricsLogger,
        progress: Progress,
        frames_per_decision: int,
        card: dict[str, Any],
        scales: bool = True,
    ) -> None:
        self.learner, self.model, self.store = learner, learner.model.eval(), store
        self.environments, self.validation, self.agents = environments, validation, agents
        self.options, self.steps, self.seed = options, steps, seed
        self.run_dir, self.logger, self.progress = run_dir, logger, progress
        self.frames_per_decision, self.card, self.scales = frames_per_decision, card, scales
        self.state = TrainState()
        self.rng = np.random.default_rng([seed, 0x5A])
        self.run_id = str(card["run_id"])
        self.stop = False
        spec = environments.env_spec
        achieved = spec.goal.achieved_key if spec.goal is not None and self.model.purpose == "goal" else None
        self.sampler = SequenceSampler(
            store, spec, learner.options.window,
            num_goals=learner.options.goals_per_window if isinstance(self.model.time_to_goal, PairwiseDistance) else 0,
            goal_power=learner.options.goal_power, episode_ids=[], cache_bytes=learner.options.cache_bytes,
            focus=achieved or "rewards", focus_share=learner.options.focus_share,
            where=None if achieved is None else [achieved], even_share=learner.options.even_share,
        )  # fmt: skip

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Train to the end, or until `stop` is set; returns whether the end was reached."""
        while self.state.phase <= self.options.rounds and not self.state.finished:
            if not self.state.collected and not self._collect():
                return False
            if not self._fit():
                return False
            self._validate()
            self.state.phase += 1
            self.state.collected = False
            self.state.finished = self.state.phase > self.options.rounds
            self.save("last")
        return True

    def adopt(self) -> None:
        """Before a new run: learn also from every episode of the same environment that the memory already holds."""
        known = self.store.ids(spec=self.environments.env_spec).tolist()
        self.state.episodes = [i for i in known if not is_held_out(self.store.info(i)["meta"].get("seed"))]
        self.state.adopted = len(known)
        others, held_out = len(self.store) - len(known), len(known) - len(self.state.episodes)
        if self.state.episodes:
            self.model.calibrate(self.store, self.state.episodes, self.scales)
            self.progress.message(f"learning also from {len(self.state.episodes)} episodes already in the memory")
        if held_out:
            self.progress.message(f"not learning from {held_out} episodes in the memory that evaluations remembered")
        if others:
            self.progress.message(
                f"not learning from {others} episodes in the memory: their environment, observations, actions, goals "
                f"or seconds per decision are not those of {self.environments.env_spec.env_id}"
            )
        window, longest = self.learner.options.window, self.environments.env_spec.max_episode_steps
        if window > max([longest, *self.store.lengths(self.state.episodes).tolist()]):
            raise TrainingError(f"learner.window must be at most the length of an episode, {longest}, got {window}")

    # -- collection ---------------------------------------------------------------------------------------------------

    def _budgets(self, phase: int) -> list[tuple[str, int]]:
        """What a phase collects: `(policy, decisions of the run when it has collected that)`."""
        options, length = self.options, self.environments.env_spec.max_episode_steps
        first = self.steps * (options.initial_fraction if options.rounds else 1.0)
        ends = np.linspace(first, self.steps, options.rounds + 1).round().astype(int)
        if phase == 0:
            return [(first_policy_name(options), int(ends[0]))]
        before, end = int(ends[phase - 1]), int(ends[phase])
        # Whole episodes of the share of all since the first phase, so that parts of an episode add up over the phases.
        share = options.explore_fraction if self.model.members > 1 else 0.0
        since, until = (math.floor(share * (x - int(ends[0])) / length + 1e-9) for x in (before, end))
        exploring = until - since
        return [("explore", before + exploring * length), ("plan", end)]

    def _collect(self) -> bool:
        phase, began, lived, first = self.state.phase, perf_counter(), 0, 0
        length = self.environments.env_spec.max_episode_steps
        before = self.state.decisions
        collected, ids, planned = before, list[int](), list[int]()
        plans = PlanStatistics()
        for kind, end in self._budgets(phase):
            # Episodes may end early: there are more of them then.
            while collected < end:
                if self.stop:
                    return False
                count = min(self.options.num_envs, math.ceil((end - collected) / length))
                wave, new = self._wave(kind, phase, first, count, plans)
                decisions = int(self.store.lengths(wave).sum())
                first, collected, lived = first + count, collected + decisions, lived + decisions * new
                ids += wave
                planned += wave if kind == "plan" else []
                self.progress.advance("collect", min(collected, self.steps), self.steps, kind)
        self.state.episodes += ids
        self.state.decisions = collected
        self.state.collected = True
        self.model.calibrate(self.store, ids, self.scales)
        seconds = perf_counter() - began
        outcome = {"collect/episodes": len(ids), "speed/decisions_per_s": lived / seconds, **plans.summary()}
        known = self.store.kept(planned).tolist()  # of a bounded memory
        if known:  # read from the memory, so that a resumed collection logs the same
            infos = [self.store.info(i) for i in known]
            if self.environments.env_spec.goal is not None:
                outcome["episode/success"] = float(np.mean([info["success"] for info in infos]))
            outcome["episode/return"] = float(np.mean([info["total_reward"] for info in infos]))
            outcome["episode/length"] = (collected - before) / len(ids)
        self._log("collect", outcome)
        self.save("last")
        return True

    def _wave(self, kind: str, phase: int, first: int, count: int, plans: PlanStatistics) -> tuple[list[int], bool]:
        """Episodes `first` to `first + count - 1` of a phase, and whether they were lived through now."""

        def policy() -> Policy:
            made = self._policy(kind, phase, first)
            if kind == "plan" and isinstance(made, AgentPolicy):
                made.statistics = plans
            return made

        keys = [f"{self.run_id}/{phase}/{first + i}" for i in range(count)]
        # What the memory held before may be from a run with this very seed: those are other episodes.
        seeds = episode_seeds("train", self.seed, phase * 1_000_000 + self.state.adopted + first, count)
        meta = {"policy": kind, "phase": phase, "run": self.run_id}
        return live_or_recall(self.store, self.environments, policy, seeds, keys, meta)

    def _policy(self, kind: str, phase: int, first: int) -> Policy:
        if phase == 0:
            return first_policy(self.environments, self.options)
        generator = torch.Generator(self.learner.device).manual_seed(_mix(self.seed, phase, first))
        agent, options = self.agents(kind, generator), self.options
        return AgentPolicy(agent, options.noise, options.switch_every, options.plan_noise, options.noise_beta)

    # -- learning -----------------------------------------------------------------------------------------------------

    def _fit(self) -> bool:
        self.sampler.refresh(self.state.episodes)
        bounds = np.linspace(0, self.options.updates, self.options.rounds + 2).round().astype(int)
        end, total = int(bounds[self.state.phase + 1]), self.options.updates
        began, first = perf_counter(), self.state.updates
        while self.state.updates < end:
            batch = self.sampler.sample(self.learner.options.batch_size, self.rng).to(self.learner.device)
            metrics = self.learner.update(batch)
            self.state.updates += 1
            done = self.state.updates
            if done % self.options.log_every == 0 or done == end:
                values = {name: float(value) for name, value in metrics.items()}
                values["speed/updates_per_s"] = (done - first) / (perf_counter() - began)
                self._log("train", values | self._health(batch))
                self.progress.advance("train", done, total, f"prediction {values.get('loss/prediction', 0.0):.4f}")
            if done % self.options.checkpoint_every == 0 or done == end or self.stop:
                self.save("last")
            if self.stop:
                return False
        return True

    @torch.no_grad()
    def _health(self, batch: Any) -> dict[str, float]:
        z = self.model.encode_sequence(batch.obs, batch.actions).flatten(0, 1)
        learned = z[:, self.model.measured_dim :]  # what is measured cannot collapse, and would hide what does
        if not learned.shape[1]:
            return latent_health(z)
        health = latent_health(learned)
        warning = collapse_warning(health, learned.shape[1])
        if warning:
            self.progress.message(f"update {self.state.updates}: {warning}")
            self._log("train", {WARNING_KEY: warning})
        return health

    def _validate(self) -> None:
        if self.validation is None or not self.options.validation_episodes:
            self.save("best")
            return
        if self.state.phase < self.options.rounds and (self.state.phase + 1) % self.options.validate_every:
            return
        count = self.options.validation_episodes
        generator = torch.Generator(self.learner.device).manual_seed(_mix(self.seed, self.state.phase, -1))
        policy = AgentPolicy(self.agents("plan", generator))
        seeds = episode_seeds("validation", self.seed, 0, count)
        for_goals = self.model.purpose == "goal"
        result = score(run_arm(self.validation, policy, seeds, stop_on_success=for_goals))
        metrics = {"validation/return": result["return_mean"], **policy.statistics.summary()}
        mark, note = [result["return_mean"]], f"return {result['return_mean']:.1f}"
        if for_goals:
            steps, longest = result["steps_to_goal"], self.environments.env_spec.max_episode_steps
            mark = [result["success_rate"], -float(longest) if steps["mean"] is None else -steps["mean"]]
            metrics["validation/success"] = mark[0]
            note = f"{mark[0]:.0%} success"
            if steps["mean"] is not None:
                metrics["validation/steps_to_goal"] = steps["mean"]
                note += f", median {steps['median']:.0f} steps"
        if not self.state.best or mark >= self.state.best:
            self.state.best = mark
            self.save("best")
        self._log("validation", metrics)
        self.progress.message(f"phase {self.state.phase}: {note}, {count} validation episodes")

    # -- saving and resuming ------------------------------------------------------------------------------------------

    def save(self, name: str) -> None:
        """Write `<name>.safetensors`: `last` can be resumed, `best` holds weights only."""
        tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        state: dict[str, Any] = {"card": self.card, "decisions": self.state.decisions, "updates": self.state.updates}
        if name == "last":
            tensors |= {f"optimizer.{k}": v for k, v in optimizer_tensors(self.learner.optimizer).items()}
            if self.learner.target is not None:
                tensors |= {f"target.{k}": v for k, v in self.learner.target.state_dict().items()}
            tensors["generator.learner"] = self.learner.generator.get_state()
            state["train"] = {**vars(self.state), "episodes": _ranges(self.state.episodes)}
            state |= {"rng": numpy_state(self.rng), "store_id": self.store.store_id, "log_lines": self.logger.lines}
        save_checkpoint(self.run_dir / f"{name}.safetensors", tensors, state)

    def resume(self) -> None:
        """Continue from `last.safetensors`.

        Raises:
            CheckpointError: it is damaged, holds weights only, or belongs to another run or shape.
            TrainingError: the options are not those of the run, or the memory is not the one it has learned from.
        """
        path = self.run_dir / "last.safetensors"
        checkpoint: Checkpoint = load_checkpoint(path)
        card = checkpoint.state.get("card")
        if not isinstance(card, dict) or card.get("run_id") != self.run_id:
            raise CheckpointError(f"{path} belongs to another run than {self.run_dir / 'run.json'}")
        changes = [c for c in _differences(card, json.loads(json.dumps(self.card))) if not c.startswith(FREE)]
        changes = [c.removeprefix("config.") for c in changes]
        if changes:
            raise TrainingError(
                f"a run goes on with the options it began with, but {'; '.join(changes[:3])}"
                f"{f' and {len(changes) - 3} more' if len(changes) > 3 else ''}; choose another out= for a new run"
            )
        try:
            self._restore(checkpoint, path)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path} cannot be resumed, it lacks or garbles {error}") from error

    def _restore(self, checkpoint: Checkpoint, path: Path) -> None:
        restore_module(self.model, checkpoint.under("model"), path)
        restore_optimizer(self.learner.optimizer, checkpoint.under("optimizer"))
        if self.learner.target is not None:
            restore_module(self.learner.target, checkpoint.under("target"), path)
        self.learner.generator.set_state(checkpoint.tensors["generator.learner"].cpu())
        restore_numpy(self.rng, checkpoint.state["rng"])
        saved = checkpoint.state["train"]
        episodes = [i for first, last in saved["episodes"] for i in range(first, last + 1)]
        if checkpoint.state["store_id"] != self.store.store_id or any(i >= self.store.next_id for i in episodes):
            raise TrainingError(f"{self.store.path} is not the memory that {path} has learned from, or lacks episodes")
        self.state = TrainState(**{**saved, "episodes": episodes})
        self.learner.updates = self.state.updates
        self.logger.truncate(checkpoint.state["log_lines"])

    def _log(self, phase: str, metrics: dict[str, Any]) -> None:
        frames = self.state.decisions * self.frames_per_decision
        self.logger.log(phase, metrics, update=self.state.updates, decisions=self.state.decisions, frames=frames)


def _differences(before: Any, now: Any, key: str = "") -> list[str]:
    """What changed between two JSON values, one sentence each."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys(["name", *before, *now])  # which planner it is says more than its options
        return [d for k in keys for d in _differences(before.get(k), now.get(k), f"{key}.{k}" if key else k)]
    return [] if before == now else [f"{key} was {before} and is {now}"]


def _mix(*parts: int) -> int:
    """One 63-bit seed from several numbers."""
    return int(np.random.SeedSequence([p % 2**32 for p in parts]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _ranges(ids: Sequence[int]) -> list[list[int]]:
    """Consecutive runs of ids as `[first, last]`, so that a checkpoint of a long run stays small."""
    ranges: list[list[int]] = []
    for i in ids:
        if ranges and i == ranges[-1][1] + 1:
            ranges[-1][1] = i
        else:
            ranges.append([i, i])
    return ranges
