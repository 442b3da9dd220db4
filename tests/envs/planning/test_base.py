import mujoco
import numpy as np
import pytest
from dm_control.utils import rewards
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from forethought.envs.planning import PLANNING_TASKS, PlanningTask
from forethought.envs.planning.base import Fields, Floats, tolerance
from forethought.envs.spec import EnvError


@pytest.fixture(params=PLANNING_TASKS)
def task(request: pytest.FixtureRequest) -> PlanningTask:
    return PLANNING_TASKS[request.param]()


def some_actions(task: PlanningTask, count: int, horizon: int) -> Floats:
    rng = np.random.default_rng(1)
    return rng.uniform(task.action_low, task.action_high, (count, horizon, task.model.nu))


def test_candidates_are_stepped_as_the_episode_itself_to_the_bit(task: PlanningTask) -> None:
    actions = some_actions(task, 3, 4)
    state, goal = task.reset(5)
    together = task.rollout(state, goal, actions)
    for candidate in range(3):
        now, ended = state, False
        for step in range(4):
            alone = task.rollout(now, goal, actions[candidate, step][None, None])
            assert together.rewards[candidate, step] == (0.0 if ended else alone.rewards[0, 0])
            now, ended = alone.states[0], ended or bool(alone.ended[0])
        np.testing.assert_array_equal(together.states[candidate], now)
        assert together.ended[candidate] == ended


def test_starts_follow_from_the_seed_alone_and_are_not_solved(task: PlanningTask) -> None:
    (first, goal), (again, same_goal), (other, _) = task.reset(3), task.reset(3), task.reset(4)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(goal, same_goal)
    assert (first != other).any()
    middle = ((task.action_low + task.action_high) / 2)[None, None]
    assert sum(bool(task.rollout(*task.reset(seed), middle).solved) for seed in range(4)) <= 1


def test_controls_stay_in_their_ranges(task: PlanningTask) -> None:
    state, goal = task.reset(0)
    high = np.tile(task.action_high, (1, 2, 1))
    inside, beyond = task.rollout(state, goal, high), task.rollout(state, goal, high * 10)
    np.testing.assert_array_equal(inside.rewards, beyond.rewards)


def test_says_what_it_is(task: PlanningTask) -> None:
    assert task.summary
    assert task.source
    assert task.horizon > 1
    assert task.decisions > task.horizon / 2
    assert task.control_dt == pytest.approx(task.model.opt.timestep * task.frame_skip)


def test_from_one_motor_to_a_humanoid() -> None:
    dims = [PLANNING_TASKS[name]().model.nu for name in ("pendulum_sparse", "humanoid_stand")]
    assert dims == [1, 21]
    assert len(PLANNING_TASKS) >= 12


def test_a_broken_action_is_not_taken_for_a_good_one() -> None:
    task = PLANNING_TASKS["reacher_hard"]()
    actions = some_actions(task, 2, 3)
    actions[1, 1, 0] = np.nan
    rollout = task.rollout(*task.reset(0), actions)
    assert np.isfinite(rollout.rewards[0]).all()
    assert np.isnan(rollout.rewards[1]).any()


class Exploding(PlanningTask):
    """A mass and a force beyond all reason."""

    name, summary, source = "exploding", "", ""
    frame_skip, horizon, decisions = 5, 3, 3

    @override
    def load_model(self) -> mujoco.MjModel:
        return mujoco.MjModel.from_xml_string(
            """<mujoco>
                 <option timestep="0.1" gravity="0 0 0"/>
                 <worldbody><body><joint name="j" type="slide"/><geom size="0.1" mass="1"/></body></worldbody>
                 <actuator><motor joint="j" ctrlrange="-1 1" gear="1e12"/></actuator>
               </mujoco>"""
        )

    @override
    def sample_start(self, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        return np.zeros(1), np.zeros(1), np.zeros(0)

    @override
    def reward(self, x: Fields, goal: Floats) -> Floats:
        return -np.abs(x["qpos"][:, 0])


def test_a_simulation_that_diverges_is_not_taken_for_a_fresh_start() -> None:
    task = Exploding()
    actions = np.zeros((2, 4, 1))
    actions[1] = 1.0
    rollout = task.rollout(*task.reset(0), actions)
    assert (rollout.rewards[0] == 0).all()
    assert np.isnan(rollout.rewards[1, -1])
    again = task.rollout(*task.reset(0), np.zeros((2, 4, 1)))  # and the next plan is not the worse for it
    assert (again.rewards == 0).all()


def test_an_episode_that_has_ended_earns_nothing() -> None:
    task = PLANNING_TASKS["double_pendulum"]()
    fallen = task.rollout(*task.reset(0), np.ones((1, 30, 1)))
    assert fallen.ended[0]
    first = int(np.flatnonzero(fallen.rewards[0] == 0)[0])
    assert first < 30
    assert (fallen.rewards[0, first:] == 0).all()


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (0, 3, 2), (2, 0, 2)])
def test_refuses_actions_of_another_shape(shape: tuple[int, ...]) -> None:
    task = PLANNING_TASKS["reacher_hard"]()
    with pytest.raises(EnvError, match="actions must be"):
        task.rollout(*task.reset(0), np.zeros(shape))


@given(
    x=st.floats(-5, 5), low=st.floats(-2, 0), width=st.floats(0, 3), margin=st.sampled_from([0.0, 0.5, 2.0]),
    sigmoid=st.sampled_from(["gaussian", "linear", "quadratic"]), value=st.sampled_from([0.1, 0.5]),
)  # fmt: skip
def test_tolerance_is_that_of_dm_control(
    x: float, low: float, width: float, margin: float, sigmoid: str, value: float
) -> None:
    ours = tolerance(np.array([x]), low, low + width, margin, sigmoid, value)
    theirs = rewards.tolerance(np.array([x]), (low, low + width), margin, sigmoid, value)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
