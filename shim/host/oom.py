"""Notification of OOM kills in a cgroup.

Version 1 signals an eventfd, version 2 changes memory.events. Both count `oom_kill`, once for each
process killed and before it is signalled. So the count is reliable even before the notification
has been read, and the notification only triggers a read of the count.

Source: the kernel's cgroup-v1/memory.rst (section 10) and cgroup-v2.rst, mm/oom_kill.c.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

from shim.host import cgroup as cgroups
from shim.host.cgroup import Cgroup
from shim.host.oserror import typed, typed_number

_libc = ctypes.CDLL(None, use_errno=True)
_IN_MODIFY = 2
_EVENTS_BYTES = 4096
# Version 1 signals before it chooses a process to kill; the count rises after that.
_LOOKS_S = (0.0, 0.01, 0.05, 0.2, 1.0)


class OomWatch:
    """Calls `on_oom` after OOM kills in a cgroup, from now until `close`.

    Simultaneous kills cause one call. Raises a `CryoError` when the kernel refuses the watch.
    """

    def __init__(self, cgroup: Cgroup, on_oom: Callable[[], None]) -> None:
        self._cgroup = cgroup
        self._on_oom = on_oom
        self._seen = cgroups.oom_kills(cgroup)
        self._timers: list[asyncio.TimerHandle] = []
        self._loop = asyncio.get_running_loop()
        self._fd = _inotify(cgroup) if cgroup.unified else _eventfd(cgroup)
        self._loop.add_reader(self._fd, self._woken)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, _EVENTS_BYTES)
        self._forget_timers()
        self._timers = [self._loop.call_later(after_s, self.look) for after_s in _LOOKS_S]

    def _forget_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()

    def look(self) -> None:
        """Report unreported kills at once; called before an exit is published."""
        count = cgroups.oom_kills(self._cgroup)
        if count > self._seen:
            self._seen = count
            self._on_oom()

    def close(self) -> None:
        """Stop; safe to repeat."""
        if self._fd < 0:
            return
        self._forget_timers()
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1


def _eventfd(cgroup: Cgroup) -> int:
    """Register an eventfd with version 1; the kernel keeps its own reference to the other file."""
    control = cgroup.folders["memory"] / "memory.oom_control"
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        with control.open("rb") as watched:
            line = f"{fd} {watched.fileno()}"
            (control.parent / "cgroup.event_control").write_text(line, "ascii")
    except OSError as error:
        os.close(fd)
        raise typed(error, f"watch {control}") from error
    return fd


def _inotify(cgroup: Cgroup) -> int:
    watched: Path = cgroup.folders[""] / "memory.events"
    fd: int = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        raise typed_number(ctypes.get_errno(), f"watch {watched}")
    if _libc.inotify_add_watch(fd, os.fsencode(watched), _IN_MODIFY) < 0:
        number = ctypes.get_errno()
        os.close(fd)
        raise typed_number(number, f"watch {watched}")
    return fd
