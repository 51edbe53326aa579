"""Exits of processes: reaping, and a bounded memory of them."""

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
# struct pidfd_info, first version: what is asked and answered, ids, the exit code. Source: pidfd.h
_INFO = struct.Struct("=QQ11Ii")
_INFO_EXIT = 1 << 3
_GET_INFO = 3 << 30 | _INFO.size << 16 | 0xFF << 8 | 11


class Exited(NamedTuple):
    """How a process exited. Where `known` is false its status could not be read, and is 255."""

    status: int
    at: datetime
    known: bool = True

    @classmethod
    def with_timestamp(cls, status: int, at_s: float, *, known: bool = True) -> Self:
        """Take the time in seconds since 1970, as messages and files have it."""
        return cls(status, datetime.fromtimestamp(at_s, UTC), known)


class Exits:
    """Every spawned child's exit until it is asked for, and the newest others."""

    def __init__(self, others_max: int = _ANYBODY_MAX) -> None:
        """Remember nothing yet; `others_max` bounds the exits that were asked for already."""
        self._others_max = others_max
        self._unasked: dict[ProcessId, Exited | None] = {}
        self._ended: dict[ProcessId, Exited] = {}

    def __len__(self) -> int:
        """Return the number of remembered processes."""
        return len(self._unasked) + len(self._ended)

    def expect(self, process: ProcessId) -> None:
        """Remember this child's exit until it is asked for, however many others exit meanwhile."""
        self._unasked[process] = None
        if len(self._unasked) > _SPAWNED_MAX:
            del self._unasked[next(iter(self._unasked))]

    def ask(self, process: ProcessId) -> Exited | None:
        """Return how it exited; None where it has not, or is not known."""
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
        """Take over what an earlier supervisor has dumped."""
        for pid, start, status, at in rows:
            exited = Exited.with_timestamp(int(status), float(at))
            self._remember(ProcessId(int(pid), int(start)), exited)


def reap_one() -> tuple[ProcessId, Exited] | None:
    """Reap one child that has exited; None where there is none."""
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
    """Reap a child that has exited; None while threads of it other than the first one run."""
    try:
        ended, code = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # another waiter has
        return unknown()
    return Exited(from_wait_status(code), _now()) if ended else None


def _reaped_code(pidfd: int) -> int | None:
    """Return the wait status that a pidfd has of its process; None where it has none."""
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
    """Return whether there is any child, exited or not."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def foreign_exit(process: ProcessId, pidfd: int | None = None) -> Exited | None:
    """Return the exit of a process that is not our child; None while it runs.

    /proc has the status until the parent has reaped it. After that a pidfd that was opened before
    has it (since Linux 6.15); without one, it is 255 and not known.
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
