"""The client of the fork server, for `start`, which must load as little as possible.

`_socket` is the C module below `socket`, which takes as long to load as everything else here.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import sys
from struct import pack

from shim.entry.shimbin import paths

_TIMEOUT_S = 20.0
_TRIES = 5
_REPLY_LIMIT = 4096


def start_shim(argv: list[str], socket_path: str, listener: int, config: str) -> int:
    """Let the fork server fork a shim that serves the socket `listener`; return the shim's pid.

    Raises:
        OSError: the fork server cannot be reached or started, or rejected the request.
    """
    env = {**os.environ, paths.CONFIG_VARIABLE: config}
    data = encode(argv, socket_path, env)
    # The fork server may be exiting: it was idle, or its code has changed, which happens several
    # times during an upgrade.
    replies = (_call(data, listener, env) for _ in range(_TRIES))
    reply = next(filter(None, replies), b"")
    if not reply.isdigit():
        raise OSError(reply.decode("utf-8", "replace") or "the fork server did not reply")
    return int(reply)


def encode(argv: list[str], socket_path: str, env: dict[str, str]) -> bytes:
    """Encode a StartRequest: counted lists of strings, each terminated by a NUL.

    Arguments, environment and paths contain no NUL, so nothing needs to be escaped.
    """
    pairs = [f"{name}={value}" for name, value in env.items()]
    cwd = os.getcwd()  # noqa: PTH109 - pathlib loads too much
    texts = [str(len(argv)), *argv, socket_path, cwd, str(len(pairs)), *pairs]
    return b"".join(os.fsencode(text) + b"\0" for text in texts)


def _call(data: bytes, listener: int, env: dict[str, str]) -> bytes:
    sock = _connect_or_launch(env)
    try:
        fds = pack("i", listener)
        sock.sendmsg([pack(">I", len(data))], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fds)])
        sock.sendall(data)
        return sock.recv(_REPLY_LIMIT)
    except ConnectionError:
        return b""
    finally:
        sock.close()


def _connect_or_launch(env: dict[str, str]) -> _socket.socket:
    path = paths.forkserver_socket(env[paths.CONFIG_VARIABLE])
    found = _connect(path)
    if found is not None:
        return found
    os.makedirs(paths.FORKSERVER_FOLDER, mode=0o700, exist_ok=True)  # noqa: PTH103 - as `start`
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = _connect(path)
        if found is None:
            _launch(path, env)
            found = _connect(path)
    finally:
        os.close(lock)
    if found is None:
        message = f"the fork server does not listen on {path}"
        raise OSError(message)
    return found


def _connect(path: str) -> _socket.socket | None:
    sock = _socket.socket(_socket.AF_UNIX)
    sock.settimeout(_TIMEOUT_S)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        return None
    return sock


def _launch(path: str, env: dict[str, str]) -> None:
    """Start the fork server and wait until it listens: it then closes a pipe."""
    read_end, write_end = os.pipe()
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
    actions.append((os.POSIX_SPAWN_DUP2, write_end, 3))
    program = [sys.executable, "-m", "shim.entry.shimbin.forkserver", path]
    os.posix_spawn(sys.executable, program, _finding_us(env), file_actions=actions, setsid=True)
    os.close(write_end)
    os.close(null)
    os.read(read_end, 1)
    os.close(read_end)


def _finding_us(env: dict[str, str]) -> dict[str, str]:
    """Return an environment in which Python imports this package."""
    here = paths.__file__
    for _ in range(4):
        here = os.path.dirname(here)  # noqa: PTH120 - pathlib loads too much
    path = os.pathsep.join(filter(None, (here, env.get("PYTHONPATH"))))
    return {**env, "PYTHONPATH": path}
