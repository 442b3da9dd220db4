"""A link delays and loses what it is told to, and no more; the same seed loses the same."""

import math

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.envs.link import Link
from forethought.envs.registry import make_env
from forethought.envs.spec import EnvError, EnvOptions, LinkOptions
from forethought.envs.vector import make_vector

ARM = {"kwargs": {"timestep": 0.005, "frame_skip": 1}, "action_repeat": 4, "max_episode_steps": 100}


class Tape(gymnasium.Env):
    """Shows its time in frames, and keeps what it was told in each."""

    dt = 0.01
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(-10, 10, (1,), np.float32)

    def __init__(self, ends_at=None):
        self.ends_at = ends_at

    def reset(self, *, seed=None, options=None):
        self.told, self.time = [], np.zeros(1, np.float32)
        return self.time, {}

    def step(self, action):
        self.told.append(float(action[0]))
        self.time += 1  # in place, as some environments do
        return self.time, 1.0, len(self.told) == self.ends_at, False, {}


def drive(options, decisions, frames=4, thought_s=0.0, seed=0, ends_at=None):
    """What the robot did in every frame, and what the agent saw, with 1, 2, 3, ... as commands."""
    link = Link(Tape(ends_at), LinkOptions(**options), frames)
    link.reset(seed=seed)
    seen, infos = [], []
    for number in range(1, decisions + 1):
        link.decided_after(thought_s)
        for _ in range(frames):
            obs, _, terminated, _, info = link.step(np.float32([number]))
            if terminated:
                break
        seen.append(float(obs[0]))
        infos.append(info)
        if terminated:
            break
    return link.env.told, seen, infos


def test_without_options_nothing_happens():
    told, seen, infos = drive({}, 3)
    assert told == [1] * 4 + [2] * 4 + [3] * 4
    assert seen == [4, 8, 12]
    assert infos[-1] == {"command_lost": False, "observation_age": 0.0}


@pytest.mark.parametrize(("latency", "frames"), [(0.01, 1), (0.02, 2), (0.04, 4), (0.056, 6)])
def test_the_command_before_holds_until_one_arrives(latency, frames):
    told, _, _ = drive({"command_latency": latency}, 5)
    assert told == [0] * frames + [n for n in range(1, 6) for _ in range(4)][: 20 - frames]


def test_a_decision_takes_its_time_like_a_latency():
    told, _, _ = drive({}, 3, thought_s=0.02)
    assert told == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3]


def test_the_world_goes_on_while_a_decision_is_late():
    told, _, _ = drive({}, 2, thought_s=0.07)  # three frames beyond the period
    assert told == [0] * 7 + [1] * 7
    # The time over is that of the first decision; what was decided stands for what is left.


def test_an_episode_may_end_while_a_decision_is_late():
    told, seen, _ = drive({}, 2, thought_s=0.1, ends_at=3)
    assert told == [0] * 3
    assert seen == [3]


@pytest.mark.parametrize(("latency", "frames"), [(0.01, 1), (0.04, 4), (0.05, 5)])
def test_observations_are_as_old_as_they_should_be(latency, frames):
    _, seen, infos = drive({"observation_latency": latency}, 4)
    assert seen == [max(0, t - frames) for t in (4, 8, 12, 16)]
    assert infos[-1]["observation_age"] == pytest.approx(latency)


def test_losses_and_jitter_have_the_statistics_that_were_asked_for():
    options = {"command_loss": 0.2, "observation_loss": 0.3, "jitter": 0.03}
    told, seen, infos = drive(options, 2000, frames=10)
    assert np.mean([i["command_lost"] for i in infos]) == pytest.approx(0.2, abs=0.03)
    # A lost observation shows the one before.
    assert np.mean(np.diff(seen) == 0) == pytest.approx(0.3, abs=0.03)
    _, _, alone = drive({"jitter": 0.03}, 1000, frames=30)
    assert np.mean([i["observation_age"] for i in alone]) == pytest.approx(0.03, rel=0.1)
    assert sorted(told) == told  # a command that was overtaken is ignored
    assert sorted(seen) == seen


