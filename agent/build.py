"""From configuration to objects: the one place that picks classes, and the three jobs made of them."""

import dataclasses
import json
import math
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from .. import ForethoughtError
from ..configs.schema import Config, EvalConfig
from ..envs.rendering import RenderingUnavailable
from ..envs.simulator import make_simulator
from ..envs.spec import EnvError, EnvOptions, EnvSpec
from ..envs.vector import VectorEnv, make_vector
from ..planners import PLANNERS, Planner, make_planner
from . import provenance
from .agent import Agent, AgentOptions
from .files import read_json, write_bytes, write_json
from .memory.store import EpisodeStore
from .objectives import DisagreementObjective, GoalObjective, GoalOptions, Objective
from .report.html import write_report
from .report.video import write_video
from .training.checkpoint import load_checkpoint, restore_module
from .training.evaluate import EvaluationOptions, decision_time, diagnose, episode_seeds, film, run_arm, score
from .training.learner import Learner
from .training.loop import Progress, Trainer
from .training.metrics import MetricsLogger
from .training.rollout import AgentPolicy, Array, Policy, RandomPolicy, SimulatorPolicy, run_episodes
from .world_model.model import WorldModel, WorldModelOptions


class RunError(ForethoughtError):
    """A run folder that cannot be used as asked."""


