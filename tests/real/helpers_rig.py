"""A simulated machine with a sidecar, and what tests do on it: the real way of a user."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from shim.client import Client
from shim.errors import CryoError, Unavailable
from shim.model import (
    CheckpointOptions,
    CheckpointResult,
    EngineName,
    Exit,
    Phase,
    Progress,
    RestoreOptions,
    RestoreResult,
    Stdio,
)
from shim.selftest.guest import TaskGuest
from shim.simgpu.remote import Ran
from shim.simgpu.sandbox import Sandbox
from shim.simgpu.simulation import Settings, Simulation, wait_until
from shim.simgpu.status import Status
from shim.state import TaskState
from tests.builds import RunscBuild

WAIT_S = 20.0
# Files of the folder of images that stay without an image.
OF_THE_STORE = (".cryo-index.json", ".cryo-names.lock", ".cryo-labels.json", ".cryo-timeline.json")
# A workload that makes its steps as fast as it can takes all cores.
PERIOD_S = 0.25
_TICK_MS = 20
_T = TypeVar("_T")


class OwnGuest:
    """Runs programs in the sidecar's containers behind its back, as an operator with runsc can."""

    def __init__(self, box: Sandbox) -> None:
        self.box = box

    def exec(self, name: str, argv: Sequence[str], *, timeout_s: float = 60.0) -> Ran:
        """Run it to its end."""
        return self.box.exec(f"{name}+", argv, timeout_s=timeout_s)


