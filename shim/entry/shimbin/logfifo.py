"""A log handler for containerd's `log` FIFO, which never blocks and needs no reader."""

from __future__ import annotations

import logging
import os
from pathlib import Path

_LINE_BYTES = 4000


class FifoHandler(logging.Handler):
    """Writes a line atomically; drops it if the FIFO is full or has no reader."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._fd: int | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; reopen the FIFO if its reader was replaced."""
        line = _cut(self.format(record).encode("utf-8", "replace")) + b"\n"
        for _ in range(2):
            try:
                if self._fd is None:
                    self._fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                os.write(self._fd, line)
            except BlockingIOError:
                return
            except OSError:
                self._close()
            else:
                return

    def close(self) -> None:
        """Close the FIFO."""
        self._close()
        super().close()

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _cut(line: bytes) -> bytes:
    """Truncate a line to what a pipe takes in one atomic write, and close its open quote."""
    if len(line) <= _LINE_BYTES:
        return line
    text = line[: _LINE_BYTES - 1].decode("utf-8", "ignore")
    kept = text.rstrip("\\")
    kept += "\\" * ((len(text) - len(kept)) // 2 * 2)  # no half of an escape
    unescaped = kept.replace("\\\\", "").replace('\\"', "")
    return (kept + '"' * (unescaped.count('"') % 2)).encode()
