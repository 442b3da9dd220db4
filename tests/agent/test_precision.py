from collections.abc import Iterator

import pytest
import torch

from forethought.agent import precision
from forethought.agent.precision import bfloat16_is_fast, planning_dtype


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


def test_only_a_cpu_plans_in_half_precision_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bfloat16_is_fast", lambda: True)
    assert planning_dtype("auto", torch.device("cpu")) == torch.bfloat16
    assert planning_dtype("auto", torch.device("cuda")) == torch.float32
    assert planning_dtype("bfloat16", torch.device("cuda")) == torch.bfloat16
    assert planning_dtype("float32", torch.device("cpu")) == torch.float32
