"""Every check fails on an environment that is broken in its way, and on no other; a sane one passes them all."""

import math
import random
import re
import time

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from forethought.envs.examination import CHECKS, MADE, Finding, examine, worst
from forethought.envs.examination.evidence import Verdict, difference
from forethought.envs.rendering import RenderingUnavailable
from forethought.envs.spec import EnvError, EnvOptions

ID = "forethought-tests/Examined-v0"
STEPS = 200
LIMIT = 40


class Sane(gymnasium.Env):
    """A point in the plane that is pushed to a goal."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    dt = 0.1

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.goal = self.np_random.uniform(-1, 1, (2, 2)).astype(np.float32)
        self.count = 0
        return self.obs(), self.start_info()

    def step(self, action):
        self.place = self.place + np.float32(self.dt) * action
        self.count += 1
        return self.obs(), self.reward(), self.terminated(), self.truncated(), self.info()

    def obs(self):
        return self.place.copy()

    def start_info(self):
        return {"goal": self.goal.copy()}

    def reward(self):
        return -float(np.abs(self.place - self.goal).sum())

    def terminated(self):
        return False

    def truncated(self):
        return False

    def info(self):
        return {"success": bool(np.abs(self.place - self.goal).max() < 0.05)}

    def render(self):
        return np.tile(np.arange(8, dtype=np.uint8)[:, None, None], (1, 8, 3))


class WithoutGoals(Sane):
    def start_info(self):
        return {}

    def info(self):
        return {}


class Named(Sane):
    """The other convention of goals."""

    observation_space = spaces.Dict(
        {key: spaces.Box(-np.inf, np.inf, (2,), np.float32) for key in ("achieved_goal", "desired_goal", "observation")}
    )

    def obs(self):
        return {"observation": self.place, "achieved_goal": self.place, "desired_goal": self.goal}

    def start_info(self):
        return {}


class Ticking:
    """A clock that goes on by so many seconds whenever it is looked at."""

    def __init__(self, tick):
        self.now, self.tick = 0.0, tick

    def __call__(self):
        self.now += self.tick
        return self.now


def look(cls, options=None, *, limit=LIMIT, steps=STEPS, tick=1e-3, seed=0, **kwargs):
    """The findings by name of an environment of this class."""
    gymnasium.register(ID, entry_point=cls, max_episode_steps=limit, kwargs=kwargs)
    try:
        findings = examine(ID, options, seed=seed, steps=steps, clock=Ticking(tick))
    finally:
        gymnasium.registry.pop(ID)
    return {finding.name: finding for finding in findings}


def changed(base=Sane, **attributes):
    return type("Changed", (base,), attributes)


# -- sane ones ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Sane, WithoutGoals, Named])
def test_a_sane_environment_passes_every_check(cls):
    findings = look(cls)
    assert list(findings) == [MADE, *CHECKS]
    assert {name: f for name, f in findings.items() if f.level != "ok" or f.advice} == {}
    assert all(finding.found for finding in findings.values())
    assert worst(list(findings.values())) == "ok"


@pytest.mark.parametrize("env_id", ["forethought/PointMass-v0", "forethought/Cue-v0"])
def test_so_do_the_own_tasks(env_id):
    findings = examine(env_id, steps=STEPS, clock=Ticking(1e-4))
    assert [f for f in findings if f.level not in ("ok", "skipped")] == []  # skipped where nothing can draw


# -- broken ones -------------------------------------------------------------------------------------------------------


def fail(self, *_, **__):
    raise ZeroDivisionError("motor driver lost")


class OldReset(Sane):
    def reset(self):
        return super().reset()[0]


class AloneReset(Sane):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class NoInfo(Sane):
    def start_info(self):
        return None


class OldStep(Sane):
    def step(self, action):
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, info


class LateFailure(Sane):
    def reward(self):
        return fail(self) if self.count == 30 else super().reward()


class Hanging(Sane):
    def reward(self):
        time.sleep(20)


class Beside(Sane):
    """Its observations come as they are named here, whatever the space says."""

    returned = staticmethod(lambda place: place)

    def obs(self):
        return type(self).returned(self.place)


class Incomplete(Named):
    def obs(self):
        obs = super().obs()
        del obs["observation"]
        return obs


class OneArray(Sane):
    def step(self, action):
        self.place += np.float32(self.dt) * action
        self.count += 1
        return self.place, self.reward(), False, False, self.info()

    def obs(self):
        return self.place


class ActionScaled(Sane):
    def step(self, action):
        action *= np.float32(0.5)
        return super().step(action)


class Unseeded(Sane):
    def reset(self, *, seed=None, options=None):
        return super().reset()


class Noisy(Sane):
    def obs(self):
        return self.place + np.float32(1e-6) * np.float32(np.random.default_rng().standard_normal())


class OnlyOne(Sane):
    made = 0

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        type(self).made += 1
        if type(self).made > 1:
            raise OSError("the port is in use")


class Drifting(Sane):
    age = 0

    def step(self, action):
        self.age += 1
        return super().step(action * np.float32(0.99**self.age))


class SameAlways(Sane):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=0)
        return self.obs(), self.start_info()


class GlobalDraws(Sane):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        np.random.seed(seed)
        self.place = np.random.uniform(-1, 1, 2).astype(np.float32)
        return self.obs(), self.start_info()


class PythonDraws(Sane):
    def reset(self, *, seed=None, options=None):
        random.random()
        return super().reset(seed=seed)


class Deaf(Sane):
    def step(self, action):
        return super().step(np.float32([0.3, 0.1]))


class HomeMadeLimit(Sane):
    def terminated(self):
        return self.count >= 25


class OldLimit(HomeMadeLimit):
    def info(self):
        return {**super().info(), "TimeLimit.truncated": self.terminated()}


class DeadOnArrival(Sane):
    def terminated(self):
        return True


class Cut(Sane):
    def truncated(self):
        return bool(np.abs(self.place).max() > 1.05)


class HalfGoals(Sane):
    def start_info(self):
        return super().start_info() if self.place[0] > 0 else {}


class WrongGoal(Sane):
    def start_info(self):
        return {"goal": np.zeros(3, np.float32)}


class Reached(Sane):
    def start_info(self):
        return {"goal": self.place}


class ReachedNamed(Named):
    def obs(self):
        return {"observation": self.place, "achieved_goal": self.place, "desired_goal": self.place}


class OneGoal(Sane):
    def start_info(self):
        return {"goal": np.ones(2, np.float32)}


class OtherGoal(WithoutGoals):
    def start_info(self):
        return {"target_pos": self.goal}


def infos(info):
    return changed(info=lambda self: info)


def rewards(base, function):
    return changed(base, reward=function)


def pictures(picture):
    return changed(render=lambda self: picture() if callable(picture) else picture)


def no_pygame():
    raise ImportError("no pygame")


def no_gl():
    raise RenderingUnavailable("cannot draw")


class Locked(Sane):
    def info(self):
        return {**super().info(), "simulator": lambda: None}


class ClosesOnce(Sane):
    shut = False

    def close(self):
        if self.shut:
            fail(self)
        self.shut = True


def boxed(*shape, dtype=np.float32, low=-np.inf, high=np.inf):
    return spaces.Box(low, high, shape, dtype)


def acting(space):
    return changed(action_space=space, step=lambda self, action: Sane.step(self, np.zeros(2, np.float32)))


def seen(space, returned):
    return changed(Beside, observation_space=space, returned=staticmethod(returned), start_info=lambda self: {})


IMAGE = (3, 8, 8)
BROKEN = {
    "action space": [
        (acting(spaces.Discrete(3)), "error", "must be a Box"),
        (acting(boxed(2)), "error", "must be bounded"),
        (acting(boxed(2, low=-1e6, high=1e6)), "warning", r"from -1e\+06 to 1e\+06"),
    ],
    "observation space": [
        (seen(spaces.Text(3), lambda place: "abc"), "error", "Box, MultiBinary and Dict"),
        (
            seen(boxed(*IMAGE, dtype=np.uint8, low=0, high=255), lambda place: np.zeros(IMAGE, np.uint8)),
            "warning",
            "channels first",
        ),
        (seen(boxed(8, 8, 3), lambda place: np.full((8, 8, 3), place[0])), "warning", "dtype float32"),
    ],
    "reset": [
        (OldReset, "error", r"reset\(\) raised TypeError.*'seed'"),
        (AloneReset, "error", r"must return \(obs, info\)"),
        (NoInfo, "error", "with a dict as info"),
        (changed(reset=fail), "error", "ZeroDivisionError: motor driver lost"),
    ],
    "step": [
        (OldStep, "error", r"tuple of 4 \(the Gym API before"),
        (LateFailure, "error", r"at decision 30 of the episode raised ZeroDivisionError"),
        (rewards(Sane, lambda self: self.place), "error", "reward must be one number"),
        (changed(terminated=lambda self: None), "error", "terminated must be a bool"),
        (infos(None), "error", "info must be a dict"),
        (Hanging, "error", r"step_timeout_s=0\.2"),
    ],
    "shapes and dtypes": [
        (seen(boxed(2), lambda place: place[:1]), "error", r"shape \(2,\)"),
        (seen(boxed(2, dtype=np.uint8, low=0, high=9), lambda place: place), "error", "dtype uint8"),
        (seen(boxed(2), lambda place: place.astype(np.float64)), "warning", "declared float32 and comes as float64"),
        (Incomplete, "error", "'observation' must have shape"),
        (seen(spaces.MultiBinary(2), lambda place: place), "error", "not in its space"),
    ],
    "observation bounds": [
        (seen(boxed(2, low=-0.1, high=np.inf), lambda place: place.copy()), "warning", r"outside \[-0.1, inf\]")
    ],
    "finite numbers": [
        (seen(boxed(2), lambda place: place / np.float32(0) * 0), "error", r"was nan at index \[0\]"),
        (seen(boxed(2, dtype=np.float64), lambda place: place.astype(float) * 1e300), "error", r"e\+"),
        (rewards(Sane, lambda self: math.inf), "error", "the reward was inf"),
    ],
    "aliasing": [(OneArray, "warning", "observation that the call before"), (ActionScaled, "warning", "the action")],
    "seeding": [
        (Unseeded, "error", "a second instance differed at the reset"),
        (Noisy, "warning", "differed at the reset by"),
        (OnlyOne, "error", "second instance failed.*the port is in use"),
    ],
    "state over reset": [(Drifting, "error", "again, later, differed at step 1")],
    "different seeds": [(SameAlways, "warning", "began with the same observation")],
    "global generators": [(GlobalDraws, "warning", r"of numpy\.random$"), (PythonDraws, "warning", "of random$")],
    "effect of actions": [(Deaf, "warning", "40 opposite actions changed no observation")],
    "time limit": [(Sane, "warning", "no episode was truncated in 200 steps")],
    "ends of episodes": [
        (HomeMadeLimit, "warning", "all 8 episodes terminated after exactly 25 steps"),
        (OldLimit, "warning", r"info says TimeLimit\.truncated"),
        (DeadOnArrival, "warning", "at their first step"),
        (Cut, "warning", "which no clock does"),
    ],
    "goals": [
        (HalfGoals, "error", r'info\["goal"\] was there after'),
        (WrongGoal, "error", "must have shape"),
        (changed(Named, observation_space=spaces.Dict(desired_goal=boxed(2))), "error", "must also have achieved_goal"),
        (Reached, "warning", "where the episode began"),
        (ReachedNamed, "warning", "where the episode began"),
        (OneGoal, "warning", "the same goal"),
        (OtherGoal, "warning", "'target_pos' looks like one"),
    ],
    "success": [
        (infos({"success": 0.3}), "error", "0.3, which is not a truth value"),
        (infos({"is_success": np.zeros(2)}), "error", "'is_success'.*not a truth value"),
        (infos({"success": True}), "warning", "after one random step"),
        (infos({"task_solved": False}), "warning", "'task_solved' looks like it"),
        (infos({}), "warning", "nothing of success"),
    ],
    "reward": [
        (rewards(WithoutGoals, lambda self: 1.0), "warning", "always 1 in 200 random steps"),
        (rewards(Sane, lambda self: 1e4 * Sane.reward(self)), "warning", "large"),
        (rewards(Sane, lambda self: 1e-5 * Sane.reward(self)), "warning", "hardly any difference"),
    ],
    "control step": [(changed(dt=100.0), "warning", "100 s")],
    "speed": [(Sane, "warning", "10 steps per second.*33 minutes")],
    "rendering": [
        (changed(metadata={"render_modes": []}), "warning", r"is \[\]: no videos"),
        (pictures(None), "error", "returned NoneType"),
        (pictures(np.zeros((8, 8, 3))), "error", "returned float64"),
        (pictures(np.zeros((8, 8, 3), np.uint8)), "warning", "one colour"),
        (changed(render=fail), "error", "ZeroDivisionError"),
        (pictures(no_pygame), "warning", "ImportError: no pygame"),
        (pictures(no_gl), "skipped", "cannot draw"),
    ],
    "picture speed": [(Sane, "warning", r"10 per second \(64 x 64")],
    "workers": [(Locked, "warning", r"what step\(\) returned cannot be pickled")],
    "closing": [(ClosesOnce, "warning", "close.. raised ZeroDivisionError")],
    "as the agent sees it": [(Sane, "error", "refused: .*unknown")],
}
SETTINGS = {
    "time limit": {"limit": None},
    "speed": {"tick": 0.1},
    "picture speed": {"tick": 1.0},
    "as the agent sees it": {"options": EnvOptions(hide=["nothing"])},
}
CASES = [
    pytest.param(name, *case, id=f"{name}-{number}")
    for name, cases in BROKEN.items()
    for number, case in enumerate(cases)
]


@pytest.mark.parametrize(("name", "cls", "level", "found"), CASES)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_a_broken_environment_fails_its_check(name, cls, level, found):
    settings = SETTINGS.get(name, {})
    if cls is Hanging:
        settings = {"options": EnvOptions(step_timeout_s=0.2)}
    finding = look(cls, **settings)[name]
    assert finding.level == level
    assert re.search(found, finding.found), finding.found
    assert bool(finding.advice) == (level != "skipped")


def test_every_check_has_an_environment_that_fails_it():
    assert BROKEN.keys() == CHECKS.keys()


def test_nothing_is_said_where_nothing_was_seen():
    findings = look(changed(reset=fail))
    unseen = {name for name, finding in findings.items() if finding.level == "skipped"}
    assert {"step", "finite numbers", "seeding", "goals", "reward", "speed", "rendering"} <= unseen
    assert {name for name, f in findings.items() if f.level == "error"} == {"reset", "as the agent sees it"}


# -- the examination itself --------------------------------------------------------------------------------------------


def test_what_cannot_be_made_is_one_finding():
    for env_id, found, advice in (
        ("no_module:Arm-v0", "cannot import", "env_options.kwargs"),
        ("forethought/PointMas-v0", "did you mean", "lists ids"),
    ):
        (finding,) = examine(env_id)
        assert (finding.name, finding.level) == (MADE, "error")
        assert found in finding.found
        assert advice in finding.advice
    (finding,) = look(changed(__init__=fail)).values()
    assert "motor driver lost" in finding.found


def test_a_check_that_fails_is_a_finding_and_stops_no_other(monkeypatch):
    monkeypatch.setitem(CHECKS, "reward", lambda evidence: fail(evidence))
    findings = look(Sane)
    assert findings["reward"].level == "error"
    assert "the check failed: ZeroDivisionError: motor driver lost" in findings["reward"].found
    assert {finding.level for name, finding in findings.items() if name != "reward"} == {"ok"}


def test_seed_and_steps_and_options_count():
    reward = look(Sane)["reward"]
    assert look(Sane)["reward"] == reward
    assert look(Sane, seed=1)["reward"] != reward
    assert look(Sane, steps=100)["reward"] != reward
    assert look(Sane, EnvOptions(max_episode_steps=7))["time limit"].found.startswith("7 decisions")
    for name in ("seed", "steps"):
        with pytest.raises(EnvError, match=f"{name} must be at least"):
            examine("Pendulum-v1", **{name: -1})


def test_a_slow_environment_is_not_waited_for_long():
    assert look(Sane, tick=2.0)["step"].found.startswith("30 steps")
    assert look(Sane, tick=0.2)["step"].found.startswith("200 steps")


def test_every_instance_is_closed_whatever_happens():
    closed = []
    look(changed(close=lambda self: closed.append(self)))
    assert len(set(map(id, closed))) >= 4
    look(changed(close=fail))


def test_the_worst_level():
    def levels(*names):
        return [Finding("x", name, "") for name in names]

    assert worst(levels("ok", "skipped")) == "ok"
    assert worst(levels("warning", "ok")) == "warning"
    assert worst(levels("warning", "error", "ok")) == "error"
    assert Verdict("ok", "").advice == ""


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (np.zeros(2), np.zeros(2), 0.0),
        (np.zeros(2), np.array([0.0, 3.0]), 3.0),
        (np.array([9.0]), np.array([4.0]), 0.5),
        (np.zeros(2), np.zeros(3), math.inf),
        ({"x": 1.0}, {"x": 1.0, "y": 2.0}, math.inf),
        ({"x": 1.0, "y": (1, 2)}, {"x": 1.0, "y": (1, 5)}, 1.0),
        ((1, 2), (1,), math.inf),
        (np.array([np.nan, np.inf]), np.array([np.nan, np.inf]), 0.0),
        (np.array([np.nan]), np.array([1.0]), math.inf),
        ("go", "go", 0.0),
        ("go", "stop", math.inf),
        ([[1], [1, 2]], [[1], [1, 2]], 0.0),
        (True, False, 0.5),
    ],
)
def test_difference(a, b, expected):
    assert difference(a, b) == pytest.approx(expected)
