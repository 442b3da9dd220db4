"""Compilation by `torch.compile`, which fuses chains of small operations: a help that nothing depends on."""

import inspect
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

CHOICES = ("never", "auto")


def cpp_compiler() -> str | None:
    """The C++ compiler that PyTorch uses on a CPU; None if it is not installed."""
    return shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))


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
        return _summary(error)
    return None


def _probe(x: Tensor) -> Tensor:
    return x.sin() + 1


def _summary(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {next((x for x in lines if 'error' in x.lower()), lines[0] if lines else '')}"


VERSIONS = 64
"""Forms of a function, by shapes and options, that a process may compile before it goes on with plain code."""


def _may_change(checks: Sequence[Any]) -> list[bool]:
    """Which checks are worth their time before every call of compiled code: not whether functions are the same."""
    return [not check.is_global and "__dataclass_fields__" not in check.name for check in checks]


def _arguments() -> dict[str, Any]:
    """Of `torch.compile`, as far as the installed version knows them."""
    options: dict[str, Any] = {"size_asserts": False}
    if hasattr(torch.compiler, "skip_guard_on_inbuilt_nn_modules_unsafe"):  # came with the option
        options["guard_filter_fn"] = _may_change
    known = inspect.signature(torch.compile).parameters
    return {"options": options} | ({"recompile_limit": VERSIONS} if "recompile_limit" in known else {})


class Compiled:
    """A function compiled as one graph for every shape that it is called with; plain, with a warning, if that fails.

    Shapes are not made dynamic: which kernel computes something, and so how it rounds, must follow from what is
    computed and not from what was before, or else a resumed run would not be the same.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._fast: Callable[..., Any] | None = torch.compile(function, dynamic=False, fullgraph=True, **_arguments())

    def __call__(self, *args: Any) -> Any:
        """What the function returns."""
        if self._fast is None:
            return self.function(*args)
        try:
            return self._fast(*args)
        except (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
            self._fast = None
            name = self.function.__qualname__.lstrip("_")
            warnings.warn(f"{name} goes on without compiled code: {_summary(error)}", stacklevel=2)
            return self.function(*args)


@cache
def compiled(function: Callable[..., Any], thread: int = 0) -> Compiled:
    """The compiled form of a function; one serves the whole process.

    Args:
        function: what to compile.
        thread: which of the threads that run it at once, each of which has a compiled form of its own: the checks
            whether one fits the arguments are not safe where threads share them.
    """
    if thread and isinstance(function, FunctionType):
        code = function.__code__.replace(co_name=f"{function.__name__}_{thread}")
        function = FunctionType(code, function.__globals__, function.__name__, function.__defaults__)
    return Compiled(function)
