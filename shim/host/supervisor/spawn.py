"""Start a program as a child of this process, for the supervisor and for a shim.

posix_spawn runs no Python between fork and exec, so a process with threads may call it too.
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
# All that can be reset; the C library omits its own 32 and 33 by itself.
_RESET = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


class Program(NamedTuple):
    """A program to start. `fds` become 0, 1, 2, 3... in that order; all others are closed."""

    argv: list[str]
    env: dict[str, str]
    fds: list[int]


def raise_limit() -> _Limit:
    """Raise the soft limit of open files to the hard one; return the old limit, for children."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    return before


def close_on_exec() -> None:
    """Set close-on-exec on inherited descriptors; those that Python opens have it already."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - no pathlib here
        number = int(name)
        if number >= _FIRST_OTHER and _is_open(number):
            os.set_inheritable(number, False)


def _is_open(number: int) -> bool:
    try:
        fcntl.fcntl(number, fcntl.F_GETFD)
    except OSError:
        return False  # the descriptor of the listing itself
    return True


def spawn(program: Program, limit: _Limit | None = None) -> int:
    """Start the program in its own session, in the current directory, and return its pid.

    It gets the usual umask, the default action for every signal, and no blocked signals. If its
    stdin is a terminal without a session, that becomes its controlling terminal: `runsc exec`
    forwards the signals (Ctrl-C) that only the session of the terminal receives.

    `limit` is the program's RLIMIT_NOFILE if not this process's; a process whose other threads
    open files at the same time must not set it.

    Raises:
        OSError: the program cannot be started; no child is left.
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
        # A session leader gets a terminal by opening it (tty(4)); replaced by a copy below.
        actions.append((os.POSIX_SPAWN_OPEN, 0, f"/proc/self/fd/{copies[0]}", os.O_RDWR, 0))
    actions += [(os.POSIX_SPAWN_DUP2, fd, place) for place, fd in enumerate(copies)]
    # A file that another thread creates meanwhile may be readable by others; private files are
    # therefore created with an explicit mode.
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
    """Copy descriptors to numbers above their targets, so that none is overwritten."""
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
    """Return the program's path; a name without a slash is looked up on the program's PATH.

    Raises:
        FileNotFoundError: there is no such program.
    """
    name = program.argv[0]
    if "/" in name:
        return name
    for folder in os.get_exec_path(program.env):
        path = f"{folder}/{name}"
        if os.path.isfile(path) and os.access(path, os.X_OK):  # noqa: PTH113 - no pathlib here
            return path
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
