"""The parts of the overview that change, rendered once for all who watch, and while any does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

from shim.errors import ResourceExhausted
from shim.host.background import BackgroundTasks
from shim.model import Value

READERS_MAX = 16
# Journals of shims are files, and looked at this often. No more renderings than one in `_LEAST_S`.
_EVERY_S = 0.5
_LEAST_S = 0.1
# A client that is gone without a word is noticed when something is sent to it.
_SILENT_S = 15.0

Render = Callable[[], Awaitable[Mapping[str, str]]]
"""Returns the parts by name, as HTML."""


class _Part(Value):
    number: int
    html: str


class Feed:
    """Renders while there are readers; a slow one gets the newest state, and delays no other."""

    def __init__(self, render: Render) -> None:
        """Take what renders the parts."""
        self._render = render
        self._background = BackgroundTasks()
        self._parts: dict[str, _Part] = {}
        self._number = 0
        self._readers = 0
        self._changed = asyncio.Event()
        self._new = asyncio.Condition()
        self._rendering: asyncio.Task[None] | None = None
        self._closed = False

    def change(self) -> None:
        """Render soon: something has changed."""
        self._changed.set()

    async def close(self) -> None:
        """End all streams."""
        self._closed = True
        async with self._new:
            self._new.notify_all()
        await self._background.aclose()

    def check_room(self) -> None:
        """Check that one more may read.

        Raises:
            ResourceExhausted: there are too many.
        """
        if self._readers >= READERS_MAX:
            message = f"{READERS_MAX} windows show live progress already"
            raise ResourceExhausted(message, remedy="close one; this one shows the state at a load")

    @contextlib.contextmanager
    def reading(self) -> Iterator[AsyncIterator[str]]:
        """Give the events for one reader, until the feed is closed.

        Raises:
            ResourceExhausted: there are too many readers.
        """
        self.check_room()
        self._readers += 1
        if self._rendering is None or self._rendering.done():
            self._rendering = self._background.start(self._run(), name="live parts of the page")
        try:
            yield self._events()
        finally:
            self._readers -= 1
            if not self._readers:
                self._rendering.cancel()

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            await self._take(await self._render())
            await asyncio.sleep(_LEAST_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await self._changed.wait()

    async def _take(self, parts: Mapping[str, str]) -> None:
        new = {
            name: html
            for name, html in parts.items()
            if name not in self._parts or self._parts[name].html != html
        }
        if new:
            self._number += 1
            self._parts |= {
                name: _Part(number=self._number, html=html) for name, html in new.items()
            }
            async with self._new:
                self._new.notify_all()

    async def _events(self) -> AsyncIterator[str]:
        seen = 0
        yield "retry: 2000\n\n"
        while not self._closed:
            if self._number == seen and not await self._wait(seen):
                yield ": nothing new\n\n"
            new = [(name, one.html) for name, one in self._parts.items() if one.number > seen]
            seen = self._number
            for name, html in new:
                yield _event(name, html)

    async def _wait(self, seen: int) -> bool:
        """Wait until something is new, or the feed is closed; return whether it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SILENT_S), self._new:
                await self._new.wait_for(lambda: self._number != seen or self._closed)
                return True
        return False


def _event(name: str, html: str) -> str:
    data = "".join(f"data: {line}\n" for line in html.splitlines())
    return f"event: {name}\n{data}\n"
