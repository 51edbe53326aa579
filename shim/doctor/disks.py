"""Checks the disks: free space, rights, mount options and speed of the configured folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from shim.doctor.host import Host
from shim.errors import CryoError
from shim.finding import Area, Finding, Topic
from shim.host import trusted
from shim.host.sizes import size

# Less than this does not hold the smallest images, or the records of tasks.
_IMAGES_BYTES = 256 << 20
_STATE_BYTES = 16 << 20
_FILES = 1000
_SLOW_PER_S = 50 << 20


def check_images(host: Host) -> Iterator[Finding]:
    """Check the folder of images: space, rights, speed, and direct writes."""
    subject = Topic(Area.STORAGE, "paths.images")
    path = Path(host.config.paths.images)
    found = list(_folder(host, subject, path, _IMAGES_BYTES)) or list(_speed(host, subject, path))
    yield from found


def check_gpu_memory(host: Host, used_bytes: int) -> Iterator[Finding]:
    """Check that the GPU memory in use fits on the disk of images."""
    topic = Topic(Area.STORAGE, "images of GPUs")
    path = Path(host.config.paths.images)
    free = host.disk.space(_existing(path))
    if used_bytes > free.bytes:
        yield topic.warning(
            f"GPU memory in use is {size(used_bytes)}, and {path} has {size(free.bytes)} free: "
            "not all of it can be saved",
            "free space, or name a larger disk as images under [paths]",
        )


def check_state(host: Host) -> Iterator[Finding]:
    """Check the folder of the records of tasks and of runsc."""
    subject = Topic(Area.STORAGE, "paths.state")
    path = Path(host.config.paths.state)
    found = list(_folder(host, subject, path, _STATE_BYTES))
    if not found:
        found = [subject.ok(f"{path}: {size(host.disk.space(_existing(path)).bytes)} free")]
    yield from found


def check_scratch(host: Host) -> Iterator[Finding]:
    """Check the folder of what containers write to their root filesystems."""
    subject = Topic(Area.STORAGE, "paths.scratch")
    path = Path(host.config.paths.scratch)
    found = list(_folder(host, subject, path, _IMAGES_BYTES))
    if "noexec" in host.mount_flags(_existing(path)):
        found.append(
            subject.failure(
                f"{path} is mounted noexec: programs that a container writes crash (SIGSEGV)",
                "remount it with exec, or name another folder as scratch under [paths]",
            )
        )
    yield from found or [subject.ok(f"{path}: programs in it can be executed")]


def _folder(host: Host, subject: Topic, path: Path, least_bytes: int) -> Iterator[Finding]:
    """Give what is wrong with a folder, which may have to be made."""
    nearest = _existing(path)
    if os.path.lexists(path) and nearest != path:
        yield subject.failure(f"{path} is not a folder", "remove it, or name another path")
        return
    if "ro" in host.mount_flags(nearest):
        yield subject.failure(
            f"{path} is on a read-only filesystem",
            "mount it read-write, or name another folder under [paths]",
        )
        return
    if not os.access(nearest, os.W_OK | os.X_OK):
        yield subject.failure(f"{nearest} cannot be written to", "run as root, or correct its mode")
        return
    try:
        trusted.check(path)
    except CryoError as error:
        yield subject.failure(error.message, error.remedy)
    yield from _space(host, subject, nearest, least_bytes)


def _space(host: Host, subject: Topic, nearest: Path, least_bytes: int) -> Iterator[Finding]:
    free = host.disk.space(nearest)
    if free.bytes < least_bytes:
        yield subject.failure(
            f"{nearest} has {size(free.bytes)} free",
            f"free space: {size(least_bytes)} are the least; `cryo checkpoints prune` removes "
            "images",
        )
    if free.files < _FILES:
        yield subject.failure(
            f"{nearest} has room for {free.files} more files", "remove files there"
        )


def _speed(host: Host, subject: Topic, path: Path) -> Iterator[Finding]:
    nearest = _existing(path)
    free = host.disk.space(nearest)
    if free.in_memory:
        yield subject.warning(
            f"{path} is in memory: images are lost at a reboot, and take memory of tasks",
            "name a folder on a disk as images under [paths]",
        )
        return
    write = host.disk.write(nearest)
    speed = f"{path}: {size(free.bytes)} free, {size(write.bytes_per_s)}/s written"
    if not write.direct:
        yield subject.warning(
            f"{speed}; its filesystem has no direct I/O, so --direct and reads of large images "
            "use the page cache",
            "use ext4 or xfs for images",
        )
    if write.bytes_per_s < _SLOW_PER_S:
        yield subject.warning(
            f"{speed}, which makes checkpoints slow", "use a faster disk for images"
        )
    elif write.direct:
        yield subject.ok(f"{speed} past the page cache")


def _existing(path: Path) -> Path:
    """Return the nearest folder that exists."""
    return next((place for place in (path, *path.parents) if place.is_dir()), Path("/"))
