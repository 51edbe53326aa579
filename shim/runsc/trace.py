"""Query the sentry for the processes that descend from an exec.

The sentry records for each task whether it, or an ancestor, was started by exec (TaskOrigin in
pkg/sentry/kernel/task.go), and a restore kills those (runsc/boot/restore.go). Parents and sessions
do not show it once a shell has exited and its child has its own session. Only a trace session
reports it, in events with `is_exec_session`: a pause and a resume make each process reenter its
system call, which causes an event. Both take milliseconds, and a save does the same to every
process.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Collection, Iterator
from pathlib import Path

from shim.errors import Unavailable
from shim.runsc import kernel, urpc

# Only one session can exist, and only with this name.
_SESSION = "Default"
_FIELDS = ("group_id", "is_exec_session")
# All system calls that can block have lower numbers, in every version and architecture.
_SYSCALLS = 335
# In ContextData of pkg/sentry/seccheck/points/common.proto.
_CONTEXT, _GROUP_ID, _IS_EXEC = 1, 4, 11
_BUFFER_BYTES = 4 << 20
_MESSAGE_BYTES = 64 << 10
# How many events are read before returning to the event loop.
_AT_ONCE = 64
_EVENTS_S = 0.25
_RESUME_S = 30.0
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h


def parse(message: bytes) -> tuple[int, bool] | None:
    """Parse an event: the pid of its process, and whether that descends from an exec.

    None if the message has another form.
    """
    try:
        (header,) = struct.unpack_from("<H", message)
        context = dict(_fields(message[header:])).get(_CONTEXT)
        if not isinstance(context, bytes):
            return None
        found = dict(_fields(context))
        pid = found.get(_GROUP_ID, 0)
        return (pid, bool(found.get(_IS_EXEC))) if isinstance(pid, int) and pid else None
    except (struct.error, ValueError, IndexError):
        return None


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        match kind:
            case 0:
                value, at = _varint(data, at)
                yield number, value
            case 2:
                size, at = _varint(data, at)
                yield number, data[at : at + size]
                at += size
            case _:
                message = f"wire type {kind}"
                raise ValueError(message)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follow
            return value, at


class NoSession(Unavailable):
    """The sentry made no trace session: it has none, or another client has one already."""


class _Events:
    """The receiving end of a trace session."""

    def __init__(self, wanted: Collection[int]) -> None:
        self.found: dict[int, bool] = {}
        self._wanted = frozenset(wanted)
        self._complete = asyncio.Event()
        self._own, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._own, self.far):
            end.setblocking(False)
        # The sentry drops events that do not fit, so that the application never waits.
        with contextlib.suppress(OSError):
            self.far.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER_BYTES)
        asyncio.get_running_loop().add_reader(self._own, self._read)

    def _read(self) -> None:
        """Read a limited number of events: a busy container sends as fast as they are read."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            for _ in range(_AT_ONCE):
                message = self._own.recv(_MESSAGE_BYTES)
                if event := parse(message):
                    self.found[event[0]] = event[1]
                if not message or self._wanted <= self.found.keys():
                    self._complete.set()
                    return

    async def complete(self) -> None:
        """Wait, up to `_EVENTS_S`, until every wanted process has made a system call."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EVENTS_S):
                await self._complete.wait()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._own)
        self._own.close()
        self.far.close()


async def exec_descendants(path: Path, wanted: Collection[int]) -> dict[int, bool]:
    """Return, by pid, whether processes of a running sandbox descend from an exec.

    `path` is the sandbox's control socket, `wanted` are pids in its root pid namespace. The result
    omits a process without an event: a stopped one, or one that makes no system call. On failure
    the sandbox may be left paused; the caller must check that.

    Raises:
        NoSession: the sentry has no such trace, or another client has a session.
        Unavailable: the sentry does not answer.
    """
    events = _Events(wanted)
    try:
        await _create(path, events.far)
        try:
            await kernel.pause(path)
            await kernel.resume(path, timeout_s=_RESUME_S)
            await events.complete()
        finally:
            await end(path)
    finally:
        events.close()
    return events.found


async def _create(path: Path, far: socket.socket) -> None:
    points = [
        {"name": f"syscall/sysno/{number}/enter", "context_fields": _FIELDS}
        for number in range(_SYSCALLS)
    ]
    config = {"name": _SESSION, "points": points, "sinks": [{"name": "remote"}]}
    argument = {"Config": config, "Force": False}
    try:
        await urpc.call(path, "containerManager.CreateTraceSession", argument, fds=[far.fileno()])
    except urpc.CallFailed as error:
        raise NoSession(error.message) from error


async def end(path: Path) -> None:
    """Remove the trace session, if any, because it slows each system call."""
    with contextlib.suppress(Unavailable):
        await urpc.call(path, "containerManager.DeleteTraceSession", _SESSION)
