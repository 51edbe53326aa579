"""The record of a task on disk, for the next owner to adopt it or to clean up after a crash."""

from __future__ import annotations

import enum
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from shim import failpoints
from shim.errors import InvalidArgument
from shim.host import files
from shim.host.oserror import typed
from shim.image.named import ImageRef
from shim.model import Exit, Mount, RestorePolicy, Stdio, TaskRef, Value
from shim.runsc.container_flags import ContainerFlags

_Record = TypeVar("_Record", bound="CleanupRecord")
NAME = "task.json"
_LIMIT_BYTES = 1 << 20


class ExecRecord(Value):
    """An exec: its `runsc exec` on the host, and its pid in the container."""

    id: str
    stdio: Stdio
    runner_pid: int = 0
    runner_start: int = 0
    guest_pid: int = 0
    exit: Exit | None = None


class Absent(enum.StrEnum):
    """How a container of a pod starts that the image of its pod lacks.

    One that had exited with success before the save exits at once with success, as an init
    container does whose work is part of the image; any other starts cold after the load.
    """

    FINISHED = "finished"
    HELD_BACK = "held-back"


class NamedOrigin(Value):
    """What the annotations of a container request: the image of a name, by which policy.

    `reason` is why the container was started cold; empty if it was restored; `failed_image` is the
    image that could not be restored then, if there was one, and `fell_back` whether that was in
    Start. With `warm` it is saved under the name once it is ready, unless that is `settled`: it was
    saved, as `saved_image`, or left to another container. It is `early` if its image was made
    before an init container of the pod had ended, and another one is to replace that.
    """

    name: str
    kubernetes_namespace: str | None = None
    policy: RestorePolicy = RestorePolicy.ALWAYS
    warm: bool = False
    fingerprint: str = ""
    reason: str = ""
    failed_image: str = ""
    fell_back: bool = False
    settled: bool = False
    saved_image: str = ""
    early: bool = False

    @property
    def falls_back(self) -> bool:
        """Whether a restore that fails in Start is followed by a cold start in the same call.

        In a pod this is the Start of its sandbox. When it fails later, other containers have been
        started, and the kubelet makes a new sandbox, which starts cold.
        """
        return self.policy is RestorePolicy.IF_POSSIBLE

    @property
    def in_pod(self) -> bool:
        """Whether it is that of a pod's sandbox, whose other containers are restored with it."""
        return self.kubernetes_namespace is not None

    def ref(self, namespace: str) -> ImageRef:
        """Return the full name of the image, for a container of this namespace."""
        return ImageRef(
            namespace=namespace, name=self.name, kubernetes_namespace=self.kubernetes_namespace
        )


class CleanupRecord(Value, kw_only=True):
    """The part of a task's record from which `delete` cleans up; see `TaskRecord`."""

    bundle: str = ""
    rootfs: str = ""
    mounts: tuple[Mount, ...] = ()
    image_path: str = ""
    owner: str = ""
    pid: int = 0
    start: int = 0
    creator_pid: int = msgspec.field(default=0, name="maker_pid")
    creator_start: int = msgspec.field(default=0, name="maker_start")
    exit: Exit | None = None


class TaskRecord(CleanupRecord, kw_only=True):
    """A task.

    `pid` and `start` identify its sandbox process, 0 while there is none; `creator_pid` and
    `creator_start` the runsc that creates it; `owner` is the socket of the shim that owns it, empty
    for the sidecar's own. While `unsettled`, runsc must be asked whether it is started or paused.
    `image_digest` is that of the manifest from which it was made; if its spec came `from_image`,
    `bundle` is a path from the image and not a directory of ours.
    `overlay2` and `network` are the flags passed to runsc if the operator set none.
    `notices` are the warnings of its creation, valid for as long as it runs.
    `exec_ran` is whether an exec was ever started; unknown in a record of an older cryo.
    `named` is what its annotations request, None without any; only a sandbox's own task has it.
    `one_call` is whether one call makes and restores the task, and not a Create and a Start.
    `absent` is set for a container that the image lacks from which its pod is restored.
    `finished` are the names of the pod's containers that exited with success and were deleted;
    only a sandbox's own task has them.
    """

    ref: TaskRef
    bundle: str
    stdio: Stdio
    created_at: datetime
    gpu: bool = False
    guest_tool: str = ""
    overlay2: str = ""
    network: str = ""
    image_digest: str = ""
    from_image: bool = False
    one_call: bool = False
    sandbox_id: str = ""
    started: bool = False
    paused: bool = False
    unsettled: bool = False
    warning: str = ""
    notices: tuple[str, ...] = ()
    exec_ran: bool = True
    execs: dict[str, ExecRecord] = {}
    named: NamedOrigin | None = None
    absent: Absent | None = None
    finished: tuple[str, ...] = ()

    @property
    def own_flags(self) -> ContainerFlags:
        """Return the flags that were chosen for this container."""
        return ContainerFlags(overlay2=self.overlay2, network=self.network)


def save(folder: Path, record: TaskRecord) -> None:
    """Write the record: by rename, and without fsync, as a reboot ends the task as well.

    Raises:
        CryoError: it cannot be written; the previous one is kept.
    """
    temporary = folder / f"{NAME}.tmp"
    try:
        with failpoints.around("record.save"):
            temporary.write_bytes(msgspec.json.encode(record))
            temporary.replace(folder / NAME)
    except OSError as error:
        raise typed(error, f"write {folder / NAME}") from error


def load(folder: Path) -> TaskRecord | None:
    """Read a record; None if there is none.

    Raises:
        InvalidArgument: it cannot be parsed.
    """
    return _load(folder, TaskRecord)


def load_for_cleanup(folder: Path) -> CleanupRecord | None:
    """Read the part of a record that a clean-up needs, as `load`."""
    return _load(folder, CleanupRecord)


def _load(folder: Path, kind: type[_Record]) -> _Record | None:
    if not (folder / NAME).exists():
        return None
    try:
        data = files.read_bounded(folder / NAME, _LIMIT_BYTES)
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"{folder / NAME}: {error}"
        raise InvalidArgument(
            message, remedy="remove that directory once its sandbox has exited"
        ) from error
