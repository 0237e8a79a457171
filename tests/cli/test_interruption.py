"""Signals as a command meets them: sent to this very process."""

import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.synchronize import Event

import pytest

from autoseg.cli.interruption import SIGNALS, Interruption

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")


def _send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_at_once(number: signal.Signals, code: int) -> None:
    interruption = Interruption()
    with pytest.raises(KeyboardInterrupt), interruption.watched():
        _send(number)
    assert interruption.exit_code == code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_block_that_asks_is_not_torn_apart(number: signal.Signals, code: int) -> None:
    interruption = Interruption()
    answers = []

    def work() -> None:
        with interruption.postponed() as is_asked_to_stop:
            answers.append(is_asked_to_stop())
            _send(number)
            answers.append(is_asked_to_stop())

    with interruption.watched(), pytest.raises(KeyboardInterrupt):
        work()
    assert answers == [False, True]
    assert interruption.exit_code == code


def test_the_second_signal_does_not_wait() -> None:
    interruption = Interruption()
    reached = []

    def work() -> None:
        with interruption.postponed():
            _send(signal.SIGINT)
            reached.append("after the first")
            _send(signal.SIGTERM)
            reached.append("after the second")

    with interruption.watched(), pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["after the first"]
    assert interruption.exit_code == 143


def test_after_the_block_a_signal_ends_the_command_again() -> None:
    interruption = Interruption()
    with interruption.watched():
        with interruption.postponed():
            pass
        with pytest.raises(KeyboardInterrupt):
            _send(signal.SIGTERM)


def test_what_a_block_raises_itself_passes() -> None:
    interruption = Interruption()

    def work() -> None:
        with interruption.postponed():
            _send(signal.SIGTERM)
            raise KeyError("own")

    with interruption.watched(), pytest.raises(KeyError, match="own"):
        work()


def test_without_a_signal_nothing_happens_and_the_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interruption().watched() as nothing:
        assert nothing is None
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def _live_on(is_alive: Event) -> None:
    is_alive.set()
    time.sleep(60)


def test_a_worker_dies_of_sigterm_whatever_its_parent_postpones() -> None:
    """Or it could not be ended: a worker that was forked has its parent's handlers."""
    interruption = Interruption()
    with interruption.watched(), interruption.postponed():
        fork = multiprocessing.get_context("fork")
        is_alive = fork.Event()
        child = fork.Process(target=_live_on, args=(is_alive,))
        child.start()
        assert is_alive.wait(30)
        child.terminate()
        child.join(10)
    assert child.exitcode == -signal.SIGTERM
