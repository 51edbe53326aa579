"""A task under checkpoint or restore, without a sandbox: a process that sleeps stands for it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from shim.config import Config, Paths, Pods, Store, Timeouts, Trust
from shim.config import Cuda as CudaSettings
from shim.errors import CryoError
from shim.host import procs
from shim.host.process_id import ProcessId
from shim.model import CheckpointOptions, CheckpointResult, CudaState, Progress, TaskRef
from shim.oci import document
from shim.oci.document import Spec
from shim.runsc.argv import CheckpointArgs
from shim.runsc.client import Runsc
from shim.runsc.process_dump import DumpedProcess
from shim.runsc.run import Started
from shim.runsc.sentry import Sentry
from shim.transaction.checkpoint import Checkpoint
from shim.transaction.journal import Entry, Journal
from shim.transaction.park import Parking
from shim.transaction.target import CheckpointTarget
from tests.unit.fakes_guest import TOOL, Cuda, FakeGuest
from tests.unit.fakes_runsc import capabilities

QUICK = Timeouts(detect=60, lock=60, freeze=60, thaw=60, rollback=60, checkpoint=120)
REF = TaskRef(namespace="ns", id="a")
VERSION = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (x)\n"
    "GCC version:  gcc version 13.3.0\n"
)
SPEC: dict[str, Any] = {
    "ociVersion": "1.1.0",
    "process": {"args": ["/bin/train"], "cwd": "/"},
    "root": {"path": "rootfs"},
    "linux": {"devices": [{"path": "/dev/nvidiactl", "type": "c", "major": 195, "minor": 255}]},
}


class FakeRunsc(Runsc):
    """Pauses, resumes and saves a fake guest; with a tool's path it toggles as the sentry does."""

    def __init__(self, guest: FakeGuest, events: list[str], *, new: bool = True) -> None:
        self.capabilities = capabilities(new=new)
        self.flags = {"overlay2": "root:memory"}
        self.sentry = FakeSentry(self)
        self.guest = guest
        self.events = events
        self.saves: list[CheckpointArgs] = []
        self.fails: dict[str, BaseException] = {}
        self.save_gate: asyncio.Event | None = None
        # What is in the state file when the save fails: nothing, where its freeze did.
        self.half = b"half"
        self.saving = asyncio.Event()
        # Whether the command says how the save ended, and was not killed.
        self.answers = True
        # What the sentry reports about processes: whether each descends from an exec.
        self.origins: dict[int, bool] | CryoError = {}
        # /proc/net/tcp as the sentry gives it.
        self.tables: str | CryoError = ""
        # What each process uses.
        self.used: dict[int, frozenset[str]] | CryoError = {}
        # What happens when a save fails.
        self.failing: Callable[[], None] = lambda: None

    async def check_program(self, task_id: str, sandbox: ProcessId) -> None:
        await asyncio.sleep(0)
        if failure := self.fails.get("program"):
            raise failure

    async def pause(self, task_id: str) -> None:
        await self.do("pause")
        self.guest.paused = True

    async def resume(self, task_id: str) -> None:
        await self.do("resume")
        self.guest.paused = False

    async def wait_restore(self, task_id: str, timeout_s: float) -> None:
        await self.do("wait_restore")

    async def delete(self, task_id: str) -> None:
        await self.do("delete")

    async def checkpoint(
        self,
        args: CheckpointArgs,
        *,
        timeout_s: float,
        started: Started | None = None,
        answered: Callable[[], None] | None = None,
    ) -> None:
        self.saves.append(args)
        if started is not None:
            started(12345, 67890)
        self.saving.set()
        if self.save_gate is not None:
            await self.save_gate.wait()
        self._toggle(CudaState.RUNNING, CudaState.CHECKPOINTED, args)
        self.events.append("save " + " ".join(str(state) for state in self.guest.states))
        (Path(args.image_path) / "checkpoint.img").write_bytes(self.half)
        if self.answers and answered is not None:
            answered()
        if failure := self.fails.get("checkpoint"):
            self.failing()
            raise failure
        (Path(args.image_path) / "pages.img").write_bytes(b"pages" * 1000)
        if "resume toggles" not in self.fails:
            self._toggle(CudaState.CHECKPOINTED, CudaState.RUNNING, args)
        await self.do("saved")

    def _toggle(self, old: CudaState, new: CudaState, args: CheckpointArgs) -> None:
        for process in self.guest.processes:
            if args.cuda_checkpoint_path and process.state is old:
                process.state = new

    async def do(self, what: str) -> None:
        await asyncio.sleep(0)
        if what in self.fails:
            raise self.fails[what]
        self.events.append(what)


