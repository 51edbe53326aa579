"""The standard streams of one process of a task.

The supervisor keeps, under a name, what must outlive the owner: the write end of stdin, which only
CloseIO closes, and the master of a terminal, which the next owner continues to pump.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from shim.errors import FailedPrecondition
from shim.host import stdio as host_stdio
from shim.host.console import Console, ConsoleSocket, Size, resize
from shim.host.process_id import ProcessId
from shim.host.supervisor.protocol import ProcessSupervisor
from shim.model import Stdio, TaskRef
from shim.runsc.supervised import Streams

_DRAIN_S = 10.0


class ProcessStreams:
    """The streams of an init process or an exec."""

    def __init__(
        self, supervisor: ProcessSupervisor, ref: TaskRef, exec_id: str, stdio: Stdio, folder: Path
    ) -> None:
        self._supervisor = supervisor
        self._ref = ref
        self._name = f"{ref.namespace}/{ref.id}/{exec_id}"
        self._stdio = stdio
        self._folder = folder
        self._socket: ConsoleSocket | None = None
        self._console: Console | None = None
        self._size: Size | None = None
        self._closed = False
        self._logger: ProcessId | None = None
        self._kept: Streams | None = None

    @contextlib.asynccontextmanager
    async def kept_open(self) -> AsyncIterator[None]:
        """Let all starts in the block use the same streams: a client reads no EOF in between."""
        if self._stdio.terminal:
            yield
            return
        async with self.opened() as streams:
            self._kept = streams
            try:
                yield
            finally:
                self._kept = None

    async def listen(self) -> str:
        """Return the console socket's path for runsc; empty when there is no terminal."""
        if not self._stdio.terminal:
            return ""
        self._socket = ConsoleSocket(self._folder)
        return str(self._socket.path)

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Streams]:
        """Open the streams for the start of the process; our copies are closed afterwards."""
        if self._stdio.terminal:
            async with self.nothing() as streams:
                yield streams
            return
        if self._kept is not None:
            yield self._kept
            return
        opened = await host_stdio.open_streams(self._stdio, self._ref, self._supervisor)
        try:
            if opened.stdin_writer is not None:
                await self._supervisor.hold(f"{self._name}/stdin", opened.stdin_writer)
            self._logger = opened.logger
            yield Streams(stdin=opened.stdin, stdout=opened.stdout, stderr=opened.stderr)
        finally:
            opened.close()

    @contextlib.asynccontextmanager
    async def nothing(self) -> AsyncIterator[Streams]:
        """Open /dev/null for all three streams."""
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            yield Streams(stdin=null, stdout=null, stderr=null)
        finally:
            os.close(null)

    async def connect(self, timeout_s: float) -> None:
        """Take the terminal that runsc made and begin to pump it.

        Raises:
            DeadlineExceeded: runsc sent none in `timeout_s`.
        """
        if self._socket is None:
            return
        try:
            master = await self._socket.receive(timeout_s)
        finally:
            self._socket.close()
            self._socket = None
        await self._take(master)

    async def _take(self, master: int, *, with_input: bool = True) -> None:
        """Give a copy of the terminal to the supervisor, and begin to pump it."""
        try:
            if self._size is not None:
                resize(master, *self._size)
            await self._supervisor.hold(f"{self._name}/pty", master)
            await self._pump(master, with_input=with_input)
        except BaseException:
            os.close(master)
            raise

    async def _pump(self, master: int, *, with_input: bool = True) -> None:
        opened = await host_stdio.open_streams(self._stdio, self._ref, self._supervisor)
        try:
            # So that a client sees no EOF on its terminal when the owner dies and is restarted.
            await self._supervisor.hold(f"{self._name}/out", opened.stdout)
            stdin, stdout = os.dup(opened.stdin), os.dup(opened.stdout)
            self._console = Console(master, stdin, stdout, with_input=with_input)
        finally:
            opened.close()

    async def end_unused(self) -> None:
        """Open the streams of a process that is not run, and close them: a reader gets EOF."""
        async with self.opened():
            pass

    async def adopt(self) -> None:
        """Continue with the streams that an earlier owner gave to the supervisor."""
        if not self._stdio.terminal:
            return
        master = await self._supervisor.fetch(f"{self._name}/pty")
        if master is not None:
            await self._pump(master)

    async def close_stdin(self) -> None:
        """Close stdin, so that the process reads EOF."""
        await self._supervisor.drop(f"{self._name}/stdin")

    def suggest_size(self, size: Size | None) -> None:
        """Give the terminal this size when it is made, unless a client asks for another."""
        self._size = self._size or size

    def resize(self, width: int, height: int) -> None:
        """Set the terminal's size, or keep it for a terminal that does not exist yet.

        Raises:
            InvalidArgument: the size is invalid.
            FailedPrecondition: there is no terminal.
        """
        if not self._stdio.terminal:
            message = "the process has no terminal"
            raise FailedPrecondition(message, remedy="create it with a terminal")
        if self._closed:
            message = "the process has exited, and its terminal is closed"
            raise FailedPrecondition(message, remedy="delete it")
        self._size = Size(width, height).check()
        if self._console is not None:
            self._console.resize(width, height)

    async def end_terminal(self) -> None:
        """Close the terminal of a start that failed; the next one makes another.

        The supervisor keeps the output open, so a client reads no EOF in between.
        """
        if await self._close_terminal():
            await self._supervisor.drop(f"{self._name}/pty")

    async def close(self) -> None:
        """Close everything, after the output of the process has been forwarded."""
        self._closed = True
        await self._close_terminal()
        await self._release()

    async def _close_terminal(self) -> bool:
        """Forward the output that is left, and close the terminal; return whether there was one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        console, self._console = self._console, None
        if console is None:
            return False
        await console.finished(_DRAIN_S)
        console.close()
        return True

    async def _release(self) -> None:
        if self._supervisor.closed:
            return
        for part in ("stdin", "pty", "out"):
            await self._supervisor.drop(f"{self._name}/{part}")
        if self._logger is not None:
            await host_stdio.end_logger(self._logger)
            self._logger = None


class ExecStreams(ProcessStreams):
    """The streams of an exec, whose terminal is created here.

    runsc sends a terminal over a console socket only for a detached exec, and ours is attached,
    because its exit is the process's. It passes on a terminal that it gets as its own streams.
    """

    async def listen(self) -> str:
        """Return no console socket."""
        return ""

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Streams]:
        """Open the streams, or a terminal that is pumped at once: a quick exit loses no output.

        Input is held until `started`: a Ctrl-C before `runsc exec` forwards signals would kill
        runsc, not the program. The caller must call `close` when the process has
        exited, or was never started.
        """
        if not self._stdio.terminal:
            async with super().opened() as streams:
                yield streams
            return
        master, slave = os.openpty()
        try:
            await self._take(master, with_input=False)
            yield Streams(stdin=slave, stdout=slave, stderr=slave)
        finally:
            os.close(slave)

    def started(self) -> None:
        """Forward input, once the program has a pid.

        runsc handles signals before it writes the pid (Execute in runsc/cmd/exec.go).
        """
        if self._console is not None:
            self._console.pass_input()
