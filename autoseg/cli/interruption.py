"""Ctrl-C, and SIGTERM, which a scheduler sends before it takes the machine: they end a command, a training tidily."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Ends the command at a signal: at once, but for blocks that ask for it themselves; the second time in any case."""

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._is_postponed = False

    @property
    def exit_code(self) -> int:
        """128 and the number of the signal, as shells have it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self._received or signal.SIGINT)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within the block, turn the signals into `KeyboardInterrupt`, in this process alone."""
        self._received = None
        owner = os.getpid()

        def receive(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the system's arguments
            if os.getpid() != owner:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
                return
            is_second = self._received is not None
            self._received = signal.Signals(number)
            if is_second or not self._is_postponed:
                raise KeyboardInterrupt

        before = {number: signal.signal(number, receive) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def postponed(self) -> Iterator[Callable[[], bool]]:
        """Within the block, only note the first signal; gives whether there was one.

        Raises:
            KeyboardInterrupt: At the end of the block, if there was one.
        """
        self._is_postponed = True
        try:
            yield lambda: self._received is not None
        finally:
            self._is_postponed = False
        if self._received is not None:
            raise KeyboardInterrupt


INTERRUPTION = Interruption()
"""Of this process."""
