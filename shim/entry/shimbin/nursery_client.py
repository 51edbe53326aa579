"""Asking the nursery for a shim, from a process that has loaded almost nothing.

`_socket` is what `socket` is made of; the whole module costs as much as all else here.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import sys
from struct import pack

from shim.entry.shimbin import places

_ANSWER_S = 20.0
_TRIES = 5
_LIMIT = 4096


def ask(words: list[str], socket_path: str, listener: int) -> int:
    """Have a shim forked that serves the socket `listener`; return its pid.

    Raises:
        OSError: the nursery cannot be reached or started, or refused.
    """
    data = request(words, socket_path)
    # Again, because the nursery may go just when we come: for want of work, or since its code has
    # changed, which an upgrade does more than once.
    answers = (_ask(data, listener) for _ in range(_TRIES))
    answer = next(filter(None, answers), b"")
    if not answer.isdigit():
        raise OSError(answer.decode("utf-8", "replace") or "the nursery gave no answer")
    return int(answer)


def request(words: list[str], socket_path: str) -> bytes:
    """Write what a shim must know: counted lists of texts, each ended by a NUL.

    Arguments, environment and paths hold no NUL, so nothing needs to be escaped.
    """
    env = [f"{name}={value}" for name, value in os.environ.items()]
    head = [str(len(words)), *words, socket_path, os.getcwd(), str(len(env)), *env]  # noqa: PTH109
    return b"".join(os.fsencode(text) + b"\0" for text in head)


def _ask(data: bytes, listener: int) -> bytes:
    sock = _reach()
    try:
        fds = pack("i", listener)
        sock.sendmsg([pack(">I", len(data))], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fds)])
        sock.sendall(data)
        return sock.recv(_LIMIT)
    except ConnectionError:
        return b""
    finally:
        sock.close()


def _reach() -> _socket.socket:
    path = places.nursery_socket()
    found = _connect(path)
    if found is not None:
        return found
    os.makedirs(places.NURSERY_FOLDER, mode=0o700, exist_ok=True)  # noqa: PTH103
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = _connect(path)
        if found is None:
            _launch(path)
            found = _connect(path)
    finally:
        os.close(lock)
    if found is None:
        message = f"the nursery does not answer at {path}"
        raise OSError(message)
    return found


def _connect(path: str) -> _socket.socket | None:
    sock = _socket.socket(_socket.AF_UNIX)
    sock.settimeout(_ANSWER_S)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        return None
    return sock


def _launch(path: str) -> None:
    """Start the nursery and wait until it listens: it closes its end of a pipe then."""
    read_end, write_end = os.pipe()
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
    actions.append((os.POSIX_SPAWN_DUP2, write_end, 3))
    program = [sys.executable, "-m", "shim.entry.shimbin.nursery", path]
    os.posix_spawn(sys.executable, program, _with_us(), file_actions=actions, setsid=True)
    os.close(write_end)
    os.close(null)
    os.read(read_end, 1)
    os.close(read_end)


def _with_us() -> dict[str, str]:
    """Return the environment in which this very package is the one that is found."""
    here = places.__file__
    for _ in range(4):
        here = os.path.dirname(here)  # noqa: PTH120 - pathlib loads too much
    path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}
