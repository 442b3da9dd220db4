from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forethought.agent.bench.analytic import LinearQuadratic, SparseReach
from forethought.agent.bench.arena import TrueDynamics


class ShortLQR(LinearQuadratic):
    """Few decisions, so that tests are quick."""

    horizon, decisions = 4, 4


class ShortReach(SparseReach):
    """Few decisions, so that tests are quick."""

    horizon, decisions = 4, 3


class Silent:
    """Progress that notes what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int, str]] = []

    def advance(self, stage: str, done: int, total: int, note: str = "") -> None:
        self.told.append((stage, done, total, note))

    def message(self, text: str) -> None:
        return


@pytest.fixture
def lqr() -> TrueDynamics[Any]:
    return TrueDynamics(ShortLQR())


@pytest.fixture
def reach() -> TrueDynamics[Any]:
    return TrueDynamics(ShortReach())


@pytest.fixture
def silent() -> Silent:
    return Silent()


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    return lambda folder: {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
