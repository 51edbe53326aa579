"""One container's inside: run a program there with a deadline that also holds inside."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from shim.errors import CryoError, DeadlineExceeded, NotFound
from shim.host import files
from shim.host.shielded import shielded
from shim.runsc.client import GuestProcess, Runsc
from shim.runsc.failure import error_line, failure
from shim.runsc.run import Completed

# runsc's own exit status for its own failures; a guest program may use it too.
_RUNSC_FAILED = 128
# How runsc's own complaints about an exec begin, and which of them are about the program's name.
_RUNSC_SAYS = re.compile(
    rb"(executing processes for container|(FetchSpec failed: )?loading container): "
)
_NO_PROGRAM = (b"failed to load ", b"error finding executable ")
_KILL = 9
_PID_MAX = 32
# The kernel's limit of a process's name, without the end of the string.
_NAME_MAX = 15
_ROOM_BYTES = 64 << 10
_POLL_S = 0.005
_IS_THERE = ("/bin/sh", "-c", 'test -e "/proc/$0"')
_ASK_S = 10.0
# By the shell's own means, and without the shell itself.
_LIST = (
    "/bin/sh",
    "-c",
    """for p in /proc/[0-9]*; do if [ "$p" != "/proc/$$" ] && read -r n <"$p/comm"
