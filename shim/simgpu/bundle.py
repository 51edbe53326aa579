"""Writes the bundle of a workload: its config.json, with the host's read-only `/` as rootfs."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shim.simgpu import tools
from shim.simgpu.guest import names
from shim.simgpu.guest.worker import Settings

__all__ = [
    "CONTROL",
    "Settings",
    "bind",
    "foreign_mounts",
    "mount_point",
    "shares",
    "spec",
    "workload_argv",
    "write",
]

# The device entry that the spec of a GPU container has; gVisor replaces it with its own device.
CONTROL = {
    "path": names.CONTROL_NODE,
    "type": "c",
    "major": 195,
    "minor": 255,
    "fileMode": 0o666,
    "uid": 0,
    "gid": 0,
}
_CHANGING_BYTES = 64 << 20
_NAMESPACES = ("pid", "mount", "ipc", "uts", "network")


def shares(gpu_bytes: int, *, real: bool) -> tuple[int, int]:
    """Split a process's GPU memory into bytes that it keeps changing and bytes that stay constant.

    The CPU compares the first part, so on a real GPU it is small; the GPU compares the second.
    """
    changing = min(gpu_bytes, _CHANGING_BYTES) if real else gpu_bytes
    return changing, gpu_bytes - changing


def workload_argv(*arguments: str) -> list[str]:
    """Return the command of a workload program inside the container."""
    return [tools.interpreter(), "-ISB", f"{names.CODE_DIR}/workload.py", *arguments]


def bind(source: Path | str, destination: str, *options: str) -> dict[str, Any]:
    """Return a bind mount, read-only by default."""
    chosen = ["bind", *(options or ("ro",))]
    return {"destination": destination, "type": "bind", "source": str(source), "options": chosen}


def foreign_mounts() -> list[str]:
    """Return the mount points, other than `/`, with files that the host's Python needs.

    The rootfs does not include the mounts below `/`.
    """
    needed = {os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_exec_prefix)}
    needed |= {os.path.realpath(path) for path in ("/usr", "/lib", "/lib64") if Path(path).exists()}
    needed.add(str(Path(tools.interpreter()).parent))
    hidden = {path for path in needed if path.startswith("/tmp/")}  # noqa: S108  # a tmpfs there
    points = {mount_point(path) for path in needed - hidden}
    return sorted((points | hidden) - {"/"})


def mount_point(path: str) -> str:
    """Return the mount point of the filesystem that contains a path of this host."""
    while not os.path.ismount(path):
        path = str(Path(path).parent)
    return path


def spec(
    rootfs: Path,
    code: Path,
    device: Path,
    settings: Settings,
    *,
    hostname: str,
    tool: Path | None = None,
    readonly: bool = True,
) -> dict[str, Any]:
    """Return the OCI spec of a workload; `tool` is mounted where the sidecar would mount it."""
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},  # noqa: S108  # the guest's
        bind(code, names.CODE_DIR),
        bind(device, names.DEVICE_DIR, "rw"),
    ]
    mounts += [bind(point, point) for point in foreign_mounts()]
    if tool is not None:
        mounts.append(bind(tool, names.TOOL))
    return {
        "ociVersion": "1.0.2",
        "hostname": hostname,
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": workload_argv(json.dumps(asdict(settings))),
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
        },
        "root": {"path": str(rootfs), "readonly": readonly},
        "mounts": mounts,
        "linux": {
            "devices": [],
            "namespaces": [{"type": kind} for kind in _NAMESPACES],
        },
    }


def write(folder: Path, content: dict[str, Any]) -> Path:
    """Write the bundle and return its directory."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content, indent=1), "utf-8")
    return folder
