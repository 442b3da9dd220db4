"""From configuration to objects: the one place that picks classes, and the three jobs made of them."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from .. import ForethoughtError, UnknownNameError
from ..configs.schema import BenchConfig, Config, DriveConfig, EvalConfig, EvalEnvOptions
from ..envs.goal_files import goal_picture, read_goal, write_goal
from ..envs.pixels import resize
from ..envs.planning import PLANNING_TASKS
from ..envs.realtime import Clock, RealTime
from ..envs.registry import make_env
from ..envs.simulator import make_simulator
from ..envs.spec import EnvError, EnvOptions, EnvSpec
from ..envs.vector import VectorEnv, make_vector
from ..planners import ICEMOptions, Planner, make_planner
from ..planners.risk import RiskOptions
from . import provenance
from .agent import Agent, AgentOptions
from .bench.analytic import ANALYTIC_TASKS
from .bench.arena import Arena, BenchError, Simulation, TrueDynamics
from .bench.budget import contender
from .bench.film import film as film_planners
from .bench.learned import LearnedModel
from .bench.results import markdown, refused_lines, summarise
from .bench.runner import run as run_bench
from .compilation import worth_compiling
from .configurator import Configurator, ConfiguratorOptions
from .export import write_export
from .files import read_json, write_bytes, write_json
from .guides import Guide, MacroGuide
from .limits import ActionLimits
from .memory.graph import open_graph, save_graph
from .memory.index import MomentIndex, open_index
from .memory.store import Episode, EpisodeStore, MemoryOptions
from .objectives import (
    OBJECTIVES,
    DisagreementObjective,
    GoalObjective,
    GoalOptions,
    Objective,
    RewardObjective,
    RewardOptions,
)
from .realtime import Drive, Driver, usual_error
from .report.comparison import write_comparison
from .report.html import write_report
from .report.run_log import RunLog
from .report.video import VideoError, side_by_side, write_video
from .thinking import Mind, ThinkingProcess
from .training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, restore_module
from .training.evaluate import (
    EvaluationOptions,
    decision_time,
    diagnose,
    distances_to_goal,
    episode_seeds,
    film,
    prediction_error,
    run_arm,
    score,
    success_interval,
)
from .training.learner import Learner
from .training.loop import Progress, Trainer, TrainingOptions
from .training.metrics import MetricsLogger
from .training.rollout import AgentPolicy, Array, Policy, RandomPolicy, SimulatorPolicy, live_or_recall
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
    return RewardObjective(options) if isinstance(options, RewardOptions) else GoalObjective(options)


def load_agent(
    run: str | Path,
    checkpoint: str = "best",
    *,
    planner: Any = None,
    objective: Any = None,
    options: AgentOptions | None = None,
    memory: EpisodeStore | str | Path | None = None,
    device: str = "cpu",
    seed: int = 0,
    limits: ActionLimits | None = None,
) -> Agent:
    """A trained agent from its run folder.

    In a loop of one's own, with one environment and therefore a batch of one:

        agent, env = load_agent("runs/reacher"), make_env("forethought/Reacher-v0")
        obs, info = env.reset(seed=0)
        carry, goal, done = agent.init(1), agent.embed_goal({k: v[None] for k, v in info["goal"].items()}), False
        while not done:
            action, carry, _ = agent.act({k: v[None] for k, v in obs.items()}, carry, goal)
            obs, _, terminated, truncated, info = env.step(action[0].numpy())
            done = terminated or truncated or info["success"]

    Args:
        run: run folder.
        checkpoint: `best` or `last`.
        planner: options of another planner than the run's (with its `name`), e.g. from `forethought.configs`.
        objective: other options of the objective.
        options: other options of the agent.
        memory: a store, or its folder, whose episodes the agent goes by where `agent.configurator.mode` is not `plan`
            or `agent.retrieval.seeds` not 0; None takes the one it was trained with.
        device: where it computes.
        seed: of the planner's random draws.
        limits: of how fast actions change; None for those of the environment that it was trained in.

    Raises:
        RunError: there is no such run, or no such device, or the run has no goals and is to go by its memory.
        StoreError: there is no such memory.
        CheckpointError: no checkpoint, a damaged one, or one that does not fit its own description.
    """
    _check_device(device)
    path, saved = _open_checkpoint(Path(run).expanduser(), checkpoint, device)
    try:
        card = saved.state["card"]
        config = card["config"]
        spec = EnvSpec.from_json(card["spec"])
        world_model = {**config["world_model"], "channels": tuple(config["world_model"]["channels"])}
        purpose = config["objective"]["name"]
        model = WorldModel(spec, WorldModelOptions(**world_model), purpose=purpose).to(device)
        named = dict(config["planner"])
        objective = objective or objective_options(config["objective"])
        options = options or AgentOptions.from_json(config["agent"])
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} was made by another version of forethought: {error!r}") from error
    restore_module(model, saved.under("model"), path)
    model.eval()
    if planner is None:
        low, high = (torch.tensor(bound, device=device) for bound in (spec.action_low, spec.action_high))
        planner_ = make_planner(named.pop("name"), low, high, **named)
    else:
        planner_ = build_planner(planner, spec, device)
    generator = torch.Generator(device).manual_seed(seed)
    if memory is None:
        memory = Path(config["memory"]["path"] or Path(run).expanduser() / "memory").expanduser()
    guide = build_guide(model, options, generator, partial(build_configurator, model, memory, options))
    index = build_index(model, memory, options) if options.retrieval.seeds else None
    agent = Agent(model, planner_, build_objective(objective), options, generator, guide, index, limits)
    if options.deadline_s is not None:
        agent.warm_up()
    return agent


def load_alone(run: str | Path, checkpoint: str = "best") -> Agent:
    """As `load_agent`, an agent with the options of its run that goes by no memory."""
    options = AgentOptions.from_json(read_card(Path(run).expanduser(), checkpoint)["config"]["agent"])
    configurator = dataclasses.replace(options.configurator, mode="plan")
    retrieval = dataclasses.replace(options.retrieval, seeds=0)
    options = dataclasses.replace(
        options, configurator=configurator, retrieval=retrieval, compile="never", deadline_s=None
    )
    return load_agent(run, checkpoint, options=options)


def build_guide(
    model: WorldModel, options: AgentOptions, generator: torch.Generator, landmarks: Callable[[], Configurator]
) -> Guide[Any] | None:
    """What sets sub-goals: landmarks or macro-actions; None where plans are for the goal itself.

    Args:
        model: made for goals.
        options: of the agent.
        generator: that of the agent.
        landmarks: opens those in its memory; called only if it goes by them.

    Raises:
        RunError: the model was not made for what the mode needs.
        GuideError: it has no macro-actions.
        StoreError: there is no such memory.
    """
    mode = options.configurator.mode
    modes = ("plan", "auto", "memory", "explore") if model.purpose == "goal" else ("plan", "auto", "react")
    if mode not in modes:
        raise RunError(
            f"agent.configurator.mode must be one of {', '.join(modes)} with objective={model.purpose}, got {mode!r}"
        )
    if mode != "plan" and model.purpose != "goal" and options.configurator.guide == "macro":
        raise RunError("agent.configurator.guide=macro needs a run with objective=goal, got objective=reward")
    if mode == "plan" or model.purpose != "goal":
        return None
    if options.configurator.guide == "macro":
        return MacroGuide(model, options.macro, options.graph.reach, generator)
    return landmarks()


@contextmanager
def _opened(memory: EpisodeStore | str | Path) -> Iterator[EpisodeStore]:
    """A store as it is, or that of a folder for as long as it is read."""
    if isinstance(memory, EpisodeStore):
        yield memory
    else:
        with EpisodeStore.open(memory) as store:
            yield store


def build_configurator(model: WorldModel, memory: EpisodeStore | str | Path, options: AgentOptions) -> Configurator:
    """What chooses the way by landmarks in a memory: those kept there, and those of all episodes since.

    Raises:
        StoreError: there is no such memory.
    """
    with _opened(memory) as store:
        return Configurator(open_graph(model, store, options.graph), options.configurator)


def build_index(
    model: WorldModel, memory: EpisodeStore | str | Path, options: AgentOptions, keep: bool = True
) -> MomentIndex:
    """The moments of a memory that `agent.retrieval` looks among; latents are kept there if it can be written.

    Raises:
        RunError: the model was made for rewards.
        StoreError: there is no such memory.
        RetrievalError: a library is missing.
    """
    _check_retrieval(options, model.purpose)
    with _opened(memory) as store:
        return open_index(model, store, options.retrieval, keep=keep)


def _check_retrieval(options: AgentOptions, purpose: str) -> None:
    if options.retrieval.seeds and purpose != "goal":
        raise RunError(
            f"agent.retrieval.seeds must be 0 with objective={purpose}: what was done in memory is judged by how near "
            f"it led to a goal; got {options.retrieval.seeds}"
        )


def _open_checkpoint(run_dir: Path, name: str, device: str = "cpu") -> tuple[Path, Checkpoint]:
    if name not in ("best", "last"):
        raise UnknownNameError("checkpoint", name, ("best", "last"))
    if not run_dir.is_dir():
        raise RunError(f"run={run_dir} must be the folder of a run, but there is none")
    path, last = run_dir / f"{name}.safetensors", run_dir / "last.safetensors"
    if not path.exists() and last.exists():
        raise RunError(f"{run_dir} has no {path.name} yet: let it train on, or take checkpoint=last")
    return path, load_checkpoint(path, device)


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"device must be one that PyTorch can use here, such as cpu, got {device!r}: {reason}") from None


def objective_options(saved: dict[str, Any]) -> GoalOptions | RewardOptions:
    """Objective options from their JSON form."""
    values = {k: v for k, v in saved.items() if k not in ("name", "risk")}
    return OBJECTIVES[saved["name"]](**values, risk=RiskOptions(**saved["risk"]))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with `count` threads, and without denormal numbers, which make softmax many times slower."""
    before, flushed = torch.get_num_threads(), sys.float_info.min / 2 == 0.0
    torch.set_num_threads(count)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(flushed)


