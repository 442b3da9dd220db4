"""Trained agents as folders to share: weights and a model card, in the layout of the Hugging Face Hub.

An exported folder is a run folder with nothing in it but what it takes to act, so whatever takes a run takes it, too:

    best.safetensors   weights, and what they were trained for
    config.json        the same for people and programs that look in: environment, options, provenance
    README.md          the model card, whose head the Hub reads
    eval.json          scores, where the run was evaluated with these weights
    memory/            its memory, where it goes by that
    skill/             the skill that it acts by, if it does: an export of its own
"""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import ForethoughtError
from . import provenance
from .agent import AgentOptions
from .files import FileError, read_json, write_bytes, write_json
from .memory.database import DATA_FILE, lock_writer
from .runs import SKILL, RunError, card_of, open_checkpoint, skill_id
from .training.checkpoint import save_checkpoint

_OWN = ("best.safetensors", "config.json", "README.md", "eval.json")
FILES = (*_OWN, f"memory/{DATA_FILE}", *(f"{SKILL}/{name}" for name in _OWN))
"""All that an export may hold; nothing else is downloaded."""


class ExportError(ForethoughtError):
    """A folder that cannot be exported to, or a package that sharing needs."""


def export_run(run: str | Path, out: str | Path, checkpoint: str = "best") -> list[str]:
    """Write all that it takes to act into a folder to share; returns the names of its files.

    Args:
        run: run folder, or an earlier export.
        out: folder, which is made; files of an earlier export there are replaced.
        checkpoint: `best` or `last`.

    Raises:
        RunError: there is no such run.
        CheckpointError: no checkpoint, or a damaged one.
        ExportError: `out` is a run, or holds the skill that the agent acts by; or it goes by a memory, or acts by a
            skill, that is not there.
        FileError: it cannot be written.
        StoreError: the memory is being written to.
    """
    run_dir, out = Path(run).expanduser(), Path(out).expanduser()
    path, saved = open_checkpoint(run_dir, checkpoint)
    card = json.loads(json.dumps(card_of(path, saved)))
    if out.resolve() == run_dir.resolve() or (out / "last.safetensors").exists():
        raise ExportError(f"out must be a folder for the export alone, got the run {out}")
    memory = Path(card["config"]["memory"]["path"] or run_dir / "memory").expanduser()
    card["config"]["memory"]["path"] = None  # what it goes by comes along
    if card["config"].get("out"):
        card["config"]["out"] = Path(card["config"]["out"]).name  # where it lay is nobody's business
    skill = card["config"]["env_options"].get("skill")
    if skill is not None:
        _check_skill(Path(skill).expanduser(), card["spec"]["skill"])
        if (out / SKILL).resolve() == Path(skill).expanduser().resolve():
            raise ExportError(f"out must not hold the skill that the agent acts by, got {out}")  # it would be replaced
        card["config"]["env_options"]["skill"] = SKILL
    known = _optional(run_dir / "config.json")
    origin = known.get("weights_of", checkpoint)  # an export may be exported
    scores = _optional(run_dir / "eval.json")
    if scores.get("checkpoint") != origin:
        scores = {}
    trained = known.get("trained") or _optional(run_dir / "run.json")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"cannot write {out}: {error.strerror or error}") from error
    weights = {name: tensor for name, tensor in saved.tensors.items() if name.startswith("model.")}
    progress: dict[str, Any] = {key: saved.state[key] for key in ("decisions", "updates") if key in saved.state}
    save_checkpoint(out / "best.safetensors", weights, {"card": card, **progress})
    description = {
        "library_name": "forethought",
        "env": card["config"]["env"],
        "weights_of": origin,
        **progress,
        "agent": card,
        "trained": trained,
        "exported": {
            "command": provenance.command(),
            "commit": provenance.commit(),
            "versions": provenance.versions(),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }
    write_json(out / "config.json", description)
    write_bytes(out / "README.md", model_card(description, scores).encode())
    if scores:
        write_json(out / "eval.json", scores)
    if _goes_by_memory(AgentOptions.from_json(card["config"]["agent"])):
        if not (memory / DATA_FILE).exists():
            raise ExportError(f"this agent goes by its memory, but there is none in {memory}")
        (out / "memory").mkdir(exist_ok=True)
        with lock_writer(memory):
            shutil.copyfile(memory / DATA_FILE, out / "memory" / DATA_FILE)
    if skill is not None:
        export_run(skill, out / SKILL)
    return [name for name in FILES if (out / name).exists()]


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _goes_by_memory(options: AgentOptions) -> bool:
    landmarks = options.configurator.mode != "plan" and options.configurator.guide != "macro"
    return landmarks or options.retrieval.seeds > 0


def _check_skill(folder: Path, wanted: str) -> None:
    """Refuse to export an agent without the skill that its actions are commands to."""
    try:
        found = skill_id(*open_checkpoint(folder, "best"))
    except RunError as error:
        raise ExportError(f"this agent acts by a skill, which must be where it lay: {error}") from error
    if found != wanted:
        raise ExportError(f"this agent acts by the skill {wanted}, but in {folder} is {found}")


def _below(card: dict[str, Any]) -> list[str]:
    """What the model card says of the skill that an agent acts by."""
    if (skill := card["spec"].get("skill")) is None:
        return []
    options = card["config"]["env_options"]
    return [
        f"Its actions are commands to a skill, `{skill}`, which is an agent of its own, in [{SKILL}/]({SKILL}). "
        f'Environments to act in are made with `EnvOptions(skill="FOLDER/{SKILL}", '
        f"action_repeat={options['action_repeat']})`.",
        "",
    ]


def model_card(description: dict[str, Any], scores: dict[str, Any]) -> str:
    """The README of an export: a head in YAML for the Hub, then what the agent is, how to use it, how good it is.

    Args:
        description: the content of `config.json`.
        scores: the content of `eval.json`, or nothing.
    """
    env, config = description["env"], description["agent"]["config"]
    head: dict[str, Any] = {
        "library_name": "forethought",
        "pipeline_tag": "reinforcement-learning",
        "tags": ["forethought", "world-model", "model-based-reinforcement-learning", "planning", "robotics", env],
    }
    rows = list[tuple[str, str, str]]()
    if scores:
        head["model-index"] = [{"name": env.rpartition("/")[2], "results": [_result(env, scores)]}]
        rows = [("planner", *_score(scores))]
        others = {"random": scores.get("random"), "true dynamics": scores.get("true_dynamics")}
        rows += [(name, *_score(row)) for name, row in others.items() if row]
    goals = config["objective"]["name"] == "goal"
    target = "agent.embed_goal(goal_obs)" if goals else "None"
    trained, exported = description["trained"], description["exported"]
    versions = trained.get("versions") or exported["versions"]
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in head.items()),  # JSON is YAML
        "---",
        "",
        f"# {env}",
        "",
        f"An agent of Forethought for `{env}`: a latent world model of {config['world_model']['latent_dim']} "
        f"dimensions, in which {config['planner']['name']} plans {'toward goals' if goals else 'for reward'}.",
        "",
        "```python",
        "from forethought import PretrainedAgent",
        "",
        'agent = PretrainedAgent.from_pretrained("…")  # this repository, or its folder',
        f"action, carry, plan = agent.act(obs, agent.init(1), {target})  # arrays with a batch of one",
        "```",
        "",
        "Weights are safetensors; loading runs no code from this repository.",
        "",
        *_below(description["agent"]),
        "## Scores",
        "",
    ]
    if rows:
        kind = "success (95 % interval)" if goals else "return (95 % interval)"
        lines += [f"{scores['episodes']} held-out episodes, seed {scores['seed']}:", ""]
        lines += [f"| | {kind} | return |", "|---|---:|---:|"]
        lines += [f"| {name} | {score} | {mean} |" for name, score, mean in rows]
    else:
        lines += ["Not evaluated with these weights: `forethought eval run=FOLDER`."]
    lines += ["", "## Provenance", "", "| | |", "|---|---|"]
    facts = {
        "run": description["agent"]["run_id"],
        "trained by": f"`{trained['command']}`" if trained.get("command") else "unknown",
        "commit": trained.get("commit") or "unknown",
        "checkpoint": f"{description['weights_of']}, after {description.get('decisions', '?')} decisions",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "exported": exported["time"],
    }
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    return "\n".join(lines) + "\n"


def _score(row: dict[str, Any]) -> tuple[str, str]:
    """What a policy reached, with its interval, and its mean return."""
    if row.get("success_rate") is not None:
        score = "{:.1%} ({:.1%} to {:.1%})".format(row["success_rate"], *row["success_ci"])
    else:
        score = "{:.1f} ({:.1f} to {:.1f})".format(row["return_mean"], *row["return_ci"])
    return score, f"{row['return_mean']:.1f}"


def _result(env: str, scores: dict[str, Any]) -> dict[str, Any]:
    """Scores as the Hub indexes them."""
    metrics = [{"type": "mean_reward", "name": "mean return", "value": scores["return_mean"]}]
    if scores["success_rate"] is not None:
        metrics.insert(0, {"type": "success_rate", "name": "success rate", "value": scores["success_rate"]})
    task = {"type": "reinforcement-learning", "name": "reinforcement learning"}
    return {"task": task, "dataset": {"type": env, "name": env}, "metrics": metrics}
