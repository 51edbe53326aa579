"""All tasks of an owner, over a scripted runsc: a process that sleeps is each one's sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shim.config import Config, Cuda, Paths, Runsc, Timeouts
from shim.errors import Unavailable
from shim.host import procs
from shim.host.process_id import ProcessId
from shim.host.supervisor.exits import Exited
from shim.model import CreateRequest, Event, Stdio, TaskRef
from shim.task.layout import Layout
from shim.task.tasks import Tasks
from tests.unit.children import Children
from tests.unit.fakes_help import answering

SPEC: dict[str, Any] = {
    "ociVersion": "1.1.0",
    "process": {"args": ["/bin/sh"], "cwd": "/"},
    "root": {"path": "rootfs"},
}
# Signals the sandbox, or with --pid the process of that number, which is the host's here.
KILL = """\
for word in "$@"; do :; done
case "$3" in
--pid=*) kill -"$word" "${3#--pid=}" ;;
*) kill -"$word" "$(cat "${1#--root=}/a+.pid")" ;;
esac
exit 0"""


@dataclass
class FakeSupervisor(Children):
    """Starts sandboxes for `create` and `restore`, and nothing else; it knows how each ended."""

    fails: dict[str, list[str]] = field(default_factory=dict)
    spawned: list[list[str]] = field(default_factory=list)
    stored_fds: set[str] = field(default_factory=set)
    closed: bool = False
    gate: asyncio.Event | None = None
    # What an exec runs, and whether it says its number.
    program: tuple[str, ...] = ("/bin/sleep", "1000")
    numbered: bool = True
    making: asyncio.Event = field(default_factory=asyncio.Event)
    # The ids of the containers that share the sandbox of another, and of that one.
    joins: dict[str, str] = field(default_factory=dict)

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
        words = list(argv)
        self.spawned.append(words)
        flags = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
        command = next(word for word in words[1:] if not word.startswith("--"))
        numbered = self.numbered
        self.making.set()
        if command in self.fails:
            Path(flags["log"]).write_text(
                json.dumps({"level": "error", "msg": self.fails[command][0]})
            )
            return await self._child("/bin/false")
        if self.gate is not None:
            return await self._child("/bin/sleep", "1000")
        if command in {"create", "restore"}:
            await self._sandbox(flags, words[-1])
        if command == "exec":
            return await self._exec(flags, numbered=numbered)
        return await self._child("/bin/true")

    async def _exec(self, flags: dict[str, str], *, numbered: bool) -> ProcessId:
        process = await self._child(*self.program)
        if numbered:
            Path(flags["internal-pid-file"]).write_text(str(process.pid))
        return process

    async def _sandbox(self, flags: dict[str, str], name: str) -> None:
        root, sandbox = Path(flags["root"]), self.joins.get(name, name)
        root.mkdir(parents=True, exist_ok=True)
        own = root / f"{sandbox}.pid"
        if sandbox == name:
            own.write_text(str((await self._child("/bin/sleep", "1000")).pid))
        (root / f"{name}_sandbox:{sandbox}.state").touch()
        Path(flags["pid-file"]).write_text(own.read_text())

    async def wait(self, pid: int, start: int) -> Exited:
        if self.closed:
            message = "the supervisor is gone"
            raise Unavailable(message)
        if pid not in self.children:
            await procs.wait_pidfd(pid, start)
            return Exited(255, datetime.now(UTC), known=False)
        return await super().wait(pid, start)

    async def hold(self, name: str, fd: int) -> None:
        self.stored_fds.add(name)

    async def fetch(self, name: str) -> int | None:
        return None

    async def drop(self, name: str) -> None:
        self.stored_fds.discard(name)

    async def close(self) -> None:
        """Let go; the sandboxes keep running."""


class FakeEnv:
    """A place in a temporary folder, whose supervisor survives its owners."""

    adopts = True
    address = ""

    def __init__(self, state: Path, supervisor: FakeSupervisor) -> None:
        self.layout = Layout(state)
        self.supervisor = supervisor

    async def enter(self) -> tuple[Layout, FakeSupervisor]:
        self.layout.prepare()
        return self.layout, self.supervisor

    def leave(self) -> None:
        """Nothing was locked."""


class Owner:
    """A machine with one owner process at a time; `again` is its end and the next one's start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = answering(folder)
        self.script.on("kill", KILL)
        self.script.on("delete", 'rm -f "${1#--root=}/a+_sandbox:a+.state"; exit 0')
        self.supervisor = FakeSupervisor()
        self.runtime_env = FakeEnv(folder / "state", self.supervisor)
        self.events: list[Event] = []
        self.config = Config(
            paths=Paths(
                state=str(folder / "state"),
                images=str(folder / "images"),
                verified=str(folder / "verified"),
                scratch=str(folder / "scratch"),
            ),
            runsc=Runsc(binary=str(self.script.path)),
            cuda=Cuda(nvidia_proc=str(folder / "none"), cdi_dirs=()),
            timeouts=Timeouts(command=600, create=10, shutdown=5),
        )
        self.tasks = self._new()
        self.bundle = folder / "bundle"
        (self.bundle / "rootfs").mkdir(parents=True)
        (self.bundle / "config.json").write_text(json.dumps(SPEC))

    def _new(self) -> Tasks:
        return Tasks(self.config, self.events.append, self.runtime_env)

    async def again(self, *, killed: bool = False) -> Tasks:
        """Begin as the next owner; one that was `killed` had no time to say goodbye."""
        if killed:
            for task in self.tasks._map:
                task.detach()
        else:
            await self.tasks.close()
        self.tasks = self._new()
        await self.tasks.recover()
        await self.tasks.tidy()
        return self.tasks

    def ref(self, name: str = "a") -> TaskRef:
        return TaskRef(namespace="ns", id=name)

    def request(self, name: str = "a", **more: Any) -> CreateRequest:
        return CreateRequest(ref=self.ref(name), bundle=str(self.bundle), **more)

    def record_folder(self, name: str = "a") -> Path:
        return self.runtime_env.layout.task(self.ref(name))

    async def running(self, stdio: Stdio | None = None) -> int:
        """Make and start task `a`."""
        pid = await self.tasks.create(self.request(stdio=stdio or Stdio()))
        await self.tasks.start(self.ref())
        return pid

    @property
    def topics(self) -> list[str]:
        return [event.topic.removeprefix("/tasks/") for event in self.events]

    @property
    def commands(self) -> list[str]:
        """List what runsc was called for, since the probe."""
        known = {"start", "kill", "pause", "resume", "delete", "events", "update", "checkpoint"}
        calls = (call for call in self.script.calls if call[0].startswith("--root="))
        return [word for call in calls for word in call if word in known]

    def kill_sandbox(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)


@contextlib.asynccontextmanager
async def owning(folder: Path) -> AsyncIterator[Owner]:
    """Be an owner for one test."""
    owner = Owner(folder)
    try:
        await owner.tasks.recover()
        yield owner
        await owner.tasks.close()
    finally:
        await owner.supervisor.end()


class Hung:
    """An operation that does not end by itself."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ends: Callable[[], object] = lambda: None

    async def run(self, *_: object) -> Any:
        """Hang until cancelled; then roll back, and end as `ends` says."""
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            if (result := self.ends()) is not None:
                return result
            raise
