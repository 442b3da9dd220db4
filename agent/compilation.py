"""Compilation by `torch.compile`, which fuses chains of small operations: a help that nothing depends on."""

import importlib.util
import os
import shutil
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

CHOICES = ("never", "auto")


def cpp_compiler() -> str | None:
    """The C++ compiler that PyTorch would use on a CPU; None if there is none."""
    return shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")


def worth_compiling(choice: str, device: torch.device) -> bool:
    """What `never` or `auto` comes to on a device: `auto` compiles wherever this machine can."""
    if choice == "never":
        return False
    return cpp_compiler() is not None if device.type == "cpu" else importlib.util.find_spec("triton") is not None


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled for every shape that it is called with; one compilation serves the whole process.

    Shapes are not made dynamic: which kernel computes something, and so how it rounds, must follow from what is
    computed and not from what was before, or else a resumed run would not be the same.
    """
    return torch.compile(function, dynamic=False)
