"""The streams of an attached process: FIFOs in a private directory, copied by threads.

Threads, because both ends of a copy may block: the terminal is shared with the calling shell, so it
must not be made non-blocking.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from shim.model import Stdio

_CHUNK = 1 << 16

# When the exit is reported, all output is in the FIFO. This bounds the wait for a process whose
# children still have its streams open.
_DRAIN_S = 2.0


class Streams:
    """Three FIFOs, or two with a terminal, for the lifetime of a process."""

    def __init__(self, *, terminal: bool) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="cryo-"))
        self._outputs = [_Output(self._folder / "stdout", 1)]
        if not terminal:
            self._outputs.append(_Output(self._folder / "stderr", 2))
        self._input = self._folder / "stdin"
        os.mkfifo(self._input, 0o600)
        # Without a writer the process would read end of file.
        self._held: int | None = os.open(self._input, os.O_RDWR | os.O_CLOEXEC)
        self.stdio = Stdio(
            stdin=str(self._input),
            stdout=str(self._folder / "stdout"),
            stderr="" if terminal else str(self._folder / "stderr"),
            terminal=terminal,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._release()
        shutil.rmtree(self._folder, ignore_errors=True)

    def started(self, at_end: Callable[[], None]) -> None:
        """Close our ends of the outputs, and copy our stdin; call `at_end` when that ends."""
        _start(_give, os.open(self._input, os.O_WRONLY | os.O_CLOEXEC), at_end)
        self._release()

    def _release(self) -> None:
        """Close the ends that were held open until the process opened its own."""
        for output in self._outputs:
            output.release()
        if self._held is not None:
            os.close(self._held)
            self._held = None

    async def drained(self) -> None:
        """Wait until all output of the process has been copied."""
        for output in self._outputs:
            await asyncio.to_thread(output.ended.wait, _DRAIN_S)


class _Output:
    """One output stream: our read end, and a write end until the process has opened its own."""

    def __init__(self, path: Path, target: int) -> None:
        os.mkfifo(path, 0o600)
        self._source = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        # Without a writer the first read would return end of file.
        self._writer: int | None = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        os.set_blocking(self._source, True)
        self._target = target
        self.ended = threading.Event()
        _start(self._pass)

    def release(self) -> None:
        """Close our write end; the copy ends when the last other one is closed."""
        if self._writer is not None:
            os.close(self._writer)
            self._writer = None

    def _pass(self) -> None:
        try:
            _copy(self._source, self._target)
        finally:
            os.close(self._source)
            self.ended.set()


def _give(target: int, at_end: Callable[[], None]) -> None:
    try:
        _copy(0, target)
    finally:
        os.close(target)
        at_end()


def _copy(source: int, target: int) -> None:
    """Copy until the end of the source, or an error of either end."""
    with contextlib.suppress(OSError):
        while chunk := os.read(source, _CHUNK):
            _write(target, chunk)


def _write(target: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(target, view) :]


def _start(pump: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=pump, args=arguments, name="cryo-pump", daemon=True).start()
