"""The gRPC edge of containerd.task.v3.Task: each call goes to the shared methods."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from shim.api.containerd.task.v3 import shim_pb2, shim_pb2_grpc
from shim.task.port import TaskService
from shim.wire.drain import Drain
from shim.wire.edge import Context
from shim.wire.task_methods import DEFAULT_NAMESPACE, TaskMethods

NAMESPACE_KEY = "containerd-namespace"


def namespace_of(context: Context) -> str:
    """Return the namespace that the call's metadata names."""
    for key, value in context.invocation_metadata() or ():
        if key == NAMESPACE_KEY:
            return value if isinstance(value, str) else value.decode("utf-8", "replace")
    return DEFAULT_NAMESPACE


class TaskServicer(shim_pb2_grpc.TaskServicer):
    """The Task service of containerd for bundles that are handed to the sidecar."""

    def __init__(self, core: TaskService, drain: Drain) -> None:
        self._methods = TaskMethods(core, drain)

    async def Create(
        self, request: shim_pb2.CreateTaskRequest, context: Context
    ) -> shim_pb2.CreateTaskResponse:
        """Make the task."""
        return await self._methods.create(request, namespace_of(context))

    async def Start(
        self, request: shim_pb2.StartRequest, context: Context
    ) -> shim_pb2.StartResponse:
        """Start the init process or an exec."""
        return await self._methods.start(request, namespace_of(context))

    async def State(
        self, request: shim_pb2.StateRequest, context: Context
    ) -> shim_pb2.StateResponse:
        """Tell how a process is."""
        return await self._methods.state(request, namespace_of(context))

    async def Wait(self, request: shim_pb2.WaitRequest, context: Context) -> shim_pb2.WaitResponse:
        """Return when a process has ended."""
        return await self._methods.wait(request, namespace_of(context))

    async def Kill(self, request: shim_pb2.KillRequest, context: Context) -> Empty:
        """Send a signal."""
        return await self._methods.kill(request, namespace_of(context))

    async def Exec(self, request: shim_pb2.ExecProcessRequest, context: Context) -> Empty:
        """Add a process."""
        return await self._methods.exec(request, namespace_of(context))

    async def Delete(
        self, request: shim_pb2.DeleteRequest, context: Context
    ) -> shim_pb2.DeleteResponse:
        """Forget a process that has ended."""
        return await self._methods.delete(request, namespace_of(context))

    async def Pids(self, request: shim_pb2.PidsRequest, context: Context) -> shim_pb2.PidsResponse:
        """List the processes."""
        return await self._methods.pids(request, namespace_of(context))

    async def Pause(self, request: shim_pb2.PauseRequest, context: Context) -> Empty:
        """Stop the processes where they are."""
        return await self._methods.pause(request, namespace_of(context))

    async def Resume(self, request: shim_pb2.ResumeRequest, context: Context) -> Empty:
        """Let them go on."""
        return await self._methods.resume(request, namespace_of(context))

    async def Checkpoint(self, request: shim_pb2.CheckpointTaskRequest, context: Context) -> Empty:
        """Save the task; containerd's call has no stream for the news, so the log gets it."""
        return await self._methods.checkpoint(request, namespace_of(context))

    async def Update(self, request: shim_pb2.UpdateTaskRequest, context: Context) -> Empty:
        """Apply resource limits."""
        return await self._methods.update(request, namespace_of(context))

    async def Stats(
        self, request: shim_pb2.StatsRequest, context: Context
    ) -> shim_pb2.StatsResponse:
        """Measure the task."""
        return await self._methods.stats(request, namespace_of(context))

    async def CloseIO(self, request: shim_pb2.CloseIORequest, context: Context) -> Empty:
        """Close a process's stdin."""
        return await self._methods.close_io(request, namespace_of(context))

    async def ResizePty(self, request: shim_pb2.ResizePtyRequest, context: Context) -> Empty:
        """Tell a terminal its size."""
        return await self._methods.resize_pty(request, namespace_of(context))

    async def Connect(
        self, request: shim_pb2.ConnectRequest, context: Context
    ) -> shim_pb2.ConnectResponse:
        """Tell who serves the task; containerd gives a task up when this fails."""
        return await self._methods.connect(request, namespace_of(context))

    async def Shutdown(self, request: shim_pb2.ShutdownRequest, context: Context) -> Empty:
        """Accept and ignore: all tasks share this server."""
        return await self._methods.shutdown(request, namespace_of(context))
