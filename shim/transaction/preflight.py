"""The checks before a checkpoint: each raises, with a remedy, before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from shim.cuda.detect import Holder
from shim.errors import IllegalState, Impossible, Refused, ResourceExhausted
from shim.host import cgroup, files, procs
from shim.host.text import first_few
from shim.image import manifest as manifests
from shim.oci import canonical, compare, difference
from shim.runsc import settings
from shim.runsc.output import GuestProcess
from shim.transaction.target import CheckpointTarget

# What an image contains besides memory: kernel state, page tables, the manifest.
_SLACK_BYTES = 16 << 20
# What the manifest contains besides the specs.
_MANIFEST_SLACK_BYTES = 1 << 20


class Disk(NamedTuple):
    """The memory of a sandbox, and the free space in the folder of its image."""

    folder: Path
    resident_bytes: int
    free_bytes: int


def measure_disk(target: CheckpointTarget, folder: Path) -> Disk:
    """Measure the sandbox's memory and the filesystem of `folder`, which may have to be made."""
    resident = procs.resident_bytes(target.sandbox.pid)
    return Disk(folder, resident, files.free_bytes(existing(folder)))


def expected_bytes(disk: Disk, device_bytes: int) -> int:
    """Return the largest possible size of the image, with this much GPU memory in it."""
    return disk.resident_bytes + device_bytes + _SLACK_BYTES


def check_disk(disk: Disk, need: int) -> None:
    """Check that there is space for an image of this size.

    Raises:
        ResourceExhausted: its filesystem has less free space.
    """
    if disk.free_bytes < need:
        free = _mib(disk.free_bytes)
        message = f"the image may need {_mib(need)}, and {disk.folder} has {free} free"
        raise ResourceExhausted(message, remedy="free space, or choose another image path")


def check_none_ended(target: CheckpointTarget) -> None:
    """Check that no container has exited: the image would lack it, or have it dead.

    Raises:
        IllegalState: one has.
    """
    gone = [one.ref.id for one in target.members if one.ended()]
    if gone:
        message = f"{', '.join(gone)} exited during the checkpoint of {target.ref}"
        raise IllegalState(message, remedy="delete it, and try again")


def check_network(target: CheckpointTarget) -> None:
    """Check that runsc can save a sandbox on this kind of network.

    Raises:
        Impossible: it is on the host's, which this runsc rejects only during the save.
    """
    host = target.flags.get("network") == "host"
    if host and not target.runsc.capabilities.saves_host_network:
        message = "the sandbox uses the host's network, which this runsc cannot save"
        raise Impossible(
            message,
            remedy="create it with a network of its own (in Kubernetes without hostNetwork, and "
            'without network = "host" under [runsc.flags]), or use runsc from 20260905 on',
        )


def check_manifest(target: CheckpointTarget) -> None:
    """Check that the manifest of the image will be within the limits of a reader.

    Raises:
        Impossible: there are too many containers, or their specs are too large together.
    """
    containers = target.containers
    if len(target.members) > manifests.MAX_MEMBERS:
        message = (
            f"{target.ref} shares its sandbox with {len(target.members)} containers, "
            f"and an image holds {manifests.MAX_MEMBERS} besides its own"
        )
        raise Impossible(message, remedy="save pods with fewer containers")
    count = sum(len(canonical.encode_pretty(one.spec.data)) for one in containers)
    if count > manifests.MAX_MANIFEST_BYTES - _MANIFEST_SLACK_BYTES:
        message = f"the config.json files of its containers have {_mib(count)} together"
        limit = _mib(manifests.MAX_MANIFEST_BYTES - _MANIFEST_SLACK_BYTES)
        raise Impossible(message, remedy=f"make them smaller: an image holds {limit} of them")


