"""A container's own checkpoint and restore options: its annotations `io.cryo.*`.

They are defaults for what a call omits: containerd's calls (ctr, Docker, the kubelet) have no
fields for most of them.
"""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from shim.config import Seconds
from shim.errors import InvalidArgument
from shim.model import (
    CheckpointOptions,
    Connections,
    CudaMode,
    Direct,
    EngineName,
    ExecProcesses,
    RestoreOptions,
    RestorePolicy,
    Value,
    Verify,
)
from shim.oci import app_hooks
from shim.oci.annotation_names import PREFIX
from shim.oci.app_hooks import read_app_hooks
from shim.oci.document import Spec

# The name of an image: a single, visible path component.
ImageName = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?\Z")
]
# Names of volumes, separated by commas.
_NAME = "[a-z0-9][-a-z0-9]{0,62}"
VolumeNames = Annotated[
    str, msgspec.Meta(pattern=rf"^ *{_NAME}( *, *{_NAME})* *$", max_length=4096)
]


class WarmFallback(enum.StrEnum):
    """What a warm start does with a container that was not ready in time: no save, or save it."""

    NEVER = "never"
    SAVE = "save"


class TaskAnnotations(Value, forbid_unknown_fields=True, rename="kebab"):
    """The annotations, without their prefix; None if absent. `timeout` is in seconds."""

    engine: EngineName | None = None
    cuda: CudaMode | None = None
    connections: Connections | None = None
    exec_processes: ExecProcesses | None = None
    timeout: Seconds | None = None
    exit: bool | None = None
    seal: bool | None = None
    compress: bool | None = None
    direct: bool | None = None
    verify: Verify | None = None
    background: bool | None = None
    park: bool | None = None
    instance: bool | None = None
    restore: ImageName | None = None
    restore_policy: RestorePolicy | None = None
    warm: ImageName | None = None
    host_volumes: VolumeNames | None = None
    warm_when: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)] | None = None
    warm_period: Seconds | None = None
    warm_timeout: Seconds | None = None
    warm_fallback: WarmFallback | None = None

    def __post_init__(self) -> None:
        """Reject two names of images.

        Raises:
            ValueError: both are set.
        """
        if self.restore is not None and self.warm is not None:
            message = "restore and warm cannot both be set"
            raise ValueError(message)

    @property
    def wants_instance(self) -> bool:
        """Whether the container has the mounts of io.cryo.instance."""
        return bool(self.instance) or self.warm_when == "self"

    @property
    def image_name(self) -> str | None:
        """Return the name of the image from which the container is to be restored."""
        return self.restore or self.warm

    @property
    def policy(self) -> RestorePolicy:
        """Return the policy of a restore by name; a warm start is a restore if possible."""
        if self.warm is not None:
            return RestorePolicy.IF_POSSIBLE
        return self.restore_policy or RestorePolicy.ALWAYS


def read_annotations(spec: Spec) -> TaskAnnotations:
    """Read the annotations of a container.

    Raises:
        InvalidArgument: an annotation is unknown or its value is not valid.
    """
    read_app_hooks(spec)
    found = spec.annotations.items()
    said = {
        name.removeprefix(PREFIX): text
        for name, text in found
        if name.startswith(PREFIX) and not name.startswith(app_hooks.PREFIX)
    }
    try:
        return msgspec.convert(said, TaskAnnotations, strict=False)
    except msgspec.ValidationError as error:
        message = f"the annotations {PREFIX}*: {error}"
        known = (PREFIX + field.encode_name for field in msgspec.structs.fields(TaskAnnotations))
        remedy = f"use only {', '.join(known)}"
        raise InvalidArgument(message, remedy=remedy) from error


def host_volumes(spec: Spec) -> frozenset[str]:
    """Return the names of the pod's volumes that stay on the host.

    Raises:
        InvalidArgument: an annotation is unknown or its value is not valid.
    """
    names = read_annotations(spec).host_volumes or ""
    return frozenset(filter(None, (name.strip() for name in names.split(","))))


def fill_checkpoint_options(
    options: CheckpointOptions, container: TaskAnnotations
) -> CheckpointOptions:
    """Fill in what the call omits.

    A false switch counts as omitted only in containerd's own call, which has only `exit`: other
    callers set every switch.
    """
    filled = msgspec.structs.replace(
        options,
        engine=options.engine or container.engine,
        cuda=options.cuda or container.cuda,
        connections=options.connections or container.connections,
        exec_processes=options.exec_processes or container.exec_processes,
        timeout_s=options.timeout_s or container.timeout or 0.0,
    )
    if not options.fill:
        return filled
    return msgspec.structs.replace(
        filled,
        exit=options.exit or bool(container.exit),
        seal=container.seal is not False,
        compress=bool(container.compress),
        direct=bool(container.direct),
    )


def _direct(said: bool | None) -> Direct:  # noqa: FBT001 - the value of an annotation
    if said is None:
        return Direct.AUTO
    return Direct.ON if said else Direct.OFF


def restore_options(image_path: str, container: TaskAnnotations) -> RestoreOptions:
    """Return the options of a restore by containerd's Start, which passes none."""
    return RestoreOptions(
        image_path=image_path,
        verify=container.verify or Verify.AUTO,
        background=bool(container.background),
        direct=_direct(container.direct),
        timeout_s=container.timeout or 0.0,
    )
