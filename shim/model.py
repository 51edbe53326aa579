"""The values that travel between the rooms. Frozen, no behaviour beyond checks on themselves."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, dataclass_transform

import msgspec

from shim.errors import InvalidArgument
from shim.state import TaskState

# containerd's identifier rule, so that an id that works there works here.
_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_ID_MAX = 76


# Without this mypy takes every subclass for a mutable one.
@dataclass_transform(frozen_default=True, kw_only_default=True)
class Value(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all values: immutable, keyword only."""


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
    """Return the time of day for records; durations use a monotonic clock instead."""
    return datetime.now(UTC)


class TaskRef(Value):
    """A task's full name."""

    namespace: str
    id: str

    def __post_init__(self) -> None:
        """Refuse names that are no safe file names."""
        check_id("namespace", self.namespace)
        check_id("task id", self.id)

    def __str__(self) -> str:
        """Give the form that messages use."""
        return self.id


class Mount(Value):
    """A rootfs mount, as containerd passes it."""

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


class Stdio(Value):
    """Where a process's standard streams go: fifo or file paths or URIs; empty is null."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


class Exit(Value):
    """How a process ended: a shell-style status (128+signal for a signal)."""

    status: int
    at: datetime


class ProcessView(Value):
    """What State says of one process."""

    id: str
    exec_id: str
    bundle: str
    pid: int
    state: TaskState
    stdio: Stdio
    exit: Exit | None = None


class TaskView(Value):
    """What a listing says of one task."""

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
    """The processes of a task: `host` are those of the host that run it, sandbox and gofer.

    `guest` are the container's own, by its own numbers; on the host these are other processes.
    """

    host: tuple[int, ...]
    guest: tuple[int, ...] = ()


class CreateRequest(Value):
    """Everything that Create needs; `checkpoint` set means: Start restores this image."""

    ref: TaskRef
    bundle: str
    rootfs: tuple[Mount, ...] = ()
    stdio: Stdio = Stdio()
    checkpoint: str = ""


class EngineName(enum.StrEnum):
    """How the CUDA steps are run."""

    AUTO = "auto"
    BUILTIN = "builtin"
    PHASED = "phased"


class CudaMode(enum.StrEnum):
    """What to do about CUDA: find out, insist on it, or look away."""

    AUTO = "auto"
    REQUIRE = "require"
    IGNORE = "ignore"


class Connections(enum.StrEnum):
    """What to do about connections that a restored copy, or even the task, would have lost."""

    CUT = "cut"
    REFUSE = "refuse"


class FromEnvironment(enum.StrEnum):
    """Whose NVIDIA_VISIBLE_DEVICES counts as a request for GPUs."""

    ALWAYS = "always"
    PRIVILEGED = "privileged"
    NEVER = "never"


class ExecProcesses(enum.StrEnum):
    """What to do about a CUDA process that descends from an exec, which no restore brings back."""

    REFUSE = "refuse"
    DROP = "drop"


class Verify(enum.StrEnum):
    """How much of an image is read again before a restore."""

    AUTO = "auto"
    FULL = "full"
    NONE = "none"


class Phase(enum.StrEnum):
    """The steps of a checkpoint or restore, in the words that progress and errors use."""

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


class CudaState(enum.StrEnum):
    """A CUDA process's state, in the words of `cuda-checkpoint --get-state`."""

    RUNNING = "running"
    LOCKED = "locked"
    CHECKPOINTED = "checkpointed"
    FAILED = "failed"


class CudaProcess(Value, omit_defaults=True):
    """A process that holds CUDA state. `pid` is its container's own number.

    `container` is the task that it belongs to, where that shares a sandbox with others. One that
    was `dropped` is in an image, and ends in its restore.
    """

    pid: Annotated[int, msgspec.Meta(gt=0, lt=1 << 31)]
    name: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    container: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    dropped: bool = False


class Progress(Value):
    """One progress update: a phase begins, bytes move, a process changes, or a warning.

    `took_s` is how long the change of a process took, where that was measured beside it.
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


class CheckpointOptions(Value):
    """What a caller may say about a checkpoint; None, and a `timeout_s` of 0, are as configured.

    `fill` allows `image_path` to be a folder that is there already and empty, as containerd's is.
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


class MemberOptions(Value):
    """What a caller may say about one container of a pod: its id in the image, and what is new."""

    saved: str
    id: str = ""
    bundle: str = ""
    stdio: Stdio = Stdio()


class RestoreOptions(Value):
    """What a caller may say about a restore; `members` are those of a pod that are to differ.

    With `image_hooks` the hooks of an image's own specs run. With `untrusted_folder` the image may
    lie where another user can change it. `digest`, where it is said, is that of the only manifest
    that will do.
    """

    image_path: str
    bundle: str = ""
    stdio: Stdio = Stdio()
    verify: Verify = Verify.AUTO
    background: bool = False
    direct: bool = False
    timeout_s: float = 0.0
    device_map: dict[str, str] = {}
    members: tuple[MemberOptions, ...] = ()
    image_hooks: bool = False
    untrusted_folder: bool = False
    digest: str = ""


class CheckpointResult(Value):
    """What a checkpoint made; `members` are the tasks that are in the image too, as of a pod."""

    image_path: str
    size_bytes: int
    digest: str
    engine: str
    processes: tuple[CudaProcess, ...] = ()
    members: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    timings_s: dict[str, float] = {}


class RestoreResult(Value):
    """What a restore brought back; `members` are the tasks that came back with it."""

    pid: int
    engine: str
    processes: tuple[CudaProcess, ...] = ()
    members: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    timings_s: dict[str, float] = {}


class DeviceUse(Value):
    """What was read from and written to one block device; the numbers are the device's."""

    major: int
    minor: int
    read_bytes: int = 0
    write_bytes: int = 0
    reads: int = 0
    writes: int = 0


class Stats(Value):
    """Resource use of a task, in base units; a limit of 0 is none, what is not known is 0 too.

    `pids` counts the host's threads where the sandbox has a cgroup, as its limit does, else the
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
    """Something happened to a task: `topic` is containerd's (`/tasks/exit`)."""

    topic: str
    ref: TaskRef
    fields: dict[str, object]
    at: datetime


class ImageView(Value):
    """One line of a listing of images."""

    path: str
    task: str
    created_at: datetime
    size_bytes: int
    engine: str
    processes: int
    digest: str
