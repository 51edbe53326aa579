"""Log lines into containerd's `log` fifo: never waits, and survives containerd's absence."""

from __future__ import annotations

import logging
import os
from pathlib import Path

_LINE_LIMIT = 4000


class FifoHandler(logging.Handler):
    """Writes lines of at most a pipe's atomic size; what nobody reads is dropped."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._fd = -1

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, opening the fifo anew when its reader went away."""
        line = self.format(record).replace("\n", " | ")[:_LINE_LIMIT].encode() + b"\n"
        for _ in range(2):
            try:
                if self._fd < 0:
                    self._fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                os.write(self._fd, line)
            except BlockingIOError:
                return
            except OSError:
                self._close()
            else:
                return

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