class Rig:
    """One machine with one runsc, its sidecar and a client."""

    def __init__(self, sim: Simulation, build: RunscBuild) -> None:
        self.sim = sim
        self.build = build
        self.client = Client(sim.address)
        self.guest = TaskGuest(self.client, sim.folder)
        self.behind = OwnGuest(self._sandbox())
        self._idle_fds = 0

    def _sandbox(self) -> Sandbox:
        root = self.sim.folder / "state" / "runsc" / "default"
        return Sandbox(self.sim.remote, self.build.path, root, self.sim.flags)

    # Tasks.

    def settings(self, **settings: Any) -> Settings:
        """Return the settings of a workload."""
        return Settings(**{"period_s": PERIOD_S} | settings)

    def workload(self, name: str, **settings: Any) -> Status:
        """Start a workload and wait for its first steps."""
        chosen = self.settings(**settings)
        bundle = self.sim.bundle(name, chosen, inject_tool=False)
        self.client.create(name, str(bundle))
        self.client.start(name)
        return self.sim.until_ready(self.guest, name)

    def bundle(self, name: str, argv: Sequence[str], **changes: Any) -> Path:
        """Write the bundle of a plain container; `changes` go into its `process`."""
        folder = self.sim.bundle(name, Settings(gpu=False), inject_tool=False)
        with self.edited(folder) as spec:
            spec["process"] |= {"args": list(argv), **changes}
        return folder

    @contextlib.contextmanager
    def edited(self, bundle: Path) -> Iterator[dict[str, Any]]:
        """Give a bundle's spec, and write it back as it was left."""
        path = bundle / "config.json"
        spec = json.loads(path.read_text("utf-8"))
        yield spec
        path.write_text(json.dumps(spec), "utf-8")

    def program(self, name: str, *argv: str, stdio: Stdio | None = None, **changes: Any) -> int:
        """Create and start a plain container; return its pid."""
        bundle = self.bundle(name, argv, **changes)
        self.client.create(name, str(bundle), stdio=stdio or Stdio())
        return self.client.start(name)

    def sleeper(self, name: str) -> int:
        """Start a container that does nothing until it is killed."""
        return self.program(name, "/bin/sleep", "1000")

    def execute(self, name: str, exec_id: str, *argv: str, stdio: Stdio | None = None) -> int:
        """Run a program in a task; return its number there."""
        process = {"args": list(argv), "cwd": "/", "env": ["PATH=/usr/bin:/bin"]}
        spec = {**process, "user": {"uid": 0, "gid": 0}}
        self.client.exec(name, exec_id, spec, stdio or Stdio())
        return self.client.start(name, exec_id)

    def fine(self, name: str) -> bool:
        """Whether a workload goes on and has lost nothing."""
        before = self.sim.verify(self.guest, name)
        after = [before]

        def moved() -> bool:
            after[0] = self.sim.verify(self.guest, name)
            now = after[0].generations
            return not after[0].intact or all(now[p] > g for p, g in before.generations.items())

        wait_until(moved, f"progress of {name}", WAIT_S)
        return before.intact and after[0].intact

    def end(self, name: str, number: int = signal.SIGKILL) -> Exit:
        """Kill a task, wait for its end, and delete it."""
        self.client.kill(name, number)
        ended = self.client.wait(name)
        self.client.delete(name)
        return ended

    def start_sidecar(self) -> None:
        """Start the sidecar again, and wait until the client has found it."""
        self.sim.start_sidecar()

        def answers() -> bool:
            with contextlib.suppress(Unavailable):
                self.client.list()
                return True
            return False

        wait_until(answers, "the sidecar", WAIT_S)

    def crash(self) -> None:
        """Kill the sidecar, and start it again."""
        self.sim.kill_sidecar()
        self.start_sidecar()

    # Images.

    def checkpoint(self, name: str, engine: str = "auto", **options: Any) -> CheckpointResult:
        """Checkpoint a task."""
        chosen = CheckpointOptions(engine=EngineName(engine), **options)
        return self.client.checkpoint(name, chosen)

    def restore(self, name: str, image: str | Path, **options: Any) -> RestoreResult:
        """Restore an image under an id."""
        return self.client.restore(name, RestoreOptions(image_path=str(image), **options))

    def bytes_read(self, name: str, image: str | Path, **options: Any) -> int:
        """Restore an image; return how much of it was read for verification."""
        seen: list[int] = [0]

        def report(progress: Progress) -> None:
            if progress.phase is Phase.VERIFY:
                seen.append(progress.bytes_total)

        self.client.restore(name, RestoreOptions(image_path=str(image), **options), report)
        return max(seen)

    # After the test.

    def clear(self) -> None:
        """Take away every task, fault and image."""
        self.sim.faults()
        self.sim.limit(reserved_bytes=0, capacity_bytes=self.sim.capacity_bytes)
        for view in self.client.list():
            if view.state is not TaskState.STOPPED:
                with contextlib.suppress(CryoError):
                    self.client.kill(view.id, signal.SIGKILL)
                self.client.wait(view.id)
            self.client.delete(view.id)
        for image in self.client.images():
            self.client.remove(image.path)
        self.sim.calls(clear=True)

    def leftovers(self) -> list[str]:
        """Name what must not be there when no task is."""
        state, images = self.sim.folder / "state", self.sim.folder / "images"
        found = [str(path) for path in (state / "tasks").glob("*/*")]
        found += [str(path) for path in (state / "runsc").glob("*/*") if _is_of_a_task(path)]
        found += [str(path) for path in images.rglob(".cryo-*") if path.name not in OF_THE_STORE]
        found += [line for line in self._mounts() if f"{state}/tasks" in line]
        found += [f"device: {a}" for a in self.sim.device()["allocations"]]
        return found + [f"sandbox {pid}" for pid in self.sandboxes()]

    def _mounts(self) -> list[str]:
        ran = self.sim.remote.run(["/bin/cat", "/proc/self/mounts"])
        return ran.out.splitlines()

    def sandboxes(self) -> list[int]:
        """List the runsc processes of this machine."""
        root = str(self.sim.folder / "state" / "runsc")
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if root in (entry / "cmdline").read_text("utf-8", "replace"):
                    found.append(int(entry.name))
        return found

    def commands(self) -> set[str]:
        """Give all words of the command lines of the runsc processes of this machine."""
        words: set[str] = set()
        for pid in self.sandboxes():
            with contextlib.suppress(OSError):
                words.update(Path(f"/proc/{pid}/cmdline").read_text("utf-8", "replace").split("\0"))
        return words


