from collections.abc import Iterator

import pytest
import torch

from forethought.agent.threads import WORTH_SHARING, threads_for


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


def test_an_error_restores_the_threads() -> None:
    with pytest.raises(ZeroDivisionError), threads_for(1):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 2
