"""What a task's process does in the tests of attached streams: real files, no sandbox."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from shim.model import Stdio


class Cat:
    """Says on both outputs that it began, gives its input back, and ends with a status."""

    def __init__(self, stdio: Stdio, status: int, ended: Callable[[int], None]) -> None:
        """Open the streams, as a core does before its start returns."""
        self._status = status
        self._ended = ended
        self._stdin = os.open(stdio.stdin or os.devnull, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(self._stdin, True)
        self._stdout = os.open(stdio.stdout or os.devnull, os.O_WRONLY)
        self._stderr = os.open(stdio.stderr or os.devnull, os.O_WRONLY)
        # A client's writing end that does not exist yet must not look like the end of input.
        self._held = os.open(stdio.stdin, os.O_WRONLY) if stdio.stdin else -1
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close_input(self) -> None:
        """Let the input end, as CloseIO does."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def _run(self) -> None:
        os.write(self._stdout, b"out\n")
        os.write(self._stderr, b"err\n")
        while chunk := os.read(self._stdin, 1 << 16):
            os.write(self._stdout, chunk)
        for fd in (self._stdin, self._stdout, self._stderr):
            os.close(fd)
        self._ended(self._status)
