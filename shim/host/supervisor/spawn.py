"""Start a program as a child of this process: the one way for the supervisor and for a shim.

posix_spawn runs nothing of ours between fork and exec, so a process with threads may call it too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
from typing import NamedTuple

from shim.host.environment import CHILD_UMASK

_Limit = tuple[int, int]
_FIRST_OTHER = 3
# The rest cannot be changed; 32 and 33 belong to the C library, which leaves them out itself.
_RESET = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


class Program(NamedTuple):
    """What to start. `fds` become 0, 1, 2, 3... in that order; nothing else stays open."""

    argv: list[str]
    env: dict[str, str]
    fds: list[int]


def raise_limit() -> _Limit:
    """Let this process hold as many descriptors as it may; return what children get back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    return before


def close_on_exec() -> None:
    """Keep what this process was started with to itself: its own descriptors are so already."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - no pathlib here
        number = int(name)
        if number >= _FIRST_OTHER and _is_open(number):
            os.set_inheritable(number, False)


def _is_open(number: int) -> bool:
    try:
        fcntl.fcntl(number, fcntl.F_GETFD)
    except OSError:
        return False  # the one by which the folder was read
    return True


def spawn(program: Program, limit: _Limit | None = None) -> int:
    """Start the program in a session of its own, in this process's folder, and return its pid.

    It gets the usual umask, the default action for every signal and none blocked. Where its stdin
    is a terminal that no other session has, it is its controlling terminal: `runsc exec` passes on
    what is typed there (Ctrl-C) as the signal that only the terminal's own session gets.

    `limit` is the program's RLIMIT_NOFILE where it is not this process's; a process with threads
    that open files at the same time must not ask for one.

    Raises:
        OSError: it cannot be started; no child is left.
    """
    path = _found(program)
    copies = _above(program.fds)
    try:
        if limit is None:
            return _start(path, program, copies)
        own = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        try:
            return _start(path, program, copies)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, own)
    except ValueError as error:  # a NUL, or text that no file name can hold
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from error
    finally:
        for fd in copies:
            os.close(fd)


def _start(path: str, program: Program, copies: list[int]) -> int:
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = []
    if copies and os.isatty(copies[0]):
        # The first of a new session to open a terminal has it (tty(4)); opened again below.
        actions.append((os.POSIX_SPAWN_OPEN, 0, f"/proc/self/fd/{copies[0]}", os.O_RDWR, 0))
    actions += [(os.POSIX_SPAWN_DUP2, fd, place) for place, fd in enumerate(copies)]
    # A thread that makes a file in this moment may make it readable by others; what must not be
    # so has a mode of its own.
    ours = os.umask(CHILD_UMASK)
    try:
        return os.posix_spawn(
            path,
            program.argv,
            program.env,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=_RESET,
        )
    finally:
        os.umask(ours)


def _above(fds: list[int]) -> list[int]:
    """Copy descriptors to numbers above their places, so that none is overwritten."""
    copies: list[int] = []
    try:
        above = max(len(fds), _FIRST_OTHER)
        copies.extend(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in fds)
    except OSError:
        for fd in copies:
            os.close(fd)
        raise
    return copies


def _found(program: Program) -> str:
    """Find a program without a slash on the PATH that it is given.

    Raises:
        FileNotFoundError: it is not there.
    """
    name = program.argv[0]
    if "/" in name:
        return name
    for folder in os.get_exec_path(program.env):
        path = f"{folder}/{name}"
        if os.path.isfile(path) and os.access(path, os.X_OK):  # noqa: PTH113 - no pathlib here
            return path
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