# -- training ---------------------------------------------------------------------------------------------------------


def _check_goals(config: Config, objective: GoalOptions, spec: EnvSpec) -> None:
    """Refuse a run for goals whose options do not fit each other."""
    if spec.goal is None:
        raise RunError(
            f"objective=goal needs an environment with goals, but {config.env} has none; objective=reward does not"
        )
    if config.agent.configurator.mode == "explore":
        raise RunError("agent.configurator.mode must not be explore in training, which explores in its own way")
    if config.learner.focus_share and spec.goal.kind != "achieved":
        raise RunError(
            f"learner.focus_share must be 0 with {config.env}, whose goals are whole observations: nothing says what "
            f"of them matters; got {config.learner.focus_share}"
        )
    quasimetric = config.world_model.distance == "quasimetric"
    judges = objective.members * (
        config.world_model.distance_members if quasimetric and objective.cost == "time_to_goal" else 1
    )
    if judges < 2 and objective.risk.kind != "mean":
        raise RunError(
            f"objective.risk.kind={objective.risk.kind} needs more than one opinion: objective.members or, with "
            f"world_model.distance=quasimetric, world_model.distance_members must be at least 2, got {judges}"
        )


def train(config: Config, progress: Progress | None = None, command: str | None = None) -> Path:
    """Train a run, or continue the one in `config.out`; returns the run folder.

    Raises:
        ForethoughtError: anything that is wrong with configuration, environment, folder or memory, said in its message.
        KeyboardInterrupt: stopped by Ctrl-C; the run is saved and can be resumed.
    """
    progress = progress or Silent()
    run_dir = Path(config.out).expanduser()
    last = run_dir / "last.safetensors"
    if last.exists() and config.resume != "auto":
        raise RunError(f"out={run_dir} already holds a run; resume=auto continues it")
    _check_device(config.device)
    with _threads(config.threads), _environments(config) as (environments, validation):
        members = config.objective.members
        if members > config.world_model.ensemble_size:
            raise RunError(
                f"objective.members must be at most world_model.ensemble_size={config.world_model.ensemble_size}, "
                f"got {members}"
            )
        _check_retrieval(config.agent, config.objective.name)
        if isinstance(config.objective, GoalOptions):
            _check_goals(config, config.objective, validation.env_spec)
        begin = None
        if not last.exists():
            if config.init is not None:
                begin = _weights_of(Path(config.init).expanduser(), config.device, validation.env_spec)
            _start_folder(run_dir, config, command)
        card = {
            "run_id": read_json(run_dir / "run.json")["run_id"],
            "spec": validation.env_spec.to_json(),
            "config": _training_config(config),
        }
        memory = Path(config.memory.path or run_dir / "memory").expanduser()
        with (
            EpisodeStore.open(memory, "a", environments.env_spec, config.memory) as store,
            MetricsLogger(run_dir) as logger,
        ):
            trainer = _trainer(config, environments, validation, store, run_dir, logger, progress, card)
            if last.exists():
                trainer.resume()
                progress.message(f"resumed at update {trainer.state.updates}, {trainer.state.decisions} decisions")
            else:
                logger.truncate(0)
                if begin is not None:
                    restore_module(trainer.model, begin.under("model"), Path(str(config.init)))
                    if trainer.learner.target is not None:
                        restore_module(trainer.learner.target.module, begin.under("model"), Path(str(config.init)))
                trainer.adopt()
                trainer.save("last")  # from now on the options of the run are settled
            wanted = (config.agent.compile, config.learner.compile)
            if any(worth_compiling(choice, torch.device(config.device)) for choice in wanted):
                progress.message("compiling what is used first, which takes up to a minute")
            with _interruptible(trainer, progress):
                finished = trainer.run()
    if not finished:
        progress.message(f"stopped and saved: {run_dir}; the same command with out={run_dir} goes on")
        raise KeyboardInterrupt
    progress.message(f"trained: {run_dir}")
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
    purpose = config.objective.name
    model = WorldModel(spec, config.world_model, generator_seed=config.seed, purpose=purpose).to(config.device)
    generator = torch.Generator(config.device).manual_seed(config.seed)
    learner = Learner(model, config.learner, config.training.updates, generator)
    planner = build_planner(config.planner, spec, config.device)
    objectives: dict[str, Objective] = {"plan": build_objective(config.objective), "explore": DisagreementObjective()}

    @functools.lru_cache(maxsize=1)
    def configurator(updates: int, episodes: int) -> Configurator:
        return build_configurator(model, store, config.agent)

    @functools.lru_cache(maxsize=1)
    def index(updates: int, episodes: int) -> MomentIndex:
        return build_index(model, store, config.agent, keep=False)  # the next one sees all with other eyes

    def agents(kind: str, generator: torch.Generator) -> Agent:
        guide, found = None, None
        if kind == "plan":
            landmarks = partial(configurator, learner.updates, store.next_id)
            guide = build_guide(model, config.agent, generator, landmarks)
            found = index(learner.updates, store.next_id) if config.agent.retrieval.seeds else None
        options = config.agent
        if kind != "plan":
            options = dataclasses.replace(options, configurator=ConfiguratorOptions())
        return Agent(model, planner, objectives[kind], options, generator, guide, found)

    return Trainer(
        learner, store, environments, validation, agents, config.training,
        steps=config.steps, seed=config.seed, run_dir=run_dir, logger=logger, progress=progress,
        frames_per_decision=config.env_options.action_repeat, card=card, scales=config.init is None,
    )  # fmt: skip


