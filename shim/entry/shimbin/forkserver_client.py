"""The client of the fork server, for `start`, which must load as little as possible.

`_socket` is the C module below `socket`, which takes as long to load as everything else here.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import sys
from struct import pack

from shim.entry.shimbin import paths, wire

_TIMEOUT_S = 20.0
_TRIES = 5
_REPLY_LIMIT = 4096


class NotRunning(OSError):
    """There is no fork server, and the caller may not launch one."""


class Starter:
    """Starts shims: the fork server forks them."""

    def __init__(self, link: str = "", *, may_launch: bool = True) -> None:
        """Take the name of the launcher's link, and whether a fork server may be launched."""
        self._link = link
        self._may_launch = may_launch

    def start(self, argv: list[str], socket_path: str, listener: int, config: str) -> None:
        """Let the fork server fork a shim that serves the socket `listener`.

        The launcher's link then leads to the fork server.

        Raises:
            NotRunning: there is no fork server, and it may not launch one.
            OSError: the fork server cannot be reached or started, or rejected the request.
        """
        env = environment(config)
        data = encode(argv, socket_path, env)
        # The fork server may be exiting: it was idle, or its code has changed, which happens
        # several times during an upgrade.
        replies = (_call(data, listener, env, self._may_launch) for _ in range(_TRIES))
        reply = next(filter(None, replies), b"")
        if not reply.isdigit():
            raise OSError(reply.decode("utf-8", "replace") or "the fork server did not reply")
        paths.link_launcher(self._link, paths.forkserver_socket(config))


def environment(config: str) -> dict[str, str]:
    """Return the environment of a shim: that of this process, with the config file."""
    return {**os.environ, paths.CONFIG_VARIABLE: config}


def encode(argv: list[str], socket_path: str, env: dict[str, str]) -> bytes:
    """Encode a StartRequest."""
    cwd = os.getcwd()  # noqa: PTH109 - pathlib loads too much
    pairs = [f"{name}={value}" for name, value in env.items()]
    parts = (wire.write_texts(argv), wire.write_text(socket_path), wire.write_text(cwd))
    return b"".join((*parts, wire.write_texts(pairs)))


def _call(data: bytes, listener: int, env: dict[str, str], may_launch: bool) -> bytes:  # noqa: FBT001
    sock = _connect_or_launch(env, may_launch)
    # In one message: the fork server does not wait for a second one.
    content = os.memfd_create("cryo-request")
    try:
        with open(content, "wb", closefd=False) as file:
            file.write(data)
        fds = pack("ii", listener, content)
        sock.sendmsg([wire.SHIM_MARK], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fds)])
        return sock.recv(_REPLY_LIMIT)
    except ConnectionError:
        return b""
    finally:
        os.close(content)
        sock.close()


def _connect_or_launch(env: dict[str, str], may_launch: bool) -> _socket.socket:  # noqa: FBT001
    path = paths.forkserver_socket(env[paths.CONFIG_VARIABLE])
    found = _connect(path)
    if found is not None:
        return found
    if not may_launch:
        raise NotRunning(path)
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
