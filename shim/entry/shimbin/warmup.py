"""The fork server's warm-up: it runs the life of a shim several times before it forks any.

Much is created on first use: tables of types, compiled patterns, the interpreter's inline caches,
modules that are imported late. If a fork created them, it would get a private copy of each page
that they touch, and spend the time again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from shim import config as configs
from shim.api.containerd.task.v3 import shim_pb2
from shim.config import Config
from shim.entry.shimbin import flags as command_line
from shim.entry.shimbin import paths, serve, warm_runsc
from shim.errors import CryoError
from shim.host import files
from shim.service.events import SERVICE as EVENTS
from shim.service.ttrpc.client import Client
from shim.service.ttrpc.method import Call
from shim.service.ttrpc.server import Server
from shim.service.ttrpc_edge import V2

_ID = "warmup"
_ADDRESS = "none"
_EVENTS_VARIABLE = "TTRPC_ADDRESS"
_CALL_S = 5.0
# Since 3.11 the interpreter specializes code after some calls.
_ROUNDS = 8
_KILL = 9
_STREAMS = ("stdout", "stderr")
_FIFOS = (*_STREAMS, "log")
_log = logging.getLogger()


def warm_up(folder: Path) -> None:
    """Serve containers of a stand-in for runsc, in a temporary directory.

    A failure of the warm-up is logged; its only effect is more memory in the shims.
    """
    try:
        with _working_in(folder), _logging_to_fifos(folder):
            config = _write_config(folder)
            for _ in range(_ROUNDS):
                _live(config, folder)
    except* (CryoError, OSError) as errors:
        _log.info("the warm-up failed: %s", errors)


@contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """Make the directory and change to it, because a socket's path must be short.

    Events are sent to a socket there, not to containerd.
    """
    files.remove_tree(folder)
    files.private_dir(folder)
    back, events = Path.cwd(), os.environ.get(_EVENTS_VARIABLE)
    os.chdir(folder)
    os.environ[_EVENTS_VARIABLE] = "events"
    try:
        yield
    finally:
        del os.environ[_EVENTS_VARIABLE]
        if events is not None:
            os.environ[_EVENTS_VARIABLE] = events
        os.chdir(back)
        files.remove_tree(folder)


@contextmanager
def _logging_to_fifos(folder: Path) -> Iterator[None]:
    """Make the FIFOs of a container's output and of the log, with readers, and log to that."""
    handlers, level = _log.handlers[:], _log.level
    with ExitStack() as stack:
        for name in _FIFOS:
            os.mkfifo(folder / name, 0o600)
            reader = os.open(folder / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            stack.callback(os.close, reader)
        try:
            yield
        finally:
            for ours in set(_log.handlers) - set(handlers):
                ours.close()
            logging.basicConfig(level=level, handlers=handlers, force=True)


def _write_config(folder: Path) -> Path:
    state = Path(paths.of_containerd(str(folder), _ADDRESS))
    state.mkdir(parents=True, mode=0o700)
    runsc = json.dumps(str(warm_runsc.write(folder, state)))
    bundle = folder / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    spec = {"ociVersion": "1.0.2", "process": _PROCESS, "root": {"path": "rootfs"}}
    (bundle / "config.json").write_text(json.dumps(spec), "utf-8")
    place = json.dumps(str(folder))
    text = f"[paths]\nstate = {place}\nscratch = {place}\n[runsc]\nbinary = {runsc}"
    config = folder / "config.toml"
    config.write_text(text, "utf-8")
    return config


def _live(path: Path, folder: Path) -> None:
    """Run a shim from its start to its end."""
    config = configs.load(path)
    serve.log_to(folder / "log", debug=False)
    asyncio.run(_serve_calls(config, folder))


class _Accepted:
    """Accepts every event."""

    completes = False

    async def run(self, _payload: bytes, _call: Call) -> bytes:
        return b""


@contextmanager
def _listening(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        yield listener
    Path(path).unlink(missing_ok=True)


async def _serve_calls(config: Config, folder: Path) -> None:
    argv = ["-namespace", _ID, "-address", _ADDRESS, "-id", _ID, "start"]
    containerd = Server({EVENTS: {"Forward": _Accepted()}})
    with _listening("events") as events, _listening("socket") as listener:
        containerd.serve(events)
        shim = serve.Shim(config, command_line.parse(argv), listener, "socket")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(shim.serve())
                await _call(folder)
        finally:
            await containerd.close()


async def _call(folder: Path) -> None:
    client = await Client.connect("socket")
    try:
        for request, response in _requests(folder):
            await _ask(client, request, response)
    finally:
        # Otherwise the shim would continue to serve.
        shutdown = shim_pb2.ShutdownRequest(id=_ID)
        await client.call(V2, "Shutdown", shutdown, Empty, timeout_s=_CALL_S)
        await client.close()


async def _ask(client: Client, request: Message, response: type[Message]) -> None:
    name = type(request).__name__.removesuffix("Request").removesuffix("Process")
    with suppress(CryoError):
        await client.call(V2, name.removesuffix("Task"), request, response, timeout_s=_CALL_S)


_PROCESS = {"args": ["x"], "cwd": "/"}


def _requests(folder: Path) -> Iterator[tuple[Message, type[Message]]]:
    create = shim_pb2.CreateTaskRequest(id=_ID, bundle=str(folder / "bundle"))
    create.stdout, create.stderr = (str(folder / name) for name in _STREAMS)
    spec = AnyMessage(value=json.dumps(_PROCESS).encode())
    yield create, shim_pb2.CreateTaskResponse
    yield shim_pb2.ConnectRequest(id=_ID), shim_pb2.ConnectResponse
    yield shim_pb2.StartRequest(id=_ID), shim_pb2.StartResponse
    yield shim_pb2.StateRequest(id=_ID), shim_pb2.StateResponse
    yield shim_pb2.PidsRequest(id=_ID), shim_pb2.PidsResponse
    yield shim_pb2.ExecProcessRequest(id=_ID, exec_id=_ID, spec=spec), Empty
    yield shim_pb2.StartRequest(id=_ID, exec_id=_ID), shim_pb2.StartResponse
    yield shim_pb2.WaitRequest(id=_ID, exec_id=_ID), shim_pb2.WaitResponse
    yield shim_pb2.DeleteRequest(id=_ID, exec_id=_ID), shim_pb2.DeleteResponse
    yield shim_pb2.KillRequest(id=_ID, signal=_KILL), Empty
    yield shim_pb2.WaitRequest(id=_ID), shim_pb2.WaitResponse
    yield shim_pb2.DeleteRequest(id=_ID), shim_pb2.DeleteResponse
