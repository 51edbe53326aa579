"""The stand-in for nvidia-smi: the two queries that preflight makes."""

from __future__ import annotations

import sys
from typing import Any

from shim.simgpu import gpu
from shim.simgpu.guest.client import DeviceClient, DeviceLost

_MIB = 1 << 20


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
        client = DeviceClient(device_socket, name="nvidia-smi")
    except (OSError, DeviceLost):
        print("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
        return 9
    stats, _ = client.call({"op": "stats"})
    client.close()
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
