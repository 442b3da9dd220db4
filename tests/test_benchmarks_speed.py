"""The speed benchmarks measure what they say; their numbers are not judged here."""

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from forethought.agent.files import read_json
from forethought.configs.register import load, with_preset
from forethought.configs.schema import Config
from forethought.planners.mppi import MPPIOptions

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("speed")
    # plain code only: compiled and fused code have tests of their own
    monkeypatch.setattr(module, "cpp_compiler", lambda: None)
    monkeypatch.setattr(module, "fault", lambda: "not here")
    threads = torch.get_num_threads()
    yield module
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.fixture
def small(speed: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    sizes = {"latent_dim": 8, "hidden_dim": 16, "ensemble_size": 1, "bins": 16, "probe": False}
    monkeypatch.setattr(speed, "TDMPC2_1M", type(speed.TDMPC2_1M)(**sizes))
    options = MPPIOptions(
        horizon=3, num_samples=32, iterations=3, num_elites=8, init_std=1.0, return_mean=True, score_mean=False
    )
    monkeypatch.setattr(speed, "TDMPC2_BUDGET", options)
    return speed


def test_the_plain_planner_finds_our_plan(small: ModuleType) -> None:
    arguments = argparse.Namespace(repeats=4)
    result = small.budget(arguments)
    assert result["largest difference of the plan, float32"] < 1e-3
    assert set(result["ratios"]) == {"ours, plain", "ours, plain, float32"}
    assert min(result["ratios"].values()) > 0


def test_ways_take_turns(speed: ModuleType) -> None:
    calls: list[str] = []
    works = {name: (lambda name=name: calls.append(name)) for name in "ab"}  # type: ignore[misc]
    times = speed.turn_by_turn(works, repeats=3, warmup=2)
    assert calls == list("aabb") * 5, "the first of two is not timed"
    assert [len(values) for values in times.values()] == [3, 3]


def test_the_roofline_counts_every_product(small: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "best_rate", lambda dtypes: {"gflops": 100.0})
    before = torch.get_num_threads()
    result = small.roofline(argparse.Namespace(repeats=2))
    assert torch.get_num_threads() == before
    # by hand: encoder, proposals (of which the last needs no step), and three iterations on 32 candidates
    z, a, h, bins, state = 8 + 5, 1, 16, 16, 5
    encoder = state * h + h * h + h * 8
    policy, step = z * h + h * h + h * 2 * a, (z + a) * h + h * h + h * z
    head = (z + a) * h + h * h + h * bins
    proposals = 24 * (3 * policy + 2 * step)
    iteration = 32 * (3 * step + 3 * head + policy + 2 * head)
    expected = 2 * (encoder + proposals + 3 * iteration) / 1e6
    assert result["512 samples, float32"]["mflop"] == pytest.approx(expected, rel=1e-3)


def test_parts_are_written_with_their_origin(
    small: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(small.PARTS, "nano", lambda arguments: {"repeats": arguments.repeats})
    monkeypatch.setattr(sys, "argv", ["speed.py", "--parts", "nano", "--repeats", "3", "--out", str(tmp_path)])
    small.main()
    record = read_json(tmp_path / "nano.json")
    assert record["results"] == {"repeats": 3}
    assert {"command", "commit", "versions", "machine", "threads", "load"} <= record.keys()


def test_precision_needs_runs(
    speed: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["speed.py", "--parts", "precision", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        speed.main()
    assert "needs --runs" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_gymnasium_tasks_have_presets_of_as_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module("gymnasium_control")
    for name, env in script.TASKS.items():
        config = load(Config, [f"preset={name}"])
        assert (config.env, config.objective.name) == (env, "reward")
        assert config.steps * config.env_options.action_repeat == script.STEPS
        assert with_preset([f"env={env}"])[1] == name


def test_sac_is_trained_and_evaluated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module("gymnasium_control")
    monkeypatch.setattr(script, "STEPS", 150)
    monkeypatch.setattr(sys, "argv", ["gymnasium_control.py", "--tasks", "double_pendulum", "--arms", "sac",
                                      "--out", str(tmp_path), "--runs", str(tmp_path / "runs")])  # fmt: skip
    script.main()
    result = read_json(tmp_path / "double_pendulum-sac-0.json")
    assert (result["arm"], result["frames"], len(result["returns"])) == ("sac", 150, 10)
    assert result["curve"][-1][0] <= 150
    tables = importlib.import_module("render_tables")
    (tmp_path / "gymnasium_control").mkdir()
    (tmp_path / "double_pendulum-sac-0.json").rename(tmp_path / "gymnasium_control" / "double_pendulum-sac-0.json")
    row = [c.strip() for c in tables.gymnasium_control(tmp_path).splitlines()[2].strip("|").split("|")]
    assert row[:4] == ["InvertedDoublePendulum-v5", tables.NONE, tables.NONE, tables.NONE]
    assert row[4].startswith(f"{result['return_mean']:,.0f} (")