def _weights_of(run_dir: Path, device: str, spec: EnvSpec) -> Checkpoint:
    """The checkpoint of a run to begin another one with.

    Raises:
        RunError: there is no such run, or what is seen or done there is something else.
        CheckpointError: a damaged checkpoint.
    """
    if not run_dir.is_dir():
        raise RunError(f"init={run_dir} must be the folder of a run, but there is none")
    path, saved = _open_checkpoint(run_dir, "best", device)
    _check_same(EnvSpec.from_json(_card_of(path, saved)["spec"]), spec)
    return saved


@contextmanager
def _environments(config: Config) -> Iterator[tuple[VectorEnv, VectorEnv]]:
    """Environments for collection (episodes of `training.episode_steps`) and for validation."""
    count = max(config.training.validation_episodes, 1)
    with (
        contextlib.closing(make_vector(config.env, config.training.num_envs, _collection(config))) as environments,
        contextlib.closing(make_vector(config.env, min(count, 50), config.env_options)) as validation,
    ):
        yield environments, validation


def _collection(config: Config) -> EnvOptions:
    """How environments are made to collect in: with episodes of `training.episode_steps`."""
    steps = config.training.episode_steps or config.env_options.max_episode_steps
    return dataclasses.replace(config.env_options, max_episode_steps=steps)


