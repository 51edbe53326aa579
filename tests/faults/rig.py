"""A sidecar, a task with three CUDA processes, and what a fault is made of."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from shim.client import Client
from shim.errors import CryoError, NotFound
from shim.model import (
    CheckpointOptions,
    CheckpointResult,
    RestoreOptions,
    RestoreResult,
    TaskRef,
    Verify,
)
from shim.service import cryo_operations
from shim.simgpu.remote import Ran
from shim.simgpu.simulation import Fault, Kind, Settings, environment, wait_until
from shim.state import TaskState
from tests.faults import trap
from tests.faults.judge import COPY, PROCESSES, TASK, Judge
from tests.faults.machine import Case, Halting, command_lines, state_of
from tests.faults.memory import Memory, limits
from tests.faults.sidecar import ENV, Point
from tests.faults.wire import Wire

ROOM_BYTES = 1 << 29
# Long enough for two busy cores; what hangs on purpose gets less in its own test.
TIMEOUTS = {"detect": 60.0, "lock": 60.0, "freeze": 60.0, "thaw": 60.0, "rollback": 120.0}
_HALT_S = 90.0
_END_S = 60.0
_SUPERVISOR = "shim.host.supervisor.server"
_GO_LOOKS_THERE = "/sys/kernel/mm/transparent_hugepage"
_REF = TaskRef(namespace="default", id=TASK)


class Rig(Judge):
    """One machine for many faults: the task that survived one is the subject of the next."""

    def __init__(self, sim: Halting, case: Case) -> None:
        super().__init__(sim)
        self.case = case
        self._numbers = itertools.count(1)
        self._pool = ThreadPoolExecutor(4)
        self._timeouts: dict[str, float] = {}
        self._judged = False
        # Whether a pause of the task gives its GPU memory back.
        self.parks = False
        # Whether a task that survived a fault is saved and restored once more after each of them.
        self.thorough = False

    # Life.

    def mount_state(self) -> None:
        """Put our own state on a file system of its own, as /run is, which may then fill up."""
        argv = ["mount", "-t", "tmpfs", "-o", f"size={ROOM_BYTES}", "tmpfs"]
        ran = self.sim.remote.run([*argv, str(self.sim.folder / "state")])
        assert ran.status == 0, ran.err

    def close(self) -> None:
        """Let go; the machine's end is the end of everything on it."""
        self.resume()
        self.client.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def serve(self, **timeouts: float) -> None:
        """Have a sidecar with these timeouts: a new one where there is none or another."""
        wanted = TIMEOUTS | timeouts
        if self.sim.sidecar_pid and wanted == self._timeouts:
            return
        self._timeouts = wanted
        self.sim.stop_sidecar()
        self.serve_again()

    def serve_again(self) -> None:
        """Start the sidecar, as its service manager does after a crash."""
        os.environ[ENV] = str(self.sim.halt_file)
        os.environ[trap.ENV] = str(self.sim.trap_file)
        # Each sandbox in a cgroup of its own, as under containerd.
        flags = {"ignore-cgroups": "false"}
        self.sim.start_sidecar(timeouts=self._timeouts, runsc__flags=flags)
        self.reconnect()

    def reconnect(self) -> None:
        """Talk to the sidecar on a connection of our own."""
        self.client.close()
        self.client = Client(self.sim.address)
        self._fds = Counter()

    def have_task(self) -> None:
        """Have the task running and whole, with no fault armed: the one before, if it is."""
        self.sim.faults()
        self.sim.limit(reserved_bytes=0)
        self.empty(self.sim.folder / "state", ROOM_BYTES)
        self.sim.halt_file.unlink(missing_ok=True)
        judged, self._judged = self._judged, False
        if not judged and not self._fine():
            self.remove(TASK)
            self.client.create(TASK, str(self.bundle(TASK)))
            self.client.start(TASK)
            self.sim.until_ready(self.inside, TASK)
        self.know_fds()
        self.sim.calls(clear=True)

    def know_fine(self) -> None:
        """Take the task as it is for the next one's: somebody has just looked at all of it."""
        self._judged = True

    def renew(self, *, driver: int = 0) -> None:
        """Have a new task, with another driver if one is given."""
        if driver:
            self.sim.set_driver(driver)
        self.remove(TASK)
        self.have_task()

    def _fine(self) -> bool:
        try:
            if self.state() is not TaskState.RUNNING:
                return False
            status = self.sim.verify(self.inside, TASK)
        except CryoError:
            return False
        misused = any(process.misuse for process in status.processes)
        return status.whole and len(status.processes) == PROCESSES and not misused

    def repair(self) -> None:
        """End a test, whatever became of it: nothing is halted or armed, and a sidecar is there."""
        self.sim.halt_file.unlink(missing_ok=True)
        if self.sim.sidecar_pid:
            self.resume()
        else:
            self.serve_again()
        self.sim.faults()
        with contextlib.suppress(CryoError):
            wait_until(lambda: self.state() is not TaskState.CHECKPOINTING, "the end", _END_S)
        self.remove(COPY)

    def bundle(self, name: str) -> Path:
        """Write the bundle of the workload."""
        settings = Settings(processes=PROCESSES, period_s=0.1)
        parks = {"io.cryo.park": "true"} if self.parks else None
        folder = self.sim.bundle(name, settings, inject_tool=False, annotations=parks)
        spec = folder / "config.json"
        content = json.loads(spec.read_text("utf-8"))
        content["linux"]["cgroupsPath"] = f"/{self.cgroup(name)}"
        spec.write_text(json.dumps(content), "utf-8")
        return folder

    def remove(self, name: str) -> None:
        """Kill and delete a task, if it is there."""
        self._judged = self._judged and name != TASK
        with contextlib.suppress(NotFound):
            if self.state(name) is not TaskState.STOPPED:
                self.client.kill(name, signal.SIGKILL)
                wait_until(lambda: self.state(name) is TaskState.STOPPED, "its end", _END_S)
            self.client.delete(name)

    # What is asked of the product.

    def options(self, image: Path, **more: Any) -> CheckpointOptions:
        """Ask for an image, with the engine of this case."""
        plain = CheckpointOptions(image_path=str(image), engine=self.case.engine)
        return msgspec.structs.replace(plain, **more)

    def new_image(self) -> Path:
        """Name an image that does not exist yet."""
        return self.sim.image(f"i{next(self._numbers)}")

    def checkpoint(self, image: Path, **more: Any) -> CheckpointResult:
        """Checkpoint the task to the end."""
        return self.client.checkpoint(TASK, self.options(image, **more))

    def begin(self, image: Path, **more: Any) -> Future[CheckpointResult]:
        """Begin a checkpoint of the task."""
        return self._pool.submit(self.checkpoint, image, **more)

    def restore(self, image: Path, **more: Any) -> RestoreResult:
        """Restore to the end."""
        plain = RestoreOptions(image_path=str(image), bundle=str(self.bundle(COPY)))
        return self.client.restore(COPY, msgspec.structs.replace(plain, **more))

    def begin_restore(self, image: Path, **more: Any) -> Future[RestoreResult]:
        """Begin a restore."""
        return self._pool.submit(self.restore, image, **more)

    def run(self, work: Callable[[], None]) -> Future[None]:
        """Do something beside the test."""
        return self._pool.submit(work)

    def call_checkpoint(self, image: Path, timeout_s: float | None = None, **more: Any) -> Wire:
        """Begin a checkpoint as a foreign program would."""
        stream = cryo_operations.checkpoint(_REF, self.options(image, **more))
        return Wire(self.sim.address, stream, timeout_s)

    def call_restore(self, image: Path, timeout_s: float | None = None) -> Wire:
        """Begin a restore as a foreign program would."""
        options = RestoreOptions(image_path=str(image), bundle=str(self.bundle(COPY)))
        stream = cryo_operations.restore(TaskRef(namespace="default", id=COPY), options)
        return Wire(self.sim.address, stream, timeout_s)

    def spawn_cryo(self, *arguments: str) -> int:
        """Start the command line as a program of its own; return its pid."""
        argv = [sys.executable, "-m", "shim.entry.cli", "--address", self.sim.address, *arguments]
        output = self.sim.folder / "cryo.log"
        return self.sim.remote.spawn(argv, output=output, env=environment())

    # Faults.

    def slow(self, seconds: float = 3.0) -> Fault:
        """Make the copying out of GPU memory take that long, for the second process."""
        return Fault(action="checkpoint", kind=Kind.SLOW, nth=2, seconds=seconds)

    def small_disk(self, size_bytes: int) -> Path:
        """Mount a small disk for images."""
        return self.sim.small_disk(f"disk{next(self._numbers)}", size_bytes)

    def fill(self, disk: Path) -> None:
        """Let a small disk have no space left, by making it as small as what it holds."""
        # Somebody may write to it in between, and then it cannot be made that small.
        wait_until(lambda: self._shrink(disk), "the full disk", _END_S)

    def _shrink(self, disk: Path) -> bool:
        ran = self.sim.remote.run(["stat", "-f", "-c", "%b %f %S", str(disk)])
        blocks, free, size = map(int, ran.out.split())
        return self._resize(disk, max(blocks - free, 1) * size).status == 0

    def starve(self, name: str) -> None:
        """Let a task have no more memory than it cannot do without now."""
        for memory in self._memory_of(name):
            memory.starve()

    def feed(self, name: str) -> int:
        """Give a task its memory back; return how often the kernel has killed for want of it."""
        kills = [memory.feed() for memory in self._memory_of(name)]
        return sum(kills)

    def _memory_of(self, name: str) -> list[Memory]:
        paths = [path for path in self.cgroups() if path.name == self.cgroup(name)]
        return [Memory(path) for path in paths if limits(path)]

    def empty(self, disk: Path, size_bytes: int) -> None:
        """Give a small disk another size."""
        ran = self._resize(disk, size_bytes)
        assert ran.status == 0, ran.err

    def _resize(self, disk: Path, size_bytes: int) -> Ran:
        return self.sim.remote.run(["mount", "-o", f"remount,size={size_bytes}", str(disk)])

    def listing(self, folder: Path) -> list[str]:
        """List a folder as the namespace sees it."""
        return self.sim.remote.run(["ls", "-A", str(folder)]).out.split()

    def kill_supervisor(self) -> None:
        """Kill the process that is the parent of all that the sidecar has started."""
        for pid, argv in command_lines():
            if str(self.sim.folder / "state") in argv and any(_SUPERVISOR in word for word in argv):
                self.sim.remote.kill(pid)

    def freeze_runsc(self) -> int:
        """Let every runsc that starts from now on hang in the kernel; return who is to be ended.

        Go's runtime looks there before a program's first line (getHugePageSize in runtime).
        """
        argv = [sys.executable, "-m", "tests.hung", _GO_LOOKS_THERE]
        output = self.sim.folder / "hung.log"
        output.unlink(missing_ok=True)
        pid = self.sim.remote.spawn(argv, output=output, env=environment())
        wait_until(
            lambda: output.exists() and "mounted" in output.read_text("utf-8"), "the mount", _END_S
        )
        return pid

    def unfreeze_runsc(self, pid: int) -> None:
        """End what `freeze_runsc` has begun."""
        self.sim.remote.kill(pid, signal.SIGTERM)
        assert self.sim.remote.wait(pid, _END_S) == 0

    def start_copy(self) -> None:
        """Make and start another task."""
        self.client.create(COPY, str(self.bundle(COPY)))
        self.client.start(COPY)

    def halt_at(self, **point: Any) -> None:
        """Let the sidecar halt at this point of its next operation."""
        partial = self.sim.halt_file.with_suffix(".new")
        partial.write_bytes(msgspec.json.encode(msgspec.convert(point, Point)))
        partial.replace(self.sim.halt_file)

    def until_halted(self) -> None:
        """Wait until the sidecar has halted."""
        wait_until(self.halted, "the halt", _HALT_S)

    def halted(self) -> bool:
        """Whether the sidecar has halted."""
        return state_of(self.sim.sidecar_pid) == "T"

    def journal(self) -> dict[str, Any]:
        """Read the open journal, as the namespace sees it."""
        [path] = self.journals()
        found: dict[str, Any] = json.loads(self.sim.remote.run(["cat", path]).out)
        return found

    def kill_tools(self, name: str) -> None:
        """Kill what runs in a container beside its workload."""
        own = {1, *self.sim.status(self.inside, name).pids}
        for pid in self.inside.pids(name) - own:
            self.inside.exec(name, ["/bin/kill", "-9", str(pid)])

    def until_saved(self) -> None:
        """Wait until the command of a save has ended, which outlives its sidecar."""
        wait_until(lambda: not self.runscs()["checkpoint"], "the end of the save", _END_S)

    def halted_before_the_end_of(self, future: Future[Any]) -> bool:
        """Wait until the sidecar has halted, or the call that should make it halt has ended."""
        wait_until(lambda: self.halted() or future.done(), "the halt", _HALT_S)
        return self.halted()

    def resume(self) -> None:
        """Let a halted sidecar go on."""
        self.sim.remote.kill(self.sim.sidecar_pid, signal.SIGCONT)

    def crash(self) -> None:
        """End the sidecar with SIGKILL."""
        self.sim.kill_sidecar()

    # What must hold at the end.

    def assert_unharmed(
        self, state: TaskState = TaskState.RUNNING, *, saved: bool | None = None
    ) -> None:
        """Check that the task is as before, that nothing is left, and (`saved`) can be saved."""
        with contextlib.suppress(CryoError):
            wait_until(lambda: self.state() is state, f"state {state}", _END_S)
        assert self.state() is state
        if state is TaskState.PAUSED:
            self.client.resume(TASK)
        self.assert_thawed()
        self.assert_clean(TASK)
        if self.thorough if saved is None else saved:
            self.assert_can_be_saved()

    def assert_can_be_saved(self) -> None:
        """Check that a checkpoint made now succeeds, and that its image restores."""
        image = self.new_image()
        result = self.checkpoint(image)
        assert len(result.processes) == PROCESSES
        self.assert_restores(image)

    def assert_restores(self, image: Path) -> None:
        """Check that an image verifies whole and becomes a task that works; remove both."""
        self.client.verify(str(image), Verify.FULL)
        self.restore(image)
        self.assert_thawed(COPY)
        self.remove(COPY)
        self.client.remove(str(image))

    def assert_stopped_with(self, image: Path) -> None:
        """Check that the task has ended and its image is complete; delete the task."""
        wait_until(lambda: self.state() is TaskState.STOPPED, "its end", _END_S)
        assert self.client.state(TASK).exit is not None
        self.client.delete(TASK)
        self.assert_clean()
        self.assert_restores(image)
