"""Goals of an environment as files."""

from pathlib import Path

import numpy as np

from forethought import make_env
from forethought.agent.build import load_agent
from forethought.agent.jobs.goal import save_goal
from forethought.agent.training.evaluate import episode_seeds
from forethought.envs.goal_files import read_goal


def test_a_goal_from_the_environment_is_written_as_it_is(tmp_path: Path, small_run: Path) -> None:
    spec = load_agent(small_run).model.spec
    path = save_goal(small_run, tmp_path / "goal.json", seed=3)
    env = make_env(spec.env_id)
    _, info = env.reset(seed=episode_seeds("test", 3, 0, 1)[0])
    goal = read_goal(path, spec)
    assert goal.keys() == info["goal"].keys()
    for key, value in goal.items():
        np.testing.assert_array_equal(value, info["goal"][key])
