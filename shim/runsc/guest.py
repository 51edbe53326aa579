"""The programs of a container: runs them with a deadline, lists and ends them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from shim.errors import CryoError, NotFound
from shim.runsc.client import Runsc
from shim.runsc.command_exec import CommandExec, Process
from shim.runsc.direct_exec import DirectExec
from shim.runsc.output import GuestProcess
from shim.runsc.run import Completed

_IS_THERE = ("/bin/sh", "-c", 'test -e "/proc/$0"')
_ASK_S = 10.0
# With shell builtins only, and omitting the shell itself.
_LIST = (
    "/bin/sh",
    "-c",
    """for p in /proc/[0-9]*; do if [ "$p" != "/proc/$$" ] && read -r n <"$p/comm"
then echo "${p#/proc/} $n"; fi; done 2>/dev/null""",
)


class ContainerGuest:
    """Runs programs in one container, by its sentry or else by `runsc exec`.

    A container that shares its sandbox is a `member`: it has its own pid namespace, while runsc
    (`ps`, `exec --internal-pid-file` and `kill --pid`, measured on both versions) uses the pids of
    the sandbox. In the sandbox's first container the two are the same.
    """

    def __init__(self, runsc: Runsc, task_id: str, scratch: Path, *, member: bool = False) -> None:
        self._runsc = runsc
        self._id = task_id
        self._member = member
        self._direct = DirectExec(runsc, task_id)
        self._command = CommandExec(runsc, task_id, scratch)

    async def run(
        self, argv: Sequence[str], *, timeout_s: float, process: Process | None = None
    ) -> Completed:
        """Run a program until it exits; no exit status is an error.

        It runs as the container's user with its environment; with `process`, an OCI process
        object, with the user, environment and the rest of that.

        Raises:
            DeadlineExceeded: it did not exit in time, and was killed.
            NotFound: the image has no such program.
            CryoError: it could not be run; the container may be paused or gone.
        """
        if process is None:
            done = await self._direct.run(argv, timeout_s=timeout_s)
            if done is not None:
                return done
        return await self._command.run(argv, timeout_s=timeout_s, process=process)

    async def ps(self) -> list[GuestProcess]:
        """List the container's processes."""
        return await self._runsc.ps(self._id)

    async def own_numbers(self, rows: list[GuestProcess]) -> dict[int, int] | None:
        """Map each pid of `ps` to the pid in the container; None if that cannot be determined.

        Both numberings follow the start order of processes, so the sorted lists correspond; the
        names must match.
        """
        if not self._member:
            return {row.pid: row.pid for row in rows}
        try:
            listed = await self.run(_LIST, timeout_s=_ASK_S)
        except NotFound:
            return None
        own = _listed(listed.stdout.decode("utf-8", "replace"))
        by_age = sorted(rows, key=lambda row: row.pid)
        if [name for _, name in own] != [row.command for row in by_age]:
            return None
        return {row.pid: pid for row, (pid, _) in zip(by_age, own, strict=True)}

    async def has(self, pid: int) -> bool:
        """Whether a process has this pid in the container's pid namespace.

        In a member this needs a shell; without one in the image the process is assumed to exist.
        """
        rows = await self.ps()
        if not self._member or not rows:
            return any(row.pid == pid for row in rows)
        try:
            asked = await self.run([*_IS_THERE, str(pid)], timeout_s=_ASK_S)
        except NotFound:
            return True
        return asked.status == 0

    async def end(self, pid: int) -> None:
        """Kill a process by its pid in `ps`, if it still exists."""
        await self._runsc.end(self._id, pid)

    async def settle(self) -> None:
        """Make the sentry run the CUDA steps still pending after a failed save.

        It keeps them until the next resume (pkg/sentry/control/state.go, PostResume), so one pause
        and one resume are enough, and do nothing if none is pending. A failed pause is ignored: a
        killed predecessor may have left the sandbox paused.
        """
        await self._runsc.sentry.reconcile_pause(self._id)
        with contextlib.suppress(CryoError):
            await self._runsc.pause(self._id)
        await self._runsc.resume(self._id)


def _listed(text: str) -> list[tuple[int, str]]:
    """Parse lines of a pid and a name, sorted by pid."""
    pairs = (line.partition(" ") for line in text.splitlines())
    return sorted((int(pid), name) for pid, _, name in pairs if pid.isascii() and pid.isdigit())