then echo "${p#/proc/} $n"; fi; done 2>/dev/null""",
)
# How long runsc may take until the program it starts has a number.
_BEGIN_S = 2.0
# How long the end of a program in the container may take: a few commands of runsc.
_BREAK_OFF_S = 120.0


class ContainerGuest:
    """Runs programs in one container by `runsc exec`.

    One that shares its sandbox is a `member`: it counts its processes by itself, while runsc
    counts those of the sandbox (measured on both versions; so do `exec --internal-pid-file` and
    `kill --pid`). In the sandbox's first container the two are the same.
    """

    def __init__(self, runsc: Runsc, task_id: str, scratch: Path, *, member: bool = False) -> None:
        self._runsc = runsc
        self._id = task_id
        self._scratch = scratch
        self._member = member

    async def run(self, argv: Sequence[str], *, timeout_s: float) -> Completed:
        """Run a program to its end; its exit status is an answer.

        Raises:
            DeadlineExceeded: it did not end in time; it was killed inside the container too, for
                killing `runsc exec` alone leaves it behind (measured on both versions).
            NotFound: the image has no such program.
            CryoError: runsc could not run anything; the container may be paused or gone.
        """
        until_s = time.monotonic() + timeout_s
        with _PidFile(self._scratch) as pid_file:
            work = asyncio.ensure_future(
                self._runsc.exec(
                    self._id, argv, timeout_s=timeout_s, internal_pid_file=str(pid_file.path)
                )
            )
            try:
                done = await asyncio.shield(work)
            except (DeadlineExceeded, asyncio.CancelledError):
                await shielded(self._break_off(work, pid_file), deadline_s=_BREAK_OFF_S)
                raise
            if done.status == _RUNSC_FAILED and _RUNSC_SAYS.match(done.stderr):
                raise _refusal(argv[0], done.stderr)
            if done.status < 0 or done.status == _RUNSC_FAILED:
                await self._outlive(argv[0], pid_file, until_s)
        return done

    async def ps(self) -> list[GuestProcess]:
        """List the container's processes."""
        return await self._runsc.ps(self._id)

    async def own_numbers(self, rows: list[GuestProcess]) -> dict[int, int] | None:
        """Give the container's own number for each of `ps`; None where it is not known.

        Both count in the order in which processes began, so that the first of the one is the first
        of the other; their names must match.
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
        """Whether there is a process of this number, by the container's own counting.

        In a member only a shell can find out; where the image has none, it is taken to be there.
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
        """Kill one process by its number in `ps`; gone already is fine."""
        try:
            await self._runsc.kill(self._id, _KILL, pid=pid)
        except CryoError:
            if any(row.pid == pid for row in await self.ps()):
                raise

    async def settle(self) -> None:
        """Make the sentry run the CUDA steps it still owes after a save that failed.

        It keeps them until the next resume (pkg/sentry/control/state.go, PostResume), so one pause
        and one resume are enough, and do nothing when it owes none. A pause that fails is none
        that was not there: a killed predecessor has left the sandbox paused.
        """
        await self._runsc.reconcile_pause(self._id)
        with contextlib.suppress(CryoError):
            await self._runsc.pause(self._id)
        await self._runsc.resume(self._id)

    async def _outlive(self, program: str, pid_file: _PidFile, until_s: float) -> None:
        """Wait for a program whose `runsc exec` may have ended before it.

        That is so when runsc was killed, or could not write down the program's number. Then its
        name must do, and it is not killed, for it may be somebody else's of that name.

        Raises:
            DeadlineExceeded: it goes on, and its number is not known.
        """
        pid = pid_file.read()
        try:
            while await self._is_there(program, pid):
                if time.monotonic() > until_s:
                    await self._give_up_on(program, pid)
                    return
                await asyncio.sleep(_POLL_S)
        except asyncio.CancelledError:
            if pid:
                await shielded(self.end(pid), deadline_s=_BREAK_OFF_S)
            raise

    async def _is_there(self, program: str, pid: int) -> bool:
        rows = await self.ps()
        if pid:
            return any(row.pid == pid for row in rows)
        name = Path(program).name[:_NAME_MAX]
        return any(row.parent == 0 and row.command == name for row in rows)

    async def _give_up_on(self, program: str, pid: int) -> None:
        if not pid:
            message = f"{program} goes on in the container without its runsc exec"
            raise DeadlineExceeded(message, remedy="look at the processes of the container")
        await self.end(pid)

    async def _break_off(self, work: asyncio.Future[Completed], pid_file: _PidFile) -> None:
        """End runsc and the program; runsc first says who that is, or that it was never begun."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BEGIN_S):
                while not work.done() and not pid_file.read():  # noqa: ASYNC110 - runsc writes it
                    await asyncio.sleep(_POLL_S)
        work.cancel()
        await asyncio.wait({work})
        pid = pid_file.read()
        if pid:
            with contextlib.suppress(CryoError):  # the sandbox is gone, and all in it
                await self.end(pid)


class _PidFile:
    """A file that runsc writes a number to; some versions make a new one and rename it."""

    def __init__(self, scratch: Path) -> None:
        # An undo must not fail because our own folder has no room left.
        roomy = files.free_bytes(scratch) >= _ROOM_BYTES
        # A folder of its own: in one that others may write to, a link could wait for runsc.
        self._folder = None if roomy else _own_folder()
        self.path = (self._folder or scratch) / f"exec-{secrets.token_hex(8)}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.path.unlink(missing_ok=True)
        if self._folder is not None:
            files.remove_tree(self._folder)

    def read(self) -> int:
        """Return the number, 0 when there is none yet."""
        try:
            text = files.read_bounded(self.path, _PID_MAX).decode("ascii", "replace").strip()
        except NotFound:
            return 0
        return int(text) if text.isascii() and text.isdigit() else 0


def _listed(text: str) -> list[tuple[int, str]]:
    """Read lines of a number and a name, in the order of the numbers."""
    pairs = (line.partition(" ") for line in text.splitlines())
    return sorted((int(pid), name) for pid, _, name in pairs if pid.isascii() and pid.isdigit())


def _own_folder() -> Path | None:
    try:
        return Path(tempfile.mkdtemp(prefix="cryo-pid-"))
    except OSError:
        return None  # no room there either: runsc will say so


def _refusal(program: str, said: bytes) -> CryoError:
    if any(sign in said for sign in _NO_PROGRAM):
        message = f"the image has no {'program ' + program if program else 'such program'}"
        return NotFound(message)
    return failure("exec", _RUNSC_FAILED, error_line(said.decode("utf-8", "replace")))
