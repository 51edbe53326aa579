"""Runs programs in a container by `runsc exec`."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from shim.errors import CryoError, DeadlineExceeded, NotFound
from shim.host import files
from shim.host.shielded import shielded
from shim.oci import canonical
from shim.runsc.argv import ExecArgs
from shim.runsc.client import Runsc
from shim.runsc.failure import error_line, failure, no_program
from shim.runsc.run import Completed

Process = Mapping[str, Any]
"""An OCI process object."""

# runsc's own exit status for its own failures; a guest program may use it too.
_RUNSC_FAILED = 128
# How runsc's own exec errors begin.
_RUNSC_SAYS = re.compile(
    rb"(executing processes for container|(FetchSpec failed: )?loading container): "
)
_PID_MAX = 32
# The kernel's limit of a process name, without the terminating NUL.
_NAME_MAX = 15
_ROOM_BYTES = 64 << 10
_POLL_S = 0.005
# How long runsc may take to write the pid of the program that it starts.
_BEGIN_S = 2.0
# How long it may take to kill a program in the container: a few runsc commands.
_BREAK_OFF_S = 120.0


class CommandExec:
    """Runs programs in one container, each by a runsc command; `scratch` is for their files."""

    def __init__(self, runsc: Runsc, task_id: str, scratch: Path) -> None:
        self._runsc = runsc
        self._id = task_id
        self._scratch = scratch

    async def run(
        self, argv: Sequence[str], *, timeout_s: float, process: Process | None = None
    ) -> Completed:
        """Run a program until it exits; see `ContainerGuest.run`.

        After the deadline it is killed in the container too, because killing only `runsc exec`
        leaves it running (measured on both versions).
        """
        until_s = time.monotonic() + timeout_s
        with _PidFile(self._scratch) as pid_file:
            args = ExecArgs(
                id=self._id,
                argv=argv if process is None else (),
                process=pid_file.beside(argv, process) if process is not None else "",
                internal_pid_file=str(pid_file.path),
            )
            work = asyncio.ensure_future(self._runsc.exec(args, timeout_s=timeout_s))
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

    async def _outlive(self, program: str, pid_file: _PidFile, until_s: float) -> None:
        """Wait for a program whose `runsc exec` may have exited before it.

        That happens when runsc was killed, or could not write the program's pid. Without a pid the
        program is found by name and not killed, since another process may have that name.

        Raises:
            DeadlineExceeded: the program still runs, and its pid is unknown.
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
                await shielded(self._runsc.end(self._id, pid), deadline_s=_BREAK_OFF_S)
            raise

    async def _is_there(self, program: str, pid: int) -> bool:
        rows = await self._runsc.ps(self._id)
        if pid:
            return any(row.pid == pid for row in rows)
        name = Path(program).name[:_NAME_MAX]
        return any(row.parent == 0 and row.command == name for row in rows)

    async def _give_up_on(self, program: str, pid: int) -> None:
        if not pid:
            message = f"{program} still runs in the container after its runsc exec exited"
            raise DeadlineExceeded(message, remedy="check the processes of the container")
        await self._runsc.end(self._id, pid)

    async def _break_off(self, work: asyncio.Future[Completed], pid_file: _PidFile) -> None:
        """Kill runsc and the program, after waiting briefly for runsc to write its pid."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BEGIN_S):
                while not work.done() and not pid_file.read():  # noqa: ASYNC110 - runsc writes it
                    await asyncio.sleep(_POLL_S)
        work.cancel()
        await asyncio.wait({work})
        pid = pid_file.read()
        if pid:
            with contextlib.suppress(CryoError):  # the sandbox is gone with its processes
                await self._runsc.end(self._id, pid)


class _PidFile:
    """A file that runsc writes a pid to; some versions write a new file and rename it."""

    def __init__(self, scratch: Path) -> None:
        # A rollback must not fail because the scratch folder is full.
        roomy = files.free_bytes(scratch) >= _ROOM_BYTES
        # A new folder: in one that others may write to, runsc could follow a planted link.
        self._folder = None if roomy else _own_folder()
        self.path = (self._folder or scratch) / f"exec-{secrets.token_hex(8)}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.path.unlink(missing_ok=True)
        self._process_path.unlink(missing_ok=True)
        if self._folder is not None:
            files.remove_tree(self._folder)

    @property
    def _process_path(self) -> Path:
        return self.path.with_suffix(".json")

    def beside(self, argv: Sequence[str], process: Process) -> str:
        """Write a process object with another command line beside it; return its path."""
        own = {name: value for name, value in process.items() if name != "consoleSize"}
        data = canonical.encode({**own, "args": list(argv), "terminal": False})
        self._process_path.touch(0o600)
        self._process_path.write_bytes(data)
        return str(self._process_path)

    def read(self) -> int:
        """Return the pid, 0 when there is none yet."""
        try:
            text = files.read_bounded(self.path, _PID_MAX).decode("ascii", "replace").strip()
        except NotFound:
            return 0
        return int(text) if text.isascii() and text.isdigit() else 0


def _own_folder() -> Path | None:
    try:
        return Path(tempfile.mkdtemp(prefix="cryo-pid-"))
    except OSError:
        return None  # no room there either: runsc will report it


def _refusal(program: str, said: bytes) -> CryoError:
    text = said.decode("utf-8", "replace")
    return no_program(program, text) or failure("exec", _RUNSC_FAILED, error_line(text))
