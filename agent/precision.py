"""Precision of plans: half precision where it is faster."""

from functools import cache

import torch

from . import provenance


@cache
def bfloat16_is_fast() -> bool:
    """Whether this CPU multiplies bfloat16 matrices faster than float32 ones.

    With AMX it does. So does AVX512-BF16 on AMD's processors; on Intel's it is slower than float32, which has two
    execution units there instead of one and needs no packing. Asked of the kind of processor and not measured, so that
    the same seed gives the same plans in every process.
    """
    amx, avx = (
        probe is not None and bool(probe())
        for probe in (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16"))
    )
    return amx or (avx and "Intel" not in provenance.machine()["cpu"])


def planning_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype that `AgentOptions.plan_dtype` stands for on a device."""
    if name == "auto":
        name = "bfloat16" if device.type == "cpu" and bfloat16_is_fast() else "float32"
    dtype: torch.dtype = getattr(torch, name)
    return dtype
