import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from autoseg.core.errors import DatasetError
from autoseg.core.parallel import begin_workers, parallel_map


def _square(number: int) -> int:
    return number * number


def _refuse_three(number: int) -> int:
    if number == 3:
        raise DatasetError("case 3: must be another number, got 3. Change it.")
    return number


def _die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def _die_once(marker: str) -> str:
    """Die unless the marker is there already, as a worker does that ran out of memory beside others."""
    path = Path(marker)
    if path.name == "b" and not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return marker


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_results_come_in_order(num_workers: int) -> None:
    assert list(parallel_map(_square, range(9), num_workers, str, DatasetError)) == [n * n for n in range(9)]


def test_nothing_to_do_gives_nothing() -> None:
    assert list(parallel_map(_square, [], 2, str, DatasetError)) == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_of_the_function_is_raised_as_it_is(num_workers: int) -> None:
    with pytest.raises(DatasetError, match="case 3: must be another number"):
        list(parallel_map(_refuse_three, range(6), num_workers, str, DatasetError))


def test_the_item_that_kills_its_worker_is_named_with_the_cause() -> None:
    with pytest.raises(DatasetError, match=r"case 3: .*signal SIGKILL, as when memory runs out"):
        list(parallel_map(_die_at_three, range(6), 2, "case {}".format, DatasetError))


def test_items_that_kill_only_together_are_named_together(tmp_path: Path) -> None:
    items = [str(tmp_path / name) for name in "abc"]
    with pytest.raises(DatasetError, match=r"/b.*: workers must survive them.*Use fewer workers"):
        list(parallel_map(_die_once, items, 2, str, DatasetError))


def test_a_death_while_another_worker_starts_ends_the_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`concurrent.futures` ends the workers it knows when one dies, then waits for one that began meanwhile too."""
    started: list[BaseProcess] = []
    start = BaseProcess.start

    def start_second_slowly(process: BaseProcess) -> None:
        start(process)
        started.append(process)
        if len(started) == 2:
            time.sleep(1.5)

    monkeypatch.setattr(BaseProcess, "start", start_second_slowly)
    items = [str(tmp_path / name) for name in "abc"]
    with pytest.raises(DatasetError, match="workers must survive them"):
        list(parallel_map(_die_once, items, 2, str, DatasetError))
    assert not any(process.is_alive() for process in started)


def test_few_items_are_under_way_at_a_time() -> None:
    results: Iterator[int] = parallel_map(_refuse_three, range(1000), 2, str, DatasetError)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DatasetError):
        next(results)


def test_workers_that_were_begun_before_do_the_same() -> None:
    begin_workers(__name__, 2)
    begin_workers(__name__, 1)
    assert list(parallel_map(abs, [-1, 2, -3], 2, str, DatasetError)) == [1, 2, 3]
