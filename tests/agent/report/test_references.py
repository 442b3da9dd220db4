"""What others report, found by environment id."""

import pytest

from forethought.agent.report.references import reported_returns


def test_known_tasks_have_curves() -> None:
    curves = reported_returns("dm_control/cartpole-swingup-v0")
    assert list(curves) == ["TD-MPC2", "SAC", "DreamerV3"]
    assert curves["TD-MPC2"][100_000] == 839.4
    assert reported_returns("dm_control/ball_in_cup-catch-v0")["TD-MPC2"][0] < 100


@pytest.mark.parametrize("env_id", ["dm_control/fish-swim-v0", "HalfCheetah-v5", "cartpole-swingup", ""])
def test_others_have_none(env_id: str) -> None:
    assert reported_returns(env_id) == {}
