"""A value that is looked up when it is asked for, and not again for some time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from shim.errors import CryoError
from shim.host.background import BackgroundTasks
from shim.host.filecalls import Begun, noted

T_co = TypeVar("T_co", covariant=True)


class Cached(Generic[T_co]):
    """Looks something up once for all who ask meanwhile, and keeps it for `age_s`.

    One who stops waiting does not end the look-up. A filesystem that hangs keeps a thread for each
    call, and too many of these stop all others: a look-up is not made again while a call of the
    last one has not ended, nor for `failed_s` after it failed.
    """

    def __init__(
        self,
        look_up: Callable[[], Awaitable[T_co]],
        age_s: float,
        background: BackgroundTasks,
        *,
        failed_s: float = 0.0,
        name: str = "a look-up",
    ) -> None:
        """Take what looks it up, and the owner of that work, which `name` is for."""
        self._look_up = look_up
        self._age_s = age_s
        self._background = background
        self._failed_s = failed_s
        self._name = name
        self._looking: asyncio.Task[T_co | CryoError | OSError] | None = None
        self._calls = Begun()
        self._fresh_until = 0.0
        self._forgotten = False

    async def get(self) -> T_co:
        """Return the value.

        Raises:
            CryoError, OSError: it cannot be looked up, or could not be before.
        """
        if self._looking is None or (self._looking.done() and self._is_old(self._looking)):
            self._forgotten = False
            self._looking = self._background.start(self._look(), name=self._name)
        looking = self._looking
        await asyncio.wait({looking})
        found = looking.result()
        if isinstance(found, (CryoError, OSError)):
            raise found
        return found

    def forget(self) -> None:
        """Look it up again at the next call."""
        self._forgotten = True

    def _is_old(self, looking: asyncio.Task[T_co | CryoError | OSError]) -> bool:
        if self._calls.are_under_way:
            return False
        if looking.cancelled() or looking.exception() is not None:
            return True
        failed = isinstance(looking.result(), (CryoError, OSError))
        return (self._forgotten and not failed) or time.monotonic() >= self._fresh_until

    async def _look(self) -> T_co | CryoError | OSError:
        began = time.monotonic()
        try:
            with noted() as self._calls:
                found = await self._look_up()
        except (CryoError, OSError) as error:
            self._fresh_until = time.monotonic() + self._failed_s
            return error
        self._fresh_until = began + self._age_s
        return found
