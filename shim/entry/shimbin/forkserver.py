"""The fork server: a process that has loaded and warmed up the code of a shim, and forks shims.

It is single-threaded and runs no event loop, so forking is safe. A shim is a separate process; the
fork server only starts it, and as a subreaper adopts the children of a shim that exits.

It also does what the launcher asks for, in a fork of its own for each call; one that starts a shim
becomes the shim.

After a change to a file that it has loaded, it forks no more shims: the next `start` launches
another fork server, and this one exits after its last child.
"""

from __future__ import annotations

import array
import concurrent.futures.thread  # noqa: F401 - otherwise every shim would load it
import contextlib
import fcntl
import os
import signal
import socket
import sys
import time
from pathlib import Path

from shim.entry.shimbin import call, paths, serve, wire
from shim.entry.shimbin.arrivals import Arrivals
from shim.entry.shimbin.loaded import Loaded
from shim.entry.shimbin.serve import StartRequest
from shim.entry.shimbin.warmup import warm_up
from shim.errors import CryoError
from shim.host import heap, prctl
from shim.host.environment import private_umask
from shim.host.supervisor.spawn import close_on_exec
from shim.task.layout import Layout
from shim.tracing import setup as tracing

_READY_FD = 3
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
    tracing.preload()
    loaded.look()
    # The kernel reaps children, and adopted orphans of shims.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    arrivals = Arrivals(_listen(Path(path)))
    os.chdir("/")
    heap.settle()
    os.close(_READY_FD)
    close_on_exec()
    while True:
        peer = arrivals.next(_IDLE_S)
        if peer is None:
            if not _has_children():
                Path(path).unlink(missing_ok=True)
                paths.unlink_launchers(path)
                _tidy()
                return
            continue
        with peer:
            if loaded.changed:
                # Before disconnecting the peer: it retries, and must not reach this listener.
                Path(path).unlink(missing_ok=True)
                arrivals.close()
                break
            _serve(peer, arrivals, path)
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


def _serve(peer: socket.socket, arrivals: Arrivals, path: str) -> None:
    """Do what a peer asks for, whose first bytes have come; never wait for it."""
    fds: list[int] = []
    try:
        mark = _receive(peer, fds)
        if mark == wire.RUN_MARK and not fds:
            _fork_call(peer, arrivals, path)
        elif mark == wire.SHIM_MARK and len(fds) == 2:  # noqa: PLR2004 - the socket and the rest
            request = decode(_content(fds.pop()))
            _reply(peer, str(_fork_shim(request, fds[0], arrivals, peer)))
        else:
            _reply(peer, "no shim: invalid request")
    except (OSError, ValueError) as error:
        _reply(peer, f"no shim: {error}")
    finally:
        for fd in fds:
            os.close(fd)


def _fork_call(peer: socket.socket, arrivals: Arrivals, path: str) -> None:
    if os.fork() == 0:
        arrivals.close()
        call.serve(peer, path)


def _fork_shim(request: StartRequest, fd: int, arrivals: Arrivals, peer: socket.socket) -> int:
    pid = os.fork()
    if pid == 0:
        arrivals.close()
        peer.close()
        serve.become(request, fd)
    return pid


def _receive(peer: socket.socket, fds: list[int]) -> bytes:
    """Return the first bytes that have come, and add the descriptors that came with them."""
    mark, ancillary, _, _ = peer.recvmsg(
        wire.MARK_BYTES, socket.CMSG_SPACE(2 * array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for _level, _kind, data in ancillary:
        fds += array.array("i", data)
    return mark


def _content(fd: int) -> bytes:
    """Return the content of a memory file and close it; unlike a pipe it is read without a wait."""
    with open(fd, "rb", buffering=0) as file:
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)  # fails on files of other kinds
        size = os.fstat(fd).st_size
        if size > wire.LIMIT:
            message = f"the request of {size} bytes is too large"
            raise ValueError(message)
        return os.pread(file.fileno(), size, 0)


def decode(data: bytes) -> StartRequest:
    """Decode what `forkserver_client.encode` wrote.

    Raises:
        ValueError: the data is malformed.
    """
    reader = wire.Reader(data)
    return StartRequest(
        argv=reader.texts(), socket=reader.text(), cwd=reader.text(), env=reader.variables()
    )


def _reply(peer: socket.socket, reply: str) -> None:
    try:
        peer.sendall(reply.encode())
    except OSError:
        return  # the client has disconnected; its shim keeps running, and the next start finds it


if __name__ == "__main__":
    main(sys.argv[1])
