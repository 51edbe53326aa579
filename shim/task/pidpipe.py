"""The pid of a process that runsc starts, received as soon as it is known.

runsc writes it to a file. A fifo in the file's place makes that an event instead of a poll.
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
        """Make the fifo and open its reading end, so that the writer need not wait."""
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
        """Wait for the number; 0 when what came is none."""
        await readable(self._fd)
        return self.take()

    def take(self) -> int:
        """Return the number if it has been written; 0 when it has not, or is none."""
        if self._number == 0:
            with contextlib.suppress(BlockingIOError):
                text = os.read(self._fd, _LIMIT_BYTES).decode("ascii", "replace").strip()
                self._number = int(text) if text.isdigit() else 0
        return self._number
