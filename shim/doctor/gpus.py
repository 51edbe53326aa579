"""Checks the GPUs: device nodes, CDI files, MIG, MPS, persistence mode, and memory for a freeze."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from shim.cuda import cdi, inventory
from shim.cuda.inventory import Gpu
from shim.doctor import disks, memory
from shim.doctor.host import Host
from shim.errors import CryoError
from shim.finding import Area, Finding, Topic
from shim.host.filecalls import file_call

_GPUS = Topic(Area.GPU, "GPUs")
_NODES = Topic(Area.GPU, "device nodes")
_CDI = Topic(Area.GPU, "CDI")
_MIG = Topic(Area.GPU, "MIG")
_MPS = Topic(Area.GPU, "MPS")
_PERSISTENCE = Topic(Area.GPU, "persistence")
_CONTROL = ("/dev/nvidiactl", "/dev/nvidia-uvm")
# /proc/PID/comm has 15 characters of nvidia-cuda-mps-control and nvidia-cuda-mps-server.
_MPS_NAME = "nvidia-cuda-mps"
_FIELDS = ("uuid", "mig.mode.current", "persistence_mode", "memory.total", "memory.used")
_MIB = 1 << 20
_DISK_S = 5.0


class Row(NamedTuple):
    """What nvidia-smi prints of a GPU."""

    uuid: str
    mig: str
    persistence: str
    total_bytes: int
    used_bytes: int


async def check(host: Host) -> list[Finding]:
    """Check the GPUs, if there are any."""
    found = inventory.read(host.config.cuda.nvidia_proc)
    if not found.gpus:
        if not found.driver:
            return [_GPUS.ok("none")]
        text = "the driver is loaded, and has no GPU"
        return [_GPUS.failure(text, "look into dmesg for NVRM, and at the PCI bus with lspci")]
    names = ", ".join(f"{gpu.model} ({gpu.uuid})" for gpu in found.gpus)
    return [
        _GPUS.ok(names),
        *_nodes(host, found.gpus),
        *_cdi(host),
        *_mps(host),
        *await _settings(host),
    ]


def _nodes(host: Host, gpus: Sequence[Gpu]) -> Iterator[Finding]:
    wanted = (*_CONTROL, *(f"/dev/nvidia{gpu.minor}" for gpu in gpus if gpu.minor >= 0))
    missing = [path for path in wanted if not host.at(path).exists()]
    if missing:
        yield _NODES.failure(
            f"{', '.join(missing)} does not exist: no container can use a GPU",
            "load the module nvidia-uvm, and run nvidia-modprobe -c 0 -u",
        )
    else:
        yield _NODES.ok(", ".join(wanted))


def _cdi(host: Host) -> Iterator[Finding]:
    registry = cdi.read(host.config.cuda.cdi_dirs)
    remedy = "run: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
    for problem in registry.problems:
        yield _CDI.warning(problem, remedy)
    for name in registry.names("nvidia.com/gpu"):
        try:
            registry.edits([f"nvidia.com/gpu={name}"])
        except CryoError as error:
            yield _CDI.warning(f"nvidia.com/gpu={name}: {error.message}", remedy)


def _mps(host: Host) -> Iterator[Finding]:
    if host.processes(_MPS_NAME):
        yield _MPS.warning(
            "the MPS daemon runs: processes that use it hold GPU memory in its server, which "
            "cuda-checkpoint does not freeze",
            "stop it (echo quit | nvidia-cuda-mps-control), or keep its pipes out of containers",
        )
    else:
        yield _MPS.ok("off")


async def _settings(host: Host) -> list[Finding]:
    try:
        rows = await _rows(host)
    except CryoError as error:
        remedy = error.remedy or "run nvidia-smi and see why it fails"
        text = f"the settings of the GPUs are not known: {error.message}"
        return [_GPUS.warning(text, remedy)]
    largest, used = _memory(rows)
    return [
        *_mig(rows),
        *_persistence(rows),
        *memory.check_freeze(host, largest, used),
        *await _saved(host, used),
    ]


async def _saved(host: Host, used: int) -> list[Finding]:
    def look() -> list[Finding]:
        return list(disks.check_gpu_memory(host, used))

    return await file_call(look, doing="measure the disk of images", deadline_s=_DISK_S)


async def _rows(host: Host) -> list[Row]:
    query = f"--query-gpu={','.join(_FIELDS)}"
    program = host.config.cuda.nvidia_smi
    done = await host.ask([host.find(program) or program, query, "--format=csv,noheader,nounits"])
    text = done.stdout.decode("utf-8", "replace").strip()
    if done.status:
        message = f"nvidia-smi exited with status {done.status}: {text[:200]}"
        raise CryoError(message)
    fields = ([cell.strip() for cell in line.split(",")] for line in text.splitlines())
    return [_row(each) for each in fields if len(each) == len(_FIELDS)]


def _row(fields: list[str]) -> Row:
    uuid, mig, persistence, *sizes = fields
    total, used = (int(text) * _MIB if text.isdecimal() else 0 for text in sizes)
    return Row(uuid, mig, persistence, total, used)


def _memory(rows: Sequence[Row]) -> tuple[int, int]:
    """Return the memory of the largest GPU, and what is used on all of them."""
    largest = max((row.total_bytes for row in rows), default=0)
    return largest, sum(row.used_bytes for row in rows)


def _mig(rows: Sequence[Row]) -> Iterator[Finding]:
    parted = [row.uuid for row in rows if row.mig == "Enabled"]
    if parted:
        yield _MIG.failure(
            f"on for {', '.join(parted)}, and gVisor does not support MIG devices",
            "turn it off (nvidia-smi -mig 0), or keep containers off these GPUs",
        )
    else:
        yield _MIG.ok("off")


def _persistence(rows: Sequence[Row]) -> Iterator[Finding]:
    off = [row.uuid for row in rows if row.persistence == "Disabled"]
    if off:
        yield _PERSISTENCE.warning(
            f"off for {', '.join(off)}: each start of a GPU process may take seconds longer",
            "run nvidia-persistenced, or nvidia-smi -pm 1",
        )
    else:
        yield _PERSISTENCE.ok("on")
