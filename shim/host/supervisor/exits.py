"""Exits of processes: reaping them, and a bounded history."""

from __future__ import annotations

import fcntl
import os
import struct
from datetime import UTC, datetime
from typing import NamedTuple, Self

from shim.host import procstat
from shim.host.exit_status import UNKNOWN_STATUS, from_wait_status
from shim.host.process_id import ProcessId

_ANYBODY_MAX = 4096
_SPAWNED_MAX = 16384
# struct pidfd_info, first version: request and reply mask, ids, exit code. Source: pidfd.h
_INFO = struct.Struct("=QQ11Ii")
_INFO_EXIT = 1 << 3
_GET_INFO = 3 << 30 | _INFO.size << 16 | 0xFF << 8 | 11


class Exited(NamedTuple):
    """How a process exited. If `known` is false its status could not be read, and is 255."""

    status: int
    at: datetime
    known: bool = True

    @classmethod
    def with_timestamp(cls, status: int, at_s: float, *, known: bool = True) -> Self:
        """Make one from a time in seconds since 1970, as in messages and files."""
        return cls(status, datetime.fromtimestamp(at_s, UTC), known)


class Exits:
    """The exit of every spawned child until it is asked for, and the newest of the others."""

    def __init__(self, others_max: int = _ANYBODY_MAX) -> None:
        """`others_max` bounds the number of exits kept after they were asked for."""
        self._others_max = others_max
        self._unasked: dict[ProcessId, Exited | None] = {}
        self._ended: dict[ProcessId, Exited] = {}

    def __len__(self) -> int:
        """Return the number of remembered processes."""
        return len(self._unasked) + len(self._ended)

    def expect(self, process: ProcessId) -> None:
        """Keep this child's exit until it is asked for, however many others exit meanwhile."""
        self._unasked[process] = None
        if len(self._unasked) > _SPAWNED_MAX:
            del self._unasked[next(iter(self._unasked))]

    def ask(self, process: ProcessId) -> Exited | None:
        """Return a process's exit; None if it has not exited or is unknown."""
        exited = self._unasked.get(process)
        if exited is not None:
            del self._unasked[process]
            self._remember(process, exited)
        return exited or self._ended.get(process)

    def record(self, process: ProcessId, exited: Exited) -> None:
        """Remember an exit."""
        if process in self._unasked:
            self._unasked[process] = exited
        else:
            self._remember(process, exited)

    def _remember(self, process: ProcessId, exited: Exited) -> None:
        self._ended[process] = exited
        if len(self._ended) > self._others_max:
            del self._ended[next(iter(self._ended))]

    def dump(self) -> list[list[float]]:
        """Return everything as plain data, oldest first."""
        unasked = {process: exited for process, exited in self._unasked.items() if exited}
        both = {**self._ended, **unasked}
        return [[*process, each.status, each.at.timestamp()] for process, each in both.items()]

    def load(self, rows: list[list[float]]) -> None:
        """Load what an earlier supervisor dumped."""
        for pid, start, status, at in rows:
            exited = Exited.with_timestamp(int(status), float(at))
            self._remember(ProcessId(int(pid), int(start)), exited)


def reap_one() -> tuple[ProcessId, Exited] | None:
    """Reap one child that has exited; None if there is none."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    if found is None:
        return None
    # Until it is reaped its pid is not reused, and /proc has its start time.
    start = procstat.start_time(found.si_pid) or 0
    return ProcessId(found.si_pid, start), reap(found.si_pid) or unknown()


def reap(pid: int) -> Exited | None:
    """Reap a child that has exited; None while threads other than its first one run."""
    try:
        ended, code = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # another waiter has reaped it
        return unknown()
    return Exited(from_wait_status(code), _now()) if ended else None


def _reaped_code(pidfd: int) -> int | None:
    """Return the wait status that a pidfd reports for its process; None if it has none."""
    asked = bytearray(_INFO.pack(_INFO_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, asked)
    except OSError:
        return None
    mask, *_, code = _INFO.unpack(asked)
    return int(code) if mask & _INFO_EXIT else None


def unknown() -> Exited:
    """Return the exit of a process whose status cannot be read."""
    return Exited(UNKNOWN_STATUS, _now(), known=False)


def _now() -> datetime:
    return datetime.now(UTC)


def has_children() -> bool:
    """Return whether this process has any child, exited or not."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def foreign_exit(process: ProcessId, pidfd: int | None = None) -> Exited | None:
    """Return the exit of a process that is not a child of this one; None while it runs.

    /proc has the status until the parent has reaped the process. After that a pidfd opened before
    has it (since Linux 6.15); otherwise it is 255, unknown.
    """
    found = procstat.read(process.pid)
    if found is None or found.start != process.start:
        code = None if pidfd is None else _reaped_code(pidfd)
        if code is not None:
            return Exited(from_wait_status(code), _now())
        return unknown()
    if found.dead:
        return Exited(from_wait_status(found.code), _now())
    return None
