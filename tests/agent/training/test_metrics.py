"""The metrics log survives kills, resumes without duplicates, and the health of latents has known answers."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.agent.files import FileError
from forethought.agent.training.metrics import (
    MetricsError,
    MetricsLogger,
    collapse_warning,
    latent_health,
    read_metrics,
)

NAMES = st.text(min_size=1).filter(
    lambda name: name not in ("phase", "update", "decisions", "frames", "seconds", "time")
)
VALUES = st.one_of(
    st.floats(), st.integers(-(2**62), 2**62), st.text().filter(lambda text: text not in ("nan", "inf", "-inf"))
)


def write_updates(run_dir: Path, updates: list[int]) -> None:
    with MetricsLogger(run_dir, tensorboard=False) as log:
        for update in updates:
            log.log("train", {"loss/total": 1.0 / (1 + update)}, update=update, decisions=10 * update, frames=0)


@settings(max_examples=30, deadline=None)
@given(metrics=st.dictionaries(NAMES, VALUES, max_size=5))
def test_what_is_logged_is_read_back(tmp_path_factory: pytest.TempPathFactory, metrics: dict[str, float | str]) -> None:
    run_dir = tmp_path_factory.mktemp("run")
    with MetricsLogger(run_dir, tensorboard=False) as log:
        log.log("train", metrics, update=3, decisions=20, frames=40)
    (record,) = read_metrics(run_dir / "metrics.jsonl")
    assert (record["phase"], record["update"], record["decisions"], record["frames"]) == ("train", 3, 20, 40)
    assert record["time"] > 1e9
    for name, value in metrics.items():
        assert record[name] == value or (value != value and math.isnan(record[name]))


def test_a_full_disk_is_named_once_and_closing_says_no_more_than_that(tmp_path: Path) -> None:
    full = MetricsLogger(tmp_path, tensorboard=False)
    full._file.close()
    full._file = Path("/dev/full").open("ab")  # noqa: SIM115
    with pytest.raises(FileError, match=r"cannot write .*metrics.jsonl: No space left on device"):
        full.log("train", {"a": 1.0}, update=0, decisions=0, frames=0)
    with pytest.raises(FileError, match=r"cannot write .*metrics.jsonl: No space left on device"):
        full.close()  # the line that is still in the buffer; no raw OSError
    assert full.lines == 0


def test_a_tensorboard_that_cannot_be_written_does_not_stop_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MetricsLogger(tmp_path) as log:
        assert log.tensorboard_status.startswith("on: ")

        def full(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(log._writer, "add_scalar", full)
        for update in range(2):
            log.log("train", {"a": 1.0}, update=update, decisions=0, frames=0)
        assert log.tensorboard_status.endswith("No space left on device")
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2


def test_every_line_is_strict_json_also_with_non_finite_numbers(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    with MetricsLogger(tmp_path, tensorboard=False) as log:
        log.log("train", {"a": math.nan, "b": math.inf, "c": -math.inf}, update=0, decisions=0, frames=0)
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert (line["a"], line["b"], line["c"]) == ("nan", "inf", "-inf")


def test_numpy_torch_and_bool_scalars_become_numbers(tmp_path: Path) -> None:
    with MetricsLogger(tmp_path, tensorboard=False) as log:
        log.log(
            "train",
            {"a": np.float32(0.5), "b": torch.tensor(2.0), "c": True, "d": np.int64(4)},  # type: ignore[dict-item]
            update=0,
            decisions=0,
            frames=0,
        )
    (record,) = read_metrics(tmp_path / "metrics.jsonl")
    assert (record["a"], record["b"], record["c"], record["d"]) == (0.5, 2.0, 1, 4)
    assert record["c"] is not True


@pytest.mark.parametrize("value", [[1.0], None, {"a": 1}, torch.zeros(2)])
def test_a_value_that_is_no_number_is_refused_and_nothing_is_written(tmp_path: Path, value: object) -> None:
    rule = pytest.raises(MetricsError, match="metric 'x' must be a number or text")
    with MetricsLogger(tmp_path, tensorboard=False) as log, rule:
        log.log("train", {"x": value}, update=0, decisions=0, frames=0)  # type: ignore[dict-item]
    assert read_metrics(log.path) == []


def test_a_metric_named_like_a_field_is_refused(tmp_path: Path) -> None:
    with MetricsLogger(tmp_path, tensorboard=False) as log, pytest.raises(MetricsError, match="'seconds'"):
        log.log("train", {"seconds": 1.0}, update=0, decisions=0, frames=0)


@pytest.mark.parametrize("torn", [b'{"phase": "tr', b'{"phase": "train"}', b"\x00\x00"])
def test_a_torn_last_line_is_ignored_and_cut_off_on_reopening(tmp_path: Path, torn: bytes) -> None:
    write_updates(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert [record["update"] for record in read_metrics(path)] == [1, 2]
    MetricsLogger(tmp_path, tensorboard=False).close()
    assert path.read_bytes() == whole
    write_updates(tmp_path, [3])
    assert [record["update"] for record in read_metrics(path)] == [1, 2, 3]


@pytest.mark.parametrize("line", [b"no json\n", b"[1]\n", b'{"update": "three"}\n'])
def test_a_corrupt_line_inside_is_an_error_that_names_it(tmp_path: Path, line: bytes) -> None:
    write_updates(tmp_path, [1])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + line)
    write = path.read_bytes()
    with pytest.raises(FileError, match="line 2"):
        read_metrics(path)
    with pytest.raises(FileError, match="line 2"):
        MetricsLogger(tmp_path, tensorboard=False)
    assert path.read_bytes() == write


def test_a_missing_log_and_an_unwritable_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"metrics\.jsonl"):
        read_metrics(tmp_path / "metrics.jsonl")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write"):
        MetricsLogger(tmp_path / "file" / "run", tensorboard=False)


@settings(max_examples=25, deadline=None)
@given(updates=st.lists(st.integers(0, 50), max_size=12).map(sorted), cut=st.integers(0, 14))
def test_truncate_keeps_exactly_the_first_lines(
    tmp_path_factory: pytest.TempPathFactory, updates: list[int], cut: int
) -> None:
    run_dir = tmp_path_factory.mktemp("run")
    write_updates(run_dir, updates)
    with MetricsLogger(run_dir, tensorboard=False) as log:
        assert log.lines == len(updates)
        log.truncate(cut)
        assert log.lines == min(cut, len(updates))
        log.log("train", {}, update=99, decisions=0, frames=0)
        assert log.lines == min(cut, len(updates)) + 1
    kept = [record["update"] for record in read_metrics(run_dir / "metrics.jsonl")]
    assert kept == [*updates[:cut], 99]


def test_seconds_go_on_over_a_resume_and_from_the_line_kept(tmp_path: Path) -> None:
    write_updates(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[0]["seconds"], records[1]["seconds"] = 1000.0, 5000.0
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    write_updates(tmp_path, [3])
    assert 5000.0 <= read_metrics(path)[-1]["seconds"] < 5900.0
    with MetricsLogger(tmp_path, tensorboard=False) as log:
        log.truncate(1)
        log.log("train", {}, update=2, decisions=0, frames=0)
    assert 1000.0 <= read_metrics(path)[-1]["seconds"] < 1900.0


def test_a_line_is_on_file_when_log_returns(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from forethought.agent.training.metrics import MetricsLogger\n"
        "log = MetricsLogger(pathlib.Path(sys.argv[1]), tensorboard=False)\n"
        "for update in range(100):\n"
        "    log.log('train', {'loss': 0.5}, update=update, decisions=0, frames=0)\n"
        "print('done', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"done\n"
        os.kill(child.pid, signal.SIGKILL)
    assert [record["update"] for record in read_metrics(tmp_path / "metrics.jsonl")] == list(range(100))


def test_tensorboard_gets_the_same_numbers_and_hides_truncated_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer

    # Files of one second are read in the order of the writers' numbers, as text: 10 before 9.
    monkeypatch.setattr(event_file_writer, "_global_uid", type(event_file_writer._global_uid)(0))
    with MetricsLogger(tmp_path) as log:
        assert log.tensorboard_status.startswith("on: ")
        for update in (1, 2, 3):
            log.log("train", {"loss/total": update / 4, "note": "text"}, update=update, decisions=0, frames=0)
        log.truncate(1)
        log.log("train", {"loss/total": 9.0}, update=2, decisions=0, frames=0)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("train/loss/total")]
    assert scalars == [(1, 0.25), (2, 9.0)]


def test_without_tensorboard_the_status_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with MetricsLogger(tmp_path) as log:
        assert "pip install 'forethought[track]'" in log.tensorboard_status
        log.log("train", {"loss/total": 1.0}, update=0, decisions=0, frames=0)
    assert len(read_metrics(log.path)) == 1
    assert not (tmp_path / "tensorboard").exists()
    with MetricsLogger(tmp_path, tensorboard=False) as log:
        assert log.tensorboard_status == "off: tensorboard=False"


def test_effective_rank_of_an_isotropic_gaussian_is_the_width() -> None:
    z = 0.7 * torch.randn(8192, 32, generator=torch.Generator().manual_seed(0))
    health = latent_health(z)
    assert health["latent/effective_rank"] == pytest.approx(32, rel=0.01)
    assert health["latent/std"] == pytest.approx(0.7, rel=0.02)
    assert health["latent/std_min"] <= health["latent/std"]


@pytest.mark.parametrize("shape", [(500, 16), (8, 64)])
def test_effective_rank_of_a_line_is_one(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    z = 3.0 + torch.randn(shape[0], 1, generator=generator) * torch.randn(1, shape[1], generator=generator)
    assert latent_health(z)["latent/effective_rank"] == pytest.approx(1, abs=0.01)


def test_effective_rank_of_equal_axes_counts_them() -> None:
    z = torch.zeros(12, 10)
    for axis in range(6):
        z[2 * axis, axis], z[2 * axis + 1, axis] = 1.0, -1.0
    health = latent_health(z)
    assert health["latent/effective_rank"] == pytest.approx(6, abs=1e-3)
    assert health["latent/std_min"] == 0.0


def test_effective_rank_of_singular_values_two_and_one() -> None:
    z = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    expected = math.exp(-(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3))
    assert latent_health(z)["latent/effective_rank"] == pytest.approx(expected, rel=1e-6)


def test_equal_latents_have_rank_zero_and_infinite_ones_have_none() -> None:
    assert latent_health(torch.full((9, 4), 0.3)) == {
        "latent/std": 0.0,
        "latent/std_min": 0.0,
        "latent/effective_rank": 0.0,
    }
    assert all(math.isnan(value) for value in latent_health(torch.tensor([[1.0], [math.inf]])).values())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(2, 40), width=st.integers(1, 20), scale=st.floats(1e-3, 1e3))
def test_effective_rank_is_within_bounds_and_knows_no_scale(seed: int, count: int, width: int, scale: float) -> None:
    z = torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rank = latent_health(z)["latent/effective_rank"]
    assert 1 - 1e-6 <= rank <= min(count - 1, width) + 1e-4
    assert latent_health(scale * z)["latent/effective_rank"] == pytest.approx(rank, rel=1e-4)


@pytest.mark.parametrize("shape", [(4,), (1, 4), (2, 3, 4), (5, 0)])
def test_latents_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MetricsError, match=r"z must be \[N, Z\]"):
        latent_health(torch.zeros(shape))


def test_collapse_is_named_in_plain_words() -> None:
    def warning(std: float, rank: float) -> str | None:
        return collapse_warning({"latent/std": std, "latent/effective_rank": rank}, latent_dim=64)

    assert warning(1.0, 40.0) is None
    assert warning(0.05, 6.4) is None
    assert "to a point" in str(warning(0.049, 40.0))
    assert "effective rank 6.3 of 64" in str(warning(1.0, 6.3))
    assert "not finite" in str(warning(math.nan, math.nan))
