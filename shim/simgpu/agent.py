"""The simulation's init: runs in the private mount namespace and starts every process there.

It is a subreaper, so it reaps sandboxes whose parent has exited. When its stdin closes, because the
creator of the simulation has finished or died, it kills all its descendants. A second process,
outside the namespace, then removes the simulation's directory.

Requests come over a unix socket, in the device's framing, with a thread for each connection.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from shim.host import prctl, unix_socket
from shim.simgpu import devns
from shim.simgpu.guest import frames

_OUTPUT_MAX = 1 << 20
_TICK_S = 0.2
_END_S = 5.0

Answer = dict[str, Any]


class Reaper:
    """Reaps all children of this process; keeps the exit status of those that `start` started."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._status: dict[int, int | None] = {}

    def start(self, argv: list[str], **options: Any) -> int:
        """Start a process and return its pid.

        Raises:
            OSError: there is no such program.
        """
        with self._changed:
            process = subprocess.Popen(argv, **options)
            # Otherwise Popen would wait for the child as well, and warn.
            process.returncode = 0
            self._status[process.pid] = None
            self._changed.notify_all()
            return process.pid

    def wait(self, pid: int, timeout_s: float) -> int | None:
        """Return the exit status, negative for a signal; None if the process is still running."""
        with self._changed:
            self._changed.wait_for(lambda: self._status.get(pid, 0) is not None, timeout_s)
            return self._status.get(pid, 0)

    def reap(self) -> None:
        """Reap children until this process exits."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                # No child now: wait for `start`, or for an orphan that is adopted meanwhile.
                with self._changed:
                    self._changed.wait(_TICK_S)
                continue
            if found is not None:
                self._collect(found.si_pid)

    def _collect(self, pid: int) -> None:
        with self._changed:
            try:
                _, status = os.waitpid(pid, 0)
            except ChildProcessError:
                return  # the program could not be executed, and Popen has reaped the child
            if pid in self._status:
                self._status[pid] = os.waitstatus_to_exitcode(status)
            self._changed.notify_all()


class Agent:
    """Runs programs in the namespace for every client of the socket."""

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper

    def answer(self, request: dict[str, Any]) -> Answer:
        """Handle one request."""
        operations = {
            "run": self._run,
            "spawn": self._spawn,
            "kill": self._kill,
            "wait": self._wait,
        }
        operation = operations.get(str(request.get("op")))
        if operation is None:
            return {"error": "unknown operation"}
        try:
            return operation(request)
        except OSError as error:
            return {"error": str(error)}

    def _run(self, request: dict[str, Any]) -> Answer:
        # Files, not pipes: the sentry inherits the stdout of `runsc create`, and keeps it open.
        with TemporaryFile() as out, TemporaryFile() as err:
            started = time.monotonic()
            pid = self._reaper.start(request["argv"], **_options(request, out, err))
            status = self._reaper.wait(pid, request.get("timeout_s", 60.0))
            elapsed = time.monotonic() - started
            if status is None:
                os.killpg(pid, signal.SIGKILL)
                self._reaper.wait(pid, _END_S)
            return {
                "status": -signal.SIGKILL if status is None else status,
                "timed_out": status is None,
                "elapsed_s": elapsed,
                "out": _text(out),
                "err": _text(err),
            }

    def _spawn(self, request: dict[str, Any]) -> Answer:
        with Path(request["output"]).open("ab") as output:
            return {"pid": self._reaper.start(request["argv"], **_options(request, output, output))}

    def _kill(self, request: dict[str, Any]) -> Answer:
        with contextlib.suppress(ProcessLookupError):
            os.kill(request["pid"], request["signal"])
        return {}

    def _wait(self, request: dict[str, Any]) -> Answer:
        return {"status": self._reaper.wait(request["pid"], request["timeout_s"])}


def _options(request: dict[str, Any], out: Any, err: Any) -> dict[str, Any]:
    environment = {**os.environ, **request.get("env", {})}
    return {
        "stdin": subprocess.DEVNULL,
        "stdout": out,
        "stderr": err,
        "env": environment,
        "cwd": request.get("cwd", "/"),
        "start_new_session": True,
    }


def _text(file: Any) -> str:
    file.seek(0)
    return str(file.read(_OUTPUT_MAX).decode("utf-8", "replace"))


def listen(path: Path) -> socket.socket:
    """Listen at `path`; only the current user may connect, whatever the umask is."""
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(64)
    return listener


def _is_ours(connection: socket.socket) -> bool:
    return unix_socket.peer_credentials(connection).uid == os.geteuid()


def _serve(listener: socket.socket, agent: Agent) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_one, args=(connection, agent), daemon=True).start()


def _one(connection: socket.socket, agent: Agent) -> None:
    with connection, contextlib.suppress(OSError, EOFError, ValueError, frames.Malformed):
        while _is_ours(connection):
            request, _ = frames.receive(connection)
            frames.send(connection, agent.answer(request))


def _children(parent: int) -> list[int]:
    """Return the current child processes of `parent`."""
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208  # only names are needed
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent and fields[0] != "Z":
                    found.append(int(entry))
    return found


def end_everything() -> None:
    """Kill the children of this process until there are none.

    Orphans become children of this process, so each round finds those of the round before.
    """
    deadline = time.monotonic() + _END_S
    while time.monotonic() < deadline:
        children = _children(os.getpid())
        if not children:
            return
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def remove(folder: Path) -> None:
    """Remove the simulation's directory; called outside the namespace.

    Inside the namespace the host's `/` is mounted on `rootfs`. rmdir(2) fails unless `rootfs` is an
    empty directory and no mount point, so it comes first.
    """
    with contextlib.suppress(FileNotFoundError):
        (folder / "rootfs").rmdir()
    shutil.rmtree(folder, ignore_errors=True)


def serve(folder: Path, *, host_dev: bool) -> None:
    """Run as the init of the namespace until stdin ends."""
    devns.enter(folder / "rootfs", host_dev=host_dev)
    prctl.become_subreaper()
    listener = listen(folder / "agent.sock")
    reaper = Reaper()
    threading.Thread(target=reaper.reap, daemon=True).start()
    threading.Thread(target=_serve, args=(listener, Agent(reaper)), daemon=True).start()
    os.write(1, b"ready\n")
    while os.read(0, 4096):
        pass
    end_everything()


def main() -> None:
    """Serve until stdin ends, then clean up."""
    folder = Path(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # On Ctrl-C the parent closes our stdin. Not SIG_IGN, which child processes would inherit.
        signal.signal(number, lambda *_: None)
    pid = os.fork()
    if not pid:
        try:
            serve(folder, host_dev="--host-dev" in sys.argv)
        except OSError as error:
            os.write(1, f"failed {error}\n".encode())
        finally:
            os._exit(0)  # daemon threads are blocked in system calls
    os.close(1)
    os.waitpid(pid, 0)
    remove(folder)


if __name__ == "__main__":
    main()
