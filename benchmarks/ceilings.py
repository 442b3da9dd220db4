"""What scripts that see everything reach, in tasks of others where no simulator can be searched as `eval` does.

    python benchmarks/ceilings.py                            every task whose package is installed
    python benchmarks/ceilings.py --tasks fetch_push pointmaze

The same held-out episodes as in `goal_reaching.py`, the same time limit and the environment's own success. Scripts read
what they want from the simulator: the map of the maze, or states where the agent sees pictures. What has a result file
is left alone (`--resume never` starts over); `python benchmarks/render_tables.py` brings the numbers into the pages.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from goal_reaching import TASKS
from numpy.typing import NDArray

from forethought import make_env
from forethought.agent import provenance
from forethought.agent.files import write_json
from forethought.agent.training.evaluate import episode_seeds, success_interval
from forethought.configs.register import load
from forethought.configs.schema import Config
from forethought.envs.spec import EnvError
from forethought.envs.wrappers import ForethoughtEnv

RESULTS = Path(__file__).parent / "results" / "ceilings"
BUDGET = 50
"""Environment steps of an episode in LeWM's protocol."""
Actions = Iterator[NDArray[Any]]
Vector = NDArray[np.floating[Any]]


def pointmaze(env: ForethoughtEnv) -> Actions:
    """Straight to the next cell of the shortest way, in steps of a twentieth of a cell at most."""
    maze: Any = env.unwrapped
    while True:
        here, goal = maze.get_xy(), np.asarray(maze.cur_goal_xy)
        there = maze.xy_to_ij(here) == maze.xy_to_ij(goal)
        ahead = (goal if there else np.asarray(maze.get_oracle_subgoal(here, goal)[0])) - here
        yield ahead / max(float(np.linalg.norm(ahead)), 0.2)


def fetch_push(env: ForethoughtEnv) -> Actions:
    """From above behind the block, then straight through it; actions are displacements in units of 5 cm, with a lag."""
    robot: Any = env.unwrapped
    behind, above, gain = 0.065, 0.08, 12.0
    pushing = False
    while True:
        seen = robot._get_obs()
        gripper, block, goal = seen["observation"][:3], seen["achieved_goal"], seen["desired_goal"]
        way = goal[:2] - block[:2]
        way /= max(float(np.linalg.norm(way)), 1e-6)
        start = np.append(block[:2] - behind * way, block[2])
        beside = gripper[:2] - block[:2]
        across = float(np.abs(beside @ np.array([-way[1], way[0]])))
        pushing = (pushing or float(np.linalg.norm(gripper - start)) < 0.015) and across < 0.02 and beside @ way < 0
        if pushing:
            target = np.append(goal[:2] - 0.035 * way, block[2])
        elif np.linalg.norm(gripper[:2] - start[:2]) < 0.012:
            target = start
        else:
            target = np.append(start[:2], block[2] + above)
        yield np.append(np.clip(gain * (target - gripper), -1, 1), -1.0)


def two_room(env: ForethoughtEnv) -> Actions:
    """The policy that stable-worldmodel ships, without its noise."""
    act: Callable[[], NDArray[Any]] = env.get_wrapper_attr("behaviour")(0, noise=False)
    while True:
        yield act()


def swm_reacher(env: ForethoughtEnv) -> Actions:
    """A damped spring for each joint: torques by its angle and velocity."""
    robot: Any = env.unwrapped
    while True:
        data, target = robot.dmc_env.physics.data, np.asarray(robot.dmc_env.task.target_qpos)
        yield np.clip(3 * (target - data.qpos) - 0.2 * data.qvel, -1, 1)


