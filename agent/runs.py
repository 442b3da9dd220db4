"""A run folder and what its checkpoints say of themselves."""

from pathlib import Path
from typing import Any

from .. import ForethoughtError, UnknownNameError
from ..envs.spec import EnvSpec
from .training.checkpoint import Checkpoint, CheckpointError, load_checkpoint

RESULTS = ("eval.json", "diagnostics.json", "report.html", "rollout.mp4", "drive.json")
"""What evaluations and drives write into a run; all else in it is the training's."""
SKILL = "skill"
"""Folder of the skill in an export."""


class RunError(ForethoughtError):
    """A run folder that cannot be used as asked."""


def open_checkpoint(run_dir: Path, name: str, device: str = "cpu") -> tuple[Path, Checkpoint]:
    """The file of a checkpoint, and what is in it.

    Args:
        run_dir: run folder.
        name: `best` or `last`.
        device: where its tensors go.

    Raises:
        RunError: there is no such run, or it has no such checkpoint yet.
        CheckpointError: it is damaged.
    """
    if name not in ("best", "last"):
        raise UnknownNameError("checkpoint", name, ("best", "last"))
    if not run_dir.is_dir():
        raise RunError(f"run={run_dir} must be the folder of a run, but there is none")
    path, last = run_dir / f"{name}.safetensors", run_dir / "last.safetensors"
    if not path.exists() and last.exists():
        raise RunError(f"{run_dir} has no {path.name} yet: let it train on, or take checkpoint=last")
    return path, load_checkpoint(path, device)


def read_card(run_dir: Path, checkpoint: str) -> dict[str, Any]:
    """What a checkpoint says of itself: run id, environment spec, configuration."""
    return card_of(*open_checkpoint(run_dir, checkpoint))


def card_of(path: Path, saved: Checkpoint) -> dict[str, Any]:
    """As `read_card`, of a checkpoint that was read from `path`."""
    card = saved.state.get("card")
    if not isinstance(card, dict) or not {"run_id", "spec", "config"} <= card.keys():
        raise CheckpointError(f"{path} does not say what it was trained for")
    skill = path.parent / SKILL
    if card["spec"].get("skill") and (skill / path.name).exists():  # an export brings along what it acts by
        env_options = {**card["config"]["env_options"], "skill": str(skill)}
        return {**card, "config": {**card["config"], "env_options": env_options}}
    return dict(card)


def skill_id(path: Path, saved: Checkpoint) -> str:
    """Which skill a checkpoint is, at which update: what `EnvSpec.skill` is above it."""
    return f"{card_of(path, saved)['run_id']} at {saved.state['updates']}"


def check_same(trained: EnvSpec, now: EnvSpec) -> None:
    """An environment may have changed since the run; what the agent was trained for must still be there."""
    for name in ("obs", "action_low", "action_high", "goal", "skill"):
        before, after = getattr(trained, name), getattr(now, name)
        if before != after:
            raise RunError(f"{name} of {now.env_id} must be that of the run, {before}, got {after}")


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