class FakeSentry(Sentry):
    """Answers as its runsc is configured."""

    def __init__(self, runsc: FakeRunsc) -> None:
        self._runsc = runsc

    async def reconcile_pause(self, task_id: str) -> None:
        """Do nothing: the fake guest is never apart from what it is said to be."""

    async def end_trace(self, task_id: str) -> None:
        """Do nothing: the fake leaves no trace session."""

    async def exec_descendants(self, task_id: str, wanted: Collection[int]) -> dict[int, bool]:
        await self._runsc.do("trace")
        origins = self._runsc.origins
        if isinstance(origins, CryoError):
            raise origins
        return {pid: origins[pid] for pid in wanted if pid in origins}

    async def read_files(self, task_id: str, files: Sequence[str]) -> str:
        await asyncio.sleep(0)
        if isinstance(self._runsc.tables, CryoError):
            raise self._runsc.tables
        return self._runsc.tables

    async def dump(self, task_id: str) -> dict[int, DumpedProcess]:
        await asyncio.sleep(0)
        if isinstance(self._runsc.used, CryoError):
            raise self._runsc.used
        return {
            pid: DumpedProcess(args=(), uid=0, memory_bytes=0, paths=paths)
            for pid, paths in self._runsc.used.items()
        }


@dataclass
class Scene:
    """A task and everything that its checkpoint may touch."""

    folder: Path
    sandbox: subprocess.Popen[bytes]
    guest: FakeGuest
    new: bool = True
    gpu: bool = True
    paused: bool = False
    exec_ran: bool = False
    timeouts: Timeouts = QUICK
    driver: str = "580.65.06"
    nvidia_smi: str = "/bin/true"
    # The other containers of the sandbox, by id, and those that have exited.
    others: dict[str, FakeGuest] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    # The name of such a container in an image, by its id.
    named: str = "{} by name"
    # Annotations of the sandbox's own container, and of all.
    annotations: dict[str, str] = field(default_factory=dict)
    pod_annotations: dict[str, str] = field(default_factory=dict)
    # The mounts of all containers, and the root directory of the kubelet.
    mounts: list[dict[str, Any]] = field(default_factory=list)
    kubelet: str = Pods().kubelet
    store: Store = field(default_factory=Store)
    trust: Trust = field(default_factory=Trust)
    updates: list[Progress] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.runsc = FakeRunsc(self.guest, self.events, new=self.new)
        self.guest.paused = self.paused
        self.images = self.folder / "images"
        self.journal = Journal(self.folder)
        self.nvidia = self.folder / "nvidia"
        self.nvidia.mkdir()
        (self.nvidia / "version").write_text(VERSION.format(self.driver))

    @property
    def config(self) -> Config:
        return Config(
            paths=Paths(
                state=str(self.folder),
                images=str(self.images),
                verified=str(self.folder / "verified"),
            ),
            cuda=CudaSettings(nvidia_proc=str(self.nvidia), nvidia_smi=self.nvidia_smi),
            timeouts=self.timeouts,
            pods=Pods(kubelet=self.kubelet),
            store=self.store,
            trust=self.trust,
        )

    @property
    def target(self) -> CheckpointTarget:
        return CheckpointTarget(
            ref=REF,
            config=self.config,
            runsc=self.runsc,
            guest=self.guest,
            sandbox=self.process,
            spec=self._spec(self.annotations),
            bundle=self.folder,
            guest_tool=TOOL,
            gpu=self.gpu,
            paused=self.paused,
            journal=self.journal,
            stop=self._stop,
            exec_ran=self.exec_ran,
            members=tuple(self._member(name, guest) for name, guest in self.others.items()),
        )

    def _spec(self, own: dict[str, str]) -> Spec:
        annotations = {**self.pod_annotations, **own}
        data = {**SPEC, "annotations": annotations} if annotations else SPEC
        data = {**data, "mounts": self.mounts} if self.mounts else data
        return document.parse(data, self.folder)

    def _member(self, name: str, guest: FakeGuest) -> CheckpointTarget:
        async def stop() -> None:
            self.events.append(f"stop {name}")

        return CheckpointTarget(
            ref=TaskRef(namespace="ns", id=name),
            config=self.config,
            runsc=self.runsc,
            guest=guest,
            sandbox=self.process,
            spec=self._spec({}),
            bundle=self.folder / name,
            guest_tool=TOOL,
            gpu=True,
            paused=False,
            journal=self.journal,
            stop=stop,
            ended=lambda: name in self.ended,
            container=name,
            name=self.named.format(name),
        )

    @property
    def process(self) -> ProcessId:
        return ProcessId(pid=self.sandbox.pid, start=procs.start_time(self.sandbox.pid) or 0)

    async def checkpoint(self, **options: Any) -> CheckpointResult:
        """Run one; what is not said is as usual."""
        return await Checkpoint(self.target, CheckpointOptions(**options), self._at_phase).run()

    async def error(self, **options: Any) -> CryoError:
        """Run one that must fail, and give its error."""
        try:
            await self.checkpoint(**options)
        except CryoError as error:
            return error
        raise AssertionError

    @property
    def warnings(self) -> list[str]:
        return [updates.message for updates in self.updates if updates.warning]

    @property
    def image_folders(self) -> list[Path]:
        """List every folder below that of the images, staging included."""
        return sorted(path for path in self.images.rglob("*") if path.is_dir())

    def on_disk(self) -> Entry | None:
        """Read the journal as the next process would."""
        return Journal(self.folder).load()

    def at_phase(self, phase: str, deed: Any) -> None:
        """Do something at the moment that a phase begins."""
        self._deeds = {**getattr(self, "_deeds", {}), phase: deed}

    def _at_phase(self, progress: Progress) -> None:
        self.updates.append(progress)
        deeds = getattr(self, "_deeds", {})
        if not progress.message and not progress.pid and not progress.bytes_total:
            deeds.pop(progress.phase, lambda: None)()

    async def _stop(self) -> None:
        self.sandbox.kill()
        await procs.wait_pidfd(self.sandbox.pid)
        self.events.append("stop")

    def as_before(self) -> bool:
        """Whether the task runs as if nothing had happened, and nothing is left behind."""
        guests = (self.guest, *self.others.values())
        states = {state for guest in guests for state in guest.states if state is not None}
        return (
            states <= {CudaState.RUNNING}
            and self.guest.paused == self.paused
            and self.on_disk() is None
            and self.image_folders == []
            and self.sandbox.poll() is None
        )


