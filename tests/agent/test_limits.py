"""Limits of actions: no command breaks one, whatever is asked for; what keeps them is left alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from forethought.agent.limits import ActionLimits, LimitedCost, LimitError, Motion
from forethought.envs.spec import ArraySpec, EnvSpec

SPEC = EnvSpec(
    env_id="Arm-v0",
    obs={"joints": ArraySpec((2,), "float32")},
    action_low=(-1.0, 0.5),
    action_high=(1.0, 3.0),
    control_dt=0.02,
    max_episode_steps=50,
    action_rate=(5.0, 10.0),
    action_acceleration=(40.0, 300.0),
)

limit = st.one_of(st.floats(0.05, 1e3), st.just(math.inf))
asked = st.one_of(st.floats(-20.0, 20.0), st.sampled_from([-1e9, 1e9, -math.inf, math.inf, 0.0]))


def make(
    rate: float, acceleration: float, low: float = -1.0, high: float = 2.0, period_s: float = 0.02
) -> ActionLimits:
    return ActionLimits(*(torch.tensor([x]) for x in (low, high, rate, acceleration)), period_s)


def limits_of(spec: EnvSpec) -> ActionLimits:
    limits = ActionLimits.of(spec)
    assert limits is not None
    return limits


@settings(deadline=None, max_examples=60)
@given(
    rate=limit,
    acceleration=limit,
    low=st.floats(-3.0, 1.0),
    span=st.floats(0.01, 5.0),
    period_s=st.sampled_from([0.001, 0.02, 0.5]),
    targets=st.lists(st.tuples(asked, st.booleans()), min_size=1, max_size=60),
)
def test_no_command_ever_breaks_a_limit(
    rate: float, acceleration: float, low: float, span: float, period_s: float, targets: list[tuple[float, bool]]
) -> None:
    limits = make(rate, acceleration, low, low + span, period_s)
    motion, last_rate = limits.rest(), 0.0
    for target, settle in targets:
        before = motion.action.item()
        motion = (limits.toward if settle else limits.nearest)(torch.tensor([target]).double(), motion)
        now = motion.action.item()
        assert float(limits.low) <= now <= float(limits.high)
        change = (now - before) / period_s
        slack = 1e-6 * (1 + abs(change)) + 1e-9 / period_s
        assert abs(change) <= rate + slack
        assert abs(change - last_rate) / period_s <= acceleration * (1 + 1e-6) + 2 * slack / period_s
        last_rate = change


@settings(deadline=None, max_examples=60)
@given(
    rate=st.one_of(st.floats(1.0, 1e3), st.just(math.inf)),
    acceleration=st.one_of(st.floats(20.0, 1e5), st.just(math.inf)),
    start=st.floats(-1.0, 2.0),
    end=st.floats(-1.0, 2.0),
    push=st.integers(0, 20),
)
def test_going_toward_a_place_arrives_and_never_passes_it(
    rate: float, acceleration: float, start: float, end: float, push: int
) -> None:
    limits = make(rate, acceleration)
    motion = Motion(torch.tensor([start]).double(), torch.zeros(1).double())
    for _ in range(push):  # some way off, at some speed
        motion = limits.nearest(torch.tensor([2.0]), motion)
    target = torch.tensor([end]).double()
    passed = False
    for _ in range(400):
        side = float((target - motion.action).sign())
        motion = limits.toward(target, motion)
        after = float((target - motion.action).sign())
        if push == 0:
            passed |= side * after < 0 and abs(float(target - motion.action)) > 1e-9
        if abs(float(motion.action - target)) < 1e-9 and abs(float(motion.rate)) < 1e-6:
            break
    else:
        pytest.fail(f"never arrived: {motion}")
    assert not passed


@settings(deadline=None, max_examples=40)
@given(steps=st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=30))
def test_commands_that_keep_the_limits_are_left_alone(steps: list[float]) -> None:
    limits = limits_of(replace(SPEC, action_low=(-100.0, -100.0), action_high=(100.0, 100.0)))
    rate = torch.zeros(2).double()
    asked = torch.zeros(len(steps), 2).double()
    for t, share in enumerate(steps):
        rate = torch.minimum(torch.maximum(rate + share * limits.acceleration * 0.02, -limits.rate), limits.rate)
        asked[t] = (asked[t - 1] if t else 0) + rate * 0.02
    got = limits.follow(asked, limits.rest())
    np.testing.assert_allclose(got.numpy(), asked.numpy(), atol=1e-9)


def test_the_nearest_command_is_as_near_as_the_limits_allow() -> None:
    limits = limits_of(SPEC)
    got = limits.nearest(torch.tensor([1.0, 3.0]), limits.rest()).action
    assert got.tolist() == pytest.approx([0.02 * 40 * 0.02, 0.5 + 0.02 * 300 * 0.02])
    fast = limits.nearest(torch.tensor([1.0, 3.0]), Motion(torch.tensor([0.0, 1.0]).double(), limits.rate)).action
    assert fast.tolist() == pytest.approx([0.1, 1.2])  # at full rate


def test_each_limit_changes_the_result() -> None:
    full = limits_of(SPEC).follow(torch.full((30, 2), 3.0), limits_of(SPEC).rest())
    for name in ("action_rate", "action_acceleration"):
        without = limits_of(replace(SPEC, **{name: None}))  # type: ignore[arg-type]
        assert not torch.allclose(without.follow(torch.full((30, 2), 3.0), without.rest()), full), name


def test_a_batch_is_its_rows() -> None:
    limits = limits_of(SPEC)
    targets = torch.randn(3, 4, 12, 2, generator=torch.Generator().manual_seed(0)) * 3
    last = limits.rest((3, 1))
    together = limits.follow(targets, last)
    assert together.dtype == targets.dtype
    for i in range(3):
        for j in range(4):
            assert torch.equal(limits.follow(targets[i, j], limits.rest()), together[i, j])


def test_rest_is_the_action_nearest_to_zero() -> None:
    assert limits_of(SPEC).rest().action.tolist() == [0.0, 0.5]
    assert limits_of(SPEC).rest((2, 3)).action.shape == (2, 3, 2)


def test_a_spec_without_limits_has_none() -> None:
    assert ActionLimits.of(replace(SPEC, action_rate=None, action_acceleration=None)) is None


def test_limits_need_a_period() -> None:
    unknown = replace(SPEC, control_dt=math.nan)
    with pytest.raises(LimitError, match=r"control_dt of Arm-v0 must be known .* got nan"):
        ActionLimits.of(unknown)
    assert ActionLimits.of(unknown, period_s=0.1) is not None


def test_a_limited_cost_is_that_of_what_is_done() -> None:
    limits, seen = limits_of(SPEC), list[Tensor]()

    def cost_fn(actions: Tensor) -> Tensor:
        seen.append(actions)
        return actions.sum(dim=(2, 3))

    candidates = torch.full((2, 5, 3, 2), 9.0)
    last = Motion(torch.tensor([[0.0, 0.5], [0.5, 1.0]]).double(), torch.zeros(2, 2).double())
    costs = LimitedCost(cost_fn, limits, last)(candidates)
    assert costs.shape == (2, 5)
    for b in range(2):
        expected = limits.follow(candidates[b, 0], Motion(last.action[b], last.rate[b]))
        assert torch.equal(seen[0][b, 3], expected)
