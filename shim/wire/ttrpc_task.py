"""The ttrpc edge of containerd's Task services: v2 and v3 are one table under two names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from shim.api.containerd.task.v3 import shim_pb2
from shim.wire.task_methods import DEFAULT_NAMESPACE, TaskMethods
from shim.wire.ttrpc import Call, Method, Services

V2 = "containerd.task.v2.Task"
V3 = "containerd.task.v3.Task"
NAMESPACE_KEY = "containerd-namespace-ttrpc"

_Request = TypeVar("_Request", bound=Message)


def services(methods: TaskMethods, namespace: str = DEFAULT_NAMESPACE) -> Services:
    """Return what a shim serves. The messages of v2 and v3 are the same, field for field.

    A shim serves one namespace, and containerd 1.x names none in its calls: `namespace` is taken
    then, the one that `start` was given.
    """

    def _method(
        request: type[_Request], answer: Callable[[_Request, str], Awaitable[Message]]
    ) -> Method[_Request]:
        """Hand the namespace of a call to one of the shared methods."""

        def call(message: _Request, call: Call) -> Awaitable[Message]:
            return answer(message, call.metadata.get(NAMESPACE_KEY, namespace))

        return Method(request, call)

    table: dict[str, Method[Any]] = {
        "State": _method(shim_pb2.StateRequest, methods.state),
        "Create": _method(shim_pb2.CreateTaskRequest, methods.create),
        "Start": _method(shim_pb2.StartRequest, methods.start),
        "Delete": _method(shim_pb2.DeleteRequest, methods.delete),
        "Pids": _method(shim_pb2.PidsRequest, methods.pids),
        "Pause": _method(shim_pb2.PauseRequest, methods.pause),
        "Resume": _method(shim_pb2.ResumeRequest, methods.resume),
        "Checkpoint": _method(shim_pb2.CheckpointTaskRequest, methods.checkpoint),
        "Kill": _method(shim_pb2.KillRequest, methods.kill),
        "Exec": _method(shim_pb2.ExecProcessRequest, methods.exec),
        "ResizePty": _method(shim_pb2.ResizePtyRequest, methods.resize_pty),
        "CloseIO": _method(shim_pb2.CloseIORequest, methods.close_io),
        "Update": _method(shim_pb2.UpdateTaskRequest, methods.update),
        "Wait": _method(shim_pb2.WaitRequest, methods.wait),
        "Stats": _method(shim_pb2.StatsRequest, methods.stats),
        "Connect": _method(shim_pb2.ConnectRequest, methods.connect),
        "Shutdown": _method(shim_pb2.ShutdownRequest, methods.shutdown),
    }
    return {V2: table, V3: table}
