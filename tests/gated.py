"""A file whose end cannot be read before a gate is opened: FUSE, mounted over the file itself.

So an image stays half loaded for as long as a test needs; its other files are as they were.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from shim.simgpu.remote import Remote
from shim.simgpu.waiting import environment, wait_until
from tests.fuse import FuseMount, Request

_WAIT_S = 30.0
_MOUNTED, _ASKED = "mounted\n", "asked\n"
_GETATTR, _OPEN, _READ, _FLUSH, _RELEASE = 3, 14, 15, 25, 18
_ATTR_OUT = struct.Struct("<QII6Q10I")
_OPEN_OUT = struct.Struct("<QII")
_OPEN_DIRECT_IO = 1
_READ_IN = struct.Struct("<QQI")
_ENOSYS = 38


class GatedFile:
    """A file with a gate: who reads it from an offset on waits until that is opened."""

    def __init__(self, path: Path, begin: int) -> None:
        self._begin = begin
        self.asked = threading.Event()
        self._lock = threading.Lock()
        self._opened = False
        self._waiting: list[Request] = []
        self._below = os.open(path, os.O_RDONLY)
        self._mount = FuseMount(path, "gated", stat.S_IFREG | 0o600, self._take)

    def _take(self, request: Request) -> None:
        if request.opcode == _READ:
            self._read(request)
        elif request.opcode == _GETATTR:
            self._mount.answer(request.unique, self._attributes())
        elif request.opcode == _OPEN:
            self._mount.answer(request.unique, _OPEN_OUT.pack(0, _OPEN_DIRECT_IO, 0))
        elif request.opcode in {_FLUSH, _RELEASE}:
            self._mount.answer(request.unique)
        else:
            self._mount.answer(request.unique, error=_ENOSYS)

    def _attributes(self) -> bytes:
        """Return the attributes of the file, with a version that does not change."""
        size = os.fstat(self._below).st_size
        times, nanoseconds = (0, 0, 0), (0, 0, 0)
        rest = (stat.S_IFREG | 0o600, 1, 0, 0, 0, 4096, 0)
        return _ATTR_OUT.pack(60, 0, 0, 1, size, -(-size // 512), *times, *nanoseconds, *rest)

    def _read(self, request: Request) -> None:
        _, offset, size = _READ_IN.unpack_from(request.body)
        with self._lock:
            if not self._opened and offset + size > self._begin:
                self._waiting.append(request)
                self.asked.set()
                return
        self._answer(request)

    def _answer(self, request: Request) -> None:
        _, offset, size = _READ_IN.unpack_from(request.body)
        self._mount.answer(request.unique, os.pread(self._below, size, offset))

    def open(self) -> None:
        """Open the gate."""
        with self._lock:
            self._opened = True
        for request in self._waiting:
            self._answer(request)

    def release(self) -> None:
        """Unmount it; the file is as it was."""
        self._mount.release()
        os.close(self._below)


class Namespace(Protocol):
    """A mount namespace that a test made: of a simulated machine, or of a containerd."""

    @property
    def folder(self) -> Path:
        """Return its directory, which has the same path outside."""

    @property
    def remote(self) -> Remote:
        """Return what runs programs in it."""


class Gate:
    """The gate of a file in a namespace, in a process of its own."""

    def __init__(self, where: Namespace, path: Path, begin: int) -> None:
        self._remote = where.remote
        self._log = where.folder / "gated.log"
        self._log.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "tests.gated", str(path), str(begin)]
        self._pid = self._remote.spawn(argv, output=self._log, env=environment())
        self._until(_MOUNTED, "the mount of a gated file")

    def until_asked(self) -> None:
        """Wait until something waits at the gate."""
        self._until(_ASKED, "a reader of the gated file")

    def _until(self, line: str, what: str) -> None:
        wait_until(
            lambda: self._log.exists() and line in self._log.read_text("utf-8"), what, _WAIT_S
        )

    def open(self) -> None:
        """Let all read."""
        self._remote.kill(self._pid, signal.SIGUSR1)

    def close(self) -> None:
        """Unmount the file."""
        self._remote.kill(self._pid, signal.SIGTERM)
        assert self._remote.wait(self._pid, _WAIT_S) == 0, self._log.read_text("utf-8")


@contextlib.contextmanager
def gated(where: Namespace, path: Path, begin: int = 0) -> Iterator[Gate]:
    """Let no one in a namespace read a file from `begin` on before its gate is opened."""
    gate = Gate(where, path, begin)
    try:
        yield gate
    finally:
        gate.close()


def main() -> None:
    """Gate the file that is named: SIGUSR1 opens the gate, SIGTERM ends."""
    signals = {signal.SIGUSR1, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    file = GatedFile(Path(sys.argv[1]), int(sys.argv[2]))
    _say(_MOUNTED)
    threading.Thread(target=_report, args=(file,), daemon=True).start()
    while signal.sigwait(signals) == signal.SIGUSR1:
        file.open()
    file.release()


def _report(file: GatedFile) -> None:
    file.asked.wait()
    _say(_ASKED)


def _say(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