Make = Callable[..., Scene]


@contextmanager
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that does nothing, for as long as the test."""
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def in_states(folder: Path) -> Iterator[Make]:
    """Return a factory of tasks whose CUDA processes, from number 7 on, are in given states."""
    with sleeping() as process:

        def scene(*states: CudaState, **more: Any) -> Scene:
            guest = FakeGuest([Cuda(pid, f"p{pid}", s) for pid, s in enumerate(states, 7)])
            return Scene(folder, process, guest, **more)

        yield scene


def replaced(options: CheckpointOptions, **changes: Any) -> CheckpointOptions:
    """Change some of the options."""
    return msgspec.structs.replace(options, **changes)


def parking(scene: Scene) -> Parking:
    """Make the park of a task that knows whether it is paused, as the task layer does."""

    async def pause() -> None:
        await scene.runsc.pause("a")

    async def resume() -> None:
        if scene.guest.paused:
            await scene.runsc.resume("a")

    return Parking(scene.target, scene.updates.append, pause=pause, resume=resume)


@contextmanager
def scenes(folder: Path) -> Iterator[Callable[..., Scene]]:
    """Give a factory of scenes with two CUDA processes, or those that are named."""
    with sleeping() as process:

        def scene(*processes: Cuda, **more: Any) -> Scene:
            guest = FakeGuest(list(processes) or [Cuda(7, "train"), Cuda(8, "infer")])
            return Scene(folder, process, guest, **more)

        yield scene
