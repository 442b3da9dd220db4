"""Shifted worlds: every way to step, draw or plan in an environment sees the same changed model."""

import dataclasses
import math
from typing import Any

import mujoco
import numpy as np
import pytest

from forethought.envs.registry import make_env
from forethought.envs.shift import apply_shift, find_model
from forethought.envs.simulator import make_simulator
from forethought.envs.spec import EnvError, EnvOptions, ShiftOptions
from forethought.envs.vector import make_vector

REACHER, CHEETAH, SUITE = "forethought/Reacher-v0", "HalfCheetah-v5", "dm_control/walker-walk-v0"
FACTORS = ("mass", "gear", "friction", "damping")


def shifted(**changes: float) -> EnvOptions:
    return EnvOptions(shift=ShiftOptions(**changes))


def observations(env_id: str, options: EnvOptions, steps: int = 40) -> dict[str, Any]:
    env = make_env(env_id, options)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        obs = env.step(rng.uniform(-1, 1, env.env_spec.action_dim))[0]
    env.close()
    return obs


@pytest.mark.parametrize("env_id", [REACHER, CHEETAH, SUITE])
@pytest.mark.parametrize("name", FACTORS)
def test_every_factor_changes_what_happens(env_id: str, name: str) -> None:
    if (env_id, name) == (REACHER, "friction"):
        pytest.skip("nothing touches anything")
    plain, again, other = (observations(env_id, o) for o in (EnvOptions(), EnvOptions(), shifted(**{name: 2.0})))
    assert all(np.array_equal(plain[key], again[key]) for key in plain)
    assert any(not np.array_equal(plain[key], other[key]) for key in plain)


@pytest.mark.parametrize("name", FACTORS)
def test_factors_multiply_and_nothing_else_changes(name: str) -> None:
    plain, other = (find_model(make_env(CHEETAH, options)) for options in (EnvOptions(), shifted(**{name: 2.0})))
    assert plain is not None
    assert other is not None
    arrays = {
        "mass": ("body_mass", "body_inertia"),
        "gear": ("actuator_gear",),
        "friction": ("geom_friction",),
        "damping": ("dof_damping",),
    }
    for group, names in arrays.items():
        for array in names:
            factor = 2.0 if group == name else 1.0
            np.testing.assert_array_equal(factor * getattr(plain, array), getattr(other, array), err_msg=array)
    ratio = other.body_subtreemass[0] / plain.body_subtreemass[0]
    assert ratio == pytest.approx(2.0 if name == "mass" else 1.0), "what the compiler derived must follow"
    np.testing.assert_array_equal(plain.cam_pos, other.cam_pos)


def test_friction_is_that_of_joints_too() -> None:
    options = (EnvOptions(), shifted(friction=3.0))
    plain, other = (find_model(make_env("forethought/Push-v0", o)) for o in options)
    assert plain is not None
    assert other is not None
    assert plain.dof_frictionloss.any()
    np.testing.assert_array_equal(3 * plain.dof_frictionloss, other.dof_frictionloss)


def test_half_the_gear_is_half_the_action() -> None:
    whole, half = make_env(REACHER), make_env(REACHER, shifted(gear=0.5))
    whole.reset(seed=1), half.reset(seed=1)
    rng = np.random.default_rng(0)
    for _ in range(20):
        action = rng.uniform(-1, 1, 2).astype(np.float32)
        one, other = whole.step(action / 2)[0], half.step(action)[0]
        for key, value in one.items():
            np.testing.assert_allclose(value, other[key], rtol=1e-5, atol=1e-5)


def test_cameras_move_along_their_own_right() -> None:
    plain, moved = (find_model(make_env(CHEETAH, options)) for options in (EnvOptions(), shifted(camera=0.3)))
    assert plain is not None
    assert moved is not None
    for index in range(plain.ncam):
        turn = np.empty(9)
        mujoco.mju_quat2Mat(turn, plain.cam_quat[index])
        np.testing.assert_allclose(moved.cam_pos[index] - plain.cam_pos[index], 0.3 * turn.reshape(3, 3)[:, 0])
    # A tracking camera is placed by what the compiler derived.
    np.testing.assert_allclose(np.linalg.norm(moved.cam_poscom0 - plain.cam_poscom0, axis=-1), 0.3)


