"""Planning tasks on the models of the DeepMind Control Suite (Tassa et al. 2018), with its rewards."""

import math

import mujoco
import numpy as np
from typing_extensions import override

from ..tasks.base import suite_model
from .base import Fields, Floats, PlanningTask, tolerance

_ZZ = 8
"""Index of the vertical component of a frame's z-axis in `xmat`."""
_NO_GOAL = np.zeros(0)


class PendulumSparse(PlanningTask):
    """Swing up with a torque that is too weak to lift."""

    name = "pendulum_sparse"
    summary = "swing a pole up with too weak a torque; reward only within 8 degrees of upright"
    source = "dm_control pendulum-swingup"
    frame_skip, horizon, decisions = 3, 25, 70
    fields = ("xmat",)
    solved_at = 1.0

    @override
    def load_model(self) -> mujoco.MjModel:
        return suite_model("pendulum")

    @override
    def sample_start(self, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        return rng.uniform(-math.pi, math.pi, 1), np.zeros(1), _NO_GOAL

    @override
    def reward(self, x: Fields, goal: Floats) -> Floats:
        return tolerance(x["xmat"][:, 1, _ZZ], math.cos(math.radians(8)), 1.0)


class CartpoleSwingup(PlanningTask):
    """Swing a pole up by moving its cart."""

    name = "cartpole_swingup"
    summary = "swing a pole up by moving its cart, and balance it in the middle of the rail"
    source = "dm_control cartpole-swingup"
    frame_skip, horizon, decisions = 4, 25, 60
    fields = ("xmat",)
    solved_at = 0.8
    _pole = 2

    @override
    def load_model(self) -> mujoco.MjModel:
        return suite_model("cartpole")

    @override
    def sample_start(self, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        return np.array([0.0, math.pi]) + 0.01 * rng.standard_normal(2), 0.01 * rng.standard_normal(2), _NO_GOAL

    @override
    def reward(self, x: Fields, goal: Floats) -> Floats:
        upright = (x["xmat"][:, self._pole, _ZZ] + 1) / 2
        centred = (1 + tolerance(x["qpos"][:, 0], 0.0, 0.0, 2.0)) / 2
        gentle = (4 + tolerance(x["ctrl"][:, 0], 0.0, 0.0, 1.0, "quadratic", 0.0)) / 5
        slow = (1 + tolerance(x["qvel"][:, 1], 0.0, 0.0, 5.0)) / 2
        return upright * gentle * slow * centred


class AcrobotSwingup(PlanningTask):
    """Swing two links up with a motor at the elbow alone."""

    name = "acrobot_swingup"
    summary = "swing two links up with a motor at the elbow alone: underactuated, chaotic"
    source = "dm_control acrobot-swingup, starting within 0.1 rad of hanging instead of anywhere"
    frame_skip, horizon, decisions = 4, 25, 80
    fields = ("site_xpos",)
    solved_at = 0.6

    @override
    def load_model(self) -> mujoco.MjModel:
        model = suite_model("acrobot")
        self._tip, self._target = model.site("tip").id, model.site("target").id
        self._radius = float(model.site("target").size[0])
        return model

    @override
    def sample_start(self, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        return np.array([math.pi, 0.0]) + rng.uniform(-0.1, 0.1, 2), np.zeros(2), _NO_GOAL

    @override
    def reward(self, x: Fields, goal: Floats) -> Floats:
        gap = np.linalg.norm(x["site_xpos"][:, self._tip] - x["site_xpos"][:, self._target], axis=-1)
        return tolerance(gap, 0.0, self._radius, 1.0)


class ReacherHard(PlanningTask):
    """Bring the finger of a two-link arm to a small target."""

    name = "reacher_hard"
    summary = "bring the finger of a two-link arm to a target of 15 mm; no reward elsewhere"
    source = "dm_control reacher-hard"
    frame_skip, horizon, decisions = 2, 20, 40
    fields = ("geom_xpos",)
    solved_at = 1.0
    _TARGET_RADIUS = 0.015

    @override
    def load_model(self) -> mujoco.MjModel:
        model = suite_model("reacher")
        self._finger = model.geom("finger").id
        self._radii = self._TARGET_RADIUS + float(model.geom("finger").size[0])
        return model

    @override
    def sample_start(self, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        angle, radius = rng.uniform(0, 2 * math.pi), rng.uniform(0.05, 0.2)
        qpos = np.array([rng.uniform(-math.pi, math.pi), rng.uniform(*self.model.joint("wrist").range)])
        return qpos, np.zeros(2), radius * np.array([math.sin(angle), math.cos(angle)])

    @override
    def reward(self, x: Fields, goal: Floats) -> Floats:
        return tolerance(np.linalg.norm(x["geom_xpos"][:, self._finger, :2] - goal, axis=-1), 0.0, self._radii)

    @override
    def show_goal(self, model: mujoco.MjModel, goal: Floats) -> None:
        model.geom("target").pos[:2] = goal
        model.geom("target").size[0] = self._TARGET_RADIUS


class CupCatch(PlanningTask):
    """Catch a ball on a string in a cup."""

    name = "cup_catch"
    summary = "catch a ball on a string in the cup that it hangs from; no reward before it is in there"
    source = "dm_control ball_in_cup-catch"
    frame_skip, horizon, decisions = 20, 15, 30
    fields = ("site_xpos", "xpos")
    solved_at = 1.0

    @override
    def load_model(self) -> mujoco.MjModel:
        model = suite_model("ball_in_cup")
        self._target, self._ball = model.site("target").id, model.body("ball").id
        self._room = model.site("target").size[[0, 2]] - model.geom("ball").size[0]
        return model

    @override
    def sample_start(self, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        data = mujoco.MjData(self.model)
        while True:  # until the ball touches nothing
            data.qpos[2:] = rng.uniform((-0.2, 0.2), (0.2, 0.5))
            mujoco.mj_forward(self.model, data)
            if data.ncon == 0:
                return data.qpos.copy(), np.zeros(4), _NO_GOAL

    @override
    def reward(self, x: Fields, goal: Floats) -> Floats:
        gap = np.abs(x["site_xpos"][:, self._target] - x["xpos"][:, self._ball])[:, [0, 2]]
        return np.asarray((gap < self._room).all(axis=-1), np.float64)


class FingerTurn(PlanningTask):
    """Turn a free spinner to an angle with a finger."""

    name = "finger_turn"
    summary = "flick a spinner so that its tip stops in a small target: contact, no reward elsewhere"
    source = "dm_control finger-turn_hard, the finger starting at rest where it hangs"
    frame_skip, horizon, decisions = 4, 20, 50
    fields = ("sensordata",)
    solved_at = 1.0
    camera = "cam0"
    _RADIUS = 0.03

    @override
    def load_model(self) -> mujoco.MjModel:
        model = suite_model("finger")
        self._tip, self._spinner = (int(model.sensor(name).adr[0]) for name in ("tip", "spinner"))
        self._reach = float(model.geom("cap1").size.sum())
        return model

    @override
    def sample_start(self, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        qpos = self.model.qpos0.copy()
        qpos[2] = rng.uniform(-math.pi, math.pi)
        angle = qpos[2] + math.pi + rng.uniform(-0.75, 0.75) * math.pi  # not where it starts
        return qpos, np.zeros(3), self._reach * np.array([math.sin(angle), math.cos(angle)])

    @override
    def reward(self, x: Fields, goal: Floats) -> Floats:
        tip, spinner = (x["sensordata"][:, [i, i + 2]] for i in (self._tip, self._spinner))
        return np.asarray(np.linalg.norm(spinner + goal - tip, axis=-1) <= self._RADIUS, np.float64)

    @override
    def show_goal(self, model: mujoco.MjModel, goal: Floats) -> None:
        target, hinge = model.site("target"), model.body("spinner").pos
        target.pos[[0, 2]] = hinge[[0, 2]] + goal
        target.size[0] = self._RADIUS


class HopperHop(PlanningTask):
    """Hop forward on one leg."""

    name = "hopper_hop"
    summary = "hop forward on one leg at 2 m/s without falling"
    source = "dm_control hopper-hop, starting near its default pose"
    frame_skip, horizon, decisions = 6, 24, 40
    fields = ("xipos", "sensordata")
    camera = "cam0"

    @override
    def load_model(self) -> mujoco.MjModel:
        model = suite_model("hopper")
        self._torso, self._foot = model.body("torso").id, model.body("foot").id
        self._velocity = int(model.sensor("torso_subtreelinvel").adr[0])
        return model

    @override
    def sample_start(self, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        return _near_default(self.model, rng)

    @override
    def reward(self, x: Fields, goal: Floats) -> Floats:
        height = x["xipos"][:, self._torso, 2] - x["xipos"][:, self._foot, 2]
        speed = x["sensordata"][:, self._velocity]
        return tolerance(height, 0.6, 2.0) * tolerance(speed, 2.0, np.inf, 1.0, "linear", 0.5)


class WalkerRun(PlanningTask):
    """Run on two legs in the plane."""

    name = "walker_run"
    summary = "run on two legs in the plane, as near to 8 m/s as it gets"
    source = "dm_control walker-run, starting near its default pose"
    frame_skip, horizon, decisions = 12, 14, 30
    fields = ("xmat", "xpos", "sensordata")
    camera = "side"

    @override
    def load_model(self) -> mujoco.MjModel:
        model = suite_model("walker")
        self._torso = model.body("torso").id
        self._velocity = int(model.sensor("torso_subtreelinvel").adr[0])
        return model

    @override
    def sample_start(self, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        return _near_default(self.model, rng)

    @override
    def reward(self, x: Fields, goal: Floats) -> Floats:
        standing = tolerance(x["xpos"][:, self._torso, 2], 1.2, np.inf, 0.6)
        upright = (1 + x["xmat"][:, self._torso, _ZZ]) / 2
        moving = tolerance(x["sensordata"][:, self._velocity], 8.0, np.inf, 4.0, "linear", 0.5)
        return (3 * standing + upright) / 4 * (5 * moving + 1) / 6


class CheetahRun(PlanningTask):
    """Run on a fore and a hind leg in the plane."""

    name = "cheetah_run"
    summary = "run on a fore and a hind leg in the plane, as near to 10 m/s as it gets"
    source = "dm_control cheetah-run, starting near its default pose"
    frame_skip, horizon, decisions = 4, 14, 50
    fields = ("sensordata",)
    camera = "side"

    @override
    def load_model(self) -> mujoco.MjModel:
        model = suite_model("cheetah")
        self._velocity = int(model.sensor("torso_subtreelinvel").adr[0])
        return model

    @override
    def sample_start(self, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        return _near_default(self.model, rng)

    @override
    def reward(self, x: Fields, goal: Floats) -> Floats:
        return tolerance(x["sensordata"][:, self._velocity], 10.0, np.inf, 10.0, "linear", 0.0)


class HumanoidStand(PlanningTask):
    """Keep a humanoid of 21 motors on its feet."""

    name = "humanoid_stand"
    summary = "keep a humanoid of 21 motors on its feet, from a start with random velocities"
    source = "dm_control humanoid-stand, starting near its default pose in motion instead of on the floor"
    frame_skip, horizon, decisions = 5, 10, 40
    fields = ("xpos", "xmat", "sensordata")
    camera = "side"

    @override
    def load_model(self) -> mujoco.MjModel:
        model = suite_model("humanoid")
        self._head, self._torso = model.body("head").id, model.body("torso").id
        self._velocity = int(model.sensor("torso_subtreelinvel").adr[0])
        return model

    @override
    def sample_start(self, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        qpos, qvel = self.model.qpos0.copy(), 0.5 * rng.standard_normal(self.model.nv)
        qpos[2] = 1.33
        qpos[7:] += rng.uniform(-0.05, 0.05, self.model.nq - 7)
        return qpos, qvel, _NO_GOAL

    @override
    def reward(self, x: Fields, goal: Floats) -> Floats:
        standing = tolerance(x["xpos"][:, self._head, 2], 1.4, np.inf, 0.35)
        upright = tolerance(x["xmat"][:, self._torso, _ZZ], 0.9, np.inf, 1.9, "linear", 0.0)
        gentle = (4 + tolerance(x["ctrl"], 0.0, 0.0, 1.0, "quadratic", 0.0).mean(axis=-1)) / 5
        velocity = x["sensordata"][:, self._velocity : self._velocity + 2]
        still = tolerance(velocity, 0.0, 0.0, 2.0).mean(axis=-1)
        return np.asarray(gentle * standing * upright * still)


def _near_default(model: mujoco.MjModel, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """The default pose, joints up to 0.05 rad off and standing still."""
    qpos = model.qpos0.copy()
    qpos[3:] += rng.uniform(-0.05, 0.05, model.nq - 3)
    return qpos, np.zeros(model.nv), _NO_GOAL
