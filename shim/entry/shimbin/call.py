"""A call of the launcher, native/launcher, which is `start`, `delete` or `-info` of containerd.

It is done in a fork of the fork server, as the program in Python would do it, which the launcher
runs when it gets no answer. The fork that has answered a `start` becomes the shim.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from struct import pack
from typing import NamedTuple, NoReturn

# `main` imports them when they are needed, which must not be in each fork.
from shim.entry.shimbin import delete, info, main, paths, start, wire  # noqa: F401
from shim.entry.shimbin import serve as shims
from shim.entry.shimbin.forkserver_client import NotRunning, Starter, environment
from shim.entry.shimbin.serve import StartRequest
from shim.host import prctl

_RECEIVE_S = 10.0
# containerd has given up long before.
_LIMIT_S = 60
_OUTPUT_LIMIT = 1 << 20
_NAMESPACES = ("mnt", "pid")


class Call(NamedTuple):
    """How the launcher was started: its command line, and where."""

    words: list[str]
    cwd: str
    env: dict[str, str]
    umask: int
    namespaces: list[str]
    given: bytes


def decode(data: bytes) -> Call:
    """Decode what native/launcher/request.c wrote.

    Raises:
        ValueError: the data is malformed.
    """
    reader = wire.Reader(data)
    return Call(
        words=reader.texts(),
        cwd=reader.text(),
        env=reader.variables(),
        umask=reader.number(),
        namespaces=[reader.text() for _ in _NAMESPACES],
        given=reader.rest(),
    )


class Becoming(Starter):
    """Keeps the shim that a call is to start, if it is one of this fork server."""

    def __init__(self, own: str) -> None:
        """Take the path of the fork server's socket."""
        super().__init__(may_launch=False)
        self._own = own
        self.kept: tuple[StartRequest, int] | None = None

    def start(self, argv: list[str], socket_path: str, listener: int, config: str) -> None:
        """Keep the shim and its socket, or let another fork server fork it."""
        if paths.forkserver_socket(config) != self._own:
            super().start(argv, socket_path, listener, config)
            return
        prctl.set_name("cryo-shim")
        request = StartRequest(argv, socket_path, str(Path.cwd()), environment(config))
        self.kept = request, os.dup(listener)


def serve(peer: socket.socket, own: str) -> NoReturn:
    """Do a call in this fork and answer it; become the shim that it has started, if any.

    `own` is the path of the fork server's socket.
    """
    status = 1
    try:
        signal.alarm(_LIMIT_S)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        prctl.set_name("cryo-call")
        starter = Becoming(own)
        with peer:
            _serve(peer, starter)
        signal.alarm(0)
        if starter.kept is not None:
            shims.become(*starter.kept)
        status = 0
    finally:
        os._exit(status)


def _serve(peer: socket.socket, starter: Becoming) -> None:
    peer.settimeout(_RECEIVE_S)
    peer.sendall(wire.RAN_MARK)
    call = decode(_receive(peer, int.from_bytes(_receive(peer, 4), "big")))
    if call.namespaces != [str(Path(f"/proc/self/ns/{name}").readlink()) for name in _NAMESPACES]:
        return  # the paths and pids of the call mean others here
    os.chdir(call.cwd)
    os.umask(call.umask)
    os.environ.clear()
    os.environ.update(call.env)
    sys.argv = call.words
    try:
        status, out, err = _ran(call.given, starter)
    except NotRunning:
        return
    if status:
        starter.kept = None
    # Without an answer Python does it again, and finds the shim that this fork becomes.
    with contextlib.suppress(OSError):
        peer.sendall(pack(">III", status, len(out), len(err)) + out + err)


def _ran(given: bytes, starter: Starter) -> tuple[int, bytes, bytes]:
    """Run the program; return its exit status and what it printed."""
    out, err = io.BytesIO(), io.BytesIO()
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = io.TextIOWrapper(io.BytesIO(given))
    sys.stdout, sys.stderr = io.TextIOWrapper(out), io.TextIOWrapper(err, errors="backslashreplace")
    status = 0
    try:
        main.run(sys.argv[1:], starter=starter)
    except NotRunning:
        raise
    except SystemExit as ended:
        status = _status(ended.code)
    except Exception:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    said = out.getvalue()[:_OUTPUT_LIMIT], err.getvalue()[:_OUTPUT_LIMIT]
    sys.stdin, sys.stdout, sys.stderr = before
    return status, *said


def _status(code: object) -> int:
    """Return the exit status of `sys.exit(code)`, and print a message."""
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    print(code, file=sys.stderr)
    return 1


def _receive(peer: socket.socket, size: int) -> bytes:
    if size > wire.LIMIT:
        message = f"the request of {size} bytes is too large"
        raise ValueError(message)
    data = bytearray()
    while len(data) < size:
        piece = peer.recv(size - len(data))
        if not piece:
            message = "the request is truncated"
            raise ValueError(message)
        data += piece
    return bytes(data)