def test_a_lost_command_is_never_done():
    told, _, infos = drive({"command_loss": 0.5}, 50)
    lost = {n for n, i in enumerate(infos, start=1) if i["command_lost"]}
    assert 10 < len(lost) < 40
    assert set(told) - {0} == set(range(1, 51)) - lost


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31 - 1),
    latency=st.floats(0, 0.1),
    jitter=st.floats(0, 0.1),
    loss=st.floats(0, 0.9),
)
def test_the_same_seed_loses_the_same(seed, latency, jitter, loss):
    options = {"command_latency": latency, "jitter": jitter, "command_loss": loss, "observation_loss": loss}
    assert drive(options, 20, seed=seed) == drive(options, 20, seed=seed)


def test_another_seed_loses_others():
    options = {"command_loss": 0.5}
    assert drive(options, 30, seed=1)[0] != drive(options, 30, seed=2)[0]


def test_options_do_not_change_what_the_others_draw():
    lost = [
        [i["command_lost"] for i in drive(o, 50)[2]]
        for o in ({"command_loss": 0.5}, {"command_loss": 0.5, "jitter": 1})
    ]
    assert lost[0] == lost[1]


@pytest.mark.parametrize("name", LinkOptions.__dataclass_fields__)
def test_every_option_changes_an_episode(name):
    def play(link):
        env = make_env("forethought/Reacher-v0", EnvOptions(**ARM, link=link))
        rng = np.random.default_rng(0)
        obs = [env.reset(seed=1)[0]["position"]]
        for _ in range(20):
            obs.append(env.step(rng.uniform(-1, 1, 2).astype(np.float32))[0]["position"])
        return np.stack(obs)

    plain = play(LinkOptions())
    changed = play(LinkOptions(**{name: 0.5 if name.endswith("loss") else 0.05}))
    assert not np.array_equal(plain, changed)


def test_a_linked_environment_is_the_same_alone_and_in_a_vector():
    options = EnvOptions(**ARM, link=LinkOptions(command_latency=0.01, jitter=0.01, observation_loss=0.2))
    env, vector = make_env("forethought/Reacher-v0", options), make_vector("forethought/Reacher-v0", 2, options)
    env.reset(seed=5)
    vector.reset([4, 5])
    rng = np.random.default_rng(0)
    for _ in range(15):
        action = rng.uniform(-1, 1, 2).astype(np.float32)
        obs, *_ = env.step(action)
        step = vector.step(np.stack([action, action]))
        np.testing.assert_array_equal(step.obs["position"][1], obs["position"])


def test_the_native_backend_has_no_link():
    options = EnvOptions(link=LinkOptions(command_latency=0.1))
    with pytest.raises(EnvError, match=r"backend='mujoco' needs .* no link, got .*command_latency=0.1"):
        make_vector("forethought/Reacher-v0", 2, options, "mujoco")


def test_a_link_needs_to_know_how_long_a_step_is():
    with pytest.raises(
        EnvError, match=r"MountainCarContinuous-v0: link needs an environment that says how long a step takes"
    ):
        make_env("MountainCarContinuous-v0", EnvOptions(link=LinkOptions(jitter=0.1)))


@pytest.mark.parametrize("name", LinkOptions.__dataclass_fields__)
@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan, True, "fast"])
def test_bad_options_are_refused(name, value):
    with pytest.raises(EnvError, match=f"link.{name} must be a finite number of at least 0"):
        LinkOptions(**{name: value})


@pytest.mark.parametrize("name", ["command_loss", "observation_loss"])
def test_losing_everything_is_refused(name):
    with pytest.raises(EnvError, match=f"link.{name} is a share and must be below 1, got 1"):
        LinkOptions(**{name: 1})


def test_pictures_come_without_latency():
    options = EnvOptions(observation="pixels", link=LinkOptions(observation_latency=0.1))
    with pytest.raises(EnvError, match=r"link.observation_latency .* must be 0 where pictures are drawn"):
        make_env("forethought/Reacher-v0", options)


def test_options_come_back_from_json():
    data = {"link": {"jitter": 0.5}, "action_rate": [2.0]}
    assert EnvOptions.from_json(data) == EnvOptions(link=LinkOptions(jitter=0.5), action_rate=[2.0])
    assert EnvOptions.from_json({}) == EnvOptions()