@contextmanager
def _interruptible(trainer: Trainer, progress: Progress) -> Iterator[None]:
    """Ctrl-C once saves and stops at the next update or wave; twice quits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: object) -> None:
        if trainer.stop:
            raise KeyboardInterrupt
        trainer.stop = True
        with contextlib.suppress(RuntimeError):  # the signal came in the middle of another message
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
    from omegaconf import OmegaConf

    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"out={run_dir} cannot be made: {error.strerror}") from error

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
    with contextlib.closing(make_vector(config.env, config.training.num_envs, _collection(config))) as environments:
        spec, length = environments.env_spec, environments.env_spec.max_episode_steps
        total, done, first = config.steps, 0, 0
        source = json.dumps([spec.to_json(), config.training.max_hold, config.seed]).encode()
        policy = partial(RandomPolicy, spec, config.training.max_hold)
        prefix = f"collect/{hashlib.sha256(source).hexdigest()[:16]}"
        with EpisodeStore.open(folder, "a", spec, config.memory) as store:
            while done < total:  # episodes may end early: there are more of them then
                count = min(config.training.num_envs, math.ceil((total - done) / length))
                keys = [f"{prefix}/{first + i}" for i in range(count)]
                seeds = episode_seeds("train", config.seed, first, count)
                ids, _ = live_or_recall(store, environments, policy, seeds, keys, {"policy": "random"})
                first, done = first + count, done + int(store.lengths(ids).sum())
                progress.advance("collect", min(done, total), total)
            return folder, len(store), store.num_transitions


# -- evaluation -------------------------------------------------------------------------------------------------------


def evaluate(config: EvalConfig, progress: Progress | None = None, command: str | None = None) -> dict[str, Any]:
    """Evaluate a run on held-out episodes; writes eval.json, diagnostics.json, rollout.mp4 and report.html into it.

    Returns:
        the content of eval.json.
    """
    progress = progress or Silent()
    run_dir, options = Path(config.run).expanduser(), config.evaluation
    if run_dir.is_dir() and not os.access(run_dir, os.W_OK):
        raise RunError(f"run={run_dir} cannot be written, and that is where results go; copy it to where you may write")
    with _threads(config.threads), contextlib.ExitStack() as stack:
        card = read_card(run_dir, config.checkpoint)
        saved, memory = card["config"], _memory_of(config, card, run_dir, stack)
        agent = load_agent(
            run_dir, config.checkpoint, planner=config.planner, objective=config.objective, options=config.agent,
            memory=memory, device=config.device, seed=options.seed,
        )  # fmt: skip
        goal = None if options.goal is None else _read_goal(agent, options.goal)
        env_options = _evaluated_in(EnvOptions.from_json(saved["env_options"]), config.env_options)
        if options.goals_per_episode > 1:
            limit = options.goals_per_episode * agent.model.spec.max_episode_steps
            env_options = dataclasses.replace(env_options, max_episode_steps=limit)
        seeds = episode_seeds("test", options.seed, 0, options.episodes)
        rows = 1 if options.remember else min(options.num_envs, options.episodes)
        with contextlib.closing(make_vector(saved["env"], rows, env_options)) as environments:
            _check_same(agent.model.spec, environments.env_spec)
            if options.goals_per_episode > 1:
                _check_changes(agent, environments, seeds[0])
            measure = _measure if goal is None else partial(_measure_toward, goal)
            if options.remember:
                assert memory is not None
                measure = partial(_live, memory)
            result = measure(agent, environments, env_options, options, seeds, run_dir, progress)
    result |= {
        "env": saved["env"],
        "objective": saved["objective"]["name"],
        "goals_per_episode": options.goals_per_episode,
        "planner": dataclasses.asdict(config.planner),
        "agent": dataclasses.asdict(config.agent),
        "shift": dataclasses.asdict(config.env_options.shift),
        "link": dataclasses.asdict(config.env_options.link),
        "goal_ahead": config.env_options.goal_ahead,
        "seed": options.seed,
        "seeds": seeds,
        "checkpoint": config.checkpoint,
    } | provenance.of_result(command)
    result = dict(_finite(result))
    write_json(run_dir / "eval.json", result)
    write_report(run_dir)
    progress.message(f"report: {run_dir / 'report.html'}")
    return result


def _evaluated_in(trained: EnvOptions, chosen: EvalEnvOptions) -> EnvOptions:
    """Options of the environment that a run is evaluated in."""
    limit = trained.max_episode_steps if chosen.goal_ahead == trained.goal_ahead else None
    return dataclasses.replace(
        trained, shift=chosen.shift, link=chosen.link, goal_ahead=chosen.goal_ahead, max_episode_steps=limit,
        kwargs={**trained.kwargs, **chosen.kwargs},
    )  # fmt: skip


def _memory_of(
    config: EvalConfig, card: dict[str, Any], run_dir: Path, stack: contextlib.ExitStack
) -> EpisodeStore | None:
    """The memory that an evaluation goes by, to be closed with the stack; None where it needs none."""
    chosen, for_goals = config.agent.configurator, card["config"]["objective"]["name"] == "goal"
    landmarks = for_goals and chosen.mode != "plan" and chosen.guide == "graph"
    if chosen.mode == "explore" and not config.evaluation.remember:
        raise RunError("agent.configurator.mode=explore needs evaluation.remember=true, or nothing is kept of it")
    if not landmarks and not config.agent.retrieval.seeds and not config.evaluation.remember:
        return None
    options = MemoryOptions(**card["config"]["memory"])
    folder = Path(config.memory or options.path or run_dir / "memory").expanduser()
    if not config.evaluation.remember:
        return stack.enter_context(EpisodeStore.open(folder))
    if config.evaluation.goal is not None or config.evaluation.goals_per_episode > 1:
        raise RunError("evaluation.remember must be false with evaluation.goal or several goals per episode, got true")
    return stack.enter_context(EpisodeStore.open(folder, "a", EnvSpec.from_json(card["spec"]), options))


def read_card(run_dir: Path, checkpoint: str) -> dict[str, Any]:
    """What a checkpoint says of itself: run id, environment spec, configuration."""
    return _card_of(*_open_checkpoint(run_dir, checkpoint))


def _card_of(path: Path, saved: Checkpoint) -> dict[str, Any]:
    card = saved.state.get("card")
    if not isinstance(card, dict) or not {"run_id", "spec", "config"} <= card.keys():
        raise CheckpointError(f"{path} does not say what it was trained for")
    return dict(card)


def _check_same(trained: EnvSpec, now: EnvSpec) -> None:
    """An environment may have changed since the run; what the agent was trained for must still be there."""
    for name in ("obs", "action_low", "action_high", "goal"):
        before, after = getattr(trained, name), getattr(now, name)
        if before != after:
            raise RunError(f"{name} of {now.env_id} must be that of the run, {before}, got {after}")


def _check_changes(agent: Agent, environments: VectorEnv, seed: int) -> None:
    """Several goals per episode need an agent for goals and an environment that can change them."""
    if agent.model.purpose != "goal":
        raise RunError(f"evaluation.goals_per_episode needs objective=goal, got objective={agent.model.purpose}")
    environments.reset([seed], [0])
    environments.change_goals([seed], [0])


def overrides_of_run(saved: dict[str, Any], given: dict[str, str], limits: bool = False) -> list[str]:
    """What an evaluation takes over from the configuration of its run, as overrides that come before the user's.

    Args:
        saved: `config` of the run's card.
        given: the user's overrides; a group that they choose anew is not taken over.
        limits: whether the limits of actions are among what can be overridden, as in a drive.
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
    taken = ("shift", "link", "goal_ahead", *(("action_rate", "action_acceleration") if limits else ()))
    walk("env_options", {k: saved["env_options"][k] for k in taken if k in saved["env_options"]})
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
    for_goals, spec = agent.model.purpose == "goal", environments.env_spec

    def arm(name: str, policy: Policy, stop_on_success: bool = for_goals) -> tuple[dict[str, Any], list[Any]]:
        began = perf_counter()
        episodes = run_arm(
            environments, policy, seeds, lambda done: progress.advance(f"evaluate {name}", done, len(seeds)),
            stop_on_success, options.goals_per_episode,
        )  # fmt: skip
        scores = score(episodes, spec.goal is not None, options.goals_per_episode)
        return scores | {"seconds": round(perf_counter() - began, 2)}, episodes

    policy = AgentPolicy(agent)
    result, acted = arm("planner", policy)
    result["plan"] = policy.statistics.summary()
    if isinstance(agent.configurator, Configurator):
        graph = agent.configurator.graph
        result["graph"] = {"landmarks": len(graph), "edges": len(graph.edges), "walked": int((graph.walked > 0).sum())}
    result["prediction_error"] = prediction_error(agent, acted)
    result["random"], held_out = None, acted
    if options.random:
        # Whole episodes, not cut at the first success: these also show how far the model can be trusted.
        result["random"], held_out = arm("random", RandomPolicy(spec), stop_on_success=False)
    result["arms"] = {}
    if options.policy and not for_goals:
        result["arms"]["policy prior"], _ = arm("policy prior", AgentPolicy(_reacting(agent)))
    if options.latent_l2 and for_goals:
        result["arms"]["latent_l2"], _ = arm("latent L2", AgentPolicy(_with_latent_l2(agent)))
    result |= _true_dynamics(agent, environments, env_options, options, arm)
    _count_failures([result, *(row for row in (result["random"], *result["arms"].values()) if row is not None)])
    result |= _timed(agent, environments, env_options, options, seeds, run_dir)
    diagnostics = diagnose(agent, held_out, acted, _probed(agent, environments, env_options, options))
    write_json(run_dir / "diagnostics.json", _finite(diagnostics))
    return result


