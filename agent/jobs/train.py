"""Train a run, or continue it."""

import contextlib
import dataclasses
import json
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ...configs.schema import Config
from ...envs.spec import EnvSpec
from ...envs.vector import VectorEnv, make_vector
from .. import provenance
from ..agent import check_proposals
from ..build import build_trainer, check_device, check_retrieval
from ..compilation import worth_compiling
from ..files import read_json, write_bytes, write_json
from ..jobs.collect import collection_options
from ..memory.store import EpisodeStore
from ..objectives import GoalOptions, RewardOptions
from ..runs import RunError, card_of, check_same, open_checkpoint
from ..threads import computing_with
from ..training.checkpoint import Checkpoint, restore_module
from ..training.loop import Progress, Silent, Trainer
from ..training.metrics import MetricsLogger


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
    check_device(config.device)
    with computing_with(config.threads), _environments(config) as (environments, validation):
        members = config.objective.members
        if members > config.world_model.ensemble_size:
            raise RunError(
                f"objective.members must be at most world_model.ensemble_size={config.world_model.ensemble_size}, "
                f"got {members}"
            )
        check_retrieval(config.agent, config.objective.name)
        proposals = config.objective.policy_trajectories if isinstance(config.objective, RewardOptions) else 0
        check_proposals(config.planner, proposals, config.agent)
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
            trainer = build_trainer(config, environments, validation, store, run_dir, logger, progress, card)
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


def _weights_of(run_dir: Path, device: str, spec: EnvSpec) -> Checkpoint:
    """The checkpoint of a run to begin another one with.

    Raises:
        RunError: there is no such run, or what is seen or done there is something else.
        CheckpointError: a damaged checkpoint.
    """
    if not run_dir.is_dir():
        raise RunError(f"init={run_dir} must be the folder of a run, but there is none")
    path, saved = open_checkpoint(run_dir, "best", device)
    check_same(EnvSpec.from_json(card_of(path, saved)["spec"]), spec)
    return saved


@contextmanager
def _environments(config: Config) -> Iterator[tuple[VectorEnv, VectorEnv]]:
    """Environments for collection (episodes of `training.episode_steps`) and for validation."""
    count = max(config.training.validation_episodes, 1)
    with (
        contextlib.closing(
            make_vector(config.env, config.training.num_envs, collection_options(config))
        ) as environments,
        contextlib.closing(make_vector(config.env, min(count, 50), config.env_options)) as validation,
    ):
        yield environments, validation


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
