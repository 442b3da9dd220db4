"""How many CPU threads a piece of work is worth."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

WORTH_SHARING = 16_000_000
"""Multiply-adds of one matrix product above which a second thread pays.

Threads that sleep between products (`OMP_WAIT_POLICY=PASSIVE`, the only policy that does not collapse where cores are
shared) take some 50 microseconds to wake: a product of 4 million takes longer on two threads than on one, one of 30
million does not.
"""


@contextmanager
def threads_for(multiply_adds: float) -> Iterator[None]:
    """Compute on one thread while the matrix products inside are small; else as many as PyTorch was told to use.

    The choice follows from sizes alone, so that it is the same when a run is resumed.

    Args:
        multiply_adds: of the largest matrix product in there.
    """
    allowed = torch.get_num_threads()
    if allowed == 1 or multiply_adds >= WORTH_SHARING:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(allowed)
