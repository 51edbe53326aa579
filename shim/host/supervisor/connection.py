"""One connection to a supervisor process, from asyncio: requests, answers, and its end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from shim.errors import CryoError, InvalidArgument, Unavailable
from shim.host import procs
from shim.host.oserror import typed_number
from shim.host.process_id import ProcessId
from shim.host.supervisor import starter, wire
from shim.host.supervisor.exits import Exited
from shim.host.supervisor.peer import Peer

_ANSWER_S = 30.0


class Answer(NamedTuple):
    """The answer to a request: plain data, and descriptors that the caller owns."""

    fields: dict[str, Any]
    fds: list[int]


class Lost(Unavailable):
    """The supervisor exited; `begun` is whether it may have carried out the request."""

    def __init__(self, *, begun: bool) -> None:
        super().__init__("the supervisor exited", remedy="retry: a new one is being started")
        self.begun = begun


class Connection:
    """A connection to the supervisor. All methods raise Unavailable once it is closed.

    `pid` is the supervisor's. `on_lost` is called once, when the supervisor exits.
    """

    def __init__(self, sock: socket.socket, on_lost: Callable[[], None]) -> None:
        """Take over a connected socket; use `open` instead."""
        self._peer = Peer(sock)
        self.pid = self._peer.credentials().pid
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._pending: dict[int, asyncio.Future[Answer]] = {}
        self._waits: dict[ProcessId, asyncio.Future[Answer]] = {}
        # Requests that may have been begun: all, until the supervisor is seen to send `begun`.
        self._begun: set[int] = set()
        self._says_begun = False
        self._number = 0
        self._gone: CryoError | None = None
        self._loop.add_reader(sock, self._read)

    @classmethod
    async def open(cls, state_dir: Path, idle_s: float, on_lost: Callable[[], None]) -> Connection:
        """Connect to the supervisor of `state_dir`; start it when there is none.

        Raises:
            Unavailable: the supervisor does not start or does not answer.
        """
        loop = asyncio.get_running_loop()
        dialled = loop.run_in_executor(None, starter.connect, state_dir, idle_s)
        try:
            sock = await asyncio.shield(dialled)
        except asyncio.CancelledError:
            dialled.add_done_callback(_close_result)
            raise
        return cls(sock, on_lost)

    @property
    def closed(self) -> bool:
        """Return whether the connection is closed."""
        return self._gone is not None

    async def ask(self, op: str, fields: dict[str, Any], fds: list[int], *, doing: str) -> Answer:
        """Send a request and return its answer; cancelling leaves nothing behind.

        Raises:
            CryoError: the supervisor refused.
            Lost: the supervisor exited.
            Unavailable: the supervisor did not answer in time.
        """
        number = self._send(op, fields, fds)
        future = self._pending[number]
        try:
            async with asyncio.timeout(_ANSWER_S):
                answer = await future
        except TimeoutError as error:
            _give_up_on(future)
            message = f"the supervisor did not {doing} within {_ANSWER_S:.0f} s"
            raise Unavailable(message, remedy="check its process, cryo-supervisor") from error
        except asyncio.CancelledError:
            _give_up_on(future)
            raise
        finally:
            self._pending.pop(number, None)
            self._begun.discard(number)
        if "errno" in answer.fields:
            raise _refusal(answer.fields, doing)
        return answer

    async def wait(self, process: ProcessId) -> Exited:
        """Wait for a process and return its exit; waits for one process share a request."""
        future = self._waits.get(process)
        if future is None:
            number = self._send("wait", {"pid": process.pid, "start": process.start}, [])
            future = self._waits[process] = self._pending[number]
            future.add_done_callback(lambda done: self._waited(process, done))
        fields = (await asyncio.shield(future)).fields
        return Exited.with_timestamp(fields["status"], fields["at"], known=fields["known"])

    def close(self) -> None:
        """Close the connection; the supervisor keeps running."""
        self._end(Unavailable("the connection to the supervisor was closed"))

    def _send(self, op: str, fields: dict[str, Any], fds: list[int]) -> int:
        if self._gone is not None:
            raise self._gone
        self._number += 1
        if op == "spawn" and not self._says_begun:
            self._begun.add(self._number)
        try:
            self._peer.send({"n": self._number, "op": op, **fields}, fds)
        except ValueError as error:
            raise InvalidArgument(str(error), remedy="pass less, or pass it in a file") from error
        except OSError as error:
            self._lose()
            raise Lost(begun=False) from error
        if self._peer.pending:
            self._loop.add_writer(self._peer.sock, self._flush)
        self._pending[self._number] = self._loop.create_future()
        return self._number

    def _flush(self) -> None:
        try:
            self._peer.flush()
        except OSError:
            self._lose()
            return
        if not self._peer.pending:
            self._loop.remove_writer(self._peer.sock)

    def _read(self) -> None:
        try:
            received = wire.receive(self._peer.sock)
        except BlockingIOError:
            return
        except OSError:
            received = None
        except wire.BadMessage:
            received = None
            self._begun.update(self._pending)  # the supervisor runs and continues to read
        if received is None:
            self._lose()
        else:
            self._deliver(*received)

    def _deliver(self, message: wire.Message, fds: list[int]) -> None:
        if "begun" in message:
            self._says_begun = True
            self._begun.add(message["begun"])
            return
        answer = Answer(message.get("ok", message), fds)
        future = self._pending.pop(message.get("n", 0), None)
        if future is None or future.done():
            _give_up(answer)
        else:
            future.set_result(answer)

    def _waited(self, process: ProcessId, done: asyncio.Future[Answer]) -> None:
        self._waits.pop(process, None)
        if not done.cancelled():
            done.exception()  # marked as retrieved: the caller may have been cancelled

    def _lose(self) -> None:
        if self._gone is None:
            self._read_rest()
            self._end(Lost(begun=False))
            self._on_lost()

    def _read_rest(self) -> None:
        """Deliver the messages sent before the supervisor exited; a reset comes first, once."""
        while True:
            try:
                received = wire.receive(self._peer.sock)
            except ConnectionResetError:
                continue
            except (OSError, wire.BadMessage):
                return
            if received is None:
                return
            self._deliver(*received)

    def _end(self, why: CryoError) -> None:
        if self._gone is not None:
            return
        self._gone = why
        self._loop.remove_reader(self._peer.sock)
        self._loop.remove_writer(self._peer.sock)
        self._peer.close()
        pending, self._pending = self._pending, {}
        for number, future in pending.items():
            if future.done():
                continue
            if isinstance(why, Lost):
                future.set_exception(Lost(begun=number in self._begun))
            else:
                future.set_exception(type(why)(why.message, remedy=why.remedy))


def _refusal(fields: dict[str, Any], doing: str) -> CryoError:
    error = typed_number(fields["errno"], doing)
    return type(error)(f"cannot {doing}: {fields['error']}", remedy=error.remedy)


def _give_up_on(future: asyncio.Future[Answer]) -> None:
    """Undo an answer that arrived in the loop iteration in which its caller was cancelled."""
    if future.done() and not future.cancelled() and future.exception() is None:
        _give_up(future.result())


def _give_up(answer: Answer) -> None:
    """Undo an answer without a caller: close its descriptors, kill a process just started."""
    wire.close_all(answer.fds)
    if "pid" in answer.fields:
        procs.kill(answer.fields["pid"], answer.fields["start"], signal.SIGKILL)


def _close_result(dialled: asyncio.Future[socket.socket]) -> None:
    if not dialled.cancelled() and dialled.exception() is None:
        dialled.result().close()
