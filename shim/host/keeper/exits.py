"""How children ended: reaping, and a bounded memory of it."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from typing import NamedTuple

from shim.host import procstat

_ANYBODY_MAX = 4096
_SPAWNED_MAX = 16384
UNKNOWN = 255
# struct pidfd_info, first version: what is asked and answered, ids, the exit code. Source: pidfd.h
_INFO = struct.Struct("=QQ11Ii")
_INFO_EXIT = 1 << 3
_GET_INFO = 3 << 30 | _INFO.size << 16 | 0xFF << 8 | 11


class End(NamedTuple):
    """The end of a process: a shell-style status, and seconds since 1970."""

    status: int
    at: float
    known: bool = True


class Key(NamedTuple):
    """A process, exactly: its pid and its start in clock ticks since boot."""

    pid: int
    start: int


def shell_status(code: int) -> int:
    """Turn waitpid's number into a shell's: 128 and the signal for a signal."""
    ended = os.waitstatus_to_exitcode(code)
    return ended if ended >= 0 else 128 - ended


class Exits:
    """What is remembered: every spawned child's end until asked for, and the newest others."""

    def __init__(self, others_max: int = _ANYBODY_MAX) -> None:
        """Begin with nothing; `others_max` is how many ends are kept that were asked for."""
        self._others_max = others_max
        self._unasked: dict[Key, End | None] = {}
        self._ended: dict[Key, End] = {}

    def __len__(self) -> int:
        """Count the processes of which something is remembered."""
        return len(self._unasked) + len(self._ended)

    def expect(self, key: Key) -> None:
        """Remember this child's end until somebody asks, however many others end meanwhile."""
        self._unasked[key] = None
        if len(self._unasked) > _SPAWNED_MAX:
            del self._unasked[next(iter(self._unasked))]

    def ask(self, key: Key) -> End | None:
        """Tell how it ended, if it has."""
        end = self._unasked.get(key)
        if end is not None:
            del self._unasked[key]
            self._remember(key, end)
        return end or self._ended.get(key)

    def record(self, key: Key, end: End) -> None:
        """Note an end."""
        if key in self._unasked:
            self._unasked[key] = end
        else:
            self._remember(key, end)

    def _remember(self, key: Key, end: End) -> None:
        self._ended[key] = end
        if len(self._ended) > self._others_max:
            del self._ended[next(iter(self._ended))]

    def dump(self) -> list[list[float]]:
        """Give everything as plain data, oldest first."""
        unasked = {key: end for key, end in self._unasked.items() if end}
        both = {**self._ended, **unasked}
        return [[*key, end.status, end.at] for key, end in both.items()]

    def load(self, rows: list[list[float]]) -> None:
        """Take up what an earlier keeper had written down."""
        for pid, start, status, at in rows:
            self._remember(Key(int(pid), int(start)), End(int(status), float(at)))


def reap_one() -> tuple[Key, End] | None:
    """Reap one child that has ended; None when there is none just now."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    if found is None:
        return None
    # While it is not reaped its number cannot be reused, and /proc still tells when it started.
    start = procstat.start_time(found.si_pid) or 0
    return Key(found.si_pid, start), reap(found.si_pid) or unseen()


def reap(pid: int) -> End | None:
    """Reap a child that has ended; None while other threads of it go on than its first one."""
    try:
        ended, code = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # another waiter has
        return unseen()
    return End(shell_status(code), time.time()) if ended else None


def _reaped_code(pidfd: int) -> int | None:
    """Ask a pidfd how its process ended, as waitpid would have told; None where it cannot say."""
    asked = bytearray(_INFO.pack(_INFO_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, asked)
    except OSError:
        return None
    mask, *_, code = _INFO.unpack(asked)
    return int(code) if mask & _INFO_EXIT else None


def unseen() -> End:
    """Make the end of a process of which nobody can say how it ended."""
    return End(UNKNOWN, time.time(), known=False)


def has_children() -> bool:
    """Tell whether any child is left, ended or not."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def foreign_end(key: Key, pidfd: int | None = None) -> End | None:
    """Tell how a process ended that is not ours to reap; None while it runs.

    /proc shows the code until its own parent has reaped it. After that a pidfd that was open
    before does (Linux 6.15); without, only the fact remains: status 255, not known.
    """
    found = procstat.read(key.pid)
    if found is None or found.start != key.start:
        code = None if pidfd is None else _reaped_code(pidfd)
        if code is not None:
            return End(shell_status(code), time.time())
        return unseen()
    if found.dead:
        return End(shell_status(found.code), time.time())
    return None
