"""A small real task service that lives in memory: every operation, and faults on demand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import msgspec

from shim.distribution.image_diff import FileChange, ImageDiff
from shim.errors import AlreadyExists, CryoError, IllegalState, NotFound
from shim.finding import Area, Finding, Level
from shim.image.eviction import Kept, Pruned
from shim.image.name import ImageName
from shim.image.name_view import NamedImageView, NameView
from shim.image.named import ImageRef
from shim.image.named_use import NamedUse, NameOutcome, Reason
from shim.image.plain_diff import Change, ContainerChanges
from shim.image.retention import AS_CONFIGURED, PruneOptions, Removal
from shim.model import (
    CheckpointOptions,
    CheckpointResult,
    Clone,
    CloneResult,
    CreateRequest,
    CudaProcess,
    Exit,
    GuestProcessView,
    ImageView,
    KeyFile,
    Phase,
    Pids,
    ProcessList,
    ProcessView,
    Progress,
    Report,
    RestoreOptions,
    RestoreResult,
    Span,
    Speeds,
    Stats,
    Stdio,
    TaskRef,
    TaskView,
    Timeline,
    Verify,
)
from shim.service.service import Service
from shim.state import TaskState
from shim.task.clones import Admit
from shim.task.tasks import Tasks
from tests.wire.fakes_transfers import FakeTransfers
from tests.wire.programs import Cat

AT = datetime(2026, 11, 23, 12, 0, 0, 250000, tzinfo=UTC)
RESULT = CheckpointResult(
    image_path="/images/a",
    size_bytes=1 << 40,
    digest="blake3:00ff",
    engine="phased",
    processes=(CudaProcess(pid=7, name="train"), CudaProcess(pid=8)),
    warnings=("a connection was cut",),
    timings_s={"freeze": 0.25, "save": 1.5},
)
RESTORED = RestoreResult(
    pid=4321,
    engine="phased",
    processes=(CudaProcess(pid=7, name="train"), CudaProcess(pid=7, container="w")),
    members=("w", "x"),
    warnings=("slow",),
    timings_s={"load": 0.5},
)
FINDINGS = (
    Finding(area=Area.TASK, subject="state", level=Level.OK, text="running"),
    Finding(
        area=Area.GPU,
        subject="CUDA processes",
        level=Level.FAILURE,
        text="cuda-checkpoint is not in the container",
        remedy="install it",
    ),
)
UPDATES = (
    Progress(phase=Phase.PREFLIGHT, message="task a"),
    Progress(phase=Phase.LOCK, pid=7, pid_state="locked", elapsed_s=0.125),
    Progress(phase=Phase.LOCK, pid=7, pid_state="locked", container="w", elapsed_s=0.125),
    Progress(phase=Phase.SAVE, bytes_done=5 << 30, bytes_total=10 << 30, elapsed_s=1.5),
    Progress(phase=Phase.SAVE, message="a connection was cut", warning=True),
)
PROCESSES = ProcessList(
    processes=(
        GuestProcessView(
            pid=1,
            parent=0,
            name="python3",
            args=("python3", "train.py", "--name", "a b"),
            uid=1000,
            memory_bytes=3 << 30,
            gpu_devices=("/dev/nvidia0", "/dev/nvidiactl"),
            cuda_state="running",
            gpu_bytes=40 << 30,
        ),
        GuestProcessView(pid=7, parent=1, name="sh\x1b", args=("sh", "\x1b[31m")),
        GuestProcessView(pid=8),
    ),
    warnings=("CUDA states are not known",),
)
STATEMENT = b'{"task":"a"}'
DIFF = ImageDiff(
    old="/i",
    new="/j",
    manifest=(Change(field="engine", old="phased", new="builtin"),),
    containers=(
        ContainerChanges(
            name="a",
            spec=(Change(field="mounts[/data].source", old="/x"),),
            added=("NEW",),
            removed=("OLD",),
            changed=("TOKEN",),
        ),
    ),
    files=(
        FileChange(name="pages.img", old_bytes=1 << 30, new_bytes=1 << 30, shared_bytes=900 << 20),
        FileChange(name="pages_meta.img", old_bytes=None, new_bytes=5),
    ),
    old_bytes=1 << 30,
    new_bytes=1 << 30,
    shared_bytes=900 << 20,
)
MANIFEST = {"format": 1, "size": 2**60 + 1, "files": {"pages.img": {"size": 3}}}
IMAGE = ImageView(
    path="/images/a",
    task="a",
    created_at=AT,
    size_bytes=1 << 40,
    engine="phased",
    processes=2,
    digest="blake3:00ff",
    names={"default": ("llama:warm",), "k8s.io": ("llama:a", "llama:b")},
    pinned=True,
    expires_at=AT,
    last_used_at=AT,
    source="registry.example.com/llama:warm",
)


TIMELINE = Timeline(
    operation="checkpoint",
    task="a",
    began_at=AT,
    total_s=2.5,
    spans=(
        Span(phase=Phase.PREFLIGHT, duration_s=0.25),
        Span(phase=Phase.FREEZE, start_s=0.25, duration_s=0.25),
        Span(phase=Phase.FREEZE, name="runsc exec", start_s=0.25, duration_s=0.2),
        Span(phase=Phase.LOCK, pid=7, container="w", start_s=0.3, duration_s=0.125),
        Span(phase=Phase.SAVE, start_s=0.5, duration_s=2.0, bytes=1 << 31),
    ),
    engine="phased",
    image_path="/images/a",
    size_bytes=1 << 40,
    gpu_bytes=1 << 30,
    frozen_s=2.25,
    notes=("a note",),
    partial=True,
)
SPEEDS = Speeds(folder="/images", disk_write=1e9, copy=1e10, fresh=2e9, digest=4e9)
NAME = NameView(
    namespace="k8s.io",
    name="llama",
    kubernetes_namespace="team-a",
    images=(
        NamedImageView(
            path="/images/k8s.io/team-a/llama/f/1",
            fingerprint="f",
            created_at=datetime(2026, 11, 29, tzinfo=UTC),
            size_bytes=1 << 30,
            digest="ab",
            parts={
                "runsc": "release-1",
                "image": "",
                "spec process.args": ["sh", "-c", "exec serve"],
                "spec process.user": {"uid": 0},
                "spec mounts /tmp": {
                    "type": "tmpfs",
                    "options": ["nosuid", "ro"],
                    "uidMappings": [],
                },
            },
        ),
    ),
    use=NamedUse(
        hits=3,
        misses=1,
        refusals=2,
        saves=1,
        skips=4,
        failures=5,
        reasons=(
            Reason(
                outcome=NameOutcome.REFUSAL,
                text="it differs",
                count=2,
                last=datetime(2026, 11, 29, 1, tzinfo=UTC),
            ),
        ),
    ),
)

PRUNED = Pruned(
    removed=(
        Removal(path=Path("/images/a"), size_bytes=3 << 30, reason="expired"),
        Removal(path=Path("/images/b"), size_bytes=0, reason="not among the last 2 of ns/t"),
    ),
    kept=(Kept(path=Path("/images/c"), reason="in use"),),
    missing_bytes=1 << 20,
)


def as_tasks(core: FakeTasks) -> Tasks:
    """Pass a fake for the real tasks (test_operations.py compares their methods)."""
    return cast("Tasks", core)


def service_of(core: FakeTasks) -> Service:
    """Make what answers the operations on a fake."""
    return Service(as_tasks(core))


@dataclass
class FakeTask:
    request: CreateRequest
    state: TaskState = TaskState.CREATED
    exit: Exit | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    execs: dict[str, tuple[Mapping[str, Any], Stdio]] = field(default_factory=dict)
    program: Cat | None = None


class FakeTasks:
    """Tasks that are only remembered.

    `fail` makes the next operations raise; `hold` makes checkpoint and restore wait for
    `release` after their progress, and `rollback_s` is what undoing one then takes; one that is
    `committed` is not undone any more. With `status`
    a process that is started gives its input back and ends so.
    """

    def __init__(self) -> None:
        self.tasks: dict[TaskRef, FakeTask] = {}
        self.images = FakeImages(self)
        self.names = FakeNames(self)
        self.transfers = FakeTransfers(self)
        self.warm = FakeWarmStarts(self)
        self.host_info = FakeHostInfo(self)
        self.calls: list[tuple[Any, ...]] = []
        self.fail: BaseException | None = None
        self.hold = False
        self.rollback_s = 0.0
        self.committed = False
        self.release = asyncio.Event()
        self.holding = asyncio.Event()
        self.holder: asyncio.Task[Any] | None = None
        self.rolled_back = asyncio.Event()
        self.waiting = asyncio.Event()
        self.wait_cancelled = asyncio.Event()
        self.status: int | None = None
        self.recovered = False
        self.closed = False

    def begin(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, *arguments))
        if self.fail is not None:
            raise self.fail

    def _task(self, ref: TaskRef) -> FakeTask:
        if ref in self.tasks:
            return self.tasks[ref]
        raise NotFound(f"no task {ref}", remedy="cryo tasks ls shows them")

    def has(self, ref: TaskRef) -> bool:
        return ref in self.tasks

    async def recover(self) -> None:
        self.recovered = True

    async def tidy(self) -> None:
        self.begin("tidy")

    async def close(self) -> None:
        self.closed = True

    async def create(self, request: CreateRequest) -> int:
        self.begin("create", request)
        if request.ref in self.tasks:
            raise AlreadyExists(f"task {request.ref} exists")
        self.tasks[request.ref] = FakeTask(request)
        return 0 if request.checkpoint else 1234

    async def start(self, ref: TaskRef, exec_id: str = "") -> int:
        self.begin("start", ref, exec_id)
        task = self._task(ref)
        task.state = TaskState.RUNNING
        if self.status is not None:
            stdio = task.execs[exec_id][1] if exec_id else task.request.stdio
            loop = asyncio.get_running_loop()

            def ended(status: int) -> None:
                loop.call_soon_threadsafe(self.end, ref, status)

            task.program = Cat(stdio, self.status, ended)
        return 1235 if exec_id else 1234

    async def state(self, ref: TaskRef, exec_id: str = "") -> ProcessView:
        self.begin("state", ref, exec_id)
        task = self._task(ref)
        return ProcessView(
            id=ref.id,
            exec_id=exec_id,
            bundle=task.request.bundle,
            pid=1234,
            state=task.state,
            stdio=task.request.stdio,
            exit=task.exit,
        )

    async def wait(self, ref: TaskRef, exec_id: str = "") -> Exit:
        self.begin("wait", ref, exec_id)
        task = self._task(ref)
        self.waiting.set()
        try:
            await task.ended.wait()
        except asyncio.CancelledError:
            self.wait_cancelled.set()
            raise
        assert task.exit is not None
        return task.exit

    def end(self, ref: TaskRef, status: int) -> None:
        """Let a task's process exit."""
        task = self._task(ref)
        task.state, task.exit = TaskState.STOPPED, Exit(status=status, at=AT)
        task.ended.set()

    async def kill(
        self, ref: TaskRef, signal: int, *, exec_id: str = "", everyone: bool = False
    ) -> None:
        self.begin("kill", ref, signal, exec_id, everyone)
        self.end(ref, 128 + signal)

    async def exec(
        self, ref: TaskRef, exec_id: str, process: Mapping[str, Any], stdio: Stdio
    ) -> None:
        self.begin("exec", ref, exec_id, process, stdio)
        self._task(ref).execs[exec_id] = (process, stdio)

    async def delete(self, ref: TaskRef, exec_id: str = "") -> ProcessView:
        self.begin("delete", ref, exec_id)
        if self._task(ref).state is not TaskState.STOPPED:
            raise IllegalState(f"task {ref} is {self._task(ref).state}", remedy="kill it first")
        view = await self.state(ref, exec_id)
        del self.tasks[ref]
        return view

    async def pids(self, ref: TaskRef) -> Pids:
        self.begin("pids", ref)
        return Pids(host=(4242, 4243), guest=(1, 7, 8))

    async def pause(self, ref: TaskRef) -> None:
        self.begin("pause", ref)
        self._task(ref).state = TaskState.PAUSED

    async def resume(self, ref: TaskRef) -> None:
        self.begin("resume", ref)
        self._task(ref).state = TaskState.RUNNING

    async def update(self, ref: TaskRef, resources: Mapping[str, Any]) -> None:
        self.begin("update", ref, resources)

    async def stats(self, ref: TaskRef) -> Stats:
        self.begin("stats", ref)
        return Stats(
            cpu_usage_ns=5_000_000,
            cpu_user_ns=3_000_000,
            cpu_system_ns=2_000_000,
            memory_bytes=1 << 33,
            memory_limit_bytes=1 << 34,
            pids=3,
        )

    async def namespaces(self) -> set[str]:
        self.begin("namespaces")
        return {ref.namespace for ref in self.tasks}

    async def processes(self, ref: TaskRef) -> ProcessList:
        self.begin("processes", ref)
        self._task(ref)
        return PROCESSES

    async def timelines(self, ref: TaskRef) -> tuple[Timeline, ...]:
        self.begin("timelines", ref)
        self._task(ref)
        return (TIMELINE, msgspec.structs.replace(TIMELINE, operation="park", error="it failed"))

    async def examine(self, ref: TaskRef) -> tuple[Finding, ...]:
        self.begin("examine", ref)
        self._task(ref)
        return FINDINGS

    async def close_io(self, ref: TaskRef, exec_id: str = "") -> None:
        self.begin("close_io", ref, exec_id)
        program = self._task(ref).program
        if program is not None:
            program.close_input()

    async def resize_pty(self, ref: TaskRef, width: int, height: int, exec_id: str = "") -> None:
        self.begin("resize_pty", ref, width, height, exec_id)

    async def checkpoint(
        self, ref: TaskRef, options: CheckpointOptions, report: Report
    ) -> CheckpointResult:
        self.begin("checkpoint", ref, options)
        await self.work(report)
        return RESULT

    async def restore(self, ref: TaskRef, options: RestoreOptions, report: Report) -> RestoreResult:
        self.begin("restore", ref, options)
        await self.work(report)
        return RESTORED

    async def clone(
        self, clones: Sequence[Clone], at_once: int, admit: Admit, report: Report
    ) -> tuple[CloneResult, ...]:
        self.begin("clone", tuple(clones), at_once)
        for one in clones:
            admit(one.ref)
        await self.work(report)
        return tuple(_cloned(one) for one in clones)

    async def work(self, report: Report) -> None:
        for progress in UPDATES:
            report(progress)
        if not self.hold:
            return
        self.holder = asyncio.current_task()
        self.holding.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            if self.committed:
                return
            await asyncio.sleep(self.rollback_s)
            self.rolled_back.set()
            raise

    async def list(self, namespace: str) -> list[TaskView]:
        self.begin("list", namespace)
        return [
            TaskView(
                namespace=ref.namespace,
                id=ref.id,
                bundle=task.request.bundle,
                pid=1234,
                state=task.state,
                created_at=AT,
                restored_from=task.request.checkpoint,
                gpu=True,
                exit=task.exit,
                execs=tuple(task.execs),
                warning="adopted",
            )
            for ref, task in sorted(self.tasks.items(), key=lambda item: item[0].id)
            if ref.namespace == namespace
        ]


