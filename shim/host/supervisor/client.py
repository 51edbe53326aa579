"""The sidecar's client of the supervisor; it reconnects when that process was killed."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shim.errors import CryoError, Unavailable
from shim.host.environment import environment
from shim.host.process_id import ProcessId
from shim.host.supervisor import foreign
from shim.host.supervisor.connection import Answer, Connection, Lost
from shim.host.supervisor.exits import Exited

_log = logging.getLogger(__name__)
_IDLE_S = 60.0
# How long a call waits while a new supervisor is being started.
_RECONNECT_S = 20.0
# How many supervisors a request is sent to, one after the other, before it fails.
_TRIES = 3
_NAME_MAX = 128
_DIGEST_BYTES = 16


class SupervisorClient:
    """Starts and watches processes through a supervisor process.

    When that process exits, a new one is started, and calls wait for it. The processes that were
    started keep running; their exits are then read from pidfds. The held descriptors are closed.
    """

    def __init__(self, state_dir: Path, idle_s: float = _IDLE_S) -> None:
        """Use `connect` instead."""
        self._state_dir = state_dir
        self._idle_s = idle_s
        self._connection: Connection
        self._connecting: asyncio.Task[Connection] | None = None
        self.closed = False

    @classmethod
    async def connect(cls, state_dir: Path, *, idle_s: float = _IDLE_S) -> SupervisorClient:
        """Connect to the supervisor of `state_dir`; start it when it does not answer.

        `idle_s` is the idle time after which a supervisor started here exits.

        Raises:
            Unavailable: it does not start or does not answer.
        """
        supervisor = cls(state_dir, idle_s)
        supervisor._connection = await Connection.open(state_dir, idle_s, supervisor._on_lost)
        return supervisor

    @property
    def pid(self) -> int:
        """Return the process id of the supervisor, or of the last one if it has exited."""
        return self._connection.pid

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> ProcessId:
        """Start a program, as in `ProcessSupervisor`. A cancelled call leaves no process behind.

        Raises:
            NotFound: no such program.
            InvalidArgument: a NUL in it, or more than 160 KiB of arguments and environment.
            Unavailable: the supervisor exited during the spawn, or a new one does not start.
        """
        fields = {
            "argv": list(argv),
            "env": dict(environment() if env is None else env),
            "cwd": "/",  # required by a supervisor of an earlier release
        }
        answer = await self._ask(
            "spawn", fields, [stdin, stdout, stderr, *pass_fds], doing=f"start {argv[0]}"
        )
        return ProcessId(answer.fields["pid"], answer.fields["start"])

    async def wait(self, pid: int, start: int) -> Exited:
        """Wait for a process and return its exit, even if the supervisor is lost meanwhile.

        Raises:
            Unavailable: the client was closed.
        """
        if self.closed:
            raise _closed()
        process, connection = ProcessId(pid, start), self._connection
        try:
            if not connection.closed:
                return await connection.wait(process)
        except Unavailable:
            if self.closed:
                raise
        exited = await foreign.exited(process)
        return exited if exited.known else await self._ask_again(process) or exited

    async def _ask_again(self, process: ProcessId) -> Exited | None:
        """Ask the current supervisor for a process's exit; None if unknown there.

        It may be the one that started the process, if only the connection was lost.
        """
        try:
            exited = await (await self._connected()).wait(process)
        except CryoError:
            return None
        return exited if exited.known else None

    async def hold(self, name: str, fd: int) -> None:
        """Make the supervisor keep a copy of `fd` open under `name`."""
        fields = {"name": _fitting(name)}
        await self._ask("hold", fields, [fd], doing=f"hold {name}")

    async def fetch(self, name: str) -> int | None:
        """Return a copy of the descriptor held under `name`; the caller closes it."""
        fields = {"name": _fitting(name)}
        answer = await self._ask("fetch", fields, [], doing=f"fetch {name}")
        return answer.fds[0] if answer.fds else None

    async def _ask(self, op: str, fields: dict[str, Any], fds: list[int], *, doing: str) -> Answer:
        """Send a request; send it again to a new supervisor if the old one had not begun it."""
        for _ in range(_TRIES - 1):
            try:
                return await (await self._connected()).ask(op, fields, fds, doing=doing)
            except Lost as lost:
                if lost.begun:
                    raise
        return await (await self._connected()).ask(op, fields, fds, doing=doing)

    async def drop(self, name: str) -> None:
        """Make the supervisor close what it holds under `name`, if anything."""
        connection = self._connection
        if connection.closed:
            return  # its descriptors were closed when it exited
        try:
            await connection.ask("drop", {"name": _fitting(name)}, [], doing=f"drop {name}")
        except Unavailable:
            if not connection.closed:
                raise

    async def close(self) -> None:
        """Close the connection; the supervisor keeps running."""
        self.closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
        self._connection.close()

    # Reconnecting

    async def _connected(self) -> Connection:
        """Return the connection; while a new supervisor is being started, wait for it.

        Raises:
            Unavailable: the supervisor does not start.
        """
        if self.closed:
            raise _closed()
        if not self._connection.closed:
            return self._connection
        connecting = self._reconnect()
        try:
            async with asyncio.timeout(_RECONNECT_S):
                return await asyncio.shield(connecting)
        except TimeoutError as error:
            message = (
                f"the supervisor exited, and a new one did not start within {_RECONNECT_S:.0f} s"
            )
            raise Unavailable(message, remedy=f"read {self._state_dir}/keeper.log") from error

    def _on_lost(self) -> None:
        """Start a new supervisor at once, so that the next call need not wait for it."""
        _log.error("the supervisor of %s exited; starting a new one", self._state_dir)
        if not self.closed:
            self._reconnect()

    def _reconnect(self) -> asyncio.Task[Connection]:
        if self._connecting is None or self._connecting.done():
            opening = Connection.open(self._state_dir, self._idle_s, self._on_lost)
            self._connecting = asyncio.create_task(opening, name="start another supervisor")
            self._connecting.add_done_callback(self._on_connected)
        return self._connecting

    def _on_connected(self, done: asyncio.Task[Connection]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._connection = done.result()
            _log.warning("supervisor %d now serves %s", self._connection.pid, self._state_dir)
        elif isinstance(error, CryoError):
            _log.error("cannot start a new supervisor: %s", error)
        else:
            _log.error("cannot start a new supervisor", exc_info=error)


def _closed() -> Unavailable:
    return Unavailable("the connection to the supervisor was closed")


def _fitting(name: str) -> str:
    """Shorten a name (long container and exec ids) to a length that the supervisor accepts."""
    if len(name) <= _NAME_MAX:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=_DIGEST_BYTES).hexdigest()
    return f"{name[: _NAME_MAX - 2 * _DIGEST_BYTES - 1]}#{digest}"
