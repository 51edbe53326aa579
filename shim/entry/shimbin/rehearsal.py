"""A shim's life without a container, lived by the nursery before it forks.

Much is made at first use: tables of types, compiled patterns, Python's own caches in the code that
runs. A fork that makes them for itself gets a copy of its own of every page that they touch.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from shim.api.containerd.task.v3 import shim_pb2
from shim.config import Config, Paths, Runsc
from shim.entry.shimbin import flags as command_line
from shim.entry.shimbin import places, serve
from shim.errors import CryoError
from shim.host import files
from shim.runsc import known
from shim.runsc.probe import Capabilities, find_binary, identity
from shim.task.layout import Layout
from shim.wire.ttrpc import Client
from shim.wire.ttrpc_task import V2

_ID = "rehearsal"
_CALL_S = 5.0
# Python adapts code to what it meets after some calls (since 3.11).
_ROUNDS = 8
# Ends at once and is no runsc: everything is prepared, and no container is made.
_NO_RUNSC = "false"
_log = logging.getLogger()


def rehearse(folder: Path) -> None:
    """Serve calls that fail, in a folder that is made for it and removed.

    What goes wrong costs memory in the shims, and nothing else.
    """
    try:
        with _place(folder):
            serve.settings()
            asyncio.run(_live(folder))
    except* (CryoError, OSError) as errors:
        _log.info("the rehearsal failed: %s", errors)


@contextmanager
def _place(folder: Path) -> Iterator[None]:
    """Work in the folder: the path of a socket must be short. Nothing is logged meanwhile."""
    files.remove_tree(folder)
    files.private_dir(folder)
    silence = logging.NullHandler()
    _log.addHandler(silence)
    back = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(back)
        _log.removeHandler(silence)
        files.remove_tree(folder)


async def _live(folder: Path) -> None:
    words = ["-namespace", _ID, "-address", "nobody", "-id", _ID, "start"]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        listener.listen()
        shim = serve.Shim(_settings(folder), command_line.parse(words), listener, "socket")
        async with asyncio.TaskGroup() as group:
            group.create_task(shim.live())
            await _call(folder)


def _settings(folder: Path) -> Config:
    """Make settings with a runsc of which everything is known, so that it is not asked."""
    config = Config(
        paths=Paths(state=str(folder), scratch=str(folder)), runsc=Runsc(binary=_NO_RUNSC)
    )
    state = Path(places.of_containerd(config.paths.state, "nobody"))
    state.mkdir(parents=True, mode=0o700)
    binary, nothing = find_binary(_NO_RUNSC), frozenset[str]()
    known.keep(
        Layout(state).known_runsc,
        Capabilities(
            binary=binary,
            identity=identity(binary),
            version=_ID,
            checkpoint_flags=nothing,
            restore_flags=nothing,
            wait_flags=nothing,
            top_flags=nothing,
            commands=nothing,
        ),
        config.runsc.flags,
    )
    return config


async def _call(folder: Path) -> None:
    client = await Client.connect("socket")
    try:
        for request, answer in _requests(folder):
            name = type(request).__name__.removesuffix("Request").removesuffix("Task")
            with suppress(CryoError):
                await client.call(V2, name, request, answer, timeout_s=_CALL_S)
    finally:
        # Without this the shim would live on.
        shutdown = shim_pb2.ShutdownRequest(id=_ID)
        await client.call(V2, "Shutdown", shutdown, Empty, timeout_s=_CALL_S)
        await client.close()


def _requests(folder: Path) -> Iterator[tuple[Message, type[Message]]]:
    bundle = folder / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    spec = {"ociVersion": "1.0.2", "process": {"args": ["x"]}, "root": {"path": "rootfs"}}
    (bundle / "config.json").write_text(json.dumps(spec), "utf-8")
    for _ in range(_ROUNDS):
        yield shim_pb2.CreateTaskRequest(id=_ID, bundle=str(bundle)), shim_pb2.CreateTaskResponse
        yield shim_pb2.StartRequest(id=_ID), shim_pb2.StartResponse
        yield shim_pb2.StateRequest(id=_ID), shim_pb2.StateResponse
        yield shim_pb2.KillRequest(id=_ID), Empty
        yield shim_pb2.DeleteRequest(id=_ID), shim_pb2.DeleteResponse
