"""The supervisor's loop: single-threaded, standard library only."""

from __future__ import annotations

import errno
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from shim.host import prctl, procstat
from shim.host.environment import private_umask
from shim.host.filelock import try_lock
from shim.host.process_id import ProcessId
from shim.host.supervisor import exits, process, spawn, wire
from shim.host.supervisor.exits import Exited, Exits
from shim.host.supervisor.fd_store import FdStore
from shim.host.supervisor.peer import Peer

_IDLE_S = 60.0
_PEERS_MAX = 64
_HISTORY_LIMIT = 4 << 20
_ENDING = frozenset({signal.SIGTERM, signal.SIGINT})

_Answer = tuple[dict[str, Any], list[int]]
_Waiters = dict[ProcessId, list[tuple[Peer, int]]]


class Refusal(Exception):
    """The request is valid but cannot be carried out."""

    def __init__(self, number: int, text: str = "") -> None:
        """Take the errno, and a text where that is clearer than the errno's."""
        super().__init__(text or os.strerror(number))
        self.number = number


class Server:
    """All of the supervisor's state: children, waiters, held descriptors and connections."""

    def __init__(self, path: str, idle_s: float = _IDLE_S) -> None:
        """Become a subreaper and listen at `path`; clients may connect once this returns."""
        prctl.become_subreaper()
        prctl.set_name("cryo-supervisor")
        spawn.close_on_exec()
        self._path = path
        self._idle_s = idle_s
        self._limit = spawn.raise_limit()
        self._exits = Exits()
        self._fd_store = FdStore()
        self._peers: set[Peer] = set()
        self._waiters: _Waiters = {}
        self._watches: dict[ProcessId, int] = {}
        self._running = True
        self._load_history()
        self._selector = selectors.DefaultSelector()
        self._signals = process.signal_pipe()
        self._listener = process.listen(path)
        self._watch_fd(self._signals, self._on_signal)
        self._watch_fd(self._listener, self._on_connect)
        self._ops: dict[str, Callable[[Peer, wire.Message, list[int]], _Answer | None]] = {
            "hello": self._hello,
            "spawn": self._spawn,
            "wait": self._wait,
            "hold": self._hold,
            "fetch": self._fetch,
            "drop": self._drop,
        }

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, or until idle for `idle_s`."""
        while self._running:
            ready = self._selector.select(self._idle_s if self._idle() else None)
            for key, mask in ready:
                key.data(mask)
            if not ready and self._idle():
                self._running = not self._retire()

    def _idle(self) -> bool:
        return self._fd_store.empty and not (self._peers or exits.has_children())

    def _watch_fd(self, fd: int | socket.socket, then: Callable[[int], None]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, then)

    # Connections

    def _on_connect(self, _mask: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # the client has disconnected, or there are no descriptors left
        peer = Peer(sock)
        if len(self._peers) >= _PEERS_MAX or not peer.allowed():
            peer.close()
            return
        self._peers.add(peer)
        self._watch_fd(peer.sock, lambda mask: self._on_peer(peer, mask))

    def _on_peer(self, peer: Peer, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                peer.flush()
                self._interest(peer)
            if mask & selectors.EVENT_READ:
                self._read(peer)
        except BlockingIOError:
            return
        except (OSError, wire.BadMessage):
            self._drop_peer(peer)

    def _read(self, peer: Peer) -> None:
        received = wire.receive(peer.sock)
        if received is None:
            self._drop_peer(peer)
            return
        message, fds = received
        try:
            self._serve(peer, message, fds)
        finally:
            wire.close_all(fds)

    def _serve(self, peer: Peer, message: wire.Message, fds: list[int]) -> None:
        number = _number(message, "n")
        op = self._ops.get(_text(message, "op"))
        if op is None:
            raise wire.BadMessage
        try:
            answer = op(peer, message, fds)
        except Refusal as refusal:
            self._send(peer, {"n": number, "error": str(refusal), "errno": refusal.number}, [])
            return
        if answer is not None:
            self._send(peer, {"n": number, "ok": answer[0]}, answer[1])

    def _send(self, peer: Peer, message: wire.Message, fds: list[int]) -> None:
        try:
            peer.send(message, fds)
        except OSError:
            self._drop_peer(peer)
            return
        if peer.deaf:
            self._drop_peer(peer)
        elif peer.pending:
            self._interest(peer)

    def _interest(self, peer: Peer) -> None:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.pending else 0)
        known = self._selector.get_key(peer.sock)
        self._selector.modify(peer.sock, wanted, known.data)

    def _drop_peer(self, peer: Peer) -> None:
        if peer not in self._peers:
            return
        self._peers.remove(peer)
        self._selector.unregister(peer.sock)
        peer.close()
        for key in list(self._waiters):
            self._waiters[key] = [each for each in self._waiters[key] if each[0] is not peer]
            if not self._waiters[key]:
                self._forget_waiters(key)

    # Children

    def _on_signal(self, _mask: int) -> None:
        numbers = os.read(self._signals, 4096)
        self._reap()
        if _ENDING.intersection(numbers):
            self._retire()
            self._running = False

    def _reap(self) -> None:
        while (found := exits.reap_one()) is not None:
            self._ended(*found)

    def _ended(self, key: ProcessId, end: Exited) -> None:
        self._exits.record(key, end)
        for peer, number in self._forget_waiters(key):
            self._exits.ask(key)
            self._send(peer, {"n": number, "ok": _exit_message(end)}, [])

    def _forget_waiters(self, key: ProcessId) -> list[tuple[Peer, int]]:
        pidfd = self._watches.pop(key, None)
        if pidfd is not None:
            self._selector.unregister(pidfd)
            os.close(pidfd)
        return self._waiters.pop(key, [])

    def _wait(self, peer: Peer, message: wire.Message, _fds: list[int]) -> _Answer | None:
        key = ProcessId(_number(message, "pid", 1 << 31), _number(message, "start"))
        self._reap()
        end = self._exits.ask(key) or self._foreign_exit(key)
        if end is not None:
            return _exit_message(end), []
        self._waiters.setdefault(key, []).append((peer, _number(message, "n")))
        return None

    def _foreign_exit(self, key: ProcessId) -> Exited | None:
        """Return the exit of a process that is not a child; watch it while it runs."""
        found = procstat.read(key.pid)
        if found and found.start == key.start and found.ppid == os.getpid():
            return None
        end = exits.foreign_exit(key)
        if end is None and key not in self._watches:
            return self._watch(key)
        return end

    def _watch(self, key: ProcessId) -> Exited | None:
        try:
            pidfd = os.pidfd_open(key.pid)
        except OSError:
            return exits.foreign_exit(key) or exits.unknown()
        self._watches[key] = pidfd
        self._watch_fd(pidfd, lambda _mask: self._on_foreign_exit(key))
        return None

    def _on_foreign_exit(self, key: ProcessId) -> None:
        self._reap()  # it may have become a child meanwhile
        if key in self._watches:
            end = exits.foreign_exit(key, self._watches[key]) or exits.unknown()
            self._ended(key, end)

    def _spawn(self, peer: Peer, message: wire.Message, fds: list[int]) -> _Answer:
        argv, env = _texts(message, "argv"), _strings(message, "env")
        if not argv or len(fds) < 3:  # noqa: PLR2004 - stdin, stdout, stderr
            raise Refusal(errno.EINVAL, "a program needs a name and three descriptors")
        program = spawn.Program(argv, env, fds)
        # If this process exits before the client reads this, nothing was started.
        peer.send({"begun": _number(message, "n")}, [])
        if peer.pending:
            raise Refusal(errno.EAGAIN, "the client does not read")
        try:
            pid = spawn.spawn(program, self._limit)
        except OSError as error:
            raise Refusal(error.errno or errno.EINVAL) from error
        # It is not reaped yet, so /proc has its start time even if it has exited.
        key = ProcessId(pid, procstat.start_time(pid) or 0)
        self._exits.expect(key)
        return {"pid": key.pid, "start": key.start}, []

    # Descriptors, and the rest

    def _hold(self, _peer: Peer, message: wire.Message, fds: list[int]) -> _Answer:
        name = _text(message, "name")
        if len(fds) != 1:
            raise Refusal(errno.EINVAL, "hold takes one descriptor")
        try:
            self._fd_store.hold(name, fds[0])
        except ValueError as error:
            raise Refusal(errno.EINVAL, str(error)) from error
        fds.clear()
        return {}, []

    def _fetch(self, _peer: Peer, message: wire.Message, _fds: list[int]) -> _Answer:
        fd = self._fd_store.fetch(_text(message, "name"))
        return {}, [] if fd is None else [fd]

    def _drop(self, _peer: Peer, message: wire.Message, _fds: list[int]) -> _Answer:
        self._fd_store.drop(_text(message, "name"))
        return {}, []

    def _hello(self, _peer: Peer, _message: wire.Message, _fds: list[int]) -> _Answer:
        return {"version": wire.VERSION, "pid": os.getpid()}, []

    # Exiting

    def _retire(self) -> bool:
        """Remove the socket under the starters' lock; False if another process has the lock."""
        path = f"{self._path[: -len('.sock')]}.lock"
        lock = try_lock(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if lock is None:
            return False
        self._save_history()
        os.unlink(self._path)  # noqa: PTH108 - no pathlib here
        self._selector.unregister(self._listener)
        self._listener.close()
        os.close(lock)
        return True

    def _history_path(self) -> str:
        return f"{self._path[: -len('.sock')]}.exits"

    def _save_history(self) -> None:
        path = self._history_path()
        with open(f"{path}.tmp", "w", encoding="ascii", opener=_private) as file:
            json.dump(self._exits.dump(), file)
        os.replace(f"{path}.tmp", path)  # noqa: PTH105 - no pathlib here

    def _load_history(self) -> None:
        try:
            with open(self._history_path(), encoding="ascii") as file:  # noqa: PTH123 - no pathlib here
                self._exits.load(json.loads(file.read(_HISTORY_LIMIT)))
        except FileNotFoundError:
            return
        except (ValueError, TypeError) as error:
            sys.stderr.write(f"supervisor: cannot load the exits of an earlier one: {error}\n")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _exit_message(end: Exited) -> dict[str, Any]:
    return {"status": end.status, "at": end.at.timestamp(), "known": end.known}


def _number(message: wire.Message, key: str, below: int = 1 << 63) -> int:
    value = message.get(key)
    if type(value) is not int or not 0 <= value < below:
        raise wire.BadMessage
    return value


def _text(message: wire.Message, key: str) -> str:
    value = message.get(key)
    if not isinstance(value, str):
        raise wire.BadMessage
    return value


def _texts(message: wire.Message, key: str) -> list[str]:
    value = message.get(key)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise wire.BadMessage
    return value


def _strings(message: wire.Message, key: str) -> dict[str, str]:
    value = message.get(key)
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise wire.BadMessage
    return value


def main() -> NoReturn:
    """Run as `SOCKET READY_FD [IDLE_SECONDS]`: detach, listen, write `ready` to READY_FD, serve."""
    path, ready = sys.argv[1], int(sys.argv[2])
    idle_s = float(sys.argv[3]) if len(sys.argv) > 3 else _IDLE_S  # noqa: PLR2004 - optional
    process.detach()
    private_umask()
    try:
        server = Server(path, idle_s)
    except OSError as error:
        os.write(ready, f"error: {error}".encode())
        sys.exit(1)
    os.write(ready, b"ready")
    os.close(ready)
    server.run()
    sys.exit(0)
