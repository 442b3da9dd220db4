"""A memory that outlives its process: one process writes episodes and is killed, the next one goes on.

    python remember.py                 in a temporary folder
    python remember.py my-memory       in this folder; run it again and the memory grows

The first process ends by SIGKILL, in the middle of its life; what it had stored by then is there.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from forethought import EpisodeStore, make_env
from forethought.agent.memory.sampler import SequenceSampler
from forethought.agent.memory.store import Episode

ENV_ID = "forethought/PointMass-v0"


def live_and_die(folder: Path) -> None:
    """The first process: it remembers five episodes of random actions, then is killed without warning."""
    env = make_env(ENV_ID)
    rng = np.random.default_rng(0)
    with EpisodeStore.open(folder, mode="a", spec=env.env_spec) as store:
        first = len(store)
        for number in range(first, first + 5):
            obs, info = env.reset(seed=number)
            seen, actions, rewards, success, truncated = [obs], [], [], [], False
            while not truncated:
                action = rng.uniform(env.env_spec.action_low, env.env_spec.action_high).astype(np.float32)
                obs, reward, _, truncated, step_info = env.step(action)
                seen.append(obs)
                actions.append(action)
                rewards.append(reward)
                success.append(step_info["success"])
            episode = Episode(
                obs={key: np.stack([o[key] for o in seen]) for key in obs},
                actions=np.stack(actions),
                rewards=np.asarray(rewards, np.float32),
                success=np.asarray(success, bool),
                terminated=False,
                truncated=True,
                goal=info["goal"],
                meta={"policy": "random", "seed": number},
            )
            store.append(episode, key=f"episode/{number}")  # on disk when the call returns
        print(f"process {os.getpid()}: remembered episodes {first} to {first + 4}, killed now", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


def recall(folder: Path) -> None:
    """The second process: everything is there, and a repeated append changes nothing."""
    with EpisodeStore.open(folder) as store:
        problems, last = store.verify(), store.get(len(store) - 1)
        print(f"process {os.getpid()}: found {len(store)} episodes, {len(problems)} problems")
        spec = store.specs[0]
        sampler = SequenceSampler(store, spec, length=8, num_goals=2)
        batch = sampler.sample(16, np.random.default_rng(0))
        print(f"a batch to learn from: actions {list(batch.actions.shape)}, {batch.goal_steps.numel()} goal pairs")
    with EpisodeStore.open(folder, mode="a", spec=spec) as store:
        before = len(store)
        same = store.append(last, key=f"episode/{before - 1}")
        print(f"appended episode {same} again under its key: still {len(store)} episodes")


def main() -> None:
    """Two processes, one after the other, on one folder."""
    if len(sys.argv) == 3:
        live_and_die(Path(sys.argv[2]))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary) / "memory"
        subprocess.run([sys.executable, __file__, "write", str(folder)], check=False)  # ends by SIGKILL
        recall(folder)


if __name__ == "__main__":
    main()