@contextlib.contextmanager
def machine_with(build: RunscBuild, **config: dict[str, Any]) -> Iterator[Rig]:
    """Give a machine with a sidecar, whose config.toml gets `config` too."""
    with Simulation(build.path) as sim:
        sim.start_sidecar(**config)
        yield Rig(sim, build)


def _is_of_a_task(path: Path) -> bool:
    """Whether runsc keeps this file for one container; locks and a network serve them all."""
    return path.suffix != ".lock" and path.name != "null-netns"


def refused(kind: type[CryoError], call: Callable[[], object]) -> CryoError:
    """Make a call that must fail; return its error, which is exactly of this class and helps."""
    with pytest.raises(CryoError) as caught:
        call()
    error = caught.value
    assert type(error) is kind, repr(error)
    assert error.message
    assert error.remedy, error.message
    assert "\n" not in error.message
    return error


def at_once(*works: Callable[[], _T]) -> list[_T]:
    """Do things at the same time; return what came of each."""
    with ThreadPoolExecutor(len(works)) as pool:
        futures = [pool.submit(work) for work in works]
        return [future.result(WAIT_S * 3) for future in futures]


class Background:
    """A call under way in a thread; `result` waits for it."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._future = self._pool.submit(call)
        self._pool.shutdown(wait=False)

    def result(self, timeout_s: float = WAIT_S * 2) -> Any:
        """Return what the call returned, or raise what it raised."""
        return self._future.result(timeout_s)

    @property
    def done(self) -> bool:
        """Whether it has exited."""
        return self._future.done()


class Output:
    """A file that a process writes to."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.path = rig.sim.folder / f"{name}.out"
        self.stdio = Stdio(stdout=f"file://{self.path}", stderr=f"file://{self.path}")

    def text(self) -> str:
        """Return what it wrote so far."""
        return self.path.read_text("utf-8") if self.path.exists() else ""

    def until(self, text: str) -> None:
        """Wait until it wrote this."""
        wait_until(lambda: text in self.text(), repr(text), WAIT_S)


class Reader:
    """Reads a fifo to its end in a thread, as a client at the other side does."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._ended = threading.Event()
        self.data = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        """Read until all writers are gone; before the first one comes, poll says nothing."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while not self._ended.is_set():
            if not poll.poll(_TICK_MS):
                continue
            piece = os.read(self._fd, 1 << 16)
            if not piece:
                self._ended.set()
            self.data += piece

    def until(self, text: bytes) -> None:
        """Wait until this was read."""
        wait_until(lambda: text in self.data, repr(text), WAIT_S)

    def finish(self) -> bytes:
        """Wait for the end; return everything."""
        assert self._ended.wait(WAIT_S), "no end of the output"
        return self.data

    def close(self) -> None:
        """Stop reading."""
        self._ended.set()
        self._thread.join()
        os.close(self._fd)


class Fifos:
    """The three fifos of a process, and a client that holds the other ends."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._in = folder / "in"
        os.mkfifo(self._in)
        self._writer = os.open(self._in, os.O_RDWR)
        self.out = Reader(folder / "out")
        self.err = Reader(folder / "err")
        self.stdio = Stdio(
            stdin=str(self._in), stdout=str(folder / "out"), stderr=str(folder / "err")
        )
        self.terminal = Stdio(stdin=str(self._in), stdout=str(folder / "out"), terminal=True)

    def write(self, data: bytes) -> None:
        """Type something."""
        os.write(self._writer, data)

    def leave(self) -> None:
        """Close the client's end of the input."""
        os.close(self._writer)
        self._writer = -1

    def come(self) -> None:
        """Open it again."""
        self._writer = os.open(self._in, os.O_WRONLY | os.O_NONBLOCK)

    def close(self) -> None:
        """Let go of everything."""
        if self._writer >= 0:
            self.leave()
        self.out.close()
        self.err.close()
