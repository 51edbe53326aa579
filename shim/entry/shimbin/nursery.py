"""A warm process that forks shims: all that a shim needs is loaded and tried here once, and shared.

Single-threaded and without an event loop by then, so that a fork is safe. A shim is a process of
its own in every way; the nursery only starts it, and collects what it leaves behind when it dies.

It forks the code that it has loaded. Once a file of that has changed it starts no shim any more, so
that the next start brings up another one, and stays only for what it has started.
"""

from __future__ import annotations

import array
import concurrent.futures.thread  # noqa: F401 - every shim would load it for itself otherwise
import contextlib
import ctypes
import gc
import os
import signal
import socket
import struct
import sys
import time
from pathlib import Path

from shim.entry.shimbin import serve
from shim.entry.shimbin.loaded import Loaded
from shim.entry.shimbin.rehearsal import rehearse
from shim.entry.shimbin.serve import Words
from shim.errors import CryoError
from shim.host.environment import private_umask
from shim.host.keeper.spawn import close_on_exec
from shim.task.layout import Layout

_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_LIMIT = 16 << 20
_READY_FD = 3
_PATIENCE_S = 10.0
# With nothing to keep, it goes; the next start brings another one.
_IDLE_S = 120.0
_CREDENTIALS = struct.Struct("3i")


def main(path: str) -> None:
    """Listen and fork until nobody is left to fork for."""
    loaded = Loaded()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _be_called(b"cryo-nursery")
    private_umask()  # of every shim too
    rehearse(Path(f"{path}.rehearsal"))
    loaded.look()
    # Children, and orphans of shims that died, are collected by the kernel itself.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = _listen(Path(path))
    os.chdir("/")
    gc.collect()
    gc.freeze()
    os.close(_READY_FD)
    close_on_exec()
    listener.settimeout(_IDLE_S)
    while True:
        try:
            peer, _ = listener.accept()
        except TimeoutError:
            if not _has_children():
                Path(path).unlink(missing_ok=True)
                _tidy()
                return
            continue
        with peer:
            if loaded.changed:
                # Before the peer hears: unanswered, it asks again, and must find no listener here.
                Path(path).unlink(missing_ok=True)
                listener.close()
                break
            _serve(peer, listener)
    while _has_children():
        time.sleep(_IDLE_S)


def _be_called(name: bytes) -> None:
    """Take a name by which ps and top tell us from our shims: the command line is the same."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name, 0, 0, 0)


def _tidy() -> None:
    state = Path(serve.settings().paths.state)
    for folder in (state / "shims").glob("*"):
        with contextlib.suppress(CryoError):
            Layout(folder).tidy()


def _has_children() -> bool:
    with Path(f"/proc/self/task/{os.getpid()}/children").open("rb") as file:
        return bool(file.read(1))


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    listener.bind(str(path))
    os.umask(before)
    listener.listen(128)
    return listener


def _serve(peer: socket.socket, listener: socket.socket) -> None:
    peer.settimeout(_PATIENCE_S)
    try:
        _check(peer)
        words, fd = _receive(peer)
    except (OSError, ValueError) as error:
        _answer(peer, f"no shim: {error}")
        return
    pid = os.fork()
    if pid == 0:
        listener.close()
        peer.close()
        _become_shim(words, fd)
    os.close(fd)
    _answer(peer, str(pid))


def _check(peer: socket.socket) -> None:
    data = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    if _CREDENTIALS.unpack(data)[1] != os.geteuid():
        raise PermissionError


def _receive(peer: socket.socket) -> tuple[Words, int]:
    head, ancillary, _, _ = peer.recvmsg(4, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for _level, _kind, data in ancillary:
        fds.frombytes(data)
    if len(head) != 4 or len(fds) != 1:  # noqa: PLR2004 - a length and one socket
        message = "not a request for a shim"
        raise ValueError(message)
    return parse(_exactly(peer, int.from_bytes(head, "big"))), fds[0]


def parse(data: bytes) -> Words:
    """Read what `nursery_client.request` wrote.

    Raises:
        ValueError: it is something else.
    """
    count, rest = _text(data)
    words, rest = _texts(rest, int(count))
    path, rest = _text(rest)
    cwd, rest = _text(rest)
    count, rest = _text(rest)
    env, _ = _texts(rest, int(count))
    pairs = dict(line.split("=", 1) for line in env)
    return Words(argv=words, socket=path, cwd=cwd, env=pairs)


def _text(data: bytes) -> tuple[str, bytes]:
    head, mark, rest = data.partition(b"\0")
    if not mark:
        message = "the request is cut short"
        raise ValueError(message)
    return os.fsdecode(head), rest


def _texts(data: bytes, count: int) -> tuple[list[str], bytes]:
    found: list[str] = []
    for _ in range(count):
        text, data = _text(data)
        found.append(text)
    return found, data


def _exactly(peer: socket.socket, size: int) -> bytes:
    if size > _LIMIT:
        message = f"a request of {size} bytes"
        raise ValueError(message)
    data = bytearray()
    while len(data) < size:
        piece = peer.recv(size - len(data))
        if not piece:
            message = "the request ended early"
            raise ValueError(message)
        data += piece
    return bytes(data)


def _answer(peer: socket.socket, answer: str) -> None:
    try:
        peer.sendall(answer.encode())
    except OSError:
        return  # it went away; its shim is there all the same and answers the next start


def _become_shim(words: Words, fd: int) -> None:
    """Turn this fork into a shim; never returns."""
    status = 1
    try:
        os.setsid()
        _be_called(b"cryo-shim")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(words.env)
        serve.run(words, fd)
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1])
