"""Checkpoints: one safetensors file each, tensors beside a JSON header; nothing in it can run code."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ... import ForethoughtError
from ..files import write_bytes

FORMAT = "forethought-checkpoint-1"


class CheckpointError(ForethoughtError):
    """A checkpoint that is missing, damaged, foreign, or made for something else."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by dotted name, and everything else as JSON values."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with `prefix.`, without that prefix."""
        return {k.removeprefix(f"{prefix}."): v for k, v in self.tensors.items() if k.startswith(f"{prefix}.")}


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically: after a crash the file is the old one or the new one.

    Raises:
        FileError: the disk is full or the folder is read-only; the old file is untouched.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(state, allow_nan=False)
    write_bytes(path, save(plain, metadata={"format": FORMAT, "state": text, "crc32": _checksum(plain, text)}))


def load_checkpoint(path: Path, device: str = "cpu") -> Checkpoint:
    """Read a checkpoint written by `save_checkpoint`; never unpickles.

    Raises:
        CheckpointError: the file is missing, no safetensors file (a pickle is named as such and refused), truncated,
            damaged, or not written by this project.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path} was not written by this version of forethought: "
                    f"format must be {FORMAT}, got {metadata.get('format')!r}"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        text = metadata["state"]
        if metadata.get("crc32", checksum := _checksum(tensors, text)) != checksum:
            raise ValueError("the checksum does not match")
        state = json.loads(text)
        if not isinstance(state, dict):
            raise ValueError(f"its state must be a JSON object, got {type(state).__name__}")
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is no readable checkpoint: {_diagnosis(path, error)}") from error
    return Checkpoint(tensors, state)


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """Over names and bytes of the tensors and over the state: safetensors notices a cut file, but no flipped bit."""
    value = zlib.crc32(text.encode())
    for name in sorted(tensors):
        data: Any = tensors[name].cpu().reshape(-1).view(torch.uint8).numpy()
        value = zlib.crc32(data, zlib.crc32(name.encode(), value))
    return f"{value:08x}"


def _diagnosis(path: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    with path.open("rb") as file:
        start = file.read(9)
    # The header of a safetensors file begins behind its length in eight bytes, the first of which may be 0x80 too.
    if start[:2] == b"PK" or (start[:1] == b"\x80" and start[8:] != b"{"):
        return "it is a pickle or PyTorch archive, which could run code when loaded; only safetensors are accepted"
    return f"it is truncated or damaged ({error})"


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The per-parameter state of an optimiser as `{"<index>.<name>": tensor}`."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Undo `optimizer_tensors`; hyperparameters stay those of `optimizer`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def restore_module(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load weights strictly.

    Raises:
        CheckpointError: a tensor is missing, unknown, or has another shape; names the first.
    """
    own = module.state_dict()
    for name in sorted(own.keys() ^ tensors.keys()):
        raise CheckpointError(f"{path} does not fit: tensor {name} is {'missing' if name in own else 'unknown'}")
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise CheckpointError(
                f"{path} does not fit: {name} must have shape {tuple(tensor.shape)}, got {tuple(tensors[name].shape)}"
            )
    module.load_state_dict(dict(tensors))


def numpy_state(rng: np.random.Generator) -> dict[str, Any]:
    """The state of a NumPy generator as JSON values."""
    return dict(rng.bit_generator.state)


def restore_numpy(rng: np.random.Generator, state: Mapping[str, Any]) -> None:
    """Undo `numpy_state`."""
    rng.bit_generator.state = dict(state)
