"""Sweeps try what they say, keep what they tried, go on where they were, and are not stopped by one failure."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forethought import ForethoughtError, UnknownNameError
from forethought.agent.files import FileError
from forethought.agent.sweep import Choices, Numbers, Space, SweepError, SweepOptions, Trial, run_sweep

GRID: Space = {"a": Choices(("1", "2")), "b": Numbers(0, 2, integer=True, step=1)}
LINE: Space = {"x": Numbers(0.0, 4.0), "kind": Choices(("poor", "good")), "n": Numbers(1, 8, integer=True, log=True)}


class Told:
    """A watcher that notes what it is told."""

    def __init__(self) -> None:
        self.began: list[tuple[int, int, dict[str, str]]] = []
        self.best: list[float | None] = []
        self.left: list[int] = []

    def begins(self, number: int, total: int, values: Mapping[str, str]) -> None:
        self.began.append((number, total, dict(values)))

    def ended(self, trial: Trial, best: Trial | None, left: int) -> None:
        self.left.append(left)
        self.best.append(None if best is None else best.value)


def add(folder: Path, values: dict[str, str]) -> float:
    return sum(float(value) for value in values.values())


def hill(folder: Path, values: dict[str, str]) -> float:
    return -((float(values["x"]) - 3) ** 2) - (values["kind"] == "poor") - abs(int(values["n"]) - 4) / 4


def sweep(out: Path, space: Space = GRID, play: Any = add, **options: Any) -> tuple[dict[str, Any], Told]:
    told = Told()
    return run_sweep(space, SweepOptions(**options), {"command": "test"}, out, play, told), told


def played(result: dict[str, Any]) -> list[tuple[dict[str, str], float]]:
    return [(trial["values"], trial["value"]) for trial in result["trials"]]


# -- grid --------------------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_once_in_the_order_of_hydra(tmp_path: Path) -> None:
    result, told = sweep(tmp_path)
    assert [(t["values"]["a"], t["values"]["b"]) for t in result["trials"]] == [
        ("1", "0"), ("1", "1"), ("1", "2"), ("2", "0"), ("2", "1"), ("2", "2"),
    ]  # fmt: skip
    assert [t["value"] for t in result["trials"]] == [1, 2, 3, 2, 3, 4]
    assert (result["best"]["number"], result["best"]["values"]) == (5, {"a": "2", "b": "2"})
    assert told.best == [1, 2, 3, 3, 3, 4]
    assert [(number, total) for number, total, _ in told.began] == [(i, 6) for i in range(6)]


def test_everything_is_on_file_after_every_trial(tmp_path: Path) -> None:
    seen = []

    def look(folder: Path, values: dict[str, str]) -> float:
        stored = json.loads((tmp_path / "sweep.json").read_text())
        seen.append(len(stored["trials"]))
        assert {"command", "commit", "versions", "machine", "time", "setup", "best"} <= stored.keys()
        assert list(tmp_path.glob(".*")) == []
        assert folder == tmp_path / "trials" / f"{seen[-1]:03d}"
        assert folder.is_dir()
        return 0.0

    result, _ = sweep(tmp_path, play=look)
    assert seen == [0, 1, 2, 3, 4, 5]
    assert json.loads((tmp_path / "sweep.json").read_text()) == result
    assert result["best"]["number"] == 0  # the first of equals


@pytest.mark.parametrize(("space", "trials"), [(GRID, None), (LINE, 8)])
def test_a_killed_sweep_goes_on_and_comes_to_the_same(tmp_path: Path, space: Space, trials: int | None) -> None:
    if trials:
        pytest.importorskip("optuna")
    calls = []
    right = hill if trials else add

    def killed(folder: Path, values: dict[str, str]) -> float:
        calls.append(values)
        if len(calls) in (3, 5):
            raise KeyboardInterrupt
        return right(folder, values)

    whole, _ = sweep(tmp_path / "whole", space, right, trials=trials)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            sweep(tmp_path / "parts", space, killed, trials=trials)
    parts, told = sweep(tmp_path / "parts", space, killed, trials=trials)
    assert played(parts) == played(whole)
    assert len(calls) == len(played(whole)) + 2
    assert told.began[0][0] == 3
    again, told = sweep(tmp_path / "parts", space, killed, trials=trials)
    assert played(again) == played(parts)
    assert told.began == []


def test_a_failed_trial_is_recorded_does_not_stop_the_others_and_is_tried_again(tmp_path: Path) -> None:
    def fails(folder: Path, values: dict[str, str]) -> float:
        if values == {"a": "1", "b": "1"}:
            raise ForethoughtError("b must not be 1\nhere")
        if values == {"a": "2", "b": "0"}:
            raise RuntimeError("the simulator broke")
        return float("nan") if values == {"a": "2", "b": "2"} else add(folder, values)

    result, _ = sweep(tmp_path, play=fails)
    assert [t["value"] for t in result["trials"]] == [1, None, 3, None, 3, None]
    assert [t["error"] for t in result["trials"] if t["value"] is None] == [
        "b must not be 1 here", "RuntimeError: the simulator broke", "the metric must be finite, got nan",
    ]  # fmt: skip
    assert result["best"]["number"] == 2
    mended, told = sweep(tmp_path)
    assert [number for number, _, _ in told.began] == [1, 3, 5]
    assert told.left == [2, 1, 0]
    assert [t["value"] for t in mended["trials"]] == [1, 2, 3, 2, 3, 4]


def test_where_every_trial_fails_the_first_reason_is_given(tmp_path: Path) -> None:
    def fails(folder: Path, values: dict[str, str]) -> float:
        raise ForethoughtError(f"not with b={values['b']}")

    with pytest.raises(SweepError, match="all 6 trials failed, the first one with: not with b=0"):
        sweep(tmp_path, play=fails)
    assert len(json.loads((tmp_path / "sweep.json").read_text())["trials"]) == 6


# -- search ------------------------------------------------------------------------------------------------------------


def test_a_search_comes_nearer_than_the_draws_it_begins_with(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    result, _ = sweep(tmp_path, LINE, hill, trials=40)
    values = [t["value"] for t in result["trials"]]
    assert len(values) == 40
    later = sorted(values[10:])[len(values[10:]) // 2]
    assert later > sorted(values[:10])[5]
    assert result["best"]["values"]["kind"] == "good"
    assert result["best"]["value"] > -0.3
    assert result["setup"]["search"] == {"sampler": "TPE", "seed": 0}


def test_trials_and_seed_change_the_search_and_more_can_be_added(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    few, _ = sweep(tmp_path / "a", LINE, hill, trials=3)
    other, _ = sweep(tmp_path / "b", LINE, hill, trials=3, seed=1)
    assert played(few) != played(other)
    more, told = sweep(tmp_path / "a", LINE, hill, trials=12)
    assert played(more)[:3] == played(few)
    assert len(told.began) == 9
    less, told = sweep(tmp_path / "a", LINE, hill, trials=5)
    assert played(less) == played(more)
    assert told.began == []
    at_once, _ = sweep(tmp_path / "c", LINE, hill, trials=12)
    assert played(at_once) == played(more)


def test_a_search_stays_within_the_values_and_goes_on_after_failures(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    space: Space = {**LINE, "m": Numbers(0.0, 0.9, step=0.3), "k": Numbers(2, 8, integer=True, step=2)}

    def fails(folder: Path, values: dict[str, str]) -> float:
        if values["kind"] == "good":
            raise ForethoughtError("good is refused")
        return float(values["x"])

    result, _ = sweep(tmp_path, space, fails, trials=25)
    for trial in result["trials"]:
        values = trial["values"]
        assert 0 <= float(values["x"]) <= 4
        assert values["m"] in ("0.0", "0.3", "0.6", "0.9")
        assert values["k"] in ("2", "4", "6", "8")
        assert values["n"] in map(str, range(1, 9))
    assert 0 < sum(t["value"] is None for t in result["trials"]) < 25


@given(st.floats(1e-6, 1e6), st.floats(1, 1e3), st.floats(0, 1))
def test_numbers_are_short_and_inside(low: float, factor: float, share: float) -> None:
    numbers = Numbers(low, low * factor)
    text = numbers.text(min(low + share * (numbers.high - low), numbers.high))
    assert low <= numbers.number(text) <= numbers.high
    assert numbers.text(numbers.number(text)) == text


def test_a_search_without_optuna_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SweepError, match=r"needs Optuna: pip install 'forethought\[sweep\]'"):
        sweep(tmp_path, trials=3)
    assert not list(tmp_path.iterdir())
    sweep(tmp_path)  # a grid does without


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="must vary something, got no key with several values: seed=0,1,2"):
        sweep(tmp_path, {})
    with pytest.raises(SweepError, match=r"x is an interval, which has no end of values: say sweep\.trials=20"):
        sweep(tmp_path, LINE)
    assert not list(tmp_path.iterdir())
    for options, message in (
        ({"trials": 0}, "sweep.trials must be at least 1, got 0"),
        ({"seed": -1}, "sweep.seed must be 0 or more, got -1"),
    ):
        with pytest.raises(SweepError, match=message):
            SweepOptions(**options)
    with pytest.raises(UnknownNameError, match=r"unknown sweep\.metric 'sucess': did you mean success"):
        SweepOptions(metric="sucess")


def test_another_sweep_is_not_overwritten(tmp_path: Path) -> None:
    sweep(tmp_path)
    before = (tmp_path / "sweep.json").read_bytes()
    for change, name in (
        ({"space": dict(reversed(GRID.items()))}, "space"),  # the order of the keys numbers the combinations
        ({"space": {"a": Choices(("1", "3"))}}, "space"),
        ({"metric": "return"}, "metric"),
    ):
        with pytest.raises(SweepError, match=f"holds a sweep of another {name}: choose another out="):
            sweep(tmp_path, **change)
    with pytest.raises(SweepError, match="another command"):
        run_sweep(GRID, SweepOptions(), {"command": "other"}, tmp_path, add, Told())
    assert (tmp_path / "sweep.json").read_bytes() == before
    (tmp_path / "sweep.json").write_text('{"trials": [{"number": 0}]}')
    with pytest.raises(FileError, match="it is not a sweep"):
        sweep(tmp_path)
