from collections.abc import Iterator

import pytest
import torch

from forethought.agent import precision
from forethought.agent.precision import bfloat16_is_fast, planning
from forethought.agent.world_model import fused


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    bfloat16_is_fast.cache_clear()
    yield
    bfloat16_is_fast.cache_clear()


@pytest.mark.parametrize(
    ("cpu", "amx", "avx", "fast"),
    [
        ("AMD EPYC", False, True, True),
        ("AMD EPYC", False, False, False),
        ("Intel(R) Xeon(R) Processor", True, True, True),
        ("Intel(R) Xeon(R) Processor", False, True, False),
        ("Intel64 Family 6 Model 207 Stepping 2, GenuineIntel", False, True, False),
    ],
)
def test_bfloat16_pays_by_kind_of_processor(
    monkeypatch: pytest.MonkeyPatch, cpu: str, amx: bool, avx: bool, fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr("forethought.agent.provenance.machine", lambda: {"cpu": cpu})
    assert bfloat16_is_fast() == fast


@pytest.mark.parametrize(
    ("fast", "supported", "expected"),
    [
        (True, (), (torch.bfloat16, False)),
        (False, (), (torch.float32, False)),
        (False, ("float32",), (torch.float32, True)),
        (False, ("float32", "int16"), (torch.int16, True)),
        (True, ("float32",), (torch.bfloat16, False)),
        (True, ("float32", "bfloat16", "int16"), (torch.bfloat16, True)),
        (True, ("float32", "bfloat16", "float16"), (torch.float16, True)),
        (False, ("float32", "bfloat16", "float16", "int16"), (torch.float16, True)),
    ],
)
def test_the_fastest_that_there_is(
    monkeypatch: pytest.MonkeyPatch, fast: bool, supported: tuple[str, ...], expected: tuple[torch.dtype, bool]
) -> None:
    able(monkeypatch, fast, supported, amx=False)
    assert planning("auto", "auto", torch.device("cpu")) == expected
    assert planning("auto", "never", torch.device("cpu")) == (torch.bfloat16 if fast else torch.float32, False)
    assert planning("auto", "auto", torch.device("cuda")) == (torch.float32, False)


@pytest.mark.parametrize(
    ("fast", "supported", "expected"),
    [
        (False, ("float32", "int16", "int8"), torch.int8),
        (True, ("float32", "bfloat16", "float16", "int16", "int8"), torch.int8),
        (False, ("float32", "int16"), torch.int16),
    ],
)
def test_eight_bits_are_for_rewards(
    monkeypatch: pytest.MonkeyPatch, fast: bool, supported: tuple[str, ...], expected: torch.dtype
) -> None:
    able(monkeypatch, fast, supported, amx=False)
    cpu = torch.device("cpu")
    assert planning("auto", "auto", cpu, "reward") == (expected, True)
    assert planning("auto", "auto", cpu, "goal")[0] != torch.int8
    assert planning("auto", "never", cpu, "reward")[0] != torch.int8
    able(monkeypatch, fast, supported, amx=True)
    assert planning("auto", "auto", cpu, "reward")[0] != torch.int8


def test_matrix_units_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    able(monkeypatch, True, ("float32", "bfloat16", "float16"), amx=True)
    cpu = torch.device("cpu")
    assert planning("auto", "auto", cpu) == planning("bfloat16", "auto", cpu) == (torch.bfloat16, False)
    assert planning("float32", "auto", cpu) == (torch.float32, True)


def test_a_dtype_that_is_named_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    able(monkeypatch, False, ("float32",), amx=False)
    assert planning("bfloat16", "auto", torch.device("cpu")) == (torch.bfloat16, False)
    assert planning("float16", "auto", torch.device("cuda")) == (torch.float16, False)
    with pytest.raises(ValueError, match="instructions for float16"):
        planning("float16", "auto", torch.device("cpu"))
    for how, device in (("never", "cpu"), ("auto", "cuda"), ("auto", "cpu")):
        with pytest.raises(ValueError, match="an x86 processor, fused=auto and"):
            planning("int16", how, torch.device(device))
        with pytest.raises(ValueError, match="VNNI"):
            planning("int8", how, torch.device(device))


def able(monkeypatch: pytest.MonkeyPatch, fast: bool, supported: tuple[str, ...], *, amx: bool) -> None:
    """As on a machine that multiplies bfloat16 fast or not, and has fused networks in some precisions."""
    monkeypatch.setattr(precision, "bfloat16_is_fast", lambda: fast)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(fused, "fault", lambda: None if supported else "no compiler")
    monkeypatch.setattr(fused, "supports", lambda dtype: str(dtype).removeprefix("torch.") in supported)
