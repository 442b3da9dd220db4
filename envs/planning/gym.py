"""Planning tasks on models of Gymnasium (Towers et al. 2024), and on our own task Push."""

import importlib.util
from pathlib import Path

import mujoco
import numpy as np
from typing_extensions import override

from ..spec import EnvError
from ..tasks.base import Obs
from ..tasks.push import Push
from .base import Bools, Fields, Floats, PlanningTask


class GymHopper(PlanningTask):
    """Hop forward; an episode ends with a fall."""

    name = "gym_hopper"
    summary = "hop forward on one leg; whoever leans over or sinks is out"
    source = "Gymnasium Hopper-v5"
    frame_skip, horizon, decisions = 8, 16, 50
    camera = "track"

    @override
    def load_model(self) -> mujoco.MjModel:
        return _gym_model("hopper")

    @override
    def sample_start(self, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        qpos = self.model.qpos0 + rng.uniform(-5e-3, 5e-3, self.model.nq)
        return qpos, rng.uniform(-5e-3, 5e-3, self.model.nv), np.zeros(0)

    @override
    def reward(self, x: Fields, goal: Floats) -> Floats:
        speed = (x["qpos"][:, 0] - x["before"][:, 0]) / self.control_dt
        return np.asarray(speed + ~self.ended(x) - 1e-3 * np.square(x["ctrl"]).sum(axis=-1))

    @override
    def ended(self, x: Fields) -> Bools:
        height, angle = x["qpos"][:, 1], x["qpos"][:, 2]
        state = np.concatenate([x["qpos"], x["qvel"]], axis=-1)[:, 2:]
        return np.asarray(~((height > 0.7) & (np.abs(angle) < 0.2) & (np.abs(state) < 100).all(axis=-1)))


class GymAnt(PlanningTask):
    """Run on four legs."""

    name = "gym_ant"
    summary = "run on four legs with eight motors in three dimensions"
    source = "Gymnasium Ant-v5, without its contact cost"
    frame_skip, horizon, decisions = 5, 12, 30
    camera = "track"

    @override
    def load_model(self) -> mujoco.MjModel:
        return _gym_model("ant")

    @override
    def sample_start(self, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        qpos = self.model.qpos0 + rng.uniform(-0.1, 0.1, self.model.nq)
        return qpos, 0.1 * rng.standard_normal(self.model.nv), np.zeros(0)

    @override
    def reward(self, x: Fields, goal: Floats) -> Floats:
        speed = (x["qpos"][:, 0] - x["before"][:, 0]) / self.control_dt
        return np.asarray(speed + ~self.ended(x) - 0.5 * np.square(x["ctrl"]).sum(axis=-1))

    @override
    def ended(self, x: Fields) -> Bools:
        return np.asarray(~((x["qpos"][:, 2] >= 0.2) & (x["qpos"][:, 2] <= 1.0)))


class DoublePendulum(PlanningTask):
    """Balance two poles on each other on a cart."""

    name = "double_pendulum"
    summary = "balance two poles on each other on a cart; whoever drops them is out"
    source = "Gymnasium InvertedDoublePendulum-v5, its reward over 10, starting three times as far from upright"
    frame_skip, horizon, decisions = 5, 12, 40
    fields = ("site_xpos",)
    camera = -1

    @override
    def load_model(self) -> mujoco.MjModel:
        return _gym_model("inverted_double_pendulum")

    @override
    def sample_start(self, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        qpos = self.model.qpos0 + rng.uniform(-0.3, 0.3, self.model.nq)
        return qpos, 0.1 * rng.standard_normal(self.model.nv), np.zeros(0)

    @override
    def reward(self, x: Fields, goal: Floats) -> Floats:
        tip, (upper, lower) = x["site_xpos"][:, 0], x["qvel"][:, 1:3].T
        penalty = 0.01 * tip[:, 0] ** 2 + (tip[:, 2] - 2) ** 2 + 1e-3 * upper**2 + 5e-3 * lower**2
        return np.asarray(~self.ended(x) - penalty / 10)

    @override
    def ended(self, x: Fields) -> Bools:
        return np.asarray(x["site_xpos"][:, 0, 2] <= 1)


class GymPusher(PlanningTask):
    """Push a cylinder to a place with an arm of seven joints."""

    name = "gym_pusher"
    summary = "push a cylinder to a place with an arm of seven joints: contact, redundancy"
    source = "Gymnasium Pusher-v5"
    frame_skip, horizon, decisions = 5, 15, 40
    fields = ("xpos",)
    camera = -1

    @override
    def load_model(self) -> mujoco.MjModel:
        model = _gym_model("pusher_v5")
        self._object, self._tips, self._goal = (model.body(name).id for name in ("object", "tips_arm", "goal"))
        return model

    @override
    def sample_start(self, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        place = np.zeros(2)
        while np.linalg.norm(place) <= 0.17:
            place = rng.uniform((-0.3, -0.2), (0.0, 0.2))
        qpos, qvel = self.model.qpos0.copy(), rng.uniform(-0.005, 0.005, self.model.nv)
        qpos[-4:], qvel[-4:] = [*place, 0.0, 0.0], 0.0
        return qpos, qvel, np.zeros(0)

    @override
    def reward(self, x: Fields, goal: Floats) -> Floats:
        place = x["xpos"][:, self._object]
        near, far = (np.linalg.norm(place - x["xpos"][:, body], axis=-1) for body in (self._tips, self._goal))
        return np.asarray(-far - 0.5 * near - 0.1 * np.square(x["ctrl"]).sum(axis=-1))


class PushPuck(PlanningTask):
    """Push a puck to a place."""

    name = "push"
    summary = "push a puck to a place with a round pusher, which has to get behind it first"
    source = "forethought/Push-v0, the reward being minus its distance in true dynamics"
    frame_skip, horizon, decisions = 10, 15, 40
    camera = "fixed"

    @override
    def load_model(self) -> mujoco.MjModel:
        self._task = Push()
        return self._task.model

    @override
    def sample_start(self, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        qpos, qvel = self._task.sample_start(rng)
        goal, _ = self._task.sample_goal(rng, (qpos, qvel))
        return qpos, qvel, goal

    @override
    def reward(self, x: Fields, goal: Floats) -> Floats:
        return -self._task.distance(self._task.observe(x["qpos"], x["qvel"]), self._seen(goal))

    @override
    def solved(self, x: Fields, goal: Floats, reward: Floats) -> Bools | None:
        return self._task.reached(self._task.observe(x["qpos"], x["qvel"]), self._seen(goal))

    def _seen(self, goal: Floats) -> Obs:
        return self._task.observe(goal, np.zeros(len(goal)))


def _gym_model(name: str) -> mujoco.MjModel:
    """A model of Gymnasium, read without importing its environments."""
    package = importlib.util.find_spec("gymnasium")
    if package is None or not package.submodule_search_locations:
        raise EnvError("this task needs the models of Gymnasium: pip install gymnasium")
    path = Path(package.submodule_search_locations[0]) / "envs" / "mujoco" / "assets" / f"{name}.xml"
    return mujoco.MjModel.from_xml_path(str(path))
