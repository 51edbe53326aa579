"""The manifest of a new image, as far as it is known before the files are hashed."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from shim.cuda import inventory
from shim.cuda.inventory import Inventory
from shim.host import procs
from shim.image.manifest import Manifest, Member
from shim.model import CheckpointOptions, CudaProcess, EngineName, Value, utcnow
from shim.oci import document
from shim.runsc import settings
from shim.transaction import hostfacts
from shim.transaction.builds import runsc_build
from shim.transaction.target import CheckpointTarget
from shim.transaction.transaction import Transaction


class Content(Value):
    """What a save puts into an image: the CUDA processes, by which engine, on which GPUs.

    `engine` is None in an image without CUDA state, which has no `used_gpus` either.
    `memory_bytes` is the memory that a restore takes at most. `data_folders` are those of the
    volumes of each container, by its id.
    """

    engine: EngineName | None = None
    processes: tuple[CudaProcess, ...] = ()
    inventory: Inventory = Inventory()
    used_gpus: tuple[str, ...] = ()
    memory_bytes: int = 0
    data_folders: dict[str, dict[str, str]] = {}


async def draft(
    target: CheckpointTarget,
    options: CheckpointOptions,
    transaction: Transaction,
    content: Content,
) -> Manifest:
    """Describe the image of a sandbox that was saved with this content."""
    host = hostfacts.read_host()
    devices = [device for one in target.with_gpu for device in one.spec.devices]
    return Manifest(
        created_at=utcnow(),
        namespace=target.ref.namespace,
        task=target.ref.id,
        runsc=await runsc_build(target.runsc.capabilities),
        runsc_flags=settings.recorded(_flags_in_effect(target)),
        arch=host.arch,
        kernel=host.kernel,
        cpu_features=host.cpu_features,
        spec=target.spec.data,
        spec_digest=document.digest(target.spec),
        bundle=str(target.bundle),
        rootfs=str(target.spec.rootfs),
        driver=content.inventory.driver,
        guest_tool=target.guest_tool,
        engine=content.engine or "",
        gpus=inventory.visible(content.inventory.gpus, devices) if content.engine else (),
        used_gpus=content.used_gpus if content.engine else (),
        processes=_of(target, content.processes),
        members=tuple(_member(one, content) for one in target.members),
        finished=_finished(target),
        options=options,
        paused=bool(target.paused_ids),
        memory_bytes=content.memory_bytes,
        timings_s=dict(transaction.timings_s),
        spans=transaction.recorder.recorded,
        warnings=tuple(transaction.warnings),
    )


def _member(one: CheckpointTarget, content: Content) -> Member:
    return Member(
        task=one.ref.id,
        name=one.name,
        spec=one.spec.data,
        spec_digest=document.digest(one.spec),
        bundle=str(one.bundle),
        rootfs=str(one.spec.rootfs),
        guest_tool=one.guest_tool,
        gpu=one.gpu,
        processes=_of(one, content.processes),
        data_folders=content.data_folders.get(one.container, {}),
    )


def _finished(target: CheckpointTarget) -> tuple[str, ...]:
    """List the containers that had finished, without those that were started again."""
    running = {one.name for one in target.members}
    return tuple(name for name in target.finished if name not in running)


def _of(one: CheckpointTarget, saved: tuple[CudaProcess, ...]) -> tuple[CudaProcess, ...]:
    """List the processes of one container; in the manifest they stand below that container."""
    return tuple(
        msgspec.structs.replace(process, container="")
        for process in saved
        if process.container == one.container
    )


def _flags_in_effect(target: CheckpointTarget) -> Mapping[str, str]:
    """Return the flags that the sandbox runs with, or else the configured ones."""
    own = settings.of_sandbox(procs.command_line(target.sandbox.pid))
    return target.flags if own is None else own