def _cloned(one: Clone) -> CloneResult:
    """Fail to restore a clone whose id begins with `taken`, and restore every other."""
    if one.ref.id.startswith("taken"):
        return CloneResult(
            id=one.ref.id, took_s=0.0, kind="AlreadyExists", error="it exists", remedy="delete it"
        )
    devices = one.options.device_map
    gpus = tuple(devices.values())
    return CloneResult(id=one.ref.id, took_s=0.5, gpus=gpus, device_map=devices, restored=RESTORED)


class FakeImages:
    """One image."""

    def __init__(self, core: FakeTasks) -> None:
        self._core = core

    async def list(self) -> list[ImageView]:
        self._core.begin("images")
        return [IMAGE]

    async def inspect(self, image: str, namespace: str) -> dict[str, Any]:
        self._core.begin("inspect", image, namespace)
        return MANIFEST

    async def timeline(self, image: str, namespace: str) -> Timeline:
        self._core.begin("timeline", image, namespace)
        if image == "nothing":
            raise NotFound("there is no image nothing")
        return msgspec.structs.replace(TIMELINE, image_path=image)

    async def verify(
        self,
        image: str,
        mode: Verify,
        report: Report,
        namespace: str,
        *,
        untrusted_folder: bool = False,
        required: Sequence[KeyFile] = (),
    ) -> dict[str, Any]:
        more = [*["untrusted folder"] * untrusted_folder, *required]
        self._core.begin("verify", image, mode, namespace, *more)
        await self._core.work(report)
        return MANIFEST

    async def statement(self, image: str, namespace: str) -> bytes:
        self._core.begin("statement", image, namespace)
        return STATEMENT

    async def add_signature(self, image: str, namespace: str, key: KeyFile, signed: bytes) -> int:
        self._core.begin("add_signature", image, namespace, key, signed)
        return 2

    async def diff(self, old: str, new: str, namespace: str, report: Report) -> ImageDiff:
        self._core.begin("diff", old, new, namespace)
        await self._core.work(report)
        return DIFF

    async def remove(self, image: str, namespace: str) -> bool:
        self._core.begin("remove", image, namespace)
        return image.startswith("/")

    async def tag(self, image: str, name: ImageName, ttl_s: float) -> Path:
        self._core.begin("tag", image, name, ttl_s)
        return Path(IMAGE.path)

    async def untag(self, image: str, name: ImageName) -> Path:
        self._core.begin("untag", image, name)
        return Path(IMAGE.path)

    async def prune(self, options: PruneOptions = AS_CONFIGURED) -> Pruned:
        self._core.begin("prune", options)
        return PRUNED

    async def prune_cache(self) -> None:
        self._core.begin("prune_cache")

    async def pin(self, image: str, namespace: str, *, pinned: bool) -> Path:
        self._core.begin("pin", image, namespace, pinned)
        return Path(IMAGE.path)


