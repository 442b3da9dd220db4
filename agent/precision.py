"""Precision of plans: 16 bits where these are faster, networks in one call where this machine has them."""

from functools import cache

import torch

from . import provenance
from .world_model import fused as networks


def name_of(dtype: torch.dtype) -> str:
    """What options call it."""
    return str(dtype).removeprefix("torch.")


@cache
def bfloat16_is_fast() -> bool:
    """Whether this CPU multiplies bfloat16 matrices faster than float32 ones.

    With AMX it does. So does AVX512-BF16 on AMD's processors; on Intel's it is slower than float32, which has two
    execution units there instead of one and needs no packing. Asked of the kind of processor and not measured, so that
    the same seed gives the same plans in every process.
    """
    return _has_amx() or (_has("avx512_bf16") and "Intel" not in provenance.machine()["cpu"])


def _has_amx() -> bool:
    return _has("amx_tile")


def _has(name: str) -> bool:
    probe = getattr(torch.cpu, f"_is_{name}_supported", None)
    return probe is not None and bool(probe())


_NEEDED = {
    torch.int16: "an x86 processor",
    torch.int8: "an x86 processor with instructions for products of 8-bit integers (VNNI)",
    torch.float16: "a processor with instructions for float16",
}
"""What products need that PyTorch does not compute, or not fast."""


def planning(name: str, fused: str, device: torch.device, purpose: str = "goal") -> tuple[torch.dtype, bool]:
    """What `AgentOptions.plan_dtype` and `fused` come to on a device: a dtype, and whether networks are fused.

    Args:
        name: of a dtype, or `auto`.
        fused: `auto` or `never`.
        device: that plans are made on.
        purpose: `goal` or `reward`. Whole numbers of 8 bits are taken by themselves for rewards only, whose returns
            they leave as they are; the last steps to a goal are finer.

    Raises:
        ValueError: the device does not compute in the dtype.
    """
    able = fused == "auto" and device.type == "cpu" and networks.fault() is None
    dtype: torch.dtype
    if name != "auto":
        dtype = getattr(torch, name)
    elif able and not _has_amx() and purpose == "reward" and networks.supports(torch.int8):
        dtype = torch.int8
    elif able and not _has_amx() and networks.supports(torch.float16):
        dtype = torch.float16
    elif device.type == "cpu" and bfloat16_is_fast():
        dtype = torch.bfloat16
    else:
        dtype = torch.int16 if able and networks.supports(torch.int16) else torch.float32
    # Matrix units multiply bfloat16 many times faster than vectors do, and PyTorch uses them.
    able = able and networks.supports(dtype) and not (dtype == torch.bfloat16 and _has_amx())
    if not able and dtype in _NEEDED and (dtype != torch.float16 or device.type == "cpu"):
        raise ValueError(f"needs {_NEEDED[dtype]}, fused=auto and a C++ compiler")
    return dtype, able
