import threading
from collections.abc import Iterator
from functools import partial

import pytest
import torch

from forethought.agent.threads import WORTH_SHARING, in_parallel, shares_of, threads_for


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("size", "expected"), [(1, 1), (WORTH_SHARING - 1, 1), (WORTH_SHARING, 2), (float("inf"), 2)])
def test_small_work_gets_one_thread(size: float, expected: int) -> None:
    with threads_for(size):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 2


def test_never_more_threads_than_allowed() -> None:
    torch.set_num_threads(1)
    with threads_for(float("inf")):
        assert torch.get_num_threads() == 1


def test_every_share_is_worth_a_thread() -> None:
    sizes = (1, 2 * WORTH_SHARING - 1, 2 * WORTH_SHARING, 9 * WORTH_SHARING)
    assert [shares_of(size) for size in sizes] == [1, 1, 2, 2]


def test_what_shares_work_by_itself_may_use_all_threads() -> None:
    with threads_for(1), threads_for(1):
        assert torch.get_num_threads() == 1
        assert shares_of(9 * WORTH_SHARING) == 2
    assert shares_of(9 * WORTH_SHARING) == 2
    found = in_parallel([lambda: torch.tensor(shares_of(9 * WORTH_SHARING))] * 2)
    assert [int(x) for x in found] == [1, 1], "these are the threads"


def test_an_error_restores_the_threads() -> None:
    with pytest.raises(ZeroDivisionError), threads_for(1):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 2


def test_parts_are_computed_in_order_each_on_a_thread_of_its_own_and_on_one_core() -> None:
    seen: dict[float, tuple[int, int, bool]] = {}

    def double(part: torch.Tensor) -> torch.Tensor:
        barrier.wait(timeout=30)  # passes only if all parts are under way at once
        seen[float(part)] = (threading.get_ident(), torch.get_num_threads(), torch.is_grad_enabled())
        return 2 * part

    parts = [torch.tensor(float(i)) for i in range(3)]
    barrier = threading.Barrier(3)
    assert [float(x) for x in in_parallel([partial(double, part) for part in parts])] == [0.0, 2.0, 4.0]
    assert len({thread for thread, _, _ in seen.values()}) == 3
    assert all(cores == 1 and not gradients for _, cores, gradients in seen.values())
    assert torch.get_num_threads() == 2


def test_an_error_in_another_thread_is_raised_here() -> None:
    def fail(part: torch.Tensor) -> torch.Tensor:
        if float(part):
            raise ZeroDivisionError
        return part

    with pytest.raises(ZeroDivisionError):
        in_parallel([partial(fail, torch.tensor(i)) for i in (0.0, 1.0)])
    assert torch.get_num_threads() == 2
