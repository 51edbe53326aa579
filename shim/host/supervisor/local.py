"""The supervisor's work inside a shim, the process that owns the tasks.

A shim needs no separate supervisor: it is the subreaper itself, starts the processes that outlive
a call, and reaps the orphans it inherits. It reaps by exact pid, because `shim.runsc.run` reaps
its own children.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from shim.errors import Unavailable
from shim.host import pid_identity, prctl, procs, procstat
from shim.host.environment import environment
from shim.host.oserror import typed
from shim.host.process_id import ProcessId
from shim.host.supervisor import exits
from shim.host.supervisor.exits import Exited, Exits
from shim.host.supervisor.spawn import Program, close_on_exec, spawn

# Callers ask right after the exit; exec probes cause up to ten exits a second.
_REMEMBERED_MAX = 256


class _Wait(NamedTuple):
    """The future exit of a process, and the pidfd that signals it."""

    exited: asyncio.Future[Exited]
    pidfd: int


class LocalSupervisor:
    """Starts and reaps processes, and holds descriptors, for one owner process."""

    def __init__(self, others: Callable[[int], bool]) -> None:
        """Become a subreaper; `others` returns whether a child is reaped elsewhere."""
        prctl.become_subreaper()
        close_on_exec()
        self._others = others
        self._fds: dict[str, int] = {}
        self._exits = Exits(_REMEMBERED_MAX)
        self._waits: dict[ProcessId, _Wait] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGCHLD, self._collect)
        self.closed = False

    @property
    def books(self) -> dict[str, int]:
        """Return the number of entries of each kind, which must not grow with each exec."""
        return {"held": len(self._fds), "exits": len(self._exits), "waits": len(self._waits)}

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> ProcessId:
        """Start a program, as in `ProcessSupervisor`."""
        given = dict(environment() if env is None else env)
        program = Program(list(argv), given, [stdin, stdout, stderr, *pass_fds])
        try:
            pid = spawn(program)
        except OSError as error:
            raise typed(error, f"start {argv[0]}") from error
        # It is not reaped yet, so /proc has its start time even if it has exited.
        process = ProcessId(pid, procstat.start_time(pid) or 0)
        self._exits.expect(process)
        return process

    async def wait(self, pid: int, start: int) -> Exited:
        """Wait for a process (a child, an orphan, or any other) and return its exit."""
        process = ProcessId(pid, start)
        self._collect()
        exited = self._exits.ask(process)
        if exited is None:
            exited = await asyncio.shield(self._watched(process))
        return exited

    def _watched(self, process: ProcessId) -> asyncio.Future[Exited]:
        if process in self._waits:
            return self._waits[process].exited
        future: asyncio.Future[Exited] = self._loop.create_future()
        pidfd = pid_identity.open_pidfd(*process)
        if pidfd is None:
            future.set_result(exits.unknown())
        else:
            self._waits[process] = _Wait(future, pidfd)
            self._loop.add_reader(pidfd, self._on_end, process)
        return future

    def _on_end(self, process: ProcessId) -> None:
        self._collect()
        if (wait := self._waits.get(process)) is not None:  # not a child, or reaped elsewhere
            self._ended(process, exits.foreign_exit(process, wait.pidfd) or exits.unknown())

    def _collect(self) -> None:
        """Reap the children that have exited, including orphans without a caller."""
        for pid in procs.children(os.getpid()):
            if self._others(pid):
                continue
            found = procstat.read(pid)
            if found is None or not found.dead:
                continue
            if (exited := exits.reap(pid)) is not None:
                self._ended(ProcessId(pid, found.start), exited)

    def _ended(self, process: ProcessId, exited: Exited) -> None:
        self._exits.record(process, exited)
        wait = self._waits.pop(process, None)
        if wait is not None:
            self._exits.ask(process)
            self._leave(wait)
            if not wait.exited.done():
                wait.exited.set_result(exited)

    def _leave(self, wait: _Wait) -> None:
        self._loop.remove_reader(wait.pidfd)
        os.close(wait.pidfd)

    async def hold(self, name: str, fd: int) -> None:
        """Keep a copy of `fd` open under `name`."""
        copy = os.dup(fd)
        await self.drop(name)
        self._fds[name] = copy

    async def fetch(self, name: str) -> int | None:
        """Return a copy of the descriptor held under `name`."""
        return os.dup(self._fds[name]) if name in self._fds else None

    async def drop(self, name: str) -> None:
        """Close what is held under `name`, if anything."""
        fd = self._fds.pop(name, None)
        if fd is not None:
            os.close(fd)

    async def close(self) -> None:
        """Close the descriptors; waits fail as unavailable."""
        self.closed = True
        for name in list(self._fds):
            await self.drop(name)
        waits, self._waits = self._waits, {}
        for wait in waits.values():
            self._leave(wait)
            if not wait.exited.done():
                wait.exited.set_exception(
                    Unavailable("the connection to the supervisor was closed")
                )
                wait.exited.exception()  # marked as retrieved: there may be no caller
        self._loop.remove_signal_handler(signal.SIGCHLD)
