"""Whether runsc saves into memory or to the disk, and why."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from shim.errors import CryoError, InvalidArgument, ResourceExhausted
from shim.host import cgroup, dirty_pages, filesystem
from shim.host.memory_promises import MemoryPromise, promise
from shim.host.sizes import size
from shim.image.memory_stage import SLACK_BYTES, MemoryStage, open_stage
from shim.model import CheckpointOptions, Stage
from shim.transaction import preflight
from shim.transaction.target import CheckpointTarget

PROMISES = "stages.lock"
# What is left to the host beside a stage, of all of its memory.
_RESERVE = 16
_RESERVE_MIN_BYTES = 256 << 20
_REMEDY = "use --stage disk, or auto"


class Room(NamedTuple):
    """What a save may take: of the page cache, of the host, and of the cgroups of the sandbox.

    `cgroup_bytes` is None without a limit. `in_memory` is whether the images are in memory anyway.
    """

    page_cache_bytes: int
    host_bytes: int
    cgroup_bytes: int | None
    in_memory: bool


class Choice(NamedTuple):
    """Where runsc saves to, and why, as a part of a sentence."""

    stage: Stage
    reason: str


def choose(
    wanted: Stage, options: CheckpointOptions, room: Room, image_bytes: int, device_bytes: int
) -> Choice:
    """Choose for an image of this size, for which a freeze takes `device_bytes` of memory before.

    Raises:
        ResourceExhausted: memory was requested, and does not suffice.
        InvalidArgument: memory was requested together with `direct`.
    """
    if wanted is Stage.MEMORY and options.direct:
        message = "a save into memory cannot be written past the page cache"
        raise InvalidArgument(message, remedy="use either --stage memory or --direct")
    if wanted is Stage.AUTO and (reason := _needless(options, room, image_bytes)):
        return Choice(Stage.DISK, reason)
    needed = image_bytes + SLACK_BYTES
    if reason := _too_little(room, needed, device_bytes):
        if wanted is Stage.MEMORY:
            message = f"the image may need {size(needed)} of memory: {reason}"
            raise ResourceExhausted(message, remedy=f"{_REMEDY}, or make the memory available")
        return Choice(Stage.DISK, reason)
    if wanted is Stage.MEMORY:
        return Choice(Stage.MEMORY, "as requested")
    takes = size(room.page_cache_bytes)
    return Choice(Stage.MEMORY, f"the page cache takes {takes} of it without a wait for the disk")


def _needless(options: CheckpointOptions, room: Room, image_bytes: int) -> str:
    """Say why a stage in memory would shorten nothing; empty if it would."""
    if options.direct:
        return "--direct was requested"
    if options.compress:
        return "compression takes longer than the disk"
    if options.exit:
        return "the task ends with the checkpoint"
    if room.in_memory:
        return "the images are in memory anyway"
    if image_bytes <= room.page_cache_bytes:
        return "the page cache takes all of it without a wait for the disk"
    return ""


def _too_little(room: Room, needed: int, device_bytes: int) -> str:
    """Say what does not suffice for the stage beside the GPU memory; empty if all does."""
    left = max(0, room.host_bytes - device_bytes)
    if needed > left:
        return f"the host can spare {size(left)}"
    if room.cgroup_bytes is None:
        return ""
    left = max(0, room.cgroup_bytes - device_bytes)
    return f"the memory limit of the sandbox leaves {size(left)}" if needed > left else ""


def measure(target: CheckpointTarget, folder: Path) -> Room:
    """Measure what a save of this sandbox into memory, or to this folder, may take."""
    around = cgroup.around(target.sandbox.pid)
    cgroup_bytes = cgroup.unthrottled_bytes(around) if around else None
    return Room(
        page_cache_bytes=dirty_pages.room_bytes(),
        host_bytes=_spare_bytes(),
        cgroup_bytes=cgroup_bytes,
        in_memory=filesystem.is_in_memory(folder),
    )


def _spare_bytes() -> int:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    reserve = max(_RESERVE_MIN_BYTES, total // _RESERVE)
    return max(0, preflight.available_bytes() - reserve)


def open_chosen(
    target: CheckpointTarget,
    options: CheckpointOptions,
    image_bytes: int,
    device_bytes: int,
    folder: Path,
) -> tuple[MemoryStage | None, Choice]:
    """Choose where runsc saves an image for this folder, and make the stage if that is memory.

    Raises:
        CryoError: memory was requested, and a stage is not possible.
    """
    wanted = options.stage or Stage.AUTO
    if wanted is Stage.DISK:
        return None, Choice(Stage.DISK, "as requested")
    try:
        room = measure(target, folder)
        choice = choose(wanted, options, room, image_bytes, device_bytes)
        if choice.stage is Stage.DISK:
            return None, choice
        return _open(target, image_bytes, max(0, room.host_bytes - device_bytes)), choice
    except (CryoError, OSError) as error:
        if wanted is Stage.MEMORY:
            raise
        return None, Choice(Stage.DISK, str(error))


def _open(target: CheckpointTarget, image_bytes: int, host_bytes: int) -> MemoryStage:
    """Make a stage for an image of this size, in so much memory of the host.

    Raises:
        ResourceExhausted: other checkpoints are about to take it.
        CryoError: the kernel makes none.
    """
    needed = image_bytes + SLACK_BYTES
    file = Path(target.config.paths.state) / PROMISES
    promised = promise(file, needed, host_bytes)
    if isinstance(promised, MemoryPromise):
        return open_stage(needed, promised)
    message = (
        f"the image may need {size(needed)} of memory, and other checkpoints leave {size(promised)}"
    )
    raise ResourceExhausted(message, remedy=f"{_REMEDY}, or wait for their end")
