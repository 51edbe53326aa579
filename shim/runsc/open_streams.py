"""The streams that a process has open to the ports of its sandboxes, so that a save can close them.

A save fails while the sentry copies to or from one: it cannot save that state (measured).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from shim.errors import Busy
from shim.runsc.port_forward import PortStream

_log = logging.getLogger(__name__)
# A connection that is being made has its own, shorter deadline; then its end is waited for.
_CLOSE_S = 15.0


class _Use:
    """One stream, from before it is connected until the sentry has closed its end."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self._stream: PortStream | None = None
        self._ended = False

    def connected(self, stream: PortStream) -> None:
        self._stream = stream
        if self._ended:
            self.end()

    def end(self) -> None:
        """Send the end of the data: the sentry ends the whole stream, and its user sees that."""
        self._ended = True
        if self._stream is not None:
            ours = self._stream.writer.get_extra_info("socket")
            with contextlib.suppress(OSError):  # it has ended
                ours.shutdown(socket.SHUT_WR)


class OpenStreams:
    """All streams of one process, by the control socket of the sandbox."""

    def __init__(self) -> None:
        self._uses: dict[Path, set[_Use]] = {}
        self._saves: Counter[Path] = Counter()

    @contextlib.contextmanager
    def opening(self, control: Path) -> Iterator[_Use]:
        """Register a stream within the block.

        Raises:
            Busy: the sandbox is being saved.
        """
        if self._saves[control]:
            message = "no connection to the sandbox: it is being saved"
            raise Busy(message, remedy="try again after the save")
        use = _Use()
        self._uses.setdefault(control, set()).add(use)
        try:
            yield use
        finally:
            self._uses[control].discard(use)
            if not self._uses[control]:
                del self._uses[control]
            use.over.set()

    @contextlib.asynccontextmanager
    async def closed(self, control: Path) -> AsyncIterator[None]:
        """Close the streams to a sandbox, and let none be opened within the block."""
        self._saves[control] += 1
        try:
            await self._close(control)
            yield
        finally:
            self._saves[control] -= 1
            if not self._saves[control]:
                del self._saves[control]

    async def _close(self, control: Path) -> None:
        uses = list(self._uses.get(control, ()))
        for use in uses:
            use.end()
        try:
            async with asyncio.timeout(_CLOSE_S):
                for use in uses:
                    await use.over.wait()
        except TimeoutError:
            _log.warning("%s: a stream to the sandbox did not close; the save may fail", control)
