"""A process that this terminal is attached to, from its creation to its exit status."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shim.entry.cli import terminal
from shim.entry.cli.streams import Streams
from shim.errors import Cancelled, CryoError, Unavailable
from shim.model import Exit, Stdio

if TYPE_CHECKING:
    from shim.client import AsyncClient

# The process receives the first two Ctrl-C; the third kills it, in case it ignores SIGINT.
_PATIENCE = 2
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_FORWARDED_QUIETLY = (signal.SIGUSR1, signal.SIGUSR2)

# How long the sidecar may be unreachable: the task continues to run, so keep waiting.
_AWAY_S = 30.0
_RETRY_S = 0.2
_LASTED_S = 1.0


@dataclass
class Attached:
    """One process of a task: its init, or an exec."""

    client: AsyncClient
    task: str
    exec_id: str = ""
    tty: bool = False
    _interrupts: int = 0
    _started: asyncio.Event = field(default_factory=asyncio.Event)
    _give_up: Callable[[], object] | None = None
    _background: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, make: Callable[[Stdio], Awaitable[Any]], *, forget: bool) -> Exit:
        """Create the process with our streams, start it, wait, and return its exit.

        With `forget` it is then deleted, which also closes its streams. A process that was created
        but did not start is deleted.
        """
        with Streams(terminal=self.tty) as streams, terminal.raw(wanted=self.tty):
            async with self._signals():
                await make(streams.stdio)
                await self._start()
                streams.started(self._at_end_of_input())
                ended = await self._wait()
            if forget:
                await self.client.delete(self.task, self.exec_id)
            await streams.drained()
        return ended

    async def _start(self) -> None:
        async with self._removed_on_failure():
            await self._resize()
            await self.client.start(self.task, self.exec_id)
            await self._resize()
        self._started.set()

    async def _wait(self) -> Exit:
        """Wait for the exit, also through a restart of the sidecar."""
        loop = asyncio.get_running_loop()
        away_since = loop.time()
        while True:
            began = loop.time()
            try:
                return await self.client.wait(self.task, self.exec_id)
            except Unavailable:
                # The call lasted, so the sidecar was reachable until now.
                if loop.time() - began > _LASTED_S:
                    away_since = loop.time()
                if loop.time() - away_since > _AWAY_S:
                    raise
            await asyncio.sleep(_RETRY_S)

    @contextlib.asynccontextmanager
    async def _removed_on_failure(self) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            await asyncio.shield(self.remove())
            raise

    async def remove(self) -> None:
        """Kill the process if it is running, and delete it."""
        with contextlib.suppress(CryoError):
            await self.client.kill(self.task, signal.SIGKILL, exec_id=self.exec_id)
            await self.client.wait(self.task, self.exec_id)
        with contextlib.suppress(CryoError):
            await self.client.delete(self.task, self.exec_id)

    @contextlib.asynccontextmanager
    async def _signals(self) -> AsyncIterator[None]:
        """Forward signals to the process, once it has started.

        Raises:
            Cancelled: there was a third Ctrl-C before that.
        """
        loop, main = asyncio.get_running_loop(), asyncio.current_task()
        self._give_up = main.cancel if main else None
        numbers = [*_FORWARDED, *_FORWARDED_QUIETLY]
        for number in numbers:
            loop.add_signal_handler(number, self._forward, number)
        if self.tty:
            numbers.append(signal.SIGWINCH)
            loop.add_signal_handler(signal.SIGWINCH, self._later, self._resize)
        try:
            yield
        except asyncio.CancelledError as error:
            if self._interrupts <= _PATIENCE:
                raise
            message = "interrupted before the process started"
            raise Cancelled(message) from error
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _forward(self, number: signal.Signals) -> None:
        if number is signal.SIGINT:
            self._interrupts += 1
        if self._interrupts > _PATIENCE:
            number = signal.SIGKILL
            if not self._started.is_set() and self._give_up:
                self._give_up()
        self._later(lambda: self._pass_on(number))

    async def _pass_on(self, number: signal.Signals) -> None:
        await self._started.wait()
        await self.client.kill(self.task, number, exec_id=self.exec_id)

    async def _resize(self) -> None:
        """Set the size of the process's terminal, which may not exist before the start."""
        if self.tty:
            with contextlib.suppress(CryoError):
                await self.client.resize_pty(self.task, *terminal.size(), self.exec_id)

    def _at_end_of_input(self) -> Callable[[], None]:
        """Return the callback for the pump's thread at the end of our stdin."""
        loop = asyncio.get_running_loop()

        def ended() -> None:
            # The loop is closed if the process exited first.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(
                    self._later, lambda: self.client.close_io(self.task, self.exec_id)
                )

        return ended

    def _later(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a call in the background; ignore its error, as the process may have just exited."""

        async def act() -> None:
            with contextlib.suppress(CryoError):
                await make()

        task = asyncio.get_running_loop().create_task(act())
        self._background.add(task)
        task.add_done_callback(self._background.discard)
