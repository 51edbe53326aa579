"""What a container's own annotations say about its checkpoints and restores: `io.cryo.*`.

They speak where a caller does not: containerd's calls, from ctr, Docker or the kubelet, have no
room for most of it.
"""

from __future__ import annotations

import msgspec

from shim.config import Seconds
from shim.errors import InvalidArgument
from shim.model import (
    CheckpointOptions,
    Connections,
    CudaMode,
    EngineName,
    ExecProcesses,
    RestoreOptions,
    Value,
    Verify,
)
from shim.spec.document import Spec

PREFIX = "io.cryo."


class Wishes(Value, forbid_unknown_fields=True, rename="kebab"):
    """The annotations, without their prefix; None is what is not said. `timeout` is in seconds."""

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


def read(spec: Spec) -> Wishes:
    """Read the annotations of a container.

    Raises:
        InvalidArgument: one is not known, or its value cannot be.
    """
    found = spec.annotations.items()
    said = {name.removeprefix(PREFIX): text for name, text in found if name.startswith(PREFIX)}
    try:
        return msgspec.convert(said, Wishes, strict=False)
    except msgspec.ValidationError as error:
        message = f"the annotations {PREFIX}*: {error}"
        known = (PREFIX + field.encode_name for field in msgspec.structs.fields(Wishes))
        remedy = f"known are {', '.join(known)}"
        raise InvalidArgument(message, remedy=remedy) from error


def for_checkpoint(options: CheckpointOptions, wishes: Wishes) -> CheckpointOptions:
    """Fill in what the call leaves open.

    A switch that is off counts as left open in containerd's own call alone, which has none but
    `exit`: a caller of ours has said what it wants.
    """
    filled = msgspec.structs.replace(
        options,
        engine=options.engine or wishes.engine,
        cuda=options.cuda or wishes.cuda,
        connections=options.connections or wishes.connections,
        exec_processes=options.exec_processes or wishes.exec_processes,
        timeout_s=options.timeout_s or wishes.timeout or 0.0,
    )
    if not options.fill:
        return filled
    return msgspec.structs.replace(
        filled,
        exit=options.exit or bool(wishes.exit),
        seal=wishes.seal is not False,
        compress=bool(wishes.compress),
        direct=bool(wishes.direct),
    )


def for_restore(image_path: str, wishes: Wishes) -> RestoreOptions:
    """Say how a restore is done whose caller, containerd's Start, can say nothing at all."""
    return RestoreOptions(
        image_path=image_path,
        verify=wishes.verify or Verify.AUTO,
        background=bool(wishes.background),
        direct=bool(wishes.direct),
        timeout_s=wishes.timeout or 0.0,
    )
