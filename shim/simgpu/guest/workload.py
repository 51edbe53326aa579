"""The container's init: forks the workers, forwards queries to them, and exits on SIGTERM."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import select
import signal
import socket
import sys
import threading
from typing import Any

from shim.simgpu.guest import names
from shim.simgpu.guest.worker import Settings, Worker, listen

_ANSWER_MAX = 1 << 20
_ASK_TIMEOUT_S = 30.0
_MIB = 1 << 20
_FDS = 256


def resident(key: str, mib: int) -> bytearray:
    """Return memory in which all pages differ and none is zero."""
    base = hashlib.shake_128(key.encode()).digest(_MIB)
    memory = bytearray(mib * _MIB)
    for index in range(mib):
        turn = index * 4099 % _MIB
        memory[index * _MIB : (index + 1) * _MIB] = base[turn:] + base[:turn]
    return memory


class Supervisor:
    """The init process. It uses no device, so it responds in any state of the workers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._workers: dict[int, int] = {}
        self._holders: set[int] = set()
        self._ended: list[dict[str, int]] = []
        self._wanted_ends: set[int] = set()
        self._next = 0
        os.makedirs(names.RUN_DIR, exist_ok=True)  # noqa: PTH103  # no pathlib in the guest
        self._resident = resident(settings.key, settings.resident_mib)
        self._resident_digest = hashlib.blake2b(self._resident).digest()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        wake, bell = os.pipe()
        os.set_blocking(bell, False)
        signal.set_wakeup_fd(bell)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        for _ in range(self._settings.processes):
            self._spawn()
        for _ in range(self._settings.nvml_only):
            self._holders.add(self._fork(_hold_node))
        listener = listen(names.SUPERVISOR_SOCKET)
        while True:
            ready, _, _ = select.select([wake, listener.fileno()], [], [])
            if wake in ready:
                os.read(wake, 4096)
                self._reap()
            if listener.fileno() in ready:
                self._answer(listener.accept()[0])

    def _on_signal(self, number: int, _frame: object) -> None:
        if number == signal.SIGCHLD:
            return
        for pid in [*self._workers, *self._holders]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os._exit(0)

    def _spawn(self) -> int:
        index, self._next = self._next, self._next + 1
        pid = self._fork(lambda: Worker(self._settings, index).run())
        self._workers[pid] = index
        return pid

    def _fork(self, work: Any) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            # Otherwise the new worker would keep the connection of a spawn request open.
            os.closerange(3, _FDS)
            work()
            code = 0
        except BaseException as error:  # noqa: BLE001  # the last resort of a forked process
            os.write(2, f"simgpu: process {os.getpid()}: {error!r}\n".encode())
        finally:
            os._exit(code)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._holders.discard(pid)
            if self._workers.pop(pid, None) is not None and pid not in self._wanted_ends:
                self._ended.append({"pid": pid, "status": os.waitstatus_to_exitcode(status)})

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(_ASK_TIMEOUT_S)
            words = connection.recv(4096).decode("ascii", "replace").split()
            answer = json.dumps(self._ask(words or ["status"])).encode()
            connection.sendall(answer)

    def _ask(self, words: list[str]) -> dict[str, Any]:
        if words[0] == "spawn":
            return {"pid": self._spawn()}
        if words[0] == "end":
            pid = int(words[1])
            self._wanted_ends.add(pid)
            os.kill(pid, signal.SIGKILL)
            return {"pid": pid}
        return {
            "node": os.uname().nodename,
            "workers": ask_all(list(self._workers), " ".join(words)),
            "holders": sorted(self._holders),
            "ended": self._ended,
            "resident_ok": words[0] != "verify" or self._resident_is_whole(),
        }

    def _resident_is_whole(self) -> bool:
        return hashlib.blake2b(self._resident).digest() == self._resident_digest


def _hold_node() -> None:
    """Keep the device open without a CUDA context, like a process that only uses NVML."""
    os.open(names.CONTROL_NODE, os.O_RDWR)
    threading.Event().wait()


def _begin(path: str, question: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(_ASK_TIMEOUT_S)
        connection.connect(path)
        connection.sendall(question.encode() + b"\n")
    except BaseException:
        connection.close()
        raise
    return connection


def _finish(connection: socket.socket) -> dict[str, Any]:
    data = b""
    with connection:
        while len(data) < _ANSWER_MAX:
            piece = connection.recv(1 << 16)
            if not piece:
                break
            data += piece
    answer: dict[str, Any] = json.loads(data)
    return answer


def ask(path: str, question: str) -> dict[str, Any]:
    """Query a worker or the supervisor; return its reply."""
    return _finish(_begin(path, question))


def ask_all(pids: list[int], question: str) -> list[dict[str, Any]]:
    """Query workers in parallel; a worker that does not respond is `starting`."""
    asked: list[tuple[int, socket.socket | None]] = []
    for pid in pids:
        try:
            asked.append((pid, _begin(names.worker_socket(pid), question)))
        except OSError:
            asked.append((pid, None))
    return [_finish_or_starting(pid, connection) for pid, connection in asked]


def _finish_or_starting(pid: int, connection: socket.socket | None) -> dict[str, Any]:
    if connection is not None:
        with contextlib.suppress(OSError, ValueError):
            return _finish(connection)
    return {"pid": pid, "starting": True}


def main(argv: list[str]) -> int:
    """Run the workload, or with `ask QUESTION` query the running one."""
    if argv[:1] == ["ask"]:
        print(json.dumps(ask(names.SUPERVISOR_SOCKET, " ".join(argv[1:]))))
        return 0
    parser = argparse.ArgumentParser(prog="workload")
    parser.add_argument("settings", type=json.loads)
    Supervisor(Settings(**parser.parse_args(argv).settings)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
