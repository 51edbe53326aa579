"""Start a program as a child of the keeper: fork, arrange, exec. Single-threaded callers only."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import signal
import struct
import termios
from typing import NamedTuple, NoReturn

_ERRNO = struct.Struct("=i")


_Limit = tuple[int, int]


def raise_limit() -> _Limit:
    """Let this process hold as many descriptors as it may; return what children get back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    return before


class Program(NamedTuple):
    """What to start. `fds` become 0, 1, 2, 3... in that order; nothing else stays open."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    fds: list[int]


def spawn(program: Program, limit: _Limit) -> int:
    """Start the program in a session of its own and return its pid.

    Raises:
        OSError: fork, chdir or exec failed; no child is left.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with open(reader, "rb") as report:  # noqa: PTH123 - a descriptor, not a path
        try:
            pid = _fork()
            if pid == 0:
                _become(program, limit, writer)
        finally:
            os.close(writer)
        failed = report.read(_ERRNO.size)
    if len(failed) == _ERRNO.size:
        os.waitpid(pid, 0)
        number = _ERRNO.unpack(failed)[0]
        raise OSError(number, os.strerror(number))
    return pid


def _fork() -> int:
    # Blocked: a signal to the young child would be noted in the pipe that it shares with us.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid != 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _become(program: Program, limit: _Limit, report: int) -> NoReturn:
    """Turn the forked child into the program, or report why not."""
    try:
        os.setsid()
        report = _place(program.fds, report)
        _take_terminal()
        _reset_signals()
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        os.chdir(program.cwd)
        os.execvpe(program.argv[0], program.argv, program.env)
    except OSError as error:
        os.write(report, _ERRNO.pack(error.errno or errno.EINVAL))
    except ValueError:  # a NUL, or text that no file name can hold
        os.write(report, _ERRNO.pack(errno.EINVAL))
    finally:
        os._exit(127)


def _place(fds: list[int], report: int) -> int:
    # Out of the way first: a source must not be overwritten by another one's destination.
    base = len(fds)
    report = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, base)
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, base) for fd in fds]
    for number, fd in enumerate(moved):
        os.dup2(fd, number, inheritable=True)
    os.closerange(base, report)
    os.closerange(report + 1, os.sysconf("SC_OPEN_MAX"))
    return report


def _take_terminal() -> None:
    # `runsc exec` forwards what is typed as a signal (Ctrl-C), which only a terminal's own session
    # gets. One that is another's stays so.
    if os.isatty(0):
        with contextlib.suppress(OSError):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _reset_signals() -> None:
    # exec keeps what is ignored, and Python ignores SIGPIPE.
    for number in signal.valid_signals():
        if number not in {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
