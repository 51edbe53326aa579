"""Connect to the supervisor of a state directory, or start it. Blocking: run in a thread."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from shim.errors import FailedPrecondition, Unavailable
from shim.host.files import GROUP_SEARCH, private_dir
from shim.host.oserror import typed
from shim.host.supervisor import wire
from shim.host.supervisor.process import reachable

_START_S = 10.0
_HELLO_S = 5.0
_ANSWER_MAX = 1024
_LOG_MAX = 1 << 20
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from shim.host.supervisor.server import main; main()"
)
_ROOT = str(Path(__file__).resolve().parents[3])


def socket_path(state_dir: Path) -> Path:
    """Return the socket path of the supervisor of a state directory."""
    return state_dir / "keeper.sock"


def connect(state_dir: Path, idle_s: float) -> socket.socket:
    """Return a connection to the supervisor, which is started if necessary.

    Raises:
        Unavailable: the supervisor does not start or does not answer.
    """
    private_dir(state_dir, allowed=GROUP_SEARCH)
    try:
        found = _dial(state_dir)
        if found is None:
            with _locked(state_dir / "keeper.lock"):
                found = _dial(state_dir) or _start(state_dir, idle_s)
    except OSError as error:
        raise typed(error, "start the supervisor") from error
    return found


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    # Held while a supervisor starts or exits, never for longer than `_START_S`.
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _dial(state_dir: Path) -> socket.socket | None:
    """Connect and check the version; None if there is no supervisor, or it is exiting."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(_HELLO_S)
    folder = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(reachable(folder, "keeper.sock"))
        _greet(sock)
    except (FileNotFoundError, ConnectionError):
        sock.close()
        return None
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(folder)
    return sock


def _greet(sock: socket.socket) -> None:
    wire.send(sock, wire.encode({"n": 0, "op": "hello"}), [])
    try:
        received = wire.receive(sock)
    except TimeoutError as error:
        message = f"the supervisor did not answer within {_HELLO_S:.0f} s"
        raise Unavailable(message, remedy="check its process, cryo-supervisor") from error
    if received is None:
        raise ConnectionResetError
    version = received[0].get("ok", {}).get("version")
    if version != wire.VERSION:
        message = f"the running supervisor speaks version {version}, not {wire.VERSION}"
        raise FailedPrecondition(message, remedy="stop its tasks; it then exits by itself")


def _start(state_dir: Path, idle_s: float) -> socket.socket:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        with _open_log(state_dir / "keeper.log") as log:
            starter = _launch(state_dir, idle_s, writer, log)
    except OSError:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    with open(reader, "rb", buffering=0) as answers:  # noqa: PTH123 - a descriptor, not a path
        _expect_ready(answers, starter, state_dir)
    found = _dial(state_dir)
    if found is None:
        message = "the supervisor exited right after it started"
        raise Unavailable(message, remedy=f"read {state_dir}/keeper.log")
    return found


def _open_log(path: Path) -> BinaryIO:
    """Open the log for appending; truncate it if it is large."""
    log = path.open("ab")
    if log.tell() > _LOG_MAX:
        log.truncate(0)
    return log


def _launch(state_dir: Path, idle_s: float, ready: int, log: BinaryIO) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S", "-c", _BOOT, _ROOT]
    arguments = [str(socket_path(state_dir.resolve())), str(ready), str(idle_s)]
    return subprocess.Popen(
        command + arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=log,
        pass_fds=(ready,),
        cwd="/",
        env={"LC_ALL": "C.UTF-8"},
    )


def _expect_ready(answers: BinaryIO, starter: subprocess.Popen[bytes], state_dir: Path) -> None:
    waiting = select.poll()
    waiting.register(answers, select.POLLIN)
    answer = answers.read(_ANSWER_MAX) if waiting.poll(_START_S * 1000) else b"too slow"
    if answer == b"too slow":
        starter.kill()
    starter.wait()  # it only forks: it has exited by now, or was killed
    if answer != b"ready":
        message = f"the supervisor did not start: {answer.decode('utf-8', 'replace') or 'exited'}"
        raise Unavailable(message, remedy=f"read {state_dir}/keeper.log")
