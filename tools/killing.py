"""Commands that are killed at random moments and given again, until they have gone through; what they end with."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from autoseg.core.workspace import Workspace

SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM}

KILLS_EACH = 2
"""Of a workspace: more would come when most is done, and fewer would not show that a broken-off run can be broken off
again."""

LOG_END = 4000
"""Characters of what a command has said that are shown when it fails."""


@dataclass(frozen=True)
class Command:
    """A command that can be killed.

    Attributes:
        arguments: Of `autoseg`, for a workspace.
        result: What it ends with, by name; to be the same however often it was killed.
        state: Columns that tell how far it is.
        columns: Their names.
    """

    arguments: Callable[[Workspace], Sequence[str]]
    result: Callable[[Workspace], dict[str, bytes]]
    state: Callable[[Workspace], str]
    columns: str


class CommandFailedError(Exception):
    """A command has ended otherwise than well, or than it was told to; the message holds what it said."""


@dataclass
class KillTest:
    """A command in workspaces below a folder: once without a break, then killed again and again.

    Attributes:
        folder: For everything.
        command: That is killed.
        signal: That ends it.
        rng: Draws the moments.
        unbroken_s: Seconds that it takes without a break.
        expected: What it ends with then.
        took_s: Seconds in each workspace, of all times that it was given there.
    """

    folder: Path
    command: Command
    signal: signal.Signals
    rng: random.Random
    unbroken_s: float = 0.0
    expected: dict[str, bytes] = field(default_factory=dict, repr=False)
    took_s: dict[str, float] = field(default_factory=dict)

    def run(self, num_kills: int) -> list[list[str]]:
        """Kill as often as asked; return for each workspace in which it went through the names of what differs.

        The moments are spread over the time of the command: one in each of as many equal parts of it. A workspace is
        killed twice, or once where the command goes through before the second moment comes; then it is let go through.

        Raises:
            CommandFailedError: If the command fails.
        """
        self._run_unbroken()
        print(f"| kill | workspace | after s | {self.command.columns} |\n|---|---|---|{'---|' * self._num_columns}")
        differing: list[list[str]] = []
        num_here = 0
        for part in range(num_kills):
            moment_s = (part + self.rng.random()) / num_kills * self.unbroken_s
            while self._ends_before(workspace := self._workspace(f"killed_{len(differing)}"), moment_s):
                if num_here == 0:
                    moment_s *= 0.9  # A fresh one was faster than the one that was timed.
                differing.append(self._differences(workspace))
                num_here = 0
            num_here += 1
            print(f"| {part + 1} | {len(differing)} | {moment_s:.1f} | {self.command.state(workspace)} |", flush=True)
            if num_here == KILLS_EACH or part == num_kills - 1:
                self._finish(workspace)
                differing.append(self._differences(workspace))
                num_here = 0
        return differing

    @property
    def _num_columns(self) -> int:
        return self.command.columns.count("|") + 1

    def _run_unbroken(self) -> None:
        workspace = self._workspace("unbroken")
        self._finish(workspace)
        self.unbroken_s = self.took_s[workspace.root.name]
        self.expected = self.command.result(workspace)
        print(f"Without a break it took {self.unbroken_s:.1f} s.\n", flush=True)

    def _workspace(self, name: str) -> Workspace:
        return Workspace(self.folder / name)

    def _log(self, workspace: Workspace) -> Path:
        return self.folder / f"{workspace.root.name}.log"

    def _start(self, workspace: Workspace) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self._log(workspace).open("ab") as log:
            log.write(b"\n--- the command is given\n")
            log.flush()
            return subprocess.Popen(
                [sys.executable, "-m", "autoseg", *self.command.arguments(workspace)],
                env=environment,
                stdout=log,
                stderr=log,
            )

    def _ends_before(self, workspace: Workspace, moment_s: float) -> bool:
        """Give the command and return whether it goes through before a moment; if not, end it there."""
        with self._timing(workspace):
            child = self._start(workspace)
            try:
                self._require(workspace, child.wait(moment_s), (0,))
            except subprocess.TimeoutExpired:
                child.send_signal(self.signal)
                code = child.wait()
                self._require(workspace, code, (-self.signal, 128 + self.signal, 0))
                return False
        return True

    def _finish(self, workspace: Workspace) -> None:
        with self._timing(workspace):
            self._require(workspace, self._start(workspace).wait(), (0,))

    @contextmanager
    def _timing(self, workspace: Workspace) -> Iterator[None]:
        began_s, name = time.monotonic(), workspace.root.name
        yield
        self.took_s[name] = self.took_s.get(name, 0.0) + time.monotonic() - began_s

    def _require(self, workspace: Workspace, code: int, expected: tuple[int, ...]) -> None:
        if code not in expected:
            said = self._log(workspace).read_text(errors="replace")[-LOG_END:]
            raise CommandFailedError(
                f"{workspace.root.name}: must end with one of {expected}, got {code}. {self.command.columns}:"
                f" {self.command.state(workspace)}. What it said:\n{said}"
            )

    def _differences(self, workspace: Workspace) -> list[str]:
        found = self.command.result(workspace)
        names = [name for name in self.expected | found if self.expected.get(name) != found.get(name)]
        for name in names:
            print(f"differs: {name}", flush=True)
        return names


def without(path: Path, *names: str) -> bytes:
    """Return a JSON document without some entries of its top, in one form."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return json.dumps({name: value for name, value in document.items() if name not in names}, sort_keys=True).encode()


def weights(workspace: Workspace) -> dict[str, bytes]:
    """Return the weights of all finished trainings, by their place."""
    paths = (workspace.root / "models").glob("*/fold_*/weights.safetensors")
    return {str(path.relative_to(workspace.root)): path.read_bytes() for path in sorted(paths)}
