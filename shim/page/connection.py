"""A connection to the page with deadlines: a client that sends or reads nothing is left."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

# From the beginning of a connection, or of a request, to the end of its head.
HEAD_S = 10.0
# While the buffers of the connection are full.
STALLED_S = 10.0


class Connection(H11Protocol):
    """uvicorn's connection, which has no deadlines of its own for these."""

    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, and wait for a request."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Take data; while it is not a whole request the deadline goes on."""
        super().data_received(data)
        if self._answers:
            self._cancel("_deadline")
        else:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._cancel("_deadline")
        self._cancel("_stalled")
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on, as the client has read."""
        self._cancel("_stalled")
        super().resume_writing()

    @property
    def _answers(self) -> bool:
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete

    def _wait_for_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_S, self._leave_silent)

    def _leave_silent(self) -> None:
        self._deadline = None
        if not self._answers:
            self.transport.abort()

    def _cancel(self, name: str) -> None:
        timer: asyncio.TimerHandle | None = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)
