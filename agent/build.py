"""From configuration to objects: the one place that picks classes; jobs made of them are in `agent/jobs`."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..configs.schema import Config, EvalEnvOptions
from ..envs.spec import EnvOptions, EnvSpec
from ..envs.vector import VectorEnv
from ..planners import Planner, make_planner
from ..planners.risk import RiskOptions
from .agent import Agent, AgentOptions
from .configurator import Configurator, ConfiguratorOptions
from .guides import Guide, MacroGuide
from .memory.graph import open_graph
from .memory.index import MomentIndex, open_index
from .memory.store import EpisodeStore
from .objectives import (
    OBJECTIVES,
    DisagreementObjective,
    GoalObjective,
    GoalOptions,
    Objective,
    RewardObjective,
    RewardOptions,
)
from .runs import RunError, open_checkpoint, read_card
from .training.checkpoint import CheckpointError, restore_module
from .training.learner import Learner
from .training.loop import Progress, Trainer
from .training.metrics import MetricsLogger
from .world_model.model import WorldModel, WorldModelOptions


def build_planner(options: Any, spec: EnvSpec, device: str) -> Planner[Any]:
    """The planner that a composed `planner` group describes; its bounds are those of the environment."""
    low, high = (torch.tensor(bound, device=device) for bound in (spec.action_low, spec.action_high))
    return make_planner(options.name, low, high, options)


def build_objective(options: Any) -> Objective:
    """The objective that a composed `objective` group describes."""
    return RewardObjective(options) if isinstance(options, RewardOptions) else GoalObjective(options)


def objective_options(saved: dict[str, Any]) -> GoalOptions | RewardOptions:
    """Objective options from their JSON form."""
    values = {k: v for k, v in saved.items() if k not in ("name", "risk")}
    return OBJECTIVES[saved["name"]](**values, risk=RiskOptions(**saved["risk"]))


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

    Raises:
        RunError: there is no such run, or no such device, or the run has no goals and is to go by its memory.
        StoreError: there is no such memory.
        CheckpointError: no checkpoint, a damaged one, or one that does not fit its own description.
    """
    check_device(device)
    path, saved = open_checkpoint(Path(run).expanduser(), checkpoint, device)
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
    agent = Agent(model, planner_, build_objective(objective), options, generator, guide, index)
    if options.deadline_s is not None:
        agent.warm_up()
    return agent


def load_alone(run: str | Path, checkpoint: str = "best", mode: str = "plan") -> Agent:
    """As `load_agent`, an agent with the options of its run that goes by no memory: it plans, or reacts."""
    options = AgentOptions.from_json(read_card(Path(run).expanduser(), checkpoint)["config"]["agent"])
    configurator = dataclasses.replace(options.configurator, mode=mode)
    retrieval = dataclasses.replace(options.retrieval, seeds=0)
    options = dataclasses.replace(
        options, configurator=configurator, retrieval=retrieval, compile="never", deadline_s=None
    )
    return load_agent(run, checkpoint, options=options)


def build_guide(
    model: WorldModel, options: AgentOptions, generator: torch.Generator, landmarks: Callable[[], Configurator | None]
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
    if mode == "auto" and model.purpose != "goal" and options.configurator.doubt and model.options.value_members < 2:
        raise RunError(
            "agent.configurator.mode=auto needs a second opinion with objective=reward: world_model.value_members must "
            f"be at least 2, got {model.options.value_members}"
        )
    if mode != "plan" and model.purpose != "goal" and options.configurator.guide == "macro":
        raise RunError("agent.configurator.guide=macro needs a run with objective=goal, got objective=reward")
    if mode == "plan" or model.purpose != "goal":
        return None
    if options.configurator.guide == "macro":
        return MacroGuide(model, options.macro, options.graph.reach, generator)
    return landmarks()


@contextmanager
def opened(memory: EpisodeStore | str | Path) -> Iterator[EpisodeStore]:
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
    with opened(memory) as store:
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
    check_retrieval(options, model.purpose)
    with opened(memory) as store:
        return open_index(model, store, options.retrieval, keep=keep)


def build_trainer(
    config: Config,
    environments: VectorEnv,
    validation: VectorEnv,
    store: EpisodeStore,
    run_dir: Path,
    logger: MetricsLogger,
    progress: Progress,
    card: dict[str, Any],
) -> Trainer:
    """What trains a run, with a model, a learner and agents of its own.

    Args:
        config: of the run.
        environments: to collect episodes in.
        validation: as those that the run is made for.
        store: memory that it fills and learns from.
        run_dir: where checkpoints go.
        logger: takes the metrics.
        progress: is told how far it is.
        card: what checkpoints say of themselves.
    """
    spec = validation.env_spec
    purpose = config.objective.name
    model = WorldModel(spec, config.world_model, generator_seed=config.seed, purpose=purpose).to(config.device)
    generator = torch.Generator(config.device).manual_seed(config.seed)
    learner = Learner(model, config.learner, config.training.updates, generator)
    planner = build_planner(config.planner, spec, config.device)
    objectives: dict[str, Objective] = {"plan": build_objective(config.objective), "explore": DisagreementObjective()}
    # What these refuse is to be known before anything is collected.
    build_guide(model, config.agent, generator, lambda: None)
    Agent(model, planner, objectives["plan"], config.agent, generator)

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


def evaluated_in(trained: EnvOptions, chosen: EvalEnvOptions) -> EnvOptions:
    """Options of the environment that a run is evaluated in."""
    limit = trained.max_episode_steps if chosen.goal_ahead == trained.goal_ahead else None
    return dataclasses.replace(
        trained, skill=chosen.skill or trained.skill, shift=chosen.shift, link=chosen.link,
        goal_ahead=chosen.goal_ahead, max_episode_steps=limit, kwargs={**trained.kwargs, **chosen.kwargs},
    )  # fmt: skip


def check_retrieval(options: AgentOptions, purpose: str) -> None:
    """Refuse to look for moments in memory with a model that was not made for goals."""
    if options.retrieval.seeds and purpose != "goal":
        raise RunError(
            f"agent.retrieval.seeds must be 0 with objective={purpose}: what was done in memory is judged by how near "
            f"it led to a goal; got {options.retrieval.seeds}"
        )


def check_device(device: str) -> None:
    """Refuse a device that PyTorch cannot use here, or that has no float64, in which scales and limits are kept."""
    try:
        torch.zeros(1, dtype=torch.float64, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"device must be one that PyTorch can use here, such as cpu, got {device!r}: {reason}") from None