def existing(path: Path) -> Path:
    """Return the nearest folder that exists."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def check_memory(target: CheckpointTarget, device_bytes: int) -> None:
    """Check that GPU memory fits into host memory, to which the freeze copies it.

    It becomes memory of the sandbox, which the kernel kills if that exceeds its limit.

    Raises:
        ResourceExhausted: it does not fit.
    """
    if device_bytes == 0:
        return
    own = cgroup.find(target.sandbox.pid)
    left = cgroup.free_bytes(own) if own else None
    if left is not None and device_bytes > left:
        message = (
            f"freezing copies {_mib(device_bytes)} of GPU memory into the sandbox, whose memory "
            f"limit leaves {_mib(left)}"
        )
        raise ResourceExhausted(message, remedy="raise the memory limit of the container or pod")
    free = available_bytes()
    if device_bytes > free:
        message = (
            f"freezing copies {_mib(device_bytes)} of GPU memory to a host with {_mib(free)} free"
        )
        raise ResourceExhausted(message, remedy="free host memory")


def available_bytes(*, swap: bool = False) -> int:
    """Return the available memory as the kernel estimates it, with `swap` plus free swap."""
    names = ("MemAvailable", "SwapFree") if swap else ("MemAvailable",)
    lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    pairs = [line.partition(":") for line in lines]
    return sum(int(text.split()[0]) << 10 for name, _, text in pairs if name in names)


def check_room(needed_bytes: int) -> None:
    """Check that the host has the memory that a restore needs.

    Raises:
        ResourceExhausted: it does not.
    """
    free = available_bytes(swap=True)
    if needed_bytes > free:
        message = f"the image takes {_mib(needed_bytes)} of memory, and the host has {_mib(free)}"
        raise ResourceExhausted(message, remedy="free host memory, or restore it on another host")


def exec_processes(rows: list[GuestProcess]) -> list[GuestProcess]:
    """Return the processes that an exec has started: all without a parent except init."""
    init = min((row.pid for row in rows), default=0)
    return [row for row in rows if row.parent == 0 and row.pid != init]


def check_execs(target: CheckpointTarget, rows: list[GuestProcess]) -> list[str]:
    """Return a warning that names the live exec sessions, if there are any.

    Raises:
        Refused: this runsc would make an image that cannot be restored.
    """
    found = exec_processes(rows)
    if not found:
        return []
    names = first_few([f"{row.pid} ({row.command})" for row in found])
    if target.runsc.capabilities.saves_execs:
        return [f"exec sessions are alive and end in a restored copy: {names}"]
    message = f"exec sessions are alive: {names}; this runsc's image of them cannot be restored"
    raise Refused(message, remedy="end them, or use runsc from 20250304 on")


def check_non_cuda_holders(target: CheckpointTarget, holders: tuple[Holder, ...]) -> list[str]:
    """Return a warning that names processes with an open GPU device and no CUDA state.

    Such are NVML users and forked helpers.

    Raises:
        Refused: this runsc cannot save an open device.
    """
    if not holders:
        return []
    names = first_few([f"{holder.pid} ({holder.name})" for holder in holders])
    if target.runsc.capabilities.builtin_cuda:
        return [f"processes hold a GPU device without CUDA state and are left alone: {names}"]
    message = (
        f"processes hold a GPU device without CUDA state: {names}; this runsc cannot save that"
    )
    raise Refused(message, remedy="end them before the checkpoint, or use a newer runsc")


def check_namespaces(targets: Sequence[CheckpointTarget]) -> None:
    """Check that each container with a GPU has its own pid namespace.

    Raises:
        Impossible: with a shared one each container would find the processes of all.
    """
    sharing = [one.ref.id for one in targets if one.spec.shares_pids]
    if len(targets) > 1 and sharing:
        message = f"{', '.join(sharing)} shares its pid namespace with others that have a GPU"
        raise Impossible(message, remedy="run the pod without shareProcessNamespace")


def check_restorable(targets: Sequence[CheckpointTarget]) -> None:
    """Check that runsc would restore the containers with their own specs.

    Raises:
        Impossible: its validation rejects one, as with two mounts at one path.
    """
    for one in targets:
        enforced = settings.validation(one.runsc.flags) == "enforce"
        validates = enforced and one.runsc.capabilities.validates_restores
        if validates and (found := compare.conflicts(one.spec)):
            message = f"runsc would not restore task {one.ref.id}: {difference.describe(found)}"
            raise Impossible(message, remedy="create the container without it, then checkpoint it")


def check_terminals(target: CheckpointTarget) -> None:
    """Check that no container besides the sandbox's own has a terminal.

    Raises:
        Impossible: one has, and runsc passes a terminal only to the sandbox's own container
            (measured on both versions): the image could not be restored.
    """
    found = [one.shown_name for one in target.members if one.spec.terminal]
    if found:
        message = f"runsc cannot restore the terminal of {', '.join(found)}"
        remedy = "run these containers without a terminal (tty: false in a pod's spec)"
        raise Impossible(message, remedy=remedy)


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB"
