"""Drive one robot in wall-clock time with the agent of a run."""

import contextlib
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...configs.schema import DriveConfig
from ...envs.realtime import Clock, RealTime
from ...envs.registry import make_env
from ...envs.spec import EnvOptions, EnvSpec
from .. import provenance
from ..agent import Agent
from ..build import evaluated_in, load_agent, opened
from ..files import finite, write_json
from ..limits import ActionLimits
from ..realtime import Drive, Driver, usual_error
from ..report.run_log import RunLog
from ..runs import check_same, read_card
from ..thinking import DriveError, Mind, ThinkingProcess
from ..threads import computing_with
from ..training.loop import Progress, Silent


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
    with computing_with(config.threads), contextlib.ExitStack() as stack:
        card = read_card(run_dir, config.checkpoint)
        saved, chosen = card["config"], config.env_options
        env_options = dataclasses.replace(
            evaluated_in(EnvOptions.from_json(saved["env_options"]), chosen),
            action_rate=chosen.action_rate, action_acceleration=chosen.action_acceleration,
        )  # fmt: skip
        env = stack.enter_context(contextlib.closing(make_env(saved["env"], env_options)))
        check_same(EnvSpec.from_json(card["spec"]), env.env_spec)
        robot = RealTime(env, config.period_s, clock)
        folder = Path(config.memory or saved["memory"]["path"] or run_dir / "memory").expanduser()
        agent, usual = _driving(config, folder, env.env_spec, robot.period_s), None
        if not options.ahead:  # or else it is another process that thinks
            _warm_up(agent)
        if options.surprise:
            with opened(folder) as store:
                latest = store.ids(spec=agent.model.spec)[-_USUAL_EPISODES:].tolist()
                if not latest:
                    raise DriveError(
                        f"drive.surprise needs episodes of {saved['env']} in the memory to tell what is usual, and "
                        f"{folder} has none"
                    )
                usual = usual_error(agent, [store.get(i) for i in latest])
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

        apart = partial(_thinking, config, folder, env.env_spec, robot.period_s, usual)
        driver = Driver(
            agent, robot, options, usual,
            lambda _: ThinkingProcess(apart, robot, options.deadline_share * robot.period_s, options.priority),
        )  # fmt: skip
        driven = driver.run(None if log is None else log.add, between)
    result = dict(finite(result | {"usual_error": usual} | driven.summary()))
    write_json(run_dir / "drive.json", result)
    return result


def _driving(config: DriveConfig, memory: Path, spec: EnvSpec, period_s: float) -> Agent:
    agent = load_agent(
        Path(config.run).expanduser(), config.checkpoint, planner=config.planner, objective=config.objective,
        options=config.agent, memory=memory, device=config.device, seed=config.drive.seed,
    )  # fmt: skip
    agent.limits = ActionLimits.of(spec, period_s, torch.device(config.device))  # none, if the run's were lifted
    return agent


def _warm_up(agent: Agent) -> None:
    for _ in range(_WARM_UPS):
        agent.warm_up()


def _thinking(config: DriveConfig, memory: Path, spec: EnvSpec, period_s: float, usual: float | None) -> Mind:
    """What thinks ahead, made in a process of its own."""
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    agent = _driving(config, memory, spec, period_s)
    _warm_up(agent)
    return Mind(agent, usual or 1.0, spec.max_episode_steps)


_USUAL_EPISODES = 20
"""Latest episodes in memory by which a drive tells what is usual."""
_WARM_UPS = 5
"""Plans that are made and forgotten before a drive: the first ones allocate."""
