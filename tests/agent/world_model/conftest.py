from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _weights_follow_from_a_seed() -> Iterator[None]:
    """Layers draw their first weights from the global generator; here it is the same in every test."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