def _live(
    memory: EpisodeStore,
    agent: Agent,
    environments: VectorEnv,
    env_options: EnvOptions,
    options: EvaluationOptions,
    seeds: list[int],
    run_dir: Path,
    progress: Progress,
) -> dict[str, Any]:
    """As `_measure`, one episode after the other, each of which is kept with the ways that were found in it."""
    policy, episodes = AgentPolicy(agent), list[Episode]()
    began = perf_counter()
    for number, seed in enumerate(seeds):
        if isinstance(agent.configurator, Configurator):
            agent.configurator.learns, agent.configurator.episode = True, memory.next_id
        (episode,) = run_arm(environments, policy, [seed], stop_on_success=True)
        episodes.append(episode)
        memory.append(dataclasses.replace(episode, meta={**episode.meta, "policy": "live", "run": run_dir.name}))
        if isinstance(agent.configurator, Configurator):
            agent.configurator.graph.next_episode = memory.next_id
            save_graph(agent.configurator.graph, memory)
        progress.advance("live", number + 1, len(seeds))
    result = score(episodes, environments.env_spec.goal is not None)
    result |= {"seconds": round(perf_counter() - began, 2), "plan": policy.statistics.summary()}
    result |= {"memory": str(memory.path), "episodes_in_memory": len(memory), "random": None, "arms": {}}
    result |= {"true_dynamics": None, "reason_true_dynamics": "not where episodes are kept"}
    times = decision_time(policy.statistics.milliseconds)
    return result | {"decision_ms": times, "video": None, "video_reason": "not where episodes are kept"}