@pytest.mark.parametrize("backend", ["sync", "mujoco"])
def test_native_stepping_and_the_true_dynamics_see_the_same_model(backend: Any) -> None:
    options = shifted(gear=0.6, mass=1.7, damping=3.0)
    single, many = make_env(REACHER, options), make_vector(REACHER, 2, options, backend)
    simulator = make_simulator(REACHER, options)
    single.reset(seed=5)
    many.reset([5, 6])
    rng = np.random.default_rng(0)
    for _ in range(10):
        actions = rng.uniform(-1, 1, (2, 2)).astype(np.float32)
        states, goal = many.simulator_states(), many.goal
        assert states is not None
        assert goal is not None
        costs = simulator.costs(states, actions[:, None, None], goal)
        obs, seen = single.step(actions[0])[0], many.step(actions).obs
        for key, value in obs.items():
            np.testing.assert_array_equal(value, seen[key][0])
        distance = single.unwrapped.distance(seen, goal)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(costs[:, 0], distance)
    simulator.close()


def test_a_model_is_shifted_once_however_often_it_is_reset() -> None:
    env = make_env(SUITE, shifted(mass=2.0))
    masses = []
    for seed in range(3):
        env.reset(seed=seed)
        model = find_model(env)
        assert model is not None
        masses.append(model.body_mass.sum())
    plain = find_model(make_env(SUITE))
    assert plain is not None
    assert masses == [pytest.approx(2 * plain.body_mass.sum())] * 3


def test_welds_that_an_environment_set_stay() -> None:
    pytest.importorskip("gymnasium_robotics")
    plain, other = (find_model(make_env("FetchReach-v4", o)) for o in (EnvOptions(), shifted(damping=2.0)))
    assert plain is not None
    assert other is not None
    np.testing.assert_array_equal(plain.eq_data, other.eq_data)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        *((name, value, "is a factor and must be positive") for name in FACTORS for value in (0, -1.0)),
        *((name, value, "must be a finite number") for name in ("mass", "camera") for value in (math.nan, math.inf)),
        ("gear", "half", "must be a finite number"),
        ("camera", True, "must be a finite number"),
    ],
)
def test_bad_shifts_are_refused(name: str, value: Any, rule: str) -> None:
    with pytest.raises(EnvError) as error:
        ShiftOptions(**{name: value})
    assert str(error.value) == f"shift.{name} {rule}, got {value!r}"


def test_what_is_not_there_cannot_be_shifted() -> None:
    with pytest.raises(EnvError, match="shift needs an environment on MuJoCo that shows its model"):
        make_env("Pendulum-v1", shifted(mass=2.0))
    bare = mujoco.MjModel.from_xml_string("<mujoco><worldbody/></mujoco>")
    for name in ("mass", "gear", "friction", "damping", "camera"):
        with pytest.raises(EnvError, match=rf"shift.{name}=2 changes nothing: the model has no {name}"):
            apply_shift(bare, ShiftOptions(**{name: 2.0}))
    with pytest.raises(EnvError, match=r"shift must be ShiftOptions, got \{'mass': 2\.0\}"):
        make_env(REACHER, EnvOptions(shift={"mass": 2.0}))  # type: ignore[arg-type]


def test_options_survive_json() -> None:
    options = EnvOptions(action_repeat=2, shift=ShiftOptions(gear=0.5), kwargs={"a": 1})
    data = dataclasses.asdict(options)
    assert EnvOptions.from_json(data) == options
    del data["shift"]  # as runs before it have it
    assert EnvOptions.from_json(data) == dataclasses.replace(options, shift=ShiftOptions())
