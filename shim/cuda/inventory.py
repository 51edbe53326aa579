"""The GPUs and the driver of this host, as the kernel module reports them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Annotated

import msgspec

from shim.errors import CryoError, NotFound
from shim.host import files
from shim.model import Value
from shim.oci.document import Device

_MAX_BYTES = 64 << 10
# "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun ..." and, for the open module,
# "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build ...".
_DRIVER = re.compile(r"NVRM version:.*?\s{2,}(\d+(?:\.\d+)+)\b")
_GPU_NODE = re.compile(r"/dev/nvidia[0-9]+")
_MIB = 1 << 20

Spawn = Callable[[list[str]], Awaitable[str]]


class Gpu(Value):
    """A GPU of a host. `minor` is the N of /dev/nvidiaN."""

    uuid: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    model: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    bus: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    minor: Annotated[int, msgspec.Meta(ge=-1, lt=1 << 31)] = -1


class Inventory(Value):
    """The driver and GPUs of a host; `driver` is empty if no NVIDIA kernel module is loaded."""

    driver: str = ""
    gpus: tuple[Gpu, ...] = ()


def read(nvidia_proc: str) -> Inventory:
    """Read /proc/driver/nvidia, or a directory of the same layout."""
    root = Path(nvidia_proc)
    return Inventory(driver=_driver(root), gpus=_gpus(root))


async def bytes_by_gpu(nvidia_smi: str, spawn: Spawn, pid: int) -> dict[str, int]:
    """Return how many bytes a host process holds on each GPU, by UUID, from nvidia-smi.

    GPUs for which the driver reports nothing are left out.
    """
    query = "--query-compute-apps=pid,gpu_uuid,used_gpu_memory"
    return parse_apps(await spawn([nvidia_smi, query, "--format=csv,noheader,nounits"]), pid)


async def free_bytes(nvidia_smi: str, spawn: Spawn) -> dict[str, int]:
    """Return how many bytes are free on each GPU, by UUID, from nvidia-smi."""
    query = "--query-gpu=uuid,memory.free"
    return parse_gpus(await spawn([nvidia_smi, query, "--format=csv,noheader,nounits"]))


async def without_persistence(nvidia_smi: str, spawn: Spawn) -> tuple[str, ...]:
    """List the UUIDs of the GPUs whose persistence mode is off, from nvidia-smi."""
    query = "--query-gpu=uuid,persistence_mode"
    rows = (
        _fields(line)
        for line in (await spawn([nvidia_smi, query, "--format=csv,noheader"])).splitlines()
    )
    return tuple(row[0] for row in rows if row[1:] == ["Disabled"])


def visible(gpus: Iterable[Gpu], devices: Iterable[Device]) -> tuple[Gpu, ...]:
    """Return the GPUs whose device nodes a container has, matched by minor number."""
    minors = {device.minor for device in devices if _GPU_NODE.fullmatch(device.path)}
    return tuple(gpu for gpu in gpus if gpu.minor in minors)


def parse_apps(text: str, pid: int) -> dict[str, int]:
    """Parse lines of `pid, UUID, MiB`; return the total of process `pid` on each GPU."""
    rows = (_fields(line) for line in text.splitlines())
    return _summed(row[1:] for row in rows if row[0] == str(pid))


def parse_gpus(text: str) -> dict[str, int]:
    """Parse lines of `UUID, MiB`."""
    return _summed(_fields(line) for line in text.splitlines())


def _fields(line: str) -> list[str]:
    return [field.strip() for field in line.split(",")]


def _summed(pairs: Iterable[list[str]]) -> dict[str, int]:
    """Add up the MiB of each name, in bytes."""
    sums: dict[str, int] = {}
    for pair in pairs:
        match pair:
            case [name, mib] if name and _number(mib):
                sums[name] = sums.get(name, 0) + int(mib) * _MIB
    return sums


def parse_driver(text: str) -> str:
    """Return the driver version in /proc/driver/nvidia/version; empty if there is none."""
    found = _DRIVER.search(text)
    return found.group(1) if found else ""


def parse_gpu(text: str) -> Gpu:
    """Parse one /proc/driver/nvidia/gpus/BUS/information."""
    fields = dict(_field(line) for line in text.splitlines())
    minor = fields.get("Device Minor", "")
    return Gpu(
        uuid=fields.get("GPU UUID", ""),
        model=fields.get("Model", ""),
        bus=fields.get("Bus Location", ""),
        minor=int(minor) if _number(minor) else -1,
    )


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def _number(text: str) -> bool:
    # str.isdigit() alone accepts superscripts, which int() does not.
    return text.isascii() and text.isdigit() and len(text) < len("9" * 16)


def _driver(root: Path) -> str:
    try:
        return parse_driver(_read(root / "version"))
    except NotFound:
        return ""


def _gpus(root: Path) -> tuple[Gpu, ...]:
    """List the GPUs in the order of the PCI bus, as nvidia-smi does."""
    try:
        folders = sorted((root / "gpus").iterdir())
    except OSError:
        return ()
    return tuple(gpu for folder in folders if (gpu := _gpu(folder)) is not None)


def _gpu(folder: Path) -> Gpu | None:
    try:
        return parse_gpu(_read(folder / "information"))
    except CryoError:
        return None  # a GPU that is being unbound loses its files between the two reads


def _read(path: Path) -> str:
    return files.read_bounded(path, _MAX_BYTES).decode("utf-8", "replace")