def _count_failures(rows: list[dict[str, Any]]) -> None:
    """Where one arm shows that the environment can call something a success, the others had none."""
    if any(row["success_rate"] is not None for row in rows):
        for row in rows:
            if row["success_rate"] is None:
                row |= {"success_rate": 0.0, "success_ci": success_interval(0, row["episodes"])}


def _read_goal(agent: Agent, path: str) -> dict[str, Array]:
    if agent.model.purpose != "goal":
        raise RunError(f"evaluation.goal needs a run with objective=goal, got objective={agent.model.purpose}")
    return read_goal(Path(path).expanduser(), agent.model.spec)


def _measure_toward(
    goal: dict[str, Array],
    agent: Agent,
    environments: VectorEnv,
    env_options: EnvOptions,
    options: EvaluationOptions,
    seeds: list[int],
    run_dir: Path,
    progress: Progress,
) -> dict[str, Any]:
    """As `_measure`, toward one goal that the environment does not know: its success and reward are for another."""

    def arm(name: str, policy: Policy) -> tuple[dict[str, Any], list[Any]]:
        began = perf_counter()
        episodes = run_arm(
            environments, policy, seeds, lambda done: progress.advance(f"evaluate {name}", done, len(seeds)),
            stop_on_success=False,
        )  # fmt: skip
        distance = distances_to_goal(agent, episodes, goal)
        known = {"episodes": len(seeds), "success_rate": None, "return_mean": None, "distance": distance}
        return known | {"seconds": round(perf_counter() - began, 2)}, episodes

    policy = AgentPolicy(agent, goal_obs=goal)
    result, held_out = arm("planner", policy)
    result |= {"goal": options.goal, "plan": policy.statistics.summary(), "random": None, "arms": {}}
    if options.random:
        result["random"], held_out = arm("random", RandomPolicy(agent.model.spec))
    if options.latent_l2:
        result["arms"]["latent_l2"], _ = arm("latent L2", AgentPolicy(_with_latent_l2(agent), goal_obs=goal))
    reason = "the simulator knows the goals of the environment only" if options.true_dynamics else _NOT_ASKED
    result |= {"true_dynamics": None, "reason_true_dynamics": reason}
    result |= _timed(agent, environments, env_options, options, seeds, run_dir, goal)
    # Episodes that arrive and stay say little of the steps that a way takes.
    diagnostics = {k: v for k, v in diagnose(agent, held_out).items() if k != "calibration"}
    write_json(run_dir / "diagnostics.json", _finite(diagnostics))
    return result


def _with_latent_l2(agent: Agent) -> Agent:
    objective = GoalObjective(GoalOptions(cost="latent_l2"))
    return Agent(agent.model, agent.planner, objective, agent.options, agent.generator)


def _reacting(agent: Agent) -> Agent:
    """What the agent does when it does not think."""
    options = dataclasses.replace(agent.options, configurator=ConfiguratorOptions(mode="react"))
    return Agent(agent.model, agent.planner, agent.objective, options, agent.generator)


_NOT_ASKED = "evaluation.true_dynamics=false"


def export_run(run: str | Path, out: str | Path, checkpoint: str = "best") -> list[str]:
    """Write all that it takes to act into a folder to share, see `agent.export`; returns the names of its files.

    Args:
        run: run folder, or an earlier export.
        out: folder, which is made.
        checkpoint: `best` or `last`.

    Raises:
        RunError: there is no such run.
        CheckpointError: no checkpoint, or a damaged one.
        ExportError: `out` is a run.
        FileError: it cannot be written.
    """
    run_dir = Path(run).expanduser()
    path, saved = _open_checkpoint(run_dir, checkpoint)
    _card_of(path, saved)
    return write_export(saved, run_dir, checkpoint, Path(out).expanduser())


# -- driving ----------------------------------------------------------------------------------------------------------


def drive(
    config: DriveConfig,
    progress: Progress | None = None,
    on_episode: Callable[[Drive], None] | None = None,
    command: str | None = None,
    clock: Clock | None = None,
) -> dict[str, Any]:
    """Drive one robot in wall-clock time with the agent of a run; writes drive.json into the run, and the log.

    Args:
        config: run, robot and how it is driven.
        progress: is told what takes time before the drive.
        on_episode: called between episodes.
        command: that made the result; None for that of this process.
        clock: by which it is driven; None for that of the machine.

    Returns:
        the content of drive.json.
    """
    progress = progress or Silent()
    run_dir, options = Path(config.run).expanduser(), config.drive
    with _threads(config.threads), contextlib.ExitStack() as stack:
        card = read_card(run_dir, config.checkpoint)
        saved, chosen = card["config"], config.env_options
        env_options = dataclasses.replace(
            _evaluated_in(EnvOptions.from_json(saved["env_options"]), chosen),
            action_rate=chosen.action_rate, action_acceleration=chosen.action_acceleration,
        )  # fmt: skip
        env = stack.enter_context(contextlib.closing(make_env(saved["env"], env_options)))
        _check_same(EnvSpec.from_json(card["spec"]), env.env_spec)
        robot = RealTime(env, config.period_s, clock)
        folder = Path(config.memory or saved["memory"]["path"] or run_dir / "memory").expanduser()
        agent, usual = _driving(config, folder, env.env_spec), None
        if options.surprise:
            with _opened(folder) as store:
                usual = usual_error(agent, [store.get(i) for i in store.ids()[-_USUAL_EPISODES:].tolist()])
        progress.message(f"driving {saved['env']} at {1 / robot.period_s:.4g} Hz for {options.steps} decisions")
        result = provenance.of_result(command) | {
            "env": saved["env"],
            "checkpoint": config.checkpoint,
            "options": dataclasses.asdict(options),
            "env_options": dataclasses.asdict(env_options),
            "planner": dataclasses.asdict(config.planner),
            "agent": dataclasses.asdict(config.agent),
            "threads": config.threads,
        }
        log = None if config.log is None else stack.enter_context(RunLog(Path(config.log).expanduser(), result))

        def between(driven: Drive) -> None:
            if log is not None:
                log.flush()
            if on_episode is not None:
                on_episode(driven)

        apart = partial(_thinking, config, folder, env.env_spec, usual)
        driver = Driver(
            agent, robot, options, usual,
            lambda _: ThinkingProcess(apart, robot, options.deadline_share * robot.period_s, options.priority),
        )  # fmt: skip
        driven = driver.run(None if log is None else log.add, between)
    result = dict(_finite(result | {"usual_error": usual} | driven.summary()))
    write_json(run_dir / "drive.json", result)
    return result