class Silent:
    """Progress that nobody watches."""

    def advance(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""


def build_planner(options: Any, spec: EnvSpec, device: str) -> Planner[Any]:
    """The planner that a composed `planner` group describes; its bounds are those of the environment."""
    low, high = (torch.tensor(bound, device=device) for bound in (spec.action_low, spec.action_high))
    return make_planner(options.name, low, high, options)


def build_objective(options: Any) -> Objective:
    """The objective that a composed `objective` group describes."""
    return GoalObjective(options)


def load_agent(
    run: str | Path,
    checkpoint: str = "best",
    *,
    planner: Any = None,
    objective: Any = None,
    options: AgentOptions | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> Agent:
    """A trained agent from its run folder.

    Args:
        run: run folder.
        checkpoint: `best` or `last`.
        planner: options of another planner than the run's (with its `name`), e.g. from `forethought.configs`.
        objective: other options of the objective.
        options: other options of the agent.
        device: where it computes.
        seed: of the planner's random draws.

    Raises:
        CheckpointError: no checkpoint, a damaged one, or one that does not fit its own description.
    """
    path = Path(run) / f"{checkpoint}.safetensors"
    saved = load_checkpoint(path, device)
    card = saved.state["card"]
    spec = EnvSpec.from_json(card["spec"])
    world_model = {**card["config"]["world_model"], "channels": tuple(card["config"]["world_model"]["channels"])}
    model = WorldModel(spec, WorldModelOptions(**world_model)).to(device)
    restore_module(model, saved.under("model"), path)
    model.eval()
    named = card["config"]["planner"]
    if planner is None:
        low, high = (torch.tensor(bound, device=device) for bound in (spec.action_low, spec.action_high))
        planner_ = make_planner(named["name"], low, high, **{k: v for k, v in named.items() if k != "name"})
    else:
        planner_ = build_planner(planner, spec, device)
    if objective is None:
        objective = objective_options(card["config"]["objective"])
    agent_options = options or AgentOptions(**card["config"]["agent"])
    generator = torch.Generator(device).manual_seed(seed)
    return Agent(model, planner_, build_objective(objective), agent_options, generator)


def objective_options(saved: dict[str, Any]) -> GoalOptions:
    """Objective options from their JSON form."""
    risk = type(GoalOptions().risk)(**saved["risk"])
    return GoalOptions(**{k: v for k, v in saved.items() if k not in ("name", "risk")}, risk=risk)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# -- training ---------------------------------------------------------------------------------------------------------


def train(config: Config, progress: Progress | None = None, command: str | None = None) -> Path:
    """Train a run, or continue the one in `config.out`; returns the run folder.

    Raises:
        ForethoughtError: anything that is wrong with configuration, environment, folder or memory, said in its message.
    """
    progress = progress or Silent()
    run_dir = Path(config.out).expanduser()
    with _threads(config.threads), _environments(config, run_dir) as (environments, validation):
        last = run_dir / "last.safetensors"
        if last.exists() and config.resume != "auto":
            raise RunError(f"out={run_dir} already holds a run; resume=auto continues it")
        _start_folder(run_dir, config, command)
        card = {
            "run_id": read_json(run_dir / "run.json")["run_id"],
            "spec": validation.env_spec.to_json(),
            "config": _training_config(config),
        }
        memory = Path(config.memory.path) if config.memory.path else run_dir / "memory"
        logger = MetricsLogger(run_dir)
        with EpisodeStore.open(memory, "a", environments.env_spec, config.memory) as store:
            trainer = _trainer(config, environments, validation, store, run_dir, logger, progress, card)
            if last.exists():
                trainer.resume()
                progress.message(f"resumed at update {trainer.state.updates}, {trainer.state.decisions} decisions")
            with _interruptible(trainer, progress):
                finished = trainer.run()
        logger.close()
    progress.message(f"{'trained' if finished else 'stopped and saved'}: {run_dir}")
    return run_dir


def _trainer(
    config: Config,
    environments: VectorEnv,
    validation: VectorEnv,
    store: EpisodeStore,
    run_dir: Path,
    logger: MetricsLogger,
    progress: Progress,
    card: dict[str, Any],
) -> Trainer:
    spec = validation.env_spec
    if spec.goal is None:
        raise RunError(f"objective=goal needs an environment with goals, but {config.env} has none")
    model = WorldModel(spec, config.world_model, generator_seed=config.seed).to(config.device)
    generator = torch.Generator(config.device).manual_seed(config.seed)
    learner = Learner(model, config.learner, config.training.updates, generator)
    planner = build_planner(config.planner, spec, config.device)
    objectives: dict[str, Objective] = {"goal": build_objective(config.objective), "explore": DisagreementObjective()}

    def agents(kind: str, generator: torch.Generator) -> Agent:
        return Agent(model, planner, objectives[kind], config.agent, generator)

    return Trainer(
        learner, store, environments, validation, agents, config.training,
        steps=config.steps, seed=config.seed, run_dir=run_dir, logger=logger, progress=progress,
        frames_per_decision=config.env_options.action_repeat, card=card,
    )  # fmt: skip


@contextmanager
def _environments(config: Config, run_dir: Path) -> Iterator[tuple[VectorEnv, VectorEnv]]:
    """Environments for collection (episodes of `training.episode_steps`) and for validation."""
    options = config.env_options
    longer = dataclasses.replace(options, max_episode_steps=config.training.episode_steps or options.max_episode_steps)
    count = max(config.training.validation_episodes, 1)
    environments = make_vector(config.env, config.training.num_envs, longer)
    validation = make_vector(config.env, min(count, 50), options)
    try:
        yield environments, validation
    finally:
        environments.close()
        validation.close()


@contextmanager
def _interruptible(trainer: Trainer, progress: Progress) -> Iterator[None]:
    """Ctrl-C once saves and stops at the next update or wave; twice quits."""
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: object) -> None:
        if trainer.stop:
            raise KeyboardInterrupt
        trainer.stop = True
        progress.message("stopping after this step and saving; Ctrl-C again quits at once")

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _training_config(config: Config) -> dict[str, Any]:
    """The configuration as JSON values, without what may differ when a run is resumed."""
    data = json.loads(json.dumps(dataclasses.asdict(config)))
    for key in ("out", "resume", "defaults"):
        data.pop(key)
    return dict(data)


def _start_folder(run_dir: Path, config: Config, command: str | None) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"out={run_dir} cannot be made: {error.strerror}") from error
    if (run_dir / "run.json").exists():
        return
    from omegaconf import OmegaConf

    text = OmegaConf.to_yaml(OmegaConf.create({**_training_config(config), "out": str(run_dir)}))
    write_bytes(run_dir / "config.yaml", text.encode())
    write_json(
        run_dir / "run.json",
        {
            "run_id": uuid.uuid4().hex,
            "command": command or provenance.command(),
            "commit": provenance.commit(),
            "versions": provenance.versions(),
            "machine": provenance.machine(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def collect(config: Config, progress: Progress | None = None) -> tuple[Path, int, int]:
    """Fill a memory with episodes of random held actions; an interrupted collection goes on where it was.

    Returns:
        the folder of the memory, its episodes, and its transitions.
    """
    progress = progress or Silent()
    folder = Path(config.memory.path or Path(config.out) / "memory").expanduser()
    options = dataclasses.replace(
        config.env_options, max_episode_steps=config.training.episode_steps or config.env_options.max_episode_steps
    )
    environments = make_vector(config.env, config.training.num_envs, options)
    try:
        spec = environments.env_spec
        total = max(1, round(config.steps / spec.max_episode_steps))
        seeds = episode_seeds("train", config.seed, 0, total)
        keys = [f"collect/{config.env}/{config.seed}/{i}" for i in range(total)]
        folder.mkdir(parents=True, exist_ok=True)
        with EpisodeStore.open(folder, "a", spec, config.memory) as store:
            for first in range(0, total, config.training.num_envs):
                wave = slice(first, first + config.training.num_envs)
                if any(store.find(key) is None for key in keys[wave]):
                    policy = RandomPolicy(spec, config.training.max_hold)
                    episodes = run_episodes(environments, policy, seeds[wave], meta={"policy": "random"})
                    store.append_many(episodes, keys[wave])
                progress.advance("collect", min(wave.stop, total), total)
            return folder, len(store), store.num_transitions
    finally:
        environments.close()


# -- evaluation -------------------------------------------------------------------------------------------------------


def evaluate(config: EvalConfig, progress: Progress | None = None, command: str | None = None) -> dict[str, Any]:
    """Evaluate a run on held-out episodes; writes eval.json, diagnostics.json, rollout.mp4 and report.html into it.

    Returns:
        the content of eval.json.
    """
    progress = progress or Silent()
    run_dir, options = Path(config.run).expanduser(), config.evaluation
    if not run_dir.is_dir():
        raise RunError(f"run={run_dir} is not a folder")
    with _threads(config.threads):
        agent = load_agent(
            run_dir, config.checkpoint, planner=config.planner, objective=config.objective, options=config.agent,
            device=config.device, seed=options.seed,
        )  # fmt: skip
        saved = read_card(run_dir, config.checkpoint)["config"]
        env_options = EnvOptions(**saved["env_options"])
        seeds = episode_seeds("test", options.seed, 0, options.episodes)
        environments = make_vector(saved["env"], min(options.num_envs, options.episodes), env_options)
        try:
            result = _measure(agent, environments, env_options, options, seeds, run_dir, progress)
        finally:
            environments.close()
    result |= {
        "env": saved["env"],
        "objective": saved["objective"]["name"],
        "planner": dataclasses.asdict(config.planner),
        "seed": options.seed,
        "seeds": seeds,
        "checkpoint": config.checkpoint,
        "command": command or provenance.command(),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(run_dir / "eval.json", result)
    write_report(run_dir)
    progress.message(f"report: {run_dir / 'report.html'}")
    return result


def read_card(run_dir: Path, checkpoint: str) -> dict[str, Any]:
    """What a checkpoint says of itself: run id, environment spec, configuration."""
    card: dict[str, Any] = load_checkpoint(run_dir / f"{checkpoint}.safetensors").state["card"]
    return card


def overrides_of_run(saved: dict[str, Any], given: dict[str, str]) -> list[str]:
    """What an evaluation takes over from the configuration of its run, as overrides that come before the user's.

    Args:
        saved: `config` of the run's card.
        given: the user's overrides; a group that they choose anew is not taken over.
    """
    overrides: list[str] = []

    def walk(prefix: str, values: dict[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                walk(f"{prefix}.{key}", value)
            elif key != "name":
                overrides.append(f"{prefix}.{key}={'null' if value is None else value}")

    for group in ("planner", "objective"):
        if group not in given:
            overrides.append(f"{group}={saved[group]['name']}")
            walk(group, saved[group])
    walk("agent", saved["agent"])
    return overrides


def _measure(
    agent: Agent,
    environments: VectorEnv,
    env_options: EnvOptions,
    options: EvaluationOptions,
    seeds: list[int],
    run_dir: Path,
    progress: Progress,
) -> dict[str, Any]:
    def arm(name: str, policy: Policy, stop_on_success: bool = True) -> tuple[dict[str, Any], list[Any]]:
        began = perf_counter()
        episodes = run_arm(
            environments, policy, seeds, lambda done: progress.advance(f"evaluate {name}", done, len(seeds)),
            stop_on_success,
        )  # fmt: skip
        return score(episodes) | {"seconds": round(perf_counter() - began, 2)}, episodes

    policy = AgentPolicy(agent)
    result, episodes = arm("planner", policy)
    result["plan"] = policy.statistics.summary()
    result["random"], held_out = None, episodes
    if options.random:
        # Whole episodes, not cut at the first success: these also show how far the model can be trusted.
        result["random"], held_out = arm("random", RandomPolicy(agent.model.spec), stop_on_success=False)
    result["arms"] = {}
    if options.latent_l2:
        objective = GoalObjective(GoalOptions(cost="latent_l2"))
        other = Agent(agent.model, agent.planner, objective, agent.options, agent.generator)
        result["arms"]["latent_l2"], _ = arm("latent L2", AgentPolicy(other))
    result |= _true_dynamics(agent, environments, env_options, options, arm)
    result |= _timed(agent, environments, env_options, options, seeds, run_dir)
    write_json(run_dir / "diagnostics.json", _finite(diagnose(agent, held_out)))
    return result


def _true_dynamics(
    agent: Agent, environments: VectorEnv, env_options: EnvOptions, options: EvaluationOptions, arm: Any
) -> dict[str, Any]:
    if not options.true_dynamics:
        return {"true_dynamics": None, "reason_true_dynamics": "evaluation.true_dynamics=false"}
    spec = agent.model.spec
    try:
        simulator = make_simulator(spec.env_id, env_options)
    except EnvError as error:
        return {"true_dynamics": None, "reason_true_dynamics": str(error)}
    budget = PLANNERS["icem"].options(
        horizon=options.true_horizon, num_samples=options.true_samples, iterations=options.true_iterations
    )
    low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
    planner = make_planner("icem", low, high, budget)
    generator = torch.Generator().manual_seed(options.seed)
    policy = SimulatorPolicy(simulator.costs, planner, environments, generator)
    scores, _ = arm("true dynamics", policy)
    return {"true_dynamics": scores, "reason_true_dynamics": None}


def _timed(
    agent: Agent,
    environments: VectorEnv,
    env_options: EnvOptions,
    options: EvaluationOptions,
    seeds: list[int],
    run_dir: Path,
) -> dict[str, Any]:
    """Decision times at batch size 1, and the video of these episodes."""
    single = make_vector(agent.model.spec.env_id, 1, env_options)
    frames: list[Array] | None = None
    reason: str | None = "evaluation.video=false"
    if options.video:
        try:
            single.reset(seeds[:1])
            single.render(0)
            frames, reason = [], None
        except (RenderingUnavailable, EnvError) as error:
            reason = str(error)
    policy = AgentPolicy(agent)
    try:
        film(single, policy, seeds[: options.timed_episodes], frames)
    finally:
        single.close()
    video = None
    if frames:
        dt = agent.model.spec.control_dt
        write_video(run_dir / "rollout.mp4", frames, fps=1 / dt if math.isfinite(dt) else 30)
        video = "rollout.mp4"
    times = decision_time(policy.statistics.milliseconds)
    return {"decision_ms": times, "video": video, "video_reason": reason}


def _finite(data: Any) -> Any:
    """JSON has no NaN: numbers that are not finite become null."""
    if isinstance(data, dict):
        return {k: _finite(v) for k, v in data.items()}
    if isinstance(data, list):
        return [_finite(v) for v in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
