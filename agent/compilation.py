"""Compilation by `torch.compile`, which fuses chains of small operations: a help that nothing depends on."""

import os
import shutil
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

CHOICES = ("never", "auto")


def cpp_compiler() -> str | None:
    """The C++ compiler that PyTorch would use on a CPU; None if there is none."""
    return shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")


def worth_compiling(choice: str, device: torch.device) -> bool:
    """What `never` or `auto` comes to on a device: `auto` compiles wherever this machine can.

    Warns if a compiler is there and cannot be used.
    """
    if choice == "never" or (device.type == "cpu" and cpp_compiler() is None):
        return False
    fault = fault_of_compiler(device)
    if fault is not None:
        warnings.warn(f"goes on without compiled code: {fault}", stacklevel=2)
    return fault is None


@cache
def fault_of_compiler(device: torch.device) -> str | None:
    """What goes wrong when a small function is compiled for a device (headers missing, no space...), or None."""
    try:
        torch.compile(_probe, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:  # whatever it is, plain code will do
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: {next((x for x in lines if 'error' in x.lower()), lines[0] if lines else '')}"
    return None


def _probe(x: Tensor) -> Tensor:
    return x.sin() + 1


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled for every shape that it is called with; one compilation serves the whole process.

    Shapes are not made dynamic: which kernel computes something, and so how it rounds, must follow from what is
    computed and not from what was before, or else a resumed run would not be the same.
    """
    return torch.compile(function, dynamic=False)
