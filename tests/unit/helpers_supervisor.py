"""What the tests of both supervisors share: looking at processes, and ending a supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from shim.host.process_id import ProcessId
from shim.host.supervisor import starter
from shim.host.supervisor.exits import Exited
from shim.host.supervisor.protocol import ProcessSupervisor

Start = Callable[..., Coroutine[Any, Any, ProcessId]]


@contextlib.contextmanager
def dev_null() -> Iterator[int]:
    """Give a descriptor of /dev/null."""
    fd = os.open("/dev/null", os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)


def starting(supervisor: ProcessSupervisor, null: int) -> Start:
    """Give a start of a program with null streams, but for those that are named."""

    async def run(*argv: str, **more: Any) -> ProcessId:
        streams = {"stdin": null, "stdout": null, "stderr": null, **more}
        return await supervisor.spawn(argv, **streams)

    return run


def names(path: Path | str) -> list[str]:
    """List a folder."""
    return [each.name for each in Path(path).iterdir()]


def children(pid: int) -> list[int]:
    """List the children of a process."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def end_supervisor(state_dir: Path) -> None:
    """End the supervisor of a state folder with all its children, if one is there."""
    sock = starter._dial(state_dir)
    if sock is None:
        return
    with sock:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid = int.from_bytes(credentials[:4], sys.byteorder)
    fd = os.pidfd_open(pid)
    try:
        for child in children(pid):
            os.kill(child, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        assert select.select([fd], [], [], 10)[0], "the supervisor did not die"
    finally:
        os.close(fd)


async def ended(supervisor: ProcessSupervisor, process: ProcessId) -> Exited:
    """Wait, but not forever."""
    async with asyncio.timeout(60):
        return await supervisor.wait(*process)


def assert_as_known_as_can_be(found: Exited) -> None:
    """Check the end by SIGTERM of a process that the supervisor could not reap."""
    version = tuple(int(each) for each in os.uname().release.split(".")[:2])
    if version >= (6, 15):
        assert found.known
    assert found.status == (143 if found.known else 255)
