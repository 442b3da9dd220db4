"""Write a goal of an environment into a file."""

import contextlib
from pathlib import Path

from ...envs.goal_files import write_goal
from ...envs.spec import EnvOptions
from ...envs.vector import make_vector
from ..files import write_bytes
from ..runs import RunError, read_card
from ..training.evaluate import episode_seeds


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
