"""What the sentry's trace reports about processes, from an imitation of its control socket."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shim.errors import Unavailable
from shim.runsc import trace

HEADER = struct.pack("<HHI", 8, 5, 0)


def varint(value: int) -> bytes:
    """Write a number as protocol buffers do."""
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def event(pid: int, *, execs: bool) -> bytes:
    """Write what the sentry sends at a system call."""
    context = b"\x20" + varint(pid) + b"\x32\x02a+" + (b"\x58\x01" if execs else b"")
    return HEADER + b"\x0a" + varint(len(context)) + context + b"\x18" + varint(202)


class Sentry:
    """Answers as the sentry does; at each resume every process of `processes` makes a call."""

    def __init__(self, processes: dict[int, bool]) -> None:
        self.processes = processes
        self.calls: list[str] = []
        self.refuses = ""
        self._sink: socket.socket | None = None

    async def serve(self, listener: socket.socket) -> None:
        """Answer one question a connection."""
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                peer, _ = await loop.sock_accept(listener)
                with peer:
                    peer.setblocking(True)
                    await asyncio.to_thread(self._answer, peer)

    def _answer(self, peer: socket.socket) -> None:
        first, fds, _, _ = socket.recv_fds(peer, 1, 4)
        text = first
        while True:
            try:
                call: dict[str, Any] = json.loads(text)
                break
            except ValueError:
                text += peer.recv(1 << 20)
        method = call["method"].rpartition(".")[2]
        self.calls.append(method)
        if method == self.refuses:
            peer.sendall(json.dumps({"success": False, "err": "no"}).encode())
            return
        if method == "CreateTraceSession":
            self._sink = socket.socket(fileno=fds[0])
        if method == "DeleteTraceSession" and self._sink is not None:
            self._sink.close()
        if method == "Resume" and self._sink is not None:
            for pid, execs in self.processes.items():
                self._sink.send(event(pid, execs=execs))
        peer.sendall(json.dumps({"success": True, "result": None}).encode())


class Flood:
    """A socket with an event at each read, up to more than anybody may read at once."""

    most = 100_000
    sent = 0

    def recv(self, _size: int) -> bytes:
        """Give another event."""
        self.sent += 1
        return event(1, execs=False) if self.sent < self.most else b""


@pytest.fixture
async def sentry(tmp_path: Path) -> AsyncIterator[tuple[Sentry, Path]]:
    """Run an imitation for as long as the test."""
    made, path = Sentry({1: False, 300: True}), tmp_path / "s"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.setblocking(False)
    serving = asyncio.create_task(made.serve(listener))
    yield made, path
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_every_process_makes_a_call(sentry: tuple[Sentry, Path]) -> None:
    """The event says whether a process descends from an exec, and the session is removed."""
    made, path = sentry

    assert await trace.exec_descendants(path, [1, 300]) == {1: False, 300: True}
    assert made.calls == ["CreateTraceSession", "Pause", "Resume", "DeleteTraceSession"]


async def test_one_that_makes_no_call_is_missing(sentry: tuple[Sentry, Path]) -> None:
    """It is not waited for without end."""
    _, path = sentry

    assert 7 not in await trace.exec_descendants(path, [1, 7])


async def test_somebody_elses_session_stays(sentry: tuple[Sentry, Path]) -> None:
    """Where there is one already it is neither replaced nor removed, and nothing is paused."""
    made, path = sentry
    made.refuses = "CreateTraceSession"

    with pytest.raises(trace.NoSession):
        await trace.exec_descendants(path, [1])

    assert made.calls == ["CreateTraceSession"]


async def test_a_container_that_makes_calls_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its events do not hold the event loop, however fast they come."""
    events = trace._Events([7])
    try:
        loop = asyncio.get_running_loop()
        loop.remove_reader(events._own)
        flood = Flood()
        monkeypatch.setattr(events, "_own", flood)
        events._read()
        monkeypatch.undo()
        loop.add_reader(events._own, events._read)
    finally:
        events.close()

    assert 0 < flood.sent < flood.most
    assert events.found == {1: False}


async def test_the_session_goes_when_the_pause_fails(sentry: tuple[Sentry, Path]) -> None:
    """It would cost each system call some time."""
    made, path = sentry
    made.refuses = "Pause"

    with pytest.raises(Unavailable):
        await trace.exec_descendants(path, [1])

    assert made.calls[-1] == "DeleteTraceSession"


@pytest.mark.parametrize(
    "message",
    (
        b"",
        b"\x08",
        HEADER,
        HEADER + b"\x0a\xff",
        HEADER + b"\x0b\x01",
        HEADER + b"\x0a\x00",
        b"\xff" * 40,
    ),
)
def test_other_messages_are_passed_over(message: bytes) -> None:
    """A message of another form says nothing."""
    assert trace.parse(message) is None
