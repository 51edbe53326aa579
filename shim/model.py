"""The values passed between packages. Frozen, with no behaviour beyond validation."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, dataclass_transform

import msgspec

from shim.errors import InvalidArgument
from shim.state import TaskState

# The namespace of a call that names none.
DEFAULT_NAMESPACE = "default"
# Where a sidecar serves unless it is configured otherwise.
DEFAULT_ADDRESS = "unix:///run/cryo/cryo.sock"
# containerd's identifier rule, so that an id that works there works here.
_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_ID_MAX = 76


# Without this mypy treats every subclass as mutable.
@dataclass_transform(frozen_default=True, kw_only_default=True)
class Value(msgspec.Struct, frozen=True, kw_only=True):
    """Base class of all values: immutable, keyword-only."""


def check_id(what: str, text: str) -> str:
    """Return `text` when it is a safe file name and a containerd identifier.

    Raises:
        InvalidArgument: empty, too long, or with a character outside `[A-Za-z0-9_.-]`.
    """
    if len(text) <= _ID_MAX and _ID.fullmatch(text):
        return text
    shown = text[:_ID_MAX]
    message = f"{what} {shown!r} is not valid"
    raise InvalidArgument(
        message,
        remedy=f"use at most {_ID_MAX} letters, digits, '_', '.', '-', "
        "beginning and ending with a letter or digit",
    )


def utcnow() -> datetime:
    """Return the wall-clock time, for records; durations use a monotonic clock."""
    return datetime.now(UTC)


class TaskRef(Value):
    """A task's full name."""

    namespace: str
    id: str

    def __post_init__(self) -> None:
        """Reject names that are not safe file names."""
        check_id("namespace", self.namespace)
        check_id("task id", self.id)

    def __str__(self) -> str:
        """Return the form used in messages."""
        return self.id


class Mount(Value):
    """A rootfs mount, as containerd passes it."""

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


