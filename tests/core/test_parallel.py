import os
import signal
import time

import pytest

from autoseg.core.errors import DatasetError
from autoseg.core.parallel import parallel_map


def square_slowly(number: int) -> int:
    """The first items take longest, so that later ones are done before them."""
    time.sleep(0.2 if number == 0 else 0)
    return number**2


def refuse_two(number: int) -> int:
    if number == 2:
        raise DatasetError(f"case {number}: must be odd")
    return number


def die_at_two(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def process_of(number: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_results_come_in_order(num_workers: int) -> None:
    results = parallel_map(square_slowly, range(9), num_workers, str, DatasetError)
    assert list(results) == [number**2 for number in range(9)]


def test_nothing_to_do() -> None:
    assert list(parallel_map(square_slowly, [], 2, str, DatasetError)) == []


@pytest.mark.parametrize(("num_workers", "here"), [(0, True), (1, True), (2, False)])
def test_one_worker_is_this_process(num_workers: int, here: bool) -> None:
    processes = set(parallel_map(process_of, range(4), num_workers, str, DatasetError))
    assert (processes == {os.getpid()}) is here


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_is_raised_as_it_is(num_workers: int) -> None:
    with pytest.raises(DatasetError, match="case 2: must be odd"):
        list(parallel_map(refuse_two, range(4), num_workers, str, DatasetError))


def test_a_dead_process_is_named() -> None:
    with pytest.raises(DatasetError, match="case 2: a worker must survive it, got its death by signal SIGKILL"):
        list(parallel_map(die_at_two, range(4), 2, "case {}".format, DatasetError))
