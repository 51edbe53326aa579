"""The stand-in for nvidia-smi: the two queries that preflight makes.

Most of its time is the interpreter's start, so it imports as little as possible.
"""

from __future__ import annotations

import _socket  # as in cuda_checkpoint.py
import json
import sys

from shim.simgpu import gpu
from shim.simgpu.guest.cuda_checkpoint import exactly

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MIB = 1 << 20
_TIMEOUT_S = 60.0
_REQUEST = b'{"op":"stats","size":0}'


def _stats(device_socket: str) -> dict[str, Any]:
    """Ask the device, in the frames of `guest.frames`; an answer has a header alone."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.settimeout(_TIMEOUT_S)
        connection.connect(device_socket)
        connection.sendall(len(_REQUEST).to_bytes(4, "big") + _REQUEST)
        length = int.from_bytes(exactly(connection, 4), "big")
        return dict(json.loads(exactly(connection, length)))
    finally:
        connection.close()


def _apps(stats: dict[str, Any], fields: list[str]) -> list[list[str]]:
    held: dict[int, int] = {}
    for client in stats["clients"]:
        if client["bytes"]:
            held[client["sandbox"]] = held.get(client["sandbox"], 0) + client["bytes"]
    return [_row(fields, _app(pid, used)) for pid, used in held.items()]


def _app(pid: int, used: int) -> dict[str, str]:
    return {
        "pid": str(pid),
        "process_name": "runsc-sandbox",
        "gpu_uuid": gpu.UUID,
        "used_gpu_memory": str(-(-used // _MIB)),
        "used_memory": str(-(-used // _MIB)),
    }


def _gpu(stats: dict[str, Any]) -> dict[str, str]:
    total, used = stats["capacity_bytes"], stats["used_bytes"]
    return {
        "index": "0",
        "uuid": gpu.UUID,
        "gpu_uuid": gpu.UUID,
        "name": gpu.MODEL,
        "gpu_name": gpu.MODEL,
        "pci.bus_id": "00000000:00:1F.0",
        "memory.total": str(total // _MIB),
        "memory.used": str(-(-used // _MIB)),
        "memory.free": str((total - used) // _MIB),
        "persistence_mode": "Enabled",
    }


def _row(fields: list[str], values: dict[str, str]) -> list[str]:
    return [values.get(field, "[N/A]") for field in fields]


def _value(argv: list[str], name: str) -> list[str]:
    given = [word.partition("=")[2] for word in argv if word.startswith(f"{name}=")]
    return [field.strip() for field in given[0].split(",")] if given else []


def main(device_socket: str, argv: list[str]) -> int:
    """Print the result of one query."""
    try:
        stats = _stats(device_socket)
    except OSError:
        print("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
        return 9
    apps, gpus = _value(argv, "--query-compute-apps"), _value(argv, "--query-gpu")
    if not apps and not gpus:
        print("Simulated nvidia-smi: use --query-compute-apps or --query-gpu.", file=sys.stderr)
        return 2
    fields = apps or gpus
    options = _value(argv, "--format")
    if "noheader" not in options:
        print(", ".join(fields))
    for row in _apps(stats, fields) if apps else [_row(fields, _gpu(stats))]:
        print(", ".join(row))
    return 0