def _driving(config: DriveConfig, memory: Path, spec: EnvSpec) -> Agent:
    agent = load_agent(
        Path(config.run).expanduser(), config.checkpoint, planner=config.planner, objective=config.objective,
        options=config.agent, memory=memory, device=config.device, seed=config.drive.seed,
        limits=ActionLimits.of(spec),
    )  # fmt: skip
    for _ in range(_WARM_UPS):
        agent.warm_up()
    return agent


def _thinking(config: DriveConfig, memory: Path, spec: EnvSpec, usual: float | None) -> Mind:
    """What thinks ahead, made in a process of its own."""
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    return Mind(_driving(config, memory, spec), usual or 1.0)


_USUAL_EPISODES = 20
"""Latest episodes in memory by which a drive tells what is usual."""
_WARM_UPS = 5
"""Plans that are made and forgotten before a drive: the first ones allocate."""


def save_goal(run: str | Path, out: str | Path, seed: int = 0, checkpoint: str = "best") -> Path:
    """Write a goal of a run's environment into a file that `eval goal=` reads; returns the file.

    Args:
        run: run folder.
        out: `.png` for models that see pixels, `.json` for those that read vectors.
        seed: the goal is that of the first episode of an evaluation with this seed.
        checkpoint: `best` or `last`.

    Raises:
        RunError: there is no such run, or another suffix is needed.
        EnvError: the environment has no goals, or none that a file can state.
    """
    path, card = Path(out).expanduser(), read_card(Path(run).expanduser(), checkpoint)
    config = card["config"]
    with contextlib.closing(make_vector(config["env"], 1, EnvOptions.from_json(config["env_options"]))) as environments:
        _, goal = environments.reset(episode_seeds("test", seed, 0, 1))
        suffix, content = write_goal({k: v[0] for k, v in (goal or {}).items()}, environments.env_spec)
    if path.suffix != suffix:
        raise RunError(f"out must end in {suffix} for goals of {config['env']} as this run sees them, got {path}")
    write_bytes(path, content)
    return path


# -- comparing planners -----------------------------------------------------------------------------------------------

TASK_GROUPS: dict[str, tuple[str, ...]] = {
    "default": (
        "lqr", "rastrigin", "sparse_reach", "u_trap", "pendulum", "pendulum_sparse", "cartpole_swingup",
        "double_pendulum", "reacher_hard", "cup_catch", "finger_turn", "push", "hopper_hop", "walker_run",
        "cheetah_run", "gym_pusher", "humanoid_stand",
    ),
    "quick": ("lqr", "rastrigin", "reacher_hard"),
    "analytic": tuple(ANALYTIC_TASKS),
    "mujoco": tuple(PLANNING_TASKS),
    "all": (*ANALYTIC_TASKS, *PLANNING_TASKS),
    "none": (),
}  # fmt: skip
"""Names that stand for several tasks of `forethought bench`."""


def bench_tasks(names: Iterable[str] = ("all",)) -> list[str]:
    """Tasks that names of tasks and of groups stand for, each once.

    Raises:
        UnknownNameError: there is no such task or group.
    """
    known = {name: (name,) for name in TASK_GROUPS["all"]} | TASK_GROUPS
    chosen = dict.fromkeys(task for name in names for task in known.get(name, (name,)))
    for name in chosen:
        if name not in known:
            raise UnknownNameError("task", name, known)
    return list(chosen)


def make_arena(task: str, horizon: int | None = None) -> Arena:
    """A task of `bench_tasks`, in its true dynamics."""
    if task in ANALYTIC_TASKS:
        return TrueDynamics(ANALYTIC_TASKS[task](), horizon)
    return TrueDynamics(Simulation(PLANNING_TASKS[task]()), horizon)


def _model_arena(run: str, horizon: int | None, stack: contextlib.ExitStack) -> Arena:
    run_dir = Path(run).expanduser()
    saved = read_card(run_dir, "best")["config"]
    environments = make_vector(saved["env"], 1, EnvOptions.from_json(saved["env_options"]))
    stack.enter_context(contextlib.closing(environments))
    return LearnedModel(f"model:{run_dir.resolve().name}", load_alone(run_dir), environments, horizon)


