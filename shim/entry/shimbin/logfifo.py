"""Log lines into containerd's `log` fifo: never waits, and survives containerd's absence."""

from __future__ import annotations

import logging
import os
from pathlib import Path

_LINE_BYTES = 4000


class FifoHandler(logging.Handler):
    """Writes lines of at most a pipe's atomic size; what nobody reads is dropped."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._fd = -1

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, opening the fifo anew when its reader went away."""
        line = _cut(self.format(record).encode("utf-8", "replace")) + b"\n"
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


def _cut(line: bytes) -> bytes:
    """Keep a line whole in one write to a pipe, which takes no more than 4096 bytes at once."""
    return line[:_LINE_BYTES].decode("utf-8", "ignore").encode()
