"""One function over many items in parallel processes, results in order, crashes named."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.context import BaseContext
from typing import TypeVar

from autoseg.core.errors import AutosegError

Item = TypeVar("Item")
Result = TypeVar("Result")

ITEMS_AHEAD = 2
"""Items handed out per worker: one at work and one waiting, so that neither workers idle nor results pile up."""


def parallel_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    num_workers: int,
    name_of: Callable[[Item], str],
    crash: type[AutosegError],
) -> Iterator[Result]:
    """Yield `function(item)` of every item, in order.

    Only a few items are under way at a time, whatever their number. An exception of the function is raised as it is.

    Args:
        function: Importable by name, as its processes are new.
        items: Picklable.
        num_workers: Processes; one or fewer works in this process.
        name_of: Name of an item in messages.
        crash: Error to raise if a process dies, for example for want of memory.

    Raises:
        AutosegError: Of type `crash`, naming the item and the cause, if a process dies.
    """
    if num_workers <= 1 or len(items) <= 1:
        yield from map(function, items)
        return
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    rest = iter(items)
    num_processes = min(num_workers, len(items))
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(num_processes, mp_context=_context(function.__module__), initializer=end_with_parent)
    try:
        for item in rest:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) >= num_workers * ITEMS_AHEAD:
                yield waiting[0][1].result()
                waiting.popleft()
        while waiting:
            yield waiting[0][1].result()
            waiting.popleft()
    except BrokenProcessPool:
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()  # One that was starting when another died is forgotten, and waits for ever.
        suspects = [item for item, future in waiting if not _succeeded(future)]
        raise _crash_of(function, suspects, name_of, crash) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def begin_workers(module: str, num_workers: int) -> None:
    """Begin to start the processes of a later `parallel_map`, which takes a while, beside what is done until then.

    Args:
        module: Of the function that will be mapped.
        num_workers: Of the later map; nothing is done for one or fewer.
    """
    if num_workers > 1 and _context(module).get_start_method() == "forkserver":
        from multiprocessing import forkserver  # Windows lacks it

        forkserver.ensure_running()


def when_parent_ends(action: Callable[[], object]) -> None:
    """Have a thread call `action` when the process that started this one through multiprocessing is gone.

    A process that is killed takes none of those with it that it has started: they would wait for work for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        action()

    threading.Thread(target=wait, daemon=True, name="when parent ends").start()


def end_with_parent() -> None:
    """Have this process end when the one that started it through multiprocessing is gone."""
    when_parent_ends(partial(os._exit, 1))


def is_launched() -> bool:
    """Return whether `torchrun` has started this process; torch, which says it too, takes seconds to import.

    Source:
        torch.distributed.is_torchelastic_launched.
    """
    return "TORCHELASTIC_RUN_ID" in os.environ


def _context(module: str) -> BaseContext:
    """Return how processes start: never by fork of this one, whose threads could hold locks.

    Where a server forks them, it imports the module of their work once, for all of them.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def _succeeded(future: "Future[Result]") -> bool:
    return future.done() and future.exception() is None


def _crash_of(
    function: Callable[[Item], Result],
    suspects: Sequence[Item],
    name_of: Callable[[Item], str],
    crash: type[AutosegError],
) -> AutosegError:
    """Return the error for a dead process; each item that was under way is tried alone to find the one that kills."""
    for item in suspects:
        process = multiprocessing.get_context("spawn").Process(target=function, args=(item,))
        process.start()
        process.join()
        if process.exitcode is not None and (process.exitcode < 0 or process.exitcode > 1):
            return crash(
                f"{name_of(item)}: a worker must survive it, got its death by {_cause(process.exitcode)}. "
                "Give the machine more memory, or check the file."
            )
    names = ", ".join(name_of(item) for item in suspects)
    return crash(
        f"{names}: workers must survive them, got the death of one while these ran side by side; alone, none kills "
        "it. Use fewer workers: together they may have run out of memory."
    )


def _cause(exit_code: int) -> str:
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"signal {name}" + (", as when memory runs out" if name == "SIGKILL" else "")
    return f"exit code {exit_code}"