def pusht(env: ForethoughtEnv) -> Actions:
    """Cross-entropy over actions held for three decisions each, in a second simulator set to the same state."""
    robot: Any = env.unwrapped
    left = env.env_spec.max_episode_steps
    repeat = BUDGET // left
    with closing(make_env(env.env_spec.env_id)) as copied:
        twin: Any = copied.unwrapped
        copied.reset(seed=0)
        rng, knots, plan = np.random.default_rng(0), 4, np.zeros((0, 2))

        def cost(actions: Vector) -> float:
            twin._set_state(robot._get_obs())
            errors = []
            for action in np.repeat(actions, 3 * repeat, axis=0)[: left * repeat]:
                state = twin.step(action)[0]["state"]
                turned = abs(robot.goal_state[4] - state[4])
                away = np.linalg.norm(robot.goal_state[:4] - state[:4]) / 20
                errors.append(max(away, min(turned, 2 * np.pi - turned) / (np.pi / 9)))
            return float(min(errors) + 0.1 * np.mean(errors))

        while True:
            mean = np.vstack([plan[1:], np.zeros((knots, 2))])[:knots]
            std = np.full_like(mean, 0.5)
            best = mean
            for _ in range(3):
                tried = np.concatenate([best[None], np.clip(mean + std * rng.standard_normal((47, knots, 2)), -1, 1)])
                costs = np.array([cost(actions) for actions in tried])
                elites = tried[np.argsort(costs)[:8]]
                best, mean, std = elites[0], elites.mean(axis=0), elites.std(axis=0) + 0.05
            plan = best
            for _ in range(3):
                left -= 1
                yield plan[0]


SCRIPTS: dict[str, Callable[[ForethoughtEnv], Actions]] = {
    "pointmaze": pointmaze,
    "fetch_push": fetch_push,
    "two_room": two_room,
    "swm_reacher": swm_reacher,
    "pusht": pusht,
}


def result_of(name: str, episodes: int, seed: int) -> dict[str, Any]:
    """Play held-out episodes by a script; returns the content of the result file."""
    task = TASKS[name]
    told = [*task.overrides, *(option for option in task.evaluation if option.startswith("env_options."))]
    config: Config = load(Config, [*told, "env_options.observation=state"])
    steps: list[int] = []
    with closing(make_env(config.env, config.env_options)) as env:
        low, high = (np.asarray(bound, np.float32) for bound in (env.env_spec.action_low, env.env_spec.action_high))
        for episode in episode_seeds("test", seed, 0, episodes):
            env.reset(seed=episode)
            for step, action in enumerate(SCRIPTS[name](env), 1):
                _, _, terminated, truncated, info = env.step(np.clip(action, low, high).astype(np.float32))
                if info["success"]:
                    steps.append(step)
                if info["success"] or terminated or truncated:
                    break
    return {
        "task": name,
        "script": _does(name),
        "episodes": episodes,
        "success_rate": len(steps) / episodes,
        "success_ci": success_interval(len(steps), episodes),
        "steps_to_goal": float(np.median(steps)) if steps else None,
        "seed": seed,
        **provenance.of_result(f"python benchmarks/{provenance.command()}"),
    }


def _does(name: str) -> str:
    """What a script does, in a line."""
    return (SCRIPTS[name].__doc__ or "").strip()


def main() -> None:
    """Play what is asked for and write one JSON file per task."""
    scripts = "\n".join(f"{name:<13}{_does(name)}" for name in SCRIPTS)
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\n{scripts}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=list(SCRIPTS), default=list(SCRIPTS), help="rows of the table")
    parser.add_argument("--episodes", type=int, default=100, help="held-out episodes per task")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes")
    parser.add_argument("--resume", choices=("auto", "never"), default="auto", help="never starts everything over")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result files")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.tasks:
        path = arguments.out / f"{name}.json"
        if path.exists() and arguments.resume == "auto":
            print(f"{path} is there already")
            continue
        try:
            result = result_of(name, arguments.episodes, arguments.seed)
        except EnvError as error:  # packages that are not installed
            print(f"{name}: {error}")
            continue
        write_json(path, result)
        print(f"{name}: {result['success_rate']:.1%} of {result['episodes']}, {result['steps_to_goal']} steps")


if __name__ == "__main__":
    main()
