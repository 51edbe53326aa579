"""Events for those that follow them: each has a queue of bounded length."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from shim.api.containerd.types import event_pb2
from shim.errors import ResourceExhausted

# Events that wait for a reader; with more the reader is given up.
CAPACITY = 1024
# A containerd that gets the events of this process returns them to those that follow it.
_REMEMBERED = 256

Item = event_pb2.Envelope | str
"""An event, or the state of where those of other processes come from, if that has changed."""
Wanted = Callable[[event_pb2.Envelope], bool]
"""Whether a reader wants an event."""


class Upstream(Protocol):
    """Where the events of other processes come from, while there are readers."""

    def start(self) -> None:
        """Begin to follow them; `EventHub.upstream_is` gets the state, and each change of it."""

    async def stop(self) -> None:
        """End that."""


class Reader:
    """What waits for one reader."""

    def __init__(self, wanted: Wanted, capacity: int) -> None:
        self._wanted = wanted
        self._capacity = capacity
        self._waiting: deque[Item] = deque()
        self._changed = asyncio.Event()
        self._lost = False

    def put(self, item: Item) -> None:
        """Add an event if it is wanted, or a state; never blocks."""
        if self._lost or not (isinstance(item, str) or self._wanted(item)):
            return
        if len(self._waiting) >= self._capacity:
            self._lost = True
            self._waiting.clear()
        else:
            self._waiting.append(item)
        self._changed.set()

    async def next(self) -> Item:
        """Wait for the next event.

        Raises:
            ResourceExhausted: it reads more slowly than events happen.
        """
        while not self._waiting:
            if self._lost:
                message = f"the reader is too slow: {self._capacity} events waited for it"
                raise ResourceExhausted(message, remedy="read faster, or follow fewer events")
            self._changed.clear()
            await self._changed.wait()
        return self._waiting.popleft()


class EventHub:
    """Passes events on to all readers."""

    def __init__(self, *, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._readers: set[Reader] = set()
        self._known = asyncio.Event()
        self._own: deque[event_pb2.Envelope] = deque(maxlen=_REMEMBERED)
        self._upstream: Upstream | None = None
        self._state: str | None = "not followed"

    def follow(self, upstream: Upstream) -> None:
        """Take events of other processes from there, while there are readers."""
        self._upstream = upstream
        self._state = None

    @property
    def has_readers(self) -> bool:
        """Whether an event is wanted by anyone."""
        return bool(self._readers)

    def publish(self, envelope: event_pb2.Envelope) -> None:
        """Pass on an event of this process."""
        self._own.append(envelope)
        self._pass_on(envelope)

    def publish_other(self, envelope: event_pb2.Envelope) -> None:
        """Pass on an event of another process, unless it was one of this."""
        if envelope not in self._own:
            self._pass_on(envelope)

    def upstream_is(self, state: str) -> None:
        """Note the state of the upstream, and pass on a change of it."""
        before, self._state = self._state, state
        if before is None:
            self._known.set()
        elif before != state:
            self._pass_on(state)

    def _pass_on(self, item: Item) -> None:
        for one in self._readers:
            one.put(item)

    async def upstream_state(self) -> str:
        """Return the state of the upstream, once it is known."""
        while self._state is None:
            await self._known.wait()
        return self._state

    @contextlib.asynccontextmanager
    async def reading(self, wanted: Wanted) -> AsyncIterator[Reader]:
        """Collect the events that a reader wants, within the block."""
        reader = Reader(wanted, self._capacity)
        first = not self._readers
        self._readers.add(reader)
        if first and self._upstream is not None:
            self._upstream.start()
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            if not self._readers and self._upstream is not None:
                self._state = None
                self._known.clear()
                await self._upstream.stop()
