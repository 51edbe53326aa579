"""A sidecar, a task with three CUDA processes, and the operations and faults of the tests."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
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
# Long enough for two busy cores; tests of a hang set shorter ones.
TIMEOUTS = {"detect": 60.0, "lock": 60.0, "freeze": 60.0, "thaw": 60.0, "rollback": 120.0}
_HALT_S = 90.0
_END_S = 60.0
_SUPERVISOR = "shim.host.supervisor.server"
_GO_LOOKS_THERE = "/sys/kernel/mm/transparent_hugepage"
_REF = TaskRef(namespace="default", id=TASK)


class Rig(Judge):
    """One machine for many faults: a task that survives one fault is used for the next."""

    def __init__(self, sim: Halting, case: Case) -> None:
        super().__init__(sim)
        self.case = case
        self._numbers = itertools.count(1)
        self._pool = ThreadPoolExecutor(4)
        self._timeouts: dict[str, float] = {}
        self._judged = False
        # Whether a pause of the task parks it.
        self.parks = False
        # More annotations of new tasks.
        self.annotations: dict[str, str] = {}
        # More tables of the sidecar's config.toml.
        self.tables: dict[str, dict[str, Any]] = {}
        # Whether a task that survived a fault is then saved and restored.
        self.thorough = False

    # Setup.

    def mount_state(self) -> None:
        """Mount a tmpfs for the state directory, as /run is one, so that a test can fill it."""
        argv = ["mount", "-t", "tmpfs", "-o", f"size={ROOM_BYTES}", "tmpfs"]
        ran = self.sim.remote.run([*argv, str(self.sim.folder / "state")])
        assert ran.status == 0, ran.err

    def close(self) -> None:
        """Close the client and the threads; the machine ends its own processes."""
        self.resume()
        self.client.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def serve(self, **timeouts: float) -> None:
        """Run a sidecar with these timeouts; start a new one if there is none or they differ."""
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
        # Each sandbox has its own cgroup, as under containerd.
        flags = {"ignore-cgroups": "false"}
        self.sim.start_sidecar(timeouts=self._timeouts, runsc__flags=flags, **self.tables)
        self.reconnect()

    @contextlib.contextmanager
    def served_with(self, **tables: dict[str, Any]) -> Iterator[None]:
        """Run a sidecar with these tables of config.toml within the block."""
        self.tables = tables
        try:
            self.sim.stop_sidecar()
            self.serve_again()
            yield
        finally:
            self.tables = {}
            self.sim.stop_sidecar()
            self.serve_again()

    def reconnect(self) -> None:
        """Open a new connection to the sidecar."""
        self.client.close()
        self.client = Client(self.sim.address)
        self._fds = Counter()

    def have_task(self) -> None:
        """Make sure the task runs undamaged and no fault is armed; create a new task if needed."""
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
        """Record that the task was just checked completely, and can be used by the next test."""
        self._judged = True

    def renew(self, *, driver: int = 0) -> None:
        """Create a new task, with another driver version if one is given."""
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
        return status.intact and len(status.processes) == PROCESSES and not misused

    def repair(self) -> None:
        """Clean up after a test: nothing is halted or armed, and a sidecar runs."""
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
        settings = Settings(processes=PROCESSES, period_s=0.25)
        parks = {"io.cryo.park": "true"} if self.parks else {}
        annotations = {**self.annotations, **parks}
        folder = self.sim.bundle(name, settings, inject_tool=False, annotations=annotations)
        spec = folder / "config.json"
        content = json.loads(spec.read_text("utf-8"))
        content["linux"]["cgroupsPath"] = f"/{self.cgroup(name)}"
        spec.write_text(json.dumps(content), "utf-8")
        return folder

    def remove(self, name: str) -> None:
        """Kill and delete a task, if it exists."""
        self._judged = self._judged and name != TASK
        with contextlib.suppress(NotFound):
            if self.state(name) is not TaskState.STOPPED:
                self.client.kill(name, signal.SIGKILL)
                wait_until(lambda: self.state(name) is TaskState.STOPPED, "its end", _END_S)
            self.client.delete(name)

    # Requests to the sidecar.

    def options(self, image: Path, **more: Any) -> CheckpointOptions:
        """Return checkpoint options for an image, with the engine of this case."""
        plain = CheckpointOptions(image_path=str(image), engine=self.case.engine)
        return msgspec.structs.replace(plain, **more)

    def new_image(self) -> Path:
        """Return the path of an image that does not exist yet."""
        return self.sim.image(f"i{next(self._numbers)}")

    def checkpoint(self, image: Path, **more: Any) -> CheckpointResult:
        """Checkpoint the task and wait for the result."""
        return self.client.checkpoint(TASK, self.options(image, **more))

    def begin(self, image: Path, **more: Any) -> Future[CheckpointResult]:
        """Start a checkpoint of the task in the background."""
        return self._pool.submit(self.checkpoint, image, **more)

    def restore(self, image: Path, **more: Any) -> RestoreResult:
        """Restore an image and wait for the result."""
        plain = RestoreOptions(image_path=str(image), bundle=str(self.bundle(COPY)))
        return self.client.restore(COPY, msgspec.structs.replace(plain, **more))

    def begin_restore(self, image: Path, **more: Any) -> Future[RestoreResult]:
        """Start a restore in the background."""
        return self._pool.submit(self.restore, image, **more)

    def run(self, work: Callable[[], None]) -> Future[None]:
        """Run a function in the background."""
        return self._pool.submit(work)

    def call_checkpoint(self, image: Path, timeout_s: float | None = None, **more: Any) -> Wire:
        """Start a checkpoint as a client in another language would."""
        stream = cryo_operations.checkpoint(_REF, self.options(image, **more))
        return Wire(self.sim.address, stream, timeout_s)

    def call_restore(self, image: Path, timeout_s: float | None = None) -> Wire:
        """Start a restore as a client in another language would."""
        options = RestoreOptions(image_path=str(image), bundle=str(self.bundle(COPY)))
        stream = cryo_operations.restore(TaskRef(namespace="default", id=COPY), options)
        return Wire(self.sim.address, stream, timeout_s)

    def spawn_cryo(self, *arguments: str) -> int:
        """Start `cryo` as a separate process; return its pid."""
        argv = [sys.executable, "-m", "shim.entry.cli", "--address", self.sim.address, *arguments]
        output = self.sim.folder / "cryo.log"
        return self.sim.remote.spawn(argv, output=output, env=environment())

    # Faults.

    def slow(self, seconds: float = 3.0) -> Fault:
        """Return a fault that delays the freeze of the second process."""
        return Fault(action="checkpoint", kind=Kind.SLOW, nth=2, seconds=seconds)

    def small_disk(self, size_bytes: int) -> Path:
        """Mount a small disk for images."""
        return self.sim.small_disk(f"disk{next(self._numbers)}", size_bytes)

    def fill(self, disk: Path) -> None:
        """Fill a small disk, by shrinking it to its contents."""
        # A concurrent write makes the remount fail.
        wait_until(lambda: self._shrink(disk), "the full disk", _END_S)

    def _shrink(self, disk: Path) -> bool:
        ran = self.sim.remote.run(["stat", "-f", "-c", "%b %f %S", str(disk)])
        blocks, free, size = map(int, ran.out.split())
        return self._resize(disk, max(blocks - free, 1) * size).status == 0

    def starve(self, name: str) -> None:
        """Lower the memory limit of a task to its minimum."""
        for memory in self._memory_of(name):
            memory.starve()

    def feed(self, name: str) -> int:
        """Remove the memory limit of a task; return how many processes the kernel has killed."""
        kills = [memory.feed() for memory in self._memory_of(name)]
        return sum(kills)

    def _memory_of(self, name: str) -> list[Memory]:
        paths = [path for path in self.cgroups() if path.name == self.cgroup(name)]
        return [Memory(path) for path in paths if limits(path)]

    def empty(self, disk: Path, size_bytes: int) -> None:
        """Resize a small disk."""
        ran = self._resize(disk, size_bytes)
        assert ran.status == 0, ran.err

    def _resize(self, disk: Path, size_bytes: int) -> Ran:
        return self.sim.remote.run(["mount", "-o", f"remount,size={size_bytes}", str(disk)])

    def listing(self, folder: Path) -> list[str]:
        """List a directory as seen in the namespace."""
        return self.sim.remote.run(["ls", "-A", str(folder)]).out.split()

    def kill_supervisor(self) -> None:
        """Kill the process supervisor."""
        for pid, argv in command_lines():
            if str(self.sim.folder / "state") in argv and any(_SUPERVISOR in word for word in argv):
                self.sim.remote.kill(pid)

    def freeze_runsc(self) -> int:
        """Make every new runsc hang in the kernel; return the pid for `unfreeze_runsc`.

        Go's runtime reads this file before a program starts (getHugePageSize in runtime).
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
        """Undo `freeze_runsc`."""
        self.sim.remote.kill(pid, signal.SIGTERM)
        assert self.sim.remote.wait(pid, _END_S) == 0

    def start_copy(self) -> None:
        """Create and start another task."""
        self.client.create(COPY, str(self.bundle(COPY)))
        self.client.start(COPY)

    def halt_at(self, **point: Any) -> None:
        """Make the sidecar halt at this point of its next operation."""
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
        """Read the open journal, as seen in the namespace."""
        [path] = self.journals()
        found: dict[str, Any] = json.loads(self.sim.remote.run(["cat", path]).out)
        return found

    def kill_tools(self, name: str) -> None:
        """Kill the processes in a container that are not its workload's."""
        own = {1, *self.sim.status(self.inside, name).pids}
        for pid in self.inside.pids(name) - own:
            self.inside.exec(name, ["/bin/kill", "-9", str(pid)])

    def until_saved(self) -> None:
        """Wait until `runsc checkpoint` has exited, which outlives its sidecar."""
        wait_until(lambda: not self.runscs()["checkpoint"], "the exit of runsc checkpoint", _END_S)

    def halted_before_the_end_of(self, future: Future[Any]) -> bool:
        """Wait until the sidecar has halted or the call has ended; return whether it has halted."""
        wait_until(lambda: self.halted() or future.done(), "the halt", _HALT_S)
        return self.halted()

    def resume(self) -> None:
        """Continue a halted sidecar."""
        self.sim.remote.kill(self.sim.sidecar_pid, signal.SIGCONT)

    def crash(self) -> None:
        """Kill the sidecar with SIGKILL."""
        self.sim.kill_sidecar()

    # Checks at the end.

    def assert_unharmed(
        self, state: TaskState = TaskState.RUNNING, *, saved: bool | None = None
    ) -> None:
        """Check that the task is as before, that nothing is left, and (`saved`) a save works."""
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
        """Check that an image verifies and restores to a task that works; remove both."""
        self.client.verify(str(image), Verify.FULL)
        self.restore(image)
        self.assert_thawed(COPY)
        self.remove(COPY)
        self.client.remove(str(image))

    def assert_stopped_with(self, image: Path) -> None:
        """Check that the task has exited and its image is complete; delete the task."""
        wait_until(lambda: self.state() is TaskState.STOPPED, "its end", _END_S)
        assert self.client.state(TASK).exit is not None
        self.client.delete(TASK)
        self.assert_clean()
        self.assert_restores(image)
