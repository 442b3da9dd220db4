"""How many CPU threads a piece of work is worth, and how they share it."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch
from torch import Tensor

WORTH_SHARING = 16_000_000
"""Multiply-adds of one matrix product above which a second thread pays.

Threads that sleep between products (`OMP_WAIT_POLICY=PASSIVE`, the only policy that does not collapse where cores are
shared) take some 50 microseconds to wake: a product of 4 million takes longer on two threads than on one, one of 30
million does not.
"""


_allowed: ContextVar[int | None] = ContextVar("allowed", default=None)
"""How many threads PyTorch was told to use, while `threads_for` has it use one."""


@contextmanager
def computing_with(count: int) -> Iterator[None]:
    """Compute with `count` threads, and without denormal numbers, which make softmax many times slower."""
    before, flushed = torch.get_num_threads(), sys.float_info.min / 2 == 0.0
    torch.set_num_threads(count)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(flushed)


@contextmanager
def threads_for(multiply_adds: float) -> Iterator[None]:
    """Compute on one thread while the matrix products inside are small; else as many as PyTorch was told to use.

    The choice follows from sizes alone, so that it is the same when a run is resumed.

    Args:
        multiply_adds: of the largest matrix product in there.
    """
    before = torch.get_num_threads()
    if before == 1 or multiply_adds >= WORTH_SHARING:
        yield
        return
    torch.set_num_threads(1)
    token = _allowed.set(before)
    try:
        yield
    finally:
        _allowed.reset(token)
        torch.set_num_threads(before)


def shares_of(multiply_adds: float) -> int:
    """Into how many parts, at least one, `in_parallel` should get work whose largest product has that size."""
    return max(1, min(_allowed.get() or torch.get_num_threads(), int(multiply_adds // WORTH_SHARING)))


def in_parallel(calls: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
    """What the calls return, each made on a thread of its own; without gradients.

    Threads that share whole chains of small operations wait for each other once, not at every operation as those of
    OpenMP do: for the networks of a planner that is the difference between slower than one thread and nearly twice as
    fast.
    """

    @torch.no_grad()
    def compute(call: Callable[[], Tensor]) -> Tensor:
        return call()

    with threads_for(0):
        token = _allowed.set(1)
        try:
            pending = [_pool(len(calls) - 1).submit(compute, call) for call in calls[1:]]
            first = compute(calls[0])
            return [first, *(future.result() for future in pending)]
        finally:
            _allowed.reset(token)


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(workers, 1), thread_name_prefix="forethought", initializer=_start_worker)


def _start_worker() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # a setting of each thread
