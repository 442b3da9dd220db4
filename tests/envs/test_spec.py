"""The spec is all that models learn of an environment; it comes back from JSON as it was, or not at all."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from forethought.envs.spec import ArraySpec, EnvError, EnvSpec, GoalSpec

SPEC = EnvSpec(
    env_id="Arm-v0",
    obs={"camera": ArraySpec((8, 8, 3), "uint8"), "joints": ArraySpec((2,), "float32")},
    action_low=(-1.0, -0.5),
    action_high=(1.0, 2.0),
    control_dt=0.02,
    max_episode_steps=50,
    goal=GoalSpec("achieved", "joints", 2),
)


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        replace(SPEC, goal=None),
        replace(SPEC, goal=GoalSpec("observation")),
        replace(SPEC, action_rate=(1.0, 2.0), action_acceleration=(3.0, 4.0)),
    ],
)
def test_a_spec_survives_json(spec: EnvSpec) -> None:
    assert EnvSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_an_unknown_time_step_survives_json() -> None:
    data = json.loads(json.dumps(replace(SPEC, control_dt=math.nan).to_json(), allow_nan=False))
    assert math.isnan(EnvSpec.from_json(data).control_dt)


@pytest.mark.parametrize(
    "damage",
    [
        {"obs": None},
        {"obs": {"joints": {"shape": [2]}}},
        {"action_low": ["a"]},
        {"max_episode_steps": None},
        {"goal": {"kind": "achieved"}},
    ],
)
def test_a_malformed_spec_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(EnvError, match="malformed environment spec"):
        EnvSpec.from_json({**SPEC.to_json(), **damage})


@pytest.mark.parametrize("field", sorted(SPEC.to_json().keys() - {"action_rate", "action_acceleration"}))
def test_a_spec_without_a_field_is_refused(field: str) -> None:
    data = SPEC.to_json()
    del data[field]
    with pytest.raises(EnvError, match=f"malformed environment spec: KeyError.'{field}'."):
        EnvSpec.from_json(data)


def test_a_spec_from_before_there_were_limits_has_none() -> None:
    data = SPEC.to_json()
    del data["action_rate"], data["action_acceleration"]
    assert EnvSpec.from_json(data) == SPEC