class FakeNames:
    """One name of a pod's image."""

    def __init__(self, core: FakeTasks) -> None:
        self._core = core

    async def list(self, namespace: str) -> list[NameView]:
        self._core.begin("names", namespace)
        return [NAME]

    async def show(self, ref: ImageRef) -> NameView:
        self._core.begin("show", ref)
        return NAME

    async def drop(self, ref: ImageRef) -> int:
        self._core.begin("drop", ref)
        return len(NAME.images)


class FakeWarmStarts:
    """Saves tasks under names."""

    def __init__(self, core: FakeTasks) -> None:
        self._core = core

    async def save(self, ref: TaskRef, name: str, report: Report) -> CheckpointResult:
        self._core.begin("save", ref, name)
        await self._core.work(report)
        return RESULT


class FakeHostInfo:
    """A host."""

    def __init__(self, core: FakeTasks) -> None:
        self._core = core

    async def info(self) -> dict[str, str]:
        self._core.begin("info")
        return {"runsc": "release-1", "engines": "builtin, phased"}

    async def speeds(self, image_path: str) -> Speeds:
        self._core.begin("speeds", image_path)
        return SPEEDS


@contextlib.contextmanager
def failing(core: FakeTasks, error: BaseException) -> Any:
    """Let every operation of the core fail meanwhile."""
    core.fail = error
    try:
        yield
    finally:
        core.fail = None


def every_error() -> list[CryoError]:
    """Make one error of each class of the tree, with all that it can carry."""
    from shim import errors

    plain = [
        kind("it is so", remedy="do this")
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, CryoError)
        and kind not in {errors.RunscError, errors.CudaError}
    ]
    return [
        *plain,
        errors.RunscError("checkpoint", 128, "no space left", remedy="make room"),
        errors.CudaError("process 7 (train) would not lock", pid=7, remedy="wait"),
    ]
