"""Process setup of the supervisor: detaching, the listening socket and the signal pipe."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

_BACKLOG = 64


def detach() -> None:
    """Fork away from the starter into a new session, in the directory `/`."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")


def signal_pipe() -> int:
    """Return a descriptor from which the numbers of received signals can be read."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _noted)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return reader


def _noted(_number: int, _frame: object) -> None:
    """Do nothing: the number is in the pipe already."""


def listen(path: str) -> socket.socket:
    """Listen at `path`, for this process's user only, replacing what was there."""
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_CLOEXEC)  # noqa: PTH120 - no pathlib here
    try:
        return _listen_in(folder, os.path.basename(path))  # noqa: PTH119 - no pathlib here
    finally:
        os.close(folder)


def _listen_in(folder: int, name: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    before = os.umask(0o177)
    try:
        sock.bind(reachable(folder, name))
    finally:
        os.umask(before)
    sock.listen(_BACKLOG)
    return sock


def reachable(folder: int, name: str) -> str:
    """Name a socket through its open folder: an address is limited to 108 bytes, a path is not."""
    return f"/proc/self/fd/{folder}/{name}"
