"""A runsc that is a shell script: it records its arguments and answers as configured."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shim.config import Config, Timeouts
from shim.host.process_id import ProcessId
from shim.runsc.client import Runsc
from shim.runsc.open_streams import OpenStreams
from shim.runsc.output import GuestProcess
from shim.runsc.probe import Capabilities
from tests.unit.children import Children

ROOT = "ns"
PS_OLD = """\
UID       PID       PPID      C         TTY       STIME     TIME      CMD
0         1         0         3         ?         18:49     10ms      sh
0         2         1         3         ?         18:49     10ms      my prog
"""
PS_NEW = """\
UID       PID       PPID      PGID      C         TTY       STIME     TIME      CMD
0         1         0         1         1         ?         18:49     0s        sh
0         2         1         1         0         ?         18:49     0s        my prog
"""
ROWS_OLD = [
    GuestProcess(pid=1, parent=0, command="sh"),
    GuestProcess(pid=2, parent=1, command="my prog"),
]
ROWS = [
    GuestProcess(pid=1, parent=0, command="sh", group=1),
    GuestProcess(pid=2, parent=1, command="my prog", group=1),
]
STATS = {
    "type": "stats",
    "id": "d+",
    "data": {
        "cpu": {"usage": {"total": 1398526349335}},
        "memory": {"usage": {"limit": 0, "usage": 2527232, "failcnt": 0}},
        "pids": {"current": 2},
    },
}


def capabilities(binary: Path | str = "/usr/bin/runsc", *, new: bool = True) -> Capabilities:
    """Make the abilities of the newest runsc, or of 20240729."""
    old_checkpoint = {"compression", "direct", "exclude-committed-zero-pages", "image-path"}
    old_restore = {"bundle", "detach", "direct", "image-path", "pid-file"}
    return Capabilities(
        binary=str(binary),
        identity=(1, 2, 3, 4),
        version="release-20260905.0" if new else "0.0~20240729.0",
        checkpoint_flags=frozenset(
            old_checkpoint | ({"cuda-checkpoint-path"} if new else set()),
        ),
        restore_flags=frozenset(old_restore | ({"background"} if new else set())),
        wait_flags=frozenset({"pid", "rootpid", *(["restore"] if new else [])}),
        top_flags=frozenset({"nvproxy", "root"}),
        commands=frozenset({"create", "ps", *(["update"] if new else [])}),
    )


class Script:
    """A program whose calls can be read back; `on` says what it does for a subcommand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "runsc"
        self._cases: dict[str, str] = {}
        self._write()

    def on(self, command: str, shell: str) -> None:
        """Run these lines when `command` is among the arguments."""
        self._cases[command] = shell
        self._write()

    def prints(self, command: str, out: str = "", err: str = "", status: int = 0) -> None:
        """Answer a subcommand."""
        lines = [f"printf %s {shlex.quote(out)}", f"printf %s {shlex.quote(err)} >&2"]
        self.on(command, "\n".join([*lines, f"exit {status}"]))

    @property
    def calls(self) -> list[list[str]]:
        """Give the arguments of each call so far."""
        try:
            text = (self.folder / "calls").read_text()
        except FileNotFoundError:
            return []
        return [call.split("\x1f")[:-1] for call in text.split("\x1e")[:-1]]

    def _write(self) -> None:
        cases = "\n".join(f"{name})\n{body}\n;;" for name, body in self._cases.items())
        record = shlex.quote(str(self.folder / "calls"))
        self.path.write_text(
            "#!/bin/sh\n"
            # One write for each call, for calls may come side by side.
            f"words=$(printf '%s\\037' \"$@\"); printf '%s\\036' \"$words\" >>{record}\n"
            'for word in "$@"; do\n'
            f'case "$word" in\n{cases}\n:)\n;;\nesac\n'
            "done\n"
            "exit 0\n"
        )
        self.path.chmod(self.path.stat().st_mode | stat.S_IXUSR)


@dataclass
class FakeSupervisor(Children):
    """Starts `program` whatever it is asked to start, as a child of the test, and waits for it."""

    closed = False

    program: list[str] = field(default_factory=lambda: ["/bin/true"])
    spawned: list[list[str]] = field(default_factory=list)

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
        self.spawned.append(list(argv))
        return await self._child(*self.program)

    async def hold(self, name: str, fd: int) -> None:
        raise NotImplementedError

    async def fetch(self, name: str) -> int | None:
        raise NotImplementedError

    async def drop(self, name: str) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


def client(script: Script, *, new: bool = True, timeouts: Timeouts | None = None) -> Runsc:
    """Make a client of the script, with a root of its own."""
    config = Config(timeouts=timeouts or Timeouts(command=10))
    root = script.folder / ROOT
    root.mkdir(exist_ok=True)
    return Runsc(config, capabilities(script.path, new=new), root, FakeSupervisor(), OpenStreams())


def known(runsc: Runsc, task_id: str, sandbox: str = "") -> Path:
    """Let runsc know a container, as its state file reports."""
    path = runsc.containers.root / f"{task_id}+_sandbox:{sandbox or task_id}+.state"
    path.touch()
    return path
