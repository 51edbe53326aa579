"""containerd's Task operations over the core: messages to plain values and back, nothing else.

Every edge that speaks the Task service calls these; v2 and v3 have the same messages.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from google.protobuf.empty_pb2 import Empty

from shim import __version__
from shim.api.containerd.task.v3 import shim_pb2
from shim.errors import CryoError
from shim.model import Progress, TaskRef, check_id
from shim.task.port import TaskService
from shim.wire import convert, metrics
from shim.wire.drain import Drain

_log = logging.getLogger(__name__)

DEFAULT_NAMESPACE = "default"

Shutdown = Callable[[shim_pb2.ShutdownRequest], None]


def ignore(request: shim_pb2.ShutdownRequest) -> None:
    """Go on serving: containerd sends Shutdown after every Delete, and others may share us."""


def _log_progress(progress: Progress) -> None:
    level = logging.WARNING if progress.warning else logging.DEBUG
    _log.log(level, "%s %s", progress.phase, progress.message)


def _ref(namespace: str, id: str) -> TaskRef:
    return TaskRef(namespace=namespace, id=id)


class TaskMethods:
    """One method per operation: the request, and the namespace that came beside it."""

    def __init__(self, core: TaskService, drain: Drain, shutdown: Shutdown = ignore) -> None:
        """Take the core, what ends a Wait, and what is to be done when containerd says Shutdown."""
        self._core = core
        self._drain = drain
        self._shutdown = shutdown

    async def create(
        self, request: shim_pb2.CreateTaskRequest, namespace: str
    ) -> shim_pb2.CreateTaskResponse:
        """Make the task."""
        plain = convert.from_create(request, _ref(namespace, request.id))
        return shim_pb2.CreateTaskResponse(pid=await self._core.create(plain))

    async def start(self, request: shim_pb2.StartRequest, namespace: str) -> shim_pb2.StartResponse:
        """Start the init process or an exec."""
        pid = await self._core.start(_ref(namespace, request.id), request.exec_id)
        return shim_pb2.StartResponse(pid=pid)

    async def state(self, request: shim_pb2.StateRequest, namespace: str) -> shim_pb2.StateResponse:
        """Tell how a process is."""
        view = await self._core.state(_ref(namespace, request.id), request.exec_id)
        return convert.to_state(view)

    async def wait(self, request: shim_pb2.WaitRequest, namespace: str) -> shim_pb2.WaitResponse:
        """Return when a process has ended."""
        ended = self._core.wait(_ref(namespace, request.id), request.exec_id)
        return convert.to_wait(await self._drain.wait(ended))

    async def kill(self, request: shim_pb2.KillRequest, namespace: str) -> Empty:
        """Send a signal."""
        await self._core.kill(
            _ref(namespace, request.id),
            request.signal,
            exec_id=request.exec_id,
            everyone=request.all,
        )
        return Empty()

    async def exec(self, request: shim_pb2.ExecProcessRequest, namespace: str) -> Empty:
        """Add a process."""
        await self._core.exec(
            _ref(namespace, request.id),
            check_id("exec id", request.exec_id),
            convert.from_json(request.spec, "process"),
            convert.from_streams(request),
        )
        return Empty()

    async def delete(
        self, request: shim_pb2.DeleteRequest, namespace: str
    ) -> shim_pb2.DeleteResponse:
        """Forget a process that has ended."""
        view = await self._core.delete(_ref(namespace, request.id), request.exec_id)
        return convert.to_delete(view)

    async def pids(self, request: shim_pb2.PidsRequest, namespace: str) -> shim_pb2.PidsResponse:
        """List the processes."""
        return convert.to_pids(await self._core.pids(_ref(namespace, request.id)))

    async def pause(self, request: shim_pb2.PauseRequest, namespace: str) -> Empty:
        """Stop the processes where they are."""
        await self._core.pause(_ref(namespace, request.id))
        return Empty()

    async def resume(self, request: shim_pb2.ResumeRequest, namespace: str) -> Empty:
        """Let them go on."""
        await self._core.resume(_ref(namespace, request.id))
        return Empty()

    async def checkpoint(self, request: shim_pb2.CheckpointTaskRequest, namespace: str) -> Empty:
        """Save the task; containerd's call has no stream for the news, so the log gets it."""
        options = convert.from_task_checkpoint(request)
        await self._core.checkpoint(_ref(namespace, request.id), options, _log_progress)
        return Empty()

    async def update(self, request: shim_pb2.UpdateTaskRequest, namespace: str) -> Empty:
        """Apply resource limits."""
        resources = convert.from_json(request.resources, "resources")
        await self._core.update(_ref(namespace, request.id), resources)
        return Empty()

    async def stats(self, request: shim_pb2.StatsRequest, namespace: str) -> shim_pb2.StatsResponse:
        """Measure the task."""
        stats = await self._core.stats(_ref(namespace, request.id))
        return shim_pb2.StatsResponse(stats=metrics.pack(stats))

    async def close_io(self, request: shim_pb2.CloseIORequest, namespace: str) -> Empty:
        """Close a process's stdin."""
        await self._core.close_io(_ref(namespace, request.id), request.exec_id)
        return Empty()

    async def resize_pty(self, request: shim_pb2.ResizePtyRequest, namespace: str) -> Empty:
        """Tell a terminal its size."""
        ref = _ref(namespace, request.id)
        await self._core.resize_pty(ref, request.width, request.height, request.exec_id)
        return Empty()

    async def connect(
        self, request: shim_pb2.ConnectRequest, namespace: str
    ) -> shim_pb2.ConnectResponse:
        """Tell who serves the task; containerd gives a task up when this fails."""
        try:
            pid = (await self._core.state(_ref(namespace, request.id))).pid
        except CryoError as error:
            _log.debug("connect %s: %s", request.id, error)
            pid = 0
        return shim_pb2.ConnectResponse(shim_pid=os.getpid(), task_pid=pid, version=__version__)

    async def shutdown(self, request: shim_pb2.ShutdownRequest, namespace: str) -> Empty:
        """Pass it on; whoever ends the server for it lets this answer out first."""
        self._shutdown(request)
        return Empty()
