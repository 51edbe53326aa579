"""The streams of an attached process: fifos in a private folder, and threads that pump them.

The pumps are threads because both their ends may block, and because the terminal of the shell that
called us is shared with the shell and must not be made non-blocking.
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

# What the process wrote is in the fifo when its exit is reported; this is for one that left its
# streams to somebody who lives on.
_DRAIN_S = 2.0


class Streams:
    """Three fifos, or two with a terminal, from the making of a process to its end."""

    def __init__(self, *, terminal: bool) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="cryo-"))
        self._outputs = [_Output(self._folder / "stdout", 1)]
        if not terminal:
            self._outputs.append(_Output(self._folder / "stderr", 2))
        self._input = self._folder / "stdin"
        os.mkfifo(self._input, 0o600)
        # A reader that finds no writer yet would take that for the end of input.
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
        """Let the process be the only writer, and give it our stdin; `at_end` when that ends."""
        _start(_give, os.open(self._input, os.O_WRONLY | os.O_CLOEXEC), at_end)
        self._release()

    def _release(self) -> None:
        """Close what stood in for the other side."""
        for output in self._outputs:
            output.release()
        if self._held is not None:
            os.close(self._held)
            self._held = None

    async def drained(self) -> None:
        """Wait until all that the process wrote has been passed on."""
        for output in self._outputs:
            await asyncio.to_thread(output.ended.wait, _DRAIN_S)


class _Output:
    """One output stream: our reading end, and a writing end until the process has its own."""

    def __init__(self, path: Path, target: int) -> None:
        os.mkfifo(path, 0o600)
        self._source = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        # Without it the first read would find no writer and take that for the end.
        self._writer: int | None = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        os.set_blocking(self._source, True)
        self._target = target
        self.ended = threading.Event()
        _start(self._pass)

    def release(self) -> None:
        """Close our writing end; the pump ends when the last other one is closed."""
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
    """Copy until the source ends, or the target is gone."""
    with contextlib.suppress(OSError):
        while chunk := os.read(source, _CHUNK):
            _write(target, chunk)


def _write(target: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(target, view) :]


def _start(pump: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=pump, args=arguments, name="cryo-pump", daemon=True).start()
