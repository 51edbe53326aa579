"""The keeper's work inside the process that owns the tasks: a shim, whose tasks end with it.

A shim is a process of its own already, so it needs no second one: it is the subreaper, it starts
what outlives a call, and it collects what is handed to it. It must collect by exact pid, for the
children of `shim.runsc.run` are collected there.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence

from shim.errors import NotFound
from shim.host import procs, procstat
from shim.host.keeper.client import Exited, Spawned
from shim.host.oserror import typed
from shim.model import utcnow

_PR_SET_CHILD_SUBREAPER = 36
_UNKNOWN = 255
_PAST_MAX = 1024


class LocalKeeper:
    """Starts and collects processes, and holds descriptors, for one owner process."""

    closed = False

    def __init__(self, others: Callable[[int], bool]) -> None:
        """Become a subreaper; `others` says whether a child is collected elsewhere."""
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._others = others
        self._held: dict[str, int] = {}
        self._past: dict[Spawned, Exited] = {}
        self._awaited: dict[Spawned, asyncio.Task[Exited]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGCHLD, self._collect)

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        cwd: str = "/",
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Spawned:
        """Start a program in a session of its own; the descriptors stay the caller's.

        `pass_fds` are 3, 4, 5... in the program.

        Raises:
            NotFound: no such program or folder.
        """
        pid = _start(argv, cwd, env, (stdin, stdout, stderr, *pass_fds))
        born = Spawned(pid, procs.start_time(pid) or 0)
        self._watch(born)
        return born

    def _watch(self, born: Spawned) -> asyncio.Task[Exited]:
        if born not in self._awaited:
            self._awaited[born] = asyncio.create_task(self._ended(born))
        return self._awaited[born]

    async def _ended(self, born: Spawned) -> Exited:
        """Wait for one process by its exact identity and collect it."""
        await procs.wait_pidfd(born.pid, born.start)
        return self._past.pop(born, None) or _collected(born.pid)

    async def wait(self, pid: int, start: int) -> Exited:
        """Return how a child, or an orphan handed to us, ended, when it has."""
        return await asyncio.shield(self._watch(Spawned(pid, start)))

    def _collect(self) -> None:
        """Collect orphans that nobody asks about: gofers, and whatever a sandbox leaves."""
        known = {born.pid for born, task in self._awaited.items() if not task.done()}
        for pid in procs.children(os.getpid()):
            if pid in known or self._others(pid):
                continue
            found = procstat.read(pid)
            if found is not None and found.dead:
                self._remember(Spawned(pid, found.start), _collected(pid))

    def _remember(self, born: Spawned, ended: Exited) -> None:
        """Keep how an orphan ended: its owner may ask only now, when it lived for a moment."""
        self._past[born] = ended
        while len(self._past) > _PAST_MAX:
            self._past.pop(next(iter(self._past)))

    async def hold(self, name: str, fd: int) -> None:
        """Keep a copy of `fd` open under `name`."""
        await self.drop(name)
        self._held[name] = os.dup(fd)

    async def fetch(self, name: str) -> int | None:
        """Return a copy of what is held under `name`."""
        return os.dup(self._held[name]) if name in self._held else None

    async def drop(self, name: str) -> None:
        """Close what is held under `name`; nothing there is fine."""
        fd = self._held.pop(name, None)
        if fd is not None:
            os.close(fd)

    async def close(self) -> None:
        """Let go of the descriptors."""
        for name in list(self._held):
            await self.drop(name)
        self._loop.remove_signal_handler(signal.SIGCHLD)


def _collected(pid: int) -> Exited:
    """Collect a process that has ended."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return Exited(_UNKNOWN, utcnow(), known=False)
    code = os.waitstatus_to_exitcode(status)
    return Exited(code if code >= 0 else 128 - code, utcnow())


def _start(argv: Sequence[str], cwd: str, env: Mapping[str, str] | None, fds: Sequence[int]) -> int:
    """Start a program with these descriptors as 0, 1, 2... and return its pid."""
    given = dict(os.environ if env is None else env)
    with _above(*fds) as copies:
        places = [(os.POSIX_SPAWN_DUP2, fd, place) for place, fd in enumerate(copies)]
        try:
            return os.posix_spawn(
                _program(argv[0], cwd), list(argv), given, file_actions=places, setsid=True
            )
        except OSError as error:
            raise typed(error, f"start {argv[0]}") from error


def _program(name: str, cwd: str) -> str:
    """Find a program on PATH.

    Raises:
        NotFound: there is none.
    """
    found = shutil.which(name)
    if found is None or cwd != "/":
        message = f"start {name}: no such program" if found is None else f"no start in {cwd}"
        raise NotFound(message)
    return found


@contextlib.contextmanager
def _above(*fds: int) -> Iterator[list[int]]:
    """Copy descriptors to numbers above their places, so that none is overwritten."""
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, len(fds)) for fd in fds]
    try:
        yield copies
    finally:
        for fd in copies:
            os.close(fd)
