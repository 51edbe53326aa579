"""What is asked of a running sandbox's sentry itself, by its control socket."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

from shim import failpoints
from shim.config import Timeouts
from shim.errors import CryoError, NotFound
from shim.host.shielded import shielded
from shim.runsc import fscat, kernel, process_dump, trace, urpc
from shim.runsc.argv import runsc_id
from shim.runsc.containers import Containers
from shim.runsc.open_streams import OpenStreams
from shim.runsc.output import GuestProcess, parse_processes
from shim.runsc.port_forward import PortStream, open_stream
from shim.runsc.process_dump import DumpedProcess

_log = logging.getLogger(__name__)
# How long it may take to check and repair the pause state after an interrupted command.
RECONCILE_S = 120.0


class Sentry:
    """Calls the sentries of one root directory; `status` returns runsc's status of a container."""

    def __init__(
        self,
        containers: Containers,
        status: Callable[[str], Awaitable[str]],
        timeouts: Timeouts,
        streams: OpenStreams,
    ) -> None:
        self._containers = containers
        self._status = status
        self._timeouts = timeouts
        self._streams = streams

    async def processes(self, task_id: str) -> list[GuestProcess]:
        """List the processes of the container.

        Raises:
            Unavailable: the sentry does not answer, or its answer has another form.
        """
        socket = self._containers.control_socket(task_id)
        with failpoints.around("runsc.ps"):
            rows = await urpc.call(socket, "containerManager.Processes", runsc_id(task_id))
        return parse_processes(rows)

    async def read_files(self, task_id: str, files: Sequence[str]) -> str:
        """Read files of the first container of the task's sandbox.

        Raises:
            Unavailable: this runsc cannot, or a file does not exist or is too large.
        """
        data = await fscat.read(self._containers.control_socket(task_id), files)
        return data.decode("utf-8", "replace")

    async def dump(self, task_id: str) -> dict[int, DumpedProcess]:
        """Describe all processes of the task's sandbox, by the pid of `ps`.

        Raises:
            Unavailable: the sentry does not answer, or its answer has another form.
        """
        return await process_dump.processes(self._containers.control_socket(task_id))

    @contextlib.asynccontextmanager
    async def connect(
        self, task_id: str, port: int, *, timeout_s: float
    ) -> AsyncIterator[PortStream]:
        """Connect to a TCP port of the loopback of the container's sandbox; see `open_stream`.

        A save of the sandbox ends the stream: its user reads the end of the data.

        Raises:
            NotFound: there is no such container.
            Busy: the sandbox is being saved.
        """
        socket = self._containers.control_socket(task_id)
        name = runsc_id(task_id)
        with self._streams.opening(socket) as use:
            async with open_stream(socket, name, port, timeout_s=timeout_s) as stream:
                use.connected(stream)
                yield stream

    def without_streams(self, task_id: str) -> contextlib.AbstractAsyncContextManager[None]:
        """Let the sandbox have no stream of `connect` within the block.

        Raises:
            NotFound: there is no such container.
        """
        return self._streams.closed(self._containers.control_socket(task_id))

    async def exec_descendants(self, task_id: str, wanted: Collection[int]) -> dict[int, bool]:
        """Return, by pid, whether processes of a running sandbox descend from an exec.

        The sandbox is paused for some milliseconds. Pids are those of `ps`; the result omits a
        process that the sentry did not report.

        Raises:
            Unavailable: this runsc has no trace, or another client traces the sandbox.
        """
        socket = self._containers.control_socket(task_id)
        try:
            with failpoints.around("runsc.trace"):
                return await trace.exec_descendants(socket, wanted)
        except trace.NoSession:  # an existing session is another client's: do not remove it
            raise
        except BaseException:
            await shielded(self._end_trace(task_id), deadline_s=RECONCILE_S)
            raise

    async def _end_trace(self, task_id: str) -> None:
        await self.end_trace(task_id)
        await self.reconcile_pause(task_id)

    async def end_trace(self, task_id: str) -> None:
        """Remove the trace session of `exec_descendants`, if one was left behind."""
        with contextlib.suppress(NotFound):
            await trace.end(self._containers.control_socket(task_id))

    async def reconcile_pause(self, task_id: str) -> None:
        """After an interrupted pause or resume, make the sentry match runsc's state, if possible.

        Nothing is done if another container of the sandbox is paused: then a paused kernel is
        correct, and its pause count cannot be read.
        """
        try:
            await self._reconcile_pause(task_id)
        except CryoError as error:
            _log.warning("task %s: cannot determine whether it is paused: %s", task_id, error)

    async def _reconcile_pause(self, task_id: str) -> None:
        said = await self._status(task_id)
        if said not in ("running", "paused") or await self._sibling_is_paused(task_id):
            return
        socket = self._containers.control_socket(task_id)
        paused = await kernel.is_paused(socket, timeout_s=self._timeouts.command)
        if paused and said == "running":
            await kernel.resume(socket, timeout_s=self._timeouts.thaw)
        elif said == "paused" and not paused:
            await kernel.pause(socket)

    async def _sibling_is_paused(self, task_id: str) -> bool:
        statuses = [await self._status(name) for name in self._containers.siblings(task_id)]
        return "paused" in statuses
