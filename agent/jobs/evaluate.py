"""Evaluate a run on held-out episodes, toward a goal of one's own, or while it lives on."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from ...configs.schema import EvalConfig
from ...envs.goal_files import goal_picture, read_goal
from ...envs.pixels import resize
from ...envs.simulator import make_simulator
from ...envs.spec import EnvError, EnvOptions, EnvSpec
from ...envs.vector import VectorEnv, make_vector
from ...planners import ICEMOptions, make_planner
from .. import provenance
from ..agent import Agent
from ..build import evaluated_in, load_agent
from ..configurator import Configurator, ConfiguratorOptions
from ..files import LockedError, finite, lock, write_json
from ..memory.graph import recall, save_graph
from ..memory.store import Episode, EpisodeStore, MemoryOptions
from ..objectives import GoalObjective, GoalOptions
from ..precision import name_of
from ..report.html import write_report
from ..report.video import VideoError, side_by_side, write_video
from ..runs import RunError, check_same, read_card
from ..threads import computing_with
from ..training.evaluate import (
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
    until_success,
)
from ..training.loop import Progress, Silent, TrainingOptions
from ..training.rollout import AgentPolicy, Array, Policy, RandomPolicy, SimulatorPolicy


def evaluate(config: EvalConfig, progress: Progress | None = None, command: str | None = None) -> dict[str, Any]:
    """Evaluate a run on held-out episodes; writes eval.json, diagnostics.json, rollout.mp4 and report.html into it.

    Returns:
        the content of eval.json.

    Raises:
        RunError: there is no such run, it cannot be written, or another process evaluates it at the moment.
    """
    run_dir = Path(config.run).expanduser()
    if run_dir.is_dir() and not os.access(run_dir, os.W_OK):
        raise RunError(f"run={run_dir} cannot be written, and that is where results go; copy it to where you may write")
    card = read_card(run_dir, config.checkpoint)
    try:
        locked = lock(run_dir / _LOCK)
    except LockedError as error:
        raise RunError(
            f"run={run_dir} is being evaluated by another process (pid {error.holder}), whose results would be "
            "overwritten: wait for it, or copy the folder"
        ) from error
    with contextlib.closing(locked):
        return _evaluate(config, run_dir, card, progress or Silent(), command)


_LOCK = ".evaluating"


def _evaluate(
    config: EvalConfig, run_dir: Path, card: dict[str, Any], progress: Progress, command: str | None
) -> dict[str, Any]:
    options = config.evaluation
    with computing_with(config.threads), contextlib.ExitStack() as stack:
        saved, memory = card["config"], _memory_of(config, card, run_dir, stack)
        agent = load_agent(
            run_dir, config.checkpoint, planner=config.planner, objective=config.objective, options=config.agent,
            memory=memory, device=config.device, seed=options.seed,
        )  # fmt: skip
        goal = None if options.goal is None else _read_goal(agent, options.goal)
        env_options = evaluated_in(EnvOptions.from_json(saved["env_options"]), config.env_options)
        if options.goals_per_episode > 1:
            limit = options.goals_per_episode * agent.model.spec.max_episode_steps
            env_options = dataclasses.replace(env_options, max_episode_steps=limit)
        seeds = episode_seeds("test", options.seed, 0, options.episodes)
        rows = 1 if options.remember else min(options.num_envs, options.episodes)
        with contextlib.closing(make_vector(saved["env"], rows, env_options)) as environments:
            check_same(agent.model.spec, environments.env_spec)
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
        "precision": {"dtype": name_of(agent.precision[0]), "fused": agent.precision[1]},
        "shift": dataclasses.asdict(config.env_options.shift),
        "link": dataclasses.asdict(config.env_options.link),
        "goal_ahead": config.env_options.goal_ahead,
        "seed": options.seed,
        "seeds": seeds,
        "checkpoint": config.checkpoint,
    } | provenance.of_result(command)
    result = dict(finite(result))
    write_json(run_dir / "eval.json", result)
    if options.report:
        write_report(run_dir)
        progress.message(f"report: {run_dir / 'report.html'}")
    return result


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


def _check_changes(agent: Agent, environments: VectorEnv, seed: int) -> None:
    """Several goals per episode need an agent for goals and an environment that can change them."""
    if agent.model.purpose != "goal":
        raise RunError(f"evaluation.goals_per_episode needs objective=goal, got objective={agent.model.purpose}")
    environments.reset([seed], [0])
    environments.change_goals([seed], [0])


def _read_goal(agent: Agent, path: str) -> dict[str, Array]:
    if agent.model.purpose != "goal":
        raise RunError(f"evaluation.goal needs a run with objective=goal, got objective={agent.model.purpose}")
    return read_goal(Path(path).expanduser(), agent.model.spec)


def _played(
    name: str,
    environments: VectorEnv,
    policy: Policy,
    seeds: list[int],
    progress: Progress,
    stop_on_success: bool,
    goals_per_episode: int = 1,
) -> tuple[list[Episode], float]:
    """The episodes of one arm of an evaluation, and the seconds that they took."""
    began = perf_counter()
    episodes = run_arm(
        environments, policy, seeds, lambda done: progress.advance(f"evaluate {name}", done, len(seeds)),
        stop_on_success, goals_per_episode,
    )  # fmt: skip
    return episodes, round(perf_counter() - began, 2)


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

    def arm(name: str, policy: Policy, stop_on_success: bool = for_goals) -> tuple[dict[str, Any], list[Episode]]:
        goals = options.goals_per_episode
        episodes, seconds = _played(name, environments, policy, seeds, progress, stop_on_success, goals)
        scored = [until_success(episode) for episode in episodes] if for_goals and goals == 1 else episodes
        return score(scored, spec.goal is not None, goals) | {"seconds": seconds}, episodes

    limit = spec.max_episode_steps // options.goals_per_episode
    policy = AgentPolicy(agent, limit=limit)
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
        result["arms"]["latent_l2"], _ = arm("latent L2", AgentPolicy(_with_latent_l2(agent), limit=limit))
    result |= _true_dynamics(agent, environments, env_options, options, arm)
    _count_failures([result, *(row for row in (result["random"], *result["arms"].values()) if row is not None)])
    result |= _timed(agent, environments, env_options, options, seeds, run_dir)
    diagnostics = diagnose(agent, held_out, acted, _probed(agent, environments, env_options, options))
    write_json(run_dir / "diagnostics.json", finite(diagnostics))
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
    policy, episodes = AgentPolicy(agent, limit=environments.env_spec.max_episode_steps), list[Episode]()
    began = perf_counter()
    for number, seed in enumerate(seeds):
        if isinstance(agent.configurator, Configurator):
            agent.configurator.learns, agent.configurator.episode = True, memory.next_id
            agent.configurator.trails.recall = partial(recall, agent.model, memory)
        (episode,) = run_arm(environments, policy, [seed], stop_on_success=agent.model.purpose == "goal")
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
    for name in ("rollout.mp4", "diagnostics.json"):  # of an evaluation before
        (run_dir / name).unlink(missing_ok=True)
    return result | {"decision_ms": times, "video": None, "video_reason": "not where episodes are kept"}


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

    def arm(name: str, policy: Policy) -> tuple[dict[str, Any], list[Episode]]:
        episodes, seconds = _played(name, environments, policy, seeds, progress, stop_on_success=False)
        distance = distances_to_goal(agent, episodes, goal)
        known = {"episodes": len(seeds), "success_rate": None, "return_mean": None, "distance": distance}
        return known | {"seconds": seconds}, episodes

    limit = environments.env_spec.max_episode_steps
    policy = AgentPolicy(agent, goal_obs=goal, limit=limit)
    result, held_out = arm("planner", policy)
    result |= {"goal": options.goal, "plan": policy.statistics.summary(), "random": None, "arms": {}}
    if options.random:
        result["random"], held_out = arm("random", RandomPolicy(environments.env_spec))
    if options.latent_l2:
        result["arms"]["latent_l2"], _ = arm(
            "latent L2", AgentPolicy(_with_latent_l2(agent), goal_obs=goal, limit=limit)
        )
    reason = "the simulator knows the goals of the environment only" if options.true_dynamics else _NOT_ASKED
    result |= {"true_dynamics": None, "reason_true_dynamics": reason}
    result |= _timed(agent, environments, env_options, options, seeds, run_dir, goal)
    # Episodes that arrive and stay say little of the steps that a way takes.
    diagnostics = {k: v for k, v in diagnose(agent, held_out).items() if k != "calibration"}
    write_json(run_dir / "diagnostics.json", finite(diagnostics))
    return result


def _count_failures(rows: list[dict[str, Any]]) -> None:
    """Where one arm shows that the environment can call something a success, the others had none."""
    if any(row["success_rate"] is not None for row in rows):
        for row in rows:
            if row["success_rate"] is None:
                row |= {"success_rate": 0.0, "success_ci": success_interval(0, row["episodes"])}


def _with_latent_l2(agent: Agent) -> Agent:
    objective = GoalObjective(GoalOptions(cost="latent_l2"))
    return Agent(agent.model, agent.planner, objective, agent.options, agent.generator)


def _reacting(agent: Agent) -> Agent:
    """What the agent does when it does not think."""
    options = dataclasses.replace(agent.options, configurator=ConfiguratorOptions(mode="react"))
    return Agent(agent.model, agent.planner, agent.objective, options, agent.generator)


_NOT_ASKED = "evaluation.true_dynamics=false"


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
    limit = environments.env_spec.max_episode_steps // options.goals_per_episode
    policy = AgentPolicy(agent, goal_obs=goal, limit=limit)
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
