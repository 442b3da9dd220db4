"""Checkpoints are written whole or not at all, refuse everything else by name, and never run code."""

import errno
import json
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from forethought.agent.files import FileError
from forethought.agent.training.checkpoint import (
    FORMAT,
    CheckpointError,
    load_checkpoint,
    numpy_state,
    optimizer_tensors,
    restore_module,
    restore_numpy,
    restore_optimizer,
    save_checkpoint,
)

TENSORS = {"model.w": torch.arange(6.0).reshape(2, 3), "model.n": torch.tensor(7), "rng": torch.ones(3).byte()}
STATE: dict[str, Any] = {"updates": 3, "best": [0.5, None], "name": "ü"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, TENSORS, STATE)
    return path


def test_what_is_saved_is_loaded(path: Path) -> None:
    loaded = load_checkpoint(path)
    assert loaded.state == STATE
    assert loaded.tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert torch.equal(loaded.tensors[name], value)
        assert loaded.tensors[name].dtype == value.dtype
    assert loaded.under("model").keys() == {"w", "n"}


def test_views_and_slices_are_saved_as_they_look(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    save_checkpoint(tmp_path / "x", {"a": whole.T, "b": whole[1], "c": whole}, {})
    loaded = load_checkpoint(tmp_path / "x").tensors
    assert torch.equal(loaded["a"], whole.T)
    assert torch.equal(loaded["b"], whole[1])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damage_goes_unnoticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("damage") / "last.safetensors"
    save_checkpoint(path, TENSORS, STATE)
    good = path.read_bytes()
    position = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    if data.draw(st.booleans()):
        bad[position] ^= data.draw(st.integers(1, 255))
    else:
        del bad[position:]
    path.write_bytes(bad)
    try:
        loaded = load_checkpoint(path)
    except CheckpointError:
        return
    assert loaded.state == STATE  # blanks in the header mean nothing
    assert all(torch.equal(loaded.tensors[name], value) for name, value in TENSORS.items())


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.marker, "executed")


@pytest.mark.parametrize("kind", ["pickle", "pickle of protocol 0", "torch.save", "torch.save, old format"])
def test_a_pickle_is_refused_and_nothing_of_it_runs(tmp_path: Path, kind: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "best.safetensors"
    if kind.startswith("pickle"):
        path.write_bytes(pickle.dumps(Malicious(marker), 0 if "0" in kind else pickle.HIGHEST_PROTOCOL))
    else:
        torch.save({"w": Malicious(marker)}, path, _use_new_zipfile_serialization="old" not in kind)
    assert b"marker" in path.read_bytes()
    with pytest.raises(CheckpointError, match="no readable checkpoint") as caught:
        load_checkpoint(path)
    assert not marker.exists()
    if "0" not in kind:
        assert "pickle or PyTorch archive, which could run code" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"hello", b"{}", b"\xff" * 16])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "best.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_checkpoint(path)


def test_weights_of_another_program_and_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(path)
    save_file({"w": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match=f"format must be {FORMAT}, got None"):
        load_checkpoint(path)
    save_file({"w": torch.ones(2)}, path, metadata={"format": FORMAT, "state": "[1]"})
    with pytest.raises(CheckpointError, match="its state must be a JSON object, got list"):
        load_checkpoint(path)
    save_file({"w": torch.ones(2)}, path, metadata={"format": FORMAT})
    with pytest.raises(CheckpointError, match="'state'"):
        load_checkpoint(path)


def test_a_full_disk_leaves_the_old_file_and_no_litter(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"cannot write .*last\.safetensors: No space left on device"):
        save_checkpoint(path, {"w": torch.zeros(9)}, {})
    assert load_checkpoint(path).state == STATE
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_limit_on_file_sizes_leaves_the_old_file(path: Path) -> None:
    code = (
        "import resource, sys, pathlib, torch\n"
        "from forethought.agent.training.checkpoint import save_checkpoint\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "save_checkpoint(pathlib.Path(sys.argv[1]), {'w': torch.zeros(9999)}, {})\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "FileError: cannot write" in done.stderr
    assert "File too large" in done.stderr
    assert load_checkpoint(path).state == STATE
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096


def test_a_read_only_folder_is_named() -> None:
    with pytest.raises(FileError, match=r"cannot write /proc/self/last\.safetensors"):
        save_checkpoint(Path("/proc/self/last.safetensors"), TENSORS, STATE)


def test_state_that_is_no_json_is_not_written(path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_checkpoint(path, TENSORS, {"best": float("nan")})
    assert load_checkpoint(path).state == STATE


def test_weights_that_do_not_fit_are_named(path: Path) -> None:
    module = torch.nn.Linear(3, 2)
    with pytest.raises(CheckpointError, match=r"weight must have shape \(2, 3\), got \(3, 2\)"):
        restore_module(module, {"weight": torch.ones(3, 2), "bias": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="tensor bias is missing"):
        restore_module(module, {"weight": torch.ones(2, 3)}, path)
    with pytest.raises(CheckpointError, match="tensor gain is unknown"):
        restore_module(module, {"weight": torch.ones(2, 3), "bias": torch.ones(2), "gain": torch.ones(1)}, path)
    restore_module(module, {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, path)
    assert torch.equal(module(torch.ones(1, 3)), torch.full((1, 2), 3.0))


def steps(module: torch.nn.Module, optimizer: torch.optim.Optimizer, start: int, stop: int) -> None:
    for i in range(start, stop):
        optimizer.zero_grad()
        module(torch.full((4, 3), float(i))).square().sum().backward()
        optimizer.step()


def test_an_optimiser_goes_on_exactly(tmp_path: Path) -> None:
    def make() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        module = torch.nn.Linear(3, 2)
        return module, torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)

    with torch.random.fork_rng():
        (one, one_optimizer), (other, other_optimizer) = make(), make()
    steps(one, one_optimizer, 0, 7)
    saved = {f"optimizer.{k}": v for k, v in optimizer_tensors(one_optimizer).items()}
    save_checkpoint(tmp_path / "x", saved, {})
    other.load_state_dict(one.state_dict())
    restore_optimizer(other_optimizer, load_checkpoint(tmp_path / "x").under("optimizer"))
    steps(one, one_optimizer, 7, 9)
    steps(other, other_optimizer, 7, 9)
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)


def test_an_unused_optimiser_can_be_saved_and_restored() -> None:
    optimizer = torch.optim.AdamW(torch.nn.Linear(3, 2).parameters(), lr=0.1)
    assert optimizer_tensors(optimizer) == {}
    restore_optimizer(optimizer, {})


def test_a_numpy_generator_goes_on_exactly() -> None:
    one, other = np.random.default_rng([3, 4]), np.random.default_rng(0)
    one.random(5)
    restore_numpy(other, json.loads(json.dumps(numpy_state(one))))
    assert np.array_equal(one.integers(9, size=20), other.integers(9, size=20))
