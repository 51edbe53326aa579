"""The asyncio side of the keeper."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from shim.errors import CryoError, InvalidArgument, Unavailable
from shim.host import procs
from shim.host.keeper import starter, wire
from shim.host.keeper.peer import Peer
from shim.host.oserror import typed_number

_IDLE_S = 60.0
_ANSWER_S = 30.0


class Spawned(NamedTuple):
    """A process, exactly: `start` is in clock ticks since boot."""

    pid: int
    start: int


class Exited(NamedTuple):
    """How a process ended. Not `known`: it is over, and nobody saw how; the status is 255."""

    status: int
    at: datetime
    known: bool = True


class _Answer(NamedTuple):
    fields: dict[str, Any]
    fds: list[int]


class Keeper:
    """A connection to the keeper. All methods raise Unavailable once the keeper is gone.

    `pid` is the keeper's own.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Take over a connected socket; use `connect` instead."""
        self._peer = Peer(sock)
        self.pid = self._peer.credentials().pid
        self._loop = asyncio.get_running_loop()
        self._pending: dict[int, asyncio.Future[_Answer]] = {}
        self._waits: dict[Spawned, asyncio.Future[_Answer]] = {}
        self._number = 0
        self._gone: CryoError | None = None
        self._loop.add_reader(sock, self._read)

    @classmethod
    async def connect(cls, state_dir: Path, *, idle_s: float = _IDLE_S) -> Keeper:
        """Reach the keeper of `state_dir`; start it when nobody answers.

        `idle_s` is how long a keeper started here stays with nothing to do.

        Raises:
            Unavailable: it does not start or does not answer.
        """
        loop = asyncio.get_running_loop()
        dialled = loop.run_in_executor(None, starter.connect, state_dir, idle_s)
        try:
            sock = await asyncio.shield(dialled)
        except asyncio.CancelledError:
            dialled.add_done_callback(_close_result)
            raise
        return cls(sock)

    @property
    def closed(self) -> bool:
        """Tell whether the connection is over."""
        return self._gone is not None

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        cwd: str = "/",
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Spawned:
        """Start a program in a session of its own as the keeper's child.

        The descriptors stay the caller's, who may close them at once; `pass_fds` are 3, 4, 5...
        in the program. No `env` means this process's own. A spawn that is cancelled leaves no
        process behind.

        Raises:
            NotFound: no such program or folder.
            InvalidArgument: a NUL in it, or more than 160 KiB of arguments and environment.
        """
        fields = {"argv": list(argv), "cwd": cwd, "env": dict(os.environ if env is None else env)}
        answer = await self._ask(
            "spawn", fields, [stdin, stdout, stderr, *pass_fds], doing=f"start {argv[0]}"
        )
        return Spawned(answer.fields["pid"], answer.fields["start"])

    async def wait(self, pid: int, start: int) -> Exited:
        """Return how a process ended, when it has: a child, an orphan, or any other process.

        Many may wait for one process; a wait may be cancelled and asked again.
        """
        key = Spawned(pid, start)
        future = self._waits.get(key)
        if future is None:
            number = self._send("wait", {"pid": pid, "start": start}, [])
            future = self._waits[key] = self._pending[number]
            future.add_done_callback(lambda done: self._waited(key, done))
        fields = (await asyncio.shield(future)).fields
        at = datetime.fromtimestamp(fields["at"], UTC)
        return Exited(fields["status"], at, fields["known"])

    async def hold(self, name: str, fd: int) -> None:
        """Have a copy of `fd` kept open under `name` (at most 128 printable ASCII characters)."""
        await self._ask("hold", {"name": name}, [fd], doing=f"hold {name}")

    async def fetch(self, name: str) -> int | None:
        """Return a copy of what is held under `name`, which is then the caller's to close."""
        answer = await self._ask("fetch", {"name": name}, [], doing=f"fetch {name}")
        return answer.fds[0] if answer.fds else None

    async def drop(self, name: str) -> None:
        """Have what is held under `name` closed; nothing there is fine."""
        await self._ask("drop", {"name": name}, [], doing=f"drop {name}")

    async def names(self) -> list[str]:
        """List the names of what is held."""
        names: list[str] = (await self._ask("names", {}, [], doing="list")).fields["names"]
        return names

    async def close(self) -> None:
        """Leave; the keeper stays."""
        self._end(Unavailable("the connection to the keeper was closed"))

    async def quit(self) -> None:
        """End the keeper.

        Raises:
            Busy: it has children.
        """
        await self._ask("quit", {}, [], doing="end the keeper")
        await self.close()

    # Requests and answers

    async def _ask(self, op: str, fields: dict[str, Any], fds: list[int], *, doing: str) -> _Answer:
        number = self._send(op, fields, fds)
        future = self._pending[number]
        try:
            async with asyncio.timeout(_ANSWER_S):
                answer = await future
        except TimeoutError as error:
            message = f"the keeper did not {doing} within {_ANSWER_S:.0f} s"
            raise Unavailable(message) from error
        except asyncio.CancelledError:
            # The answer may have come in the same turn of the loop as the cancellation.
            if future.done() and not future.cancelled() and future.exception() is None:
                _give_up(future.result())
            raise
        finally:
            self._pending.pop(number, None)
        if "errno" in answer.fields:
            raise _refusal(answer.fields, doing)
        return answer

    def _send(self, op: str, fields: dict[str, Any], fds: list[int]) -> int:
        if self._gone is not None:
            raise self._gone
        self._number += 1
        try:
            self._peer.send({"n": self._number, "op": op, **fields}, fds)
        except ValueError as error:
            raise InvalidArgument(str(error), remedy="pass less, or in a file") from error
        except OSError as error:
            self._end(_lost())
            raise _lost() from error
        if self._peer.pending:
            self._loop.add_writer(self._peer.sock, self._flush)
        self._pending[self._number] = self._loop.create_future()
        return self._number

    def _flush(self) -> None:
        try:
            self._peer.flush()
        except OSError:
            self._end(_lost())
            return
        if not self._peer.pending:
            self._loop.remove_writer(self._peer.sock)

    def _read(self) -> None:
        try:
            received = wire.receive(self._peer.sock)
        except BlockingIOError:
            return
        except (OSError, wire.BadMessage):
            received = None
        if received is None:
            self._end(_lost())
        else:
            self._deliver(*received)

    def _deliver(self, message: wire.Message, fds: list[int]) -> None:
        answer = _Answer(message.get("ok", message), fds)
        future = self._pending.pop(message.get("n", 0), None)
        if future is None or future.done():
            _give_up(answer)
        else:
            future.set_result(answer)

    def _waited(self, key: Spawned, done: asyncio.Future[_Answer]) -> None:
        self._waits.pop(key, None)
        if not done.cancelled():
            done.exception()  # it may be that nobody waits any more

    def _end(self, why: CryoError) -> None:
        if self._gone is not None:
            return
        self._gone = why
        self._loop.remove_reader(self._peer.sock)
        self._loop.remove_writer(self._peer.sock)
        self._peer.close()
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(type(why)(why.message, remedy=why.remedy))


def _lost() -> Unavailable:
    return Unavailable("the keeper is gone", remedy="connect again: that starts another one")


def _refusal(fields: dict[str, Any], doing: str) -> CryoError:
    error = typed_number(fields["errno"], doing)
    return type(error)(f"cannot {doing}: {fields['error']}", remedy=error.remedy)


def _give_up(answer: _Answer) -> None:
    """Undo what nobody waits for any longer: close descriptors, end a process just started."""
    wire.close_all(answer.fds)
    if "pid" in answer.fields:
        procs.kill(answer.fields["pid"], answer.fields["start"], signal.SIGKILL)


def _close_result(dialled: asyncio.Future[socket.socket]) -> None:
    if not dialled.cancelled() and dialled.exception() is None:
        dialled.result().close()