def bench_planners(config: BenchConfig, progress: Progress | None = None, command: str | None = None) -> dict[str, Any]:
    """Compare planners; writes cells, results.json, table.md, videos and report.html into `config.out`.

    Returns:
        the content of results.json.

    Raises:
        UnknownNameError: no such task, planner or option.
        BenchError: nothing can be played, or `out` holds another comparison.
        RunError: no such run.
    """
    progress, out = progress or Silent(), Path(config.out).expanduser()
    for label in config.options:
        if label not in config.planners:
            raise UnknownNameError("planner in options", label, config.planners)
    contenders = [contender(label, config.options.get(label) or {}) for label in config.planners]
    with _threads(config.threads), contextlib.ExitStack() as stack:
        arenas = [make_arena(task, config.horizon) for task in bench_tasks(config.tasks)]
        arenas += [_model_arena(run, config.horizon, stack) for run in config.models]
        if len({arena.name for arena in arenas}) < max(len(arenas), 1):
            raise BenchError(f"tasks and models must hold at least one, and names once, got {[a.name for a in arenas]}")
        cells, refusals = run_bench(arenas, contenders, config, out, progress)
        results = dict(_finite(summarise(arenas, cells, refusals, config, command)))
        write_json(out / "results.json", results)
        write_bytes(out / "table.md", markdown(results).encode())
        videos, missing = dict[str, Path](), "" if config.video else "video=false"
        for count, arena in enumerate(arenas if config.video else (), start=1):
            path = out / f"{arena.name.replace(':', '_')}.mp4"
            try:
                reason = film_planners(arena, [c for c in cells if c.arena == arena.name], path)
            except EnvError as error:
                reason = str(error)
            if reason is None:
                videos[arena.name] = path
            else:
                missing = reason
            progress.advance("videos", count, len(arenas), arena.name)
    page = write_comparison(out, results, refused_lines(results), videos, missing)
    progress.message(f"report: {page}")
    return results


def _probed(
    agent: Agent, environments: VectorEnv, env_options: EnvOptions, options: EvaluationOptions
) -> list[Episode]:
    """Held-out episodes of random held actions with the true state among their observations, also beside pictures."""
    seeds = episode_seeds("test", options.seed, options.episodes, options.probe_episodes)
    if not seeds:
        return []
    observation = "both" if env_options.observation == "pixels" else env_options.observation
    # Goals do not matter, and those ahead along an episode would make it short. What is hidden is asked for, too, but
    # an array that the model sees in part has to stay as it is.
    hide = [name for name in env_options.hide if name.split("[")[0] in agent.model.spec.obs]
    plain = dataclasses.replace(env_options, observation=observation, goal_ahead=None, hide=hide)
    rows = min(len(seeds), environments.num_envs)
    with contextlib.closing(make_vector(agent.model.spec.env_id, rows, plain)) as seen_in_full:
        policy = RandomPolicy(seen_in_full.env_spec, TrainingOptions().max_hold)
        return run_arm(seen_in_full, policy, seeds, stop_on_success=False)


def _true_dynamics(
    agent: Agent, environments: VectorEnv, env_options: EnvOptions, options: EvaluationOptions, arm: Any
) -> dict[str, Any]:
    spec = agent.model.spec
    if not options.true_dynamics or agent.model.purpose != "goal":
        reason = _NOT_ASKED if not options.true_dynamics else "only for objective=goal"
        return {"true_dynamics": None, "reason_true_dynamics": reason}
    try:
        simulator = make_simulator(spec.env_id, env_options)
    except EnvError as error:
        return {"true_dynamics": None, "reason_true_dynamics": str(error)}
    elites = min(ICEMOptions().num_elites, max(2, options.true_samples // 4))
    budget = ICEMOptions(
        horizon=options.true_horizon or agent.planner.horizon, num_samples=options.true_samples,
        iterations=options.true_iterations, num_elites=elites,
    )  # fmt: skip
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
    goal: dict[str, Array] | None = None,
) -> dict[str, Any]:
    """Decision times at batch size 1, and the video of these episodes, beside the picture of a goal that is given."""
    policy = AgentPolicy(agent, goal_obs=goal)
    stop = agent.model.purpose == "goal" and goal is None
    with contextlib.closing(make_vector(agent.model.spec.env_id, 1, env_options)) as single:
        reason = _why_not_drawn(single, seeds[0]) if options.video else "evaluation.video=false"
        frames: list[Array] | None = [] if reason is None else None
        film(single, policy, seeds[: options.timed_episodes], frames, stop, goal is None, options.goals_per_episode)
    path, dt = run_dir / "rollout.mp4", agent.model.spec.control_dt
    if frames is not None:
        try:
            write_video(path, _beside(frames, goal), fps=1 / dt if math.isfinite(dt) else 30)
        except VideoError as error:
            reason = str(error)
    if reason is not None:
        path.unlink(missing_ok=True)  # that of an earlier evaluation
    times = decision_time(policy.statistics.milliseconds)
    return {"decision_ms": times, "video": path.name if reason is None else None, "video_reason": reason}


def _beside(frames: list[Array], goal: dict[str, Array] | None) -> Iterable[Array]:
    """Frames with the goal beside them, if it is a picture."""
    pictures = [goal_picture(array) for array in (goal or {}).values() if array.ndim == 3]
    if not pictures or not frames:
        return frames
    picture = resize(pictures[0], len(frames[0]))
    return (side_by_side(frame, picture) for frame in frames)


def _why_not_drawn(environments: VectorEnv, seed: int) -> str | None:
    """Why there can be no video of an environment; None if it can be drawn."""
    environments.reset([seed])
    try:
        environments.render(0)
    except EnvError as error:
        return str(error)
    except Exception as error:  # render() is anybody's code, and no evaluation may fail for want of a picture
        return f"{environments.env_spec.env_id} cannot be drawn: {type(error).__name__}: {error}".rstrip(": ")
    return None


def _finite(data: Any) -> Any:
    """JSON has no NaN: numbers that are not finite become null."""
    if isinstance(data, dict):
        return {k: _finite(v) for k, v in data.items()}
    if isinstance(data, list):
        return [_finite(v) for v in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
