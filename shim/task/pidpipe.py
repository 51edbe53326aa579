"""Receives the pid of a process that runsc starts, as soon as runsc writes it.

runsc writes it to a file. With a fifo in place of the file no polling is needed.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from shim.host.procs import readable

_LIMIT_BYTES = 32


class PidPipe:
    """A fifo that runsc takes for a pid file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number = 0

    def __enter__(self) -> Self:
        """Make the fifo and open its reading end, so that the writer does not block."""
        self.path.unlink(missing_ok=True)
        os.mkfifo(self.path, 0o600)
        self._fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the fifo."""
        os.close(self._fd)
        self.path.unlink(missing_ok=True)

    async def read(self) -> int:
        """Wait for the pid; 0 if the content is not a number."""
        await readable(self._fd)
        return self.take()

    def take(self) -> int:
        """Return the pid if it was written; 0 if it was not, or is not a number."""
        if self._number == 0:
            with contextlib.suppress(BlockingIOError):
                text = os.read(self._fd, _LIMIT_BYTES).decode("ascii", "replace").strip()
                self._number = int(text) if text.isdigit() else 0
        return self._number