class Stdio(Value):
    """A process's standard streams: paths or URIs of fifos or files; empty is /dev/null."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


class Exit(Value):
    """How a process exited: a shell-style status (128+signal for a signal)."""

    status: int
    at: datetime


class ProcessView(Value):
    """One process, as State returns it."""

    id: str
    exec_id: str
    bundle: str
    pid: int
    state: TaskState
    stdio: Stdio
    exit: Exit | None = None


class TaskView(Value):
    """One task in a listing."""

    namespace: str
    id: str
    bundle: str
    pid: int
    state: TaskState
    created_at: datetime
    restored_from: str = ""
    gpu: bool = False
    exit: Exit | None = None
    execs: tuple[str, ...] = ()
    warning: str = ""


class Pids(Value):
    """The processes of a task: `host` has the pids of its sandbox and gofer on the host.

    `guest` has pids in the container's namespace, which are unrelated to pids on the host.
    """

    host: tuple[int, ...]
    guest: tuple[int, ...] = ()


class GuestProcessView(Value):
    """A process of a task as it is shown. What is None, or has no elements, is not known.

    `pid`, `parent` and `uid` are those in the container, `memory_bytes` is resident memory.
    `cuda_state` is a `CudaState`, or the step that an operation has begun, such as `freezing`; None
    without CUDA state. `gpu_devices` are the nodes that it has open or mapped.
    """

    pid: int
    parent: int | None = None
    name: str = ""
    args: tuple[str, ...] = ()
    uid: int | None = None
    memory_bytes: int | None = None
    gpu_devices: tuple[str, ...] = ()
    cuda_state: str | None = None
    gpu_bytes: int | None = None


class ProcessList(Value):
    """The processes of a task, by pid; `warnings` say what could not be determined, and why."""

    processes: tuple[GuestProcessView, ...] = ()
    warnings: tuple[str, ...] = ()


class CreateRequest(Value):
    """The request of Create; if `checkpoint` is set, Start restores that image.

    `annotations` are added to those of the bundle.
    """

    ref: TaskRef
    bundle: str
    rootfs: tuple[Mount, ...] = ()
    stdio: Stdio = Stdio()
    checkpoint: str = ""
    annotations: dict[str, str] = {}


class EngineName(enum.StrEnum):
    """Which engine runs the CUDA steps."""

    AUTO = "auto"
    BUILTIN = "builtin"
    PHASED = "phased"


class CudaMode(enum.StrEnum):
    """How to treat CUDA: detect it, require it, or ignore it."""

    AUTO = "auto"
    REQUIRE = "require"
    IGNORE = "ignore"


class Connections(enum.StrEnum):
    """What to do about connections that the restored task, or even the saved one, would lose."""

    CUT = "cut"
    REFUSE = "refuse"


class FromEnvironment(enum.StrEnum):
    """For which containers NVIDIA_VISIBLE_DEVICES counts as a request for GPUs."""

    ALWAYS = "always"
    PRIVILEGED = "privileged"
    NEVER = "never"


class ExecProcesses(enum.StrEnum):
    """What to do about CUDA processes that descend from an exec, which a restore drops."""

    REFUSE = "refuse"
    DROP = "drop"


class Stage(enum.StrEnum):
    """Where runsc saves to: into memory, from which the image is copied while the task runs again.

    `auto` chooses memory where the task would otherwise wait for the disk.
    """

    AUTO = "auto"
    MEMORY = "memory"
    DISK = "disk"


class RestorePolicy(enum.StrEnum):
    """What to do about a container whose image cannot be restored: fail, or start it cold."""

    ALWAYS = "always"
    IF_POSSIBLE = "if-possible"


class Verify(enum.StrEnum):
    """How much of an image is verified before a restore is complete; `first`: before its load."""

    AUTO = "auto"
    FULL = "full"
    FIRST = "first"
    NONE = "none"


class Direct(enum.StrEnum):
    """Whether the pages of an image are read with O_DIRECT, past the page cache."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Phase(enum.StrEnum):
    """The phases of a checkpoint or restore, as named in progress and errors."""

    PREFLIGHT = "preflight"
    DETECT = "detect"
    LOCK = "lock"
    FREEZE = "freeze"
    SAVE = "save"
    THAW = "thaw"
    SEAL = "seal"
    COMMIT = "commit"
    STOP = "stop"
    ROLLBACK = "rollback"
    VERIFY = "verify"
    LOAD = "load"
    PRE_FREEZE = "pre-freeze"
    POST_THAW = "post-thaw"
    POST_RESTORE = "post-restore"
    PUSH = "push"
    PULL = "pull"


class CudaState(enum.StrEnum):
    """A CUDA process's state, as printed by `cuda-checkpoint --get-state`."""

    RUNNING = "running"
    LOCKED = "locked"
    CHECKPOINTED = "checkpointed"
    FAILED = "failed"


class CudaProcess(Value, omit_defaults=True):
    """A process that holds CUDA state. `pid` is in its container's pid namespace.

    `container` is its task, if that shares a sandbox with others. A `dropped` process is saved in
    the image and killed by the restore.
    """

    pid: Annotated[int, msgspec.Meta(gt=0, lt=1 << 31)]
    name: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    container: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    dropped: bool = False


class Progress(Value):
    """A progress update: a phase starts, bytes are copied, a process changes state, or a warning.

    `took_s` is how long a process's state change took, if it was measured separately.
    """

    phase: Phase
    message: str = ""
    bytes_done: int = 0
    bytes_total: int = 0
    pid: int = 0
    pid_state: str = ""
    container: str = ""
    warning: bool = False
    elapsed_s: float = 0.0
    took_s: float = 0.0


Report = Callable[[Progress], None]


