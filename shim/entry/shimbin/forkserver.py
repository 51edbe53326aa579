"""The fork server: a process that has loaded and warmed up the code of a shim, and forks shims.

It is single-threaded and runs no event loop, so forking is safe. A shim is a separate process; the
fork server only starts it, and as a subreaper adopts the children of a shim that exits.

After a change to a file that it has loaded, it forks no more shims: the next `start` launches
another fork server, and this one exits after its last child.
"""

from __future__ import annotations

import array
import concurrent.futures.thread  # noqa: F401 - otherwise every shim would load it
import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

from shim.entry.shimbin import serve
from shim.entry.shimbin.loaded import Loaded
from shim.entry.shimbin.serve import StartRequest
from shim.entry.shimbin.warmup import warm_up
from shim.errors import CryoError
from shim.host import heap, prctl, unix_socket
from shim.host.environment import private_umask
from shim.host.supervisor.spawn import close_on_exec
from shim.task.layout import Layout

_REQUEST_LIMIT = 16 << 20
_READY_FD = 3
_REQUEST_TIMEOUT_S = 10.0
# After this time without requests or children it exits; the next `start` launches another one.
_IDLE_S = 120.0


def main(path: str) -> None:
    """Listen at `path` and fork shims until the fork server is idle or its code has changed."""
    loaded = Loaded()
    prctl.become_subreaper()
    # Shims have the same command line; ps and top distinguish them by this name.
    prctl.set_name("cryo-forkserver")
    private_umask()  # of every shim too
    warm_up(Path(f"{path}.warmup"))
    serve.adjust_host()
    loaded.look()
    # The kernel reaps children, and adopted orphans of shims.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = _listen(Path(path))
    os.chdir("/")
    heap.settle()
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
                # Before disconnecting the peer: it retries, and must not reach this listener.
                Path(path).unlink(missing_ok=True)
                listener.close()
                break
            _serve(peer, listener)
    while _has_children():
        time.sleep(_IDLE_S)


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
    peer.settimeout(_REQUEST_TIMEOUT_S)
    try:
        if unix_socket.peer_credentials(peer).uid != os.geteuid():
            raise PermissionError
        request, fd = _receive(peer)
    except (OSError, ValueError) as error:
        _reply(peer, f"no shim: {error}")
        return
    pid = os.fork()
    if pid == 0:
        listener.close()
        peer.close()
        _become_shim(request, fd)
    os.close(fd)
    _reply(peer, str(pid))


def _receive(peer: socket.socket) -> tuple[StartRequest, int]:
    head, ancillary, _, _ = peer.recvmsg(4, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for _level, _kind, data in ancillary:
        fds.frombytes(data)
    if len(head) != 4 or len(fds) != 1:  # noqa: PLR2004 - a length and one socket
        message = "invalid request: expected a length and one socket"
        raise ValueError(message)
    return decode(_receive_exactly(peer, int.from_bytes(head, "big"))), fds[0]


def decode(data: bytes) -> StartRequest:
    """Decode what `forkserver_client.encode` wrote.

    Raises:
        ValueError: the data is malformed.
    """
    count, rest = _text(data)
    argv, rest = _texts(rest, int(count))
    path, rest = _text(rest)
    cwd, rest = _text(rest)
    count, rest = _text(rest)
    env, _ = _texts(rest, int(count))
    pairs = dict(line.split("=", 1) for line in env)
    return StartRequest(argv=argv, socket=path, cwd=cwd, env=pairs)


def _text(data: bytes) -> tuple[str, bytes]:
    head, mark, rest = data.partition(b"\0")
    if not mark:
        message = "the request is truncated"
        raise ValueError(message)
    return os.fsdecode(head), rest


def _texts(data: bytes, count: int) -> tuple[list[str], bytes]:
    found: list[str] = []
    for _ in range(count):
        text, data = _text(data)
        found.append(text)
    return found, data


def _receive_exactly(peer: socket.socket, size: int) -> bytes:
    if size > _REQUEST_LIMIT:
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


def _reply(peer: socket.socket, reply: str) -> None:
    try:
        peer.sendall(reply.encode())
    except OSError:
        return  # the client has disconnected; its shim keeps running, and the next start finds it


def _become_shim(request: StartRequest, fd: int) -> None:
    """Turn this fork into a shim; never returns."""
    status = 1
    try:
        os.setsid()
        prctl.set_name("cryo-shim")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(request.env)
        serve.run(request, fd)
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1])
