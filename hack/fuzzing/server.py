"""A ttrpc server with every method of the Task services, and checks of its health."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from hack.fuzzing.mutate import Seed
from shim.api.containerd.task.v3 import shim_pb2
from shim.errors import CryoError
from shim.model import TaskRef
from shim.service.oci_json import PROCESS_TYPE, RESOURCES_TYPE, pack
from shim.service.ttrpc.client import Client
from shim.service.ttrpc.server import Server
from shim.service.ttrpc_edge import V2, V3, task_services
from shim.state import TaskState
from tests.wire.fakes import FakeTasks, service_of

_END_S = 20.0
_TASKS_MAX = 100


class Core(FakeTasks):
    """Fake tasks, of a bounded number."""

    def begin(self, name: str, *arguments: Any) -> None:
        """Delete all tasks when there are too many."""
        del name, arguments
        if len(self.tasks) > _TASKS_MAX:
            self.tasks.clear()

    async def start(self, ref: TaskRef, exec_id: str = "") -> int:
        """Mark a task as running."""
        del exec_id
        self._task(ref).state = TaskState.RUNNING
        return 1


class Ears(logging.Handler):
    """Collects unexpected errors."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.received: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Store a message."""
        self.received.append(self.format(record))


class Target:
    """The server under test."""

    def __init__(self, path: Path, ears: Ears) -> None:
        self._path = path
        self._ears = ears
        self.seeds = list(_seeds())

    async def feed(self, data: bytes) -> str:
        """Send bytes on a new connection; return whether the server responded or dropped it."""
        reader, writer = await asyncio.open_unix_connection(str(self._path))
        try:
            reading = asyncio.create_task(_read(reader))
            with contextlib.suppress(OSError):
                writer.write(data)
                writer.write_eof()
            async with asyncio.timeout(_END_S):
                return "answered" if await reading else "dropped"
        except TimeoutError:
            self._ears.received.append("a connection hangs")
            return "stuck"
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def trouble(self) -> str:
        """Return what is wrong with the server; empty if nothing is."""
        try:
            client = await Client.connect(self._path, timeout_s=_END_S)
            try:
                request = shim_pb2.ConnectRequest(id="a")
                with contextlib.suppress(CryoError):
                    await client.call(V3, "Connect", request, Empty, timeout_s=_END_S)
                if client.closed:
                    return "it closed the connection of a valid request"
            finally:
                await client.close()
        except CryoError as error:
            return f"it does not serve: {error}"
        received, self._ears.received = self._ears.received, []
        return received[0] if received else ""


async def _read(reader: asyncio.StreamReader) -> int:
    size = 0
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            size += len(data)
    return size


@contextlib.asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Target]:
    """Serve, and collect unexpected errors."""
    ears = Ears()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: ears.received.append(str(context)))
    logging.getLogger().addHandler(ears)
    server = Server(task_services(service_of(Core()), "fuzz"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    server.serve(listener)
    try:
        yield Target(path, ears)
    finally:
        await server.close()
        logging.getLogger().removeHandler(ears)


def _seeds() -> Sequence[Seed]:
    return [
        Seed(service, _method_of(message), message.SerializeToString())
        for message in _requests()
        for service in (V2, V3)
    ]


def _method_of(message: Message) -> str:
    name = message.DESCRIPTOR.name.removesuffix("Request").removesuffix("Task")
    return name.removesuffix("Process")


def _requests() -> list[Message]:
    process = pack(PROCESS_TYPE, {"args": ["/bin/sh"], "cwd": "/", "env": ["A=b"]})
    resources = pack(RESOURCES_TYPE, {"memory": {"limit": 1 << 30}, "cpu": {"shares": 2}})
    create = shim_pb2.CreateTaskRequest(id="a", bundle="/b", stdin="/i", stdout="/o", stderr="/e")
    create.rootfs.add(type="bind", source="/s", target="t", options=["ro", "rbind"])
    create.options.CopyFrom(process)
    named: list[Any] = [
        shim_pb2.StateRequest,
        shim_pb2.DeleteRequest,
        shim_pb2.PidsRequest,
        shim_pb2.PauseRequest,
        shim_pb2.ResumeRequest,
        shim_pb2.WaitRequest,
        shim_pb2.StatsRequest,
        shim_pb2.ConnectRequest,
        shim_pb2.StartRequest,
        shim_pb2.CloseIORequest,
        shim_pb2.ResizePtyRequest,
    ]
    return [
        create,
        *(kind(id="a") for kind in named),
        shim_pb2.KillRequest(id="a", signal=9, all=True, exec_id="x"),
        shim_pb2.ExecProcessRequest(id="a", exec_id="x", terminal=True, stdout="/o", spec=process),
        shim_pb2.CheckpointTaskRequest(id="a", path="/images/a", options=process),
        shim_pb2.UpdateTaskRequest(id="a", resources=resources, annotations={"k": "v"}),
        shim_pb2.ShutdownRequest(id="a", now=True),
    ]