_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
_Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Span(Value, omit_defaults=True):
    """A part of an operation: a phase, or within it a command or the step of a process.

    `name` is that of the command; `pid`, in `container`, is the process. A phase has neither.
    Seconds are since the start of the operation; `bytes` is 0 if it is unknown.
    """

    phase: Phase
    name: Annotated[str, msgspec.Meta(max_length=256)] = ""
    pid: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = 0
    container: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    start_s: _Seconds = 0.0
    duration_s: _Seconds = 0.0
    bytes: _Size = 0

    @property
    def is_phase(self) -> bool:
        """Whether it is a whole phase."""
        return not self.name and not self.pid


MAX_SPANS = 256
Spans = Annotated[tuple[Span, ...], msgspec.Meta(max_length=MAX_SPANS)]


class Timeline(Value, omit_defaults=True):
    """Where the time of one operation on a task went.

    `operation` is what it was, such as `checkpoint` or `unpark`; `error` is why it failed, and
    `error_kind` the class of that, which is kept on this host alone.
    `size_bytes` is that of the image, `gpu_bytes` the GPU memory of the task, both 0 if unknown.
    `frozen_s` is how long the task stood still. `notes` say what was chosen and why. With `partial`
    the end of the operation is not known: it is from the manifest of an image, written before that.
    """

    operation: Annotated[str, msgspec.Meta(max_length=64)]
    task: Annotated[str, msgspec.Meta(max_length=4096)]
    began_at: Annotated[datetime, msgspec.Meta(tz=True)]
    total_s: _Seconds = 0.0
    spans: Spans = ()
    engine: Annotated[str, msgspec.Meta(max_length=64)] = ""
    image_path: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    size_bytes: _Size = 0
    gpu_bytes: _Size = 0
    frozen_s: _Seconds = 0.0
    error: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    error_kind: Annotated[str, msgspec.Meta(max_length=64)] = ""
    notes: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()
    partial: bool = False


class Speeds(Value):
    """What a machine can do, in bytes per second; None where it could not be measured.

    `disk_write` and `disk_read` bypass the page cache. `copy` is a copy in memory by one thread,
    `fresh` the first write to new memory, `digest` the BLAKE3 of all cores.
    """

    folder: str = ""
    disk_write: float | None = None
    disk_read: float | None = None
    copy: float | None = None
    fresh: float | None = None
    digest: float | None = None


class CheckpointOptions(Value):
    """Options of a checkpoint; None, and a `timeout_s` of 0, mean the configured default.

    `fill` allows `image_path` to be an existing empty folder, as containerd's is. With `for_copies`
    a pod is not saved if its image would not fit other pods of its template.
    """

    image_path: str = ""
    exit: bool = False
    engine: EngineName | None = None
    cuda: CudaMode | None = None
    connections: Connections | None = None
    exec_processes: ExecProcesses | None = None
    timeout_s: float = 0.0
    seal: bool = True
    compress: bool = False
    direct: bool = False
    fill: bool = False
    for_copies: bool = False
    stage: Stage | None = None


class MemberOptions(Value):
    """Options of one container of a pod: its id in the image, and new values."""

    saved: str
    id: str = ""
    bundle: str = ""
    stdio: Stdio = Stdio()


class RestoreOptions(Value):
    """Options of a restore; `members` has the containers of a pod with options of their own.

    With `image_hooks` the hooks in the image's specs run. With `untrusted_folder` the image may
    be in a folder that another user can change. `digest`, if set, must be that of the manifest.
    `hostname`, `netns` (the path of a network namespace) and `env` (lines NAME=value) replace those
    of the spec.
    With `trust_spec` the specs in an image from elsewhere may use the host like those of a bundle.
    """

    image_path: str
    bundle: str = ""
    stdio: Stdio = Stdio()
    verify: Verify = Verify.AUTO
    background: bool = False
    direct: Direct = Direct.AUTO
    timeout_s: float = 0.0
    device_map: dict[str, str] = {}
    members: tuple[MemberOptions, ...] = ()
    image_hooks: bool = False
    untrusted_folder: bool = False
    digest: str = ""
    hostname: str = ""
    netns: str = ""
    env: tuple[str, ...] = ()
    trust_spec: bool = False


