"""A value that is looked up when it is asked for, and not again for some time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from shim.errors import CryoError
from shim.host.background import BackgroundTasks

T = TypeVar("T")
# A filesystem that hangs keeps a thread for each call: it is not asked again soon.
FAILED_S = 30.0


class Cached(Generic[T]):
    """Looks something up once for all who ask meanwhile, and keeps it for `age_s`.

    One who stops waiting does not end the look-up.
    """

    def __init__(
        self, look_up: Callable[[], Awaitable[T]], age_s: float, background: BackgroundTasks
    ) -> None:
        """Take what looks it up, and the owner of that work."""
        self._look_up = look_up
        self._age_s = age_s
        self._background = background
        self._looking: asyncio.Task[T | CryoError] | None = None
        self._fresh_until = 0.0
        self._forgotten = False

    async def get(self) -> T:
        """Return the value.

        Raises:
            CryoError: it cannot be looked up, which is not tried again for some time.
        """
        if self._looking is None or (self._looking.done() and self._is_old(self._looking)):
            self._forgotten = False
            self._looking = self._background.start(self._look(), name="a look-up of the page")
        looking = self._looking
        await asyncio.wait({looking})
        found = looking.result()
        if isinstance(found, CryoError):
            raise found
        return found

    def forget(self) -> None:
        """Look it up again at the next call."""
        self._forgotten = True

    def _is_old(self, looking: asyncio.Task[T | CryoError]) -> bool:
        if looking.cancelled() or looking.exception() is not None:
            return True
        failed = isinstance(looking.result(), CryoError)
        return (self._forgotten and not failed) or time.monotonic() >= self._fresh_until

    async def _look(self) -> T | CryoError:
        began = time.monotonic()
        try:
            found = await self._look_up()
        except CryoError as error:
            self._fresh_until = time.monotonic() + FAILED_S
            return error
        self._fresh_until = began + self._age_s
        return found