class KeyFile(Value):
    """A public key in PEM form, and the file that it is from."""

    name: str
    pem: str


class CheckpointResult(Value):
    """The result of a checkpoint; `members` are the other tasks of a pod in the image.

    `stage` is where runsc saved to, and `stage_reason` why. `frozen_s` is how long the task stood
    still: from the first step of the freeze to the last of the thaw, or to the end of the save.
    """

    image_path: str
    size_bytes: int
    digest: str
    engine: str
    processes: tuple[CudaProcess, ...] = ()
    members: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    timings_s: dict[str, float] = {}
    stage: str = ""
    stage_reason: str = ""
    frozen_s: float = 0.0


class RestoreResult(Value):
    """The result of a restore; `members` are the other tasks that were restored with it.

    `direct` is whether the pages were read with O_DIRECT, and `direct_reason` why.
    """

    pid: int
    engine: str
    processes: tuple[CudaProcess, ...] = ()
    members: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    timings_s: dict[str, float] = {}
    direct: bool = False
    direct_reason: str = ""


class Clone(Value):
    """One of several tasks that an image is restored as."""

    ref: TaskRef
    options: RestoreOptions


class CloneResult(Value):
    """What became of one clone: `restored`, or the class, message and remedy of its error.

    `gpus` are the UUIDs of the GPUs of its processes, as far as the image says.
    """

    id: str
    took_s: float
    gpus: tuple[str, ...] = ()
    device_map: dict[str, str] = {}
    restored: RestoreResult | None = None
    kind: str = ""
    error: str = ""
    remedy: str = ""


class DeviceUse(Value):
    """Bytes and operations of one block device, given by its device numbers."""

    major: int
    minor: int
    read_bytes: int = 0
    write_bytes: int = 0
    reads: int = 0
    writes: int = 0


class Stats(Value):
    """Resource use of a task, in base units; 0 also means no limit, or unknown.

    `pids` counts host threads, as its limit does, if the sandbox has a cgroup, else the
    container's processes.
    """

    cpu_usage_ns: int = 0
    cpu_user_ns: int = 0
    cpu_system_ns: int = 0
    cpu_periods: int = 0
    cpu_throttled_periods: int = 0
    cpu_throttled_ns: int = 0
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    memory_max_bytes: int = 0
    memory_cache_bytes: int = 0
    memory_rss_bytes: int = 0
    memory_mapped_file_bytes: int = 0
    memory_inactive_anon_bytes: int = 0
    memory_active_anon_bytes: int = 0
    memory_inactive_file_bytes: int = 0
    memory_active_file_bytes: int = 0
    memory_unevictable_bytes: int = 0
    memory_swap_bytes: int = 0
    memory_swap_limit_bytes: int = 0
    memory_kernel_bytes: int = 0
    memory_kernel_tcp_bytes: int = 0
    memory_limit_hits: int = 0
    page_faults: int = 0
    major_page_faults: int = 0
    oom_kills: int = 0
    pids: int = 0
    pids_limit: int = 0
    io: tuple[DeviceUse, ...] = ()


class Event(Value):
    """An event of a task; `topic` is containerd's (`/tasks/exit`)."""

    topic: str
    ref: TaskRef
    fields: dict[str, object]
    at: datetime


class EventView(Value):
    """Something that happened, as events are listed; `task` is empty where it is of none.

    `kind` is such as `create`, `exit` or `checkpoint-failed`.
    """

    at: datetime
    namespace: str
    kind: str
    task: str = ""
    fields: dict[str, str] = {}


class ImageView(Value):
    """One image in a listing; `names` are those in each namespace, `source` where it was pulled."""

    path: str
    task: str
    created_at: datetime
    size_bytes: int
    engine: str
    processes: int
    digest: str
    names: dict[str, tuple[str, ...]] = {}
    pinned: bool = False
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    source: str | None = None
