"""A machine with the host's own GPU: the same workload on the CUDA driver API, or on PyTorch.

docs/gpu-results.md lists the GPUs on which it has run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

from shim.errors import FailedPrecondition
from shim.simgpu import bundle, pytorch
from shim.simgpu.bundle import Settings
from shim.simgpu.machine import Machine

_NODE = Path("/dev/nvidia0")
_DRIVER = Path("/proc/driver/nvidia/version")
_LIBRARY_PATH = "LD_LIBRARY_PATH"
_LOAD_S = 30
# The loader searches more places than can be listed here, so load the library and read its path.
_LOAD = """
import ctypes
ctypes.CDLL("libcuda.so.1")
print(next(line.split(None, 5)[5] for line in open("/proc/self/maps") if "/libcuda.so" in line))
"""
_ENVIRONMENT = ("NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility")


def why_not(*, tool: bool) -> str:
    """Return why the host's GPU cannot be used; empty if it can.

    `tool` is whether the host has a program for the CUDA steps.
    """
    if not _NODE.exists() or not _DRIVER.exists():
        return "this machine has no NVIDIA GPU"
    if not tool:
        return "this machine has an NVIDIA GPU, and neither cuda-checkpoint nor a usable cryo-cuda"
    return ""


def library() -> Path | None:
    """Return the file that the loader finds for libcuda.so.1 on this host, or None."""
    argv = [sys.executable, "-ISc", _LOAD]
    try:
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=_LOAD_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if ran.returncode else Path(ran.stdout.strip())


class Hardware(Machine):
    """A machine on which the sidecar detects GPU, driver and cuda-checkpoint by itself."""

    host_dev: ClassVar[bool] = True

    def __init__(self, runsc: Path, *, helper: str = "auto") -> None:
        """Take the runsc to use, and whether cryo-cuda does the CUDA steps (`config.Cuda`)."""
        super().__init__(runsc)
        self._helper = helper

    def settings_of_cuda(self) -> dict[str, Any]:
        """Set only the helper; everything else is detected."""
        return {"helper": self._helper}

    def hardware(self, content: dict[str, Any], settings: Settings) -> None:
        """Request the GPUs by environment variables, as images do.

        Raises:
            FailedPrecondition: PyTorch is requested, and no Python here has it.
        """
        content["process"]["env"] += _ENVIRONMENT
        if found := library():
            _add_library(content, found)
        if settings.pytorch:
            _use_pytorch(content)


def _add_library(content: dict[str, Any], found: Path) -> None:
    """Let the container load the host's libcuda.so.1, also if it is on a separate mount."""
    folders = [str(found.parent), *filter(None, os.environ.get(_LIBRARY_PATH, "").split(":"))]
    content["process"]["env"].append(f"{_LIBRARY_PATH}={':'.join(dict.fromkeys(folders))}")
    _show(content, str(found.parent))


def _use_pytorch(content: dict[str, Any]) -> None:
    """Run the workload with a Python that has PyTorch instead of ours."""
    found = pytorch.find()
    if found is None:
        message = "no Python on this host has PyTorch"
        raise FailedPrecondition(message, remedy="put one with it first on PATH, or omit --pytorch")
    for place in found.places:
        _show(content, place)
    # -S would hide the packages of a virtual environment.
    content["process"]["args"][:2] = [str(found.python), "-IB"]
    content["process"]["env"].append(f"HOME={content['process']['cwd']}")


def _show(content: dict[str, Any], place: str) -> None:
    """Mount the filesystem that contains a directory, unless it is the rootfs."""
    point = bundle.mount_point(place)
    if point not in {"/", *(mount["destination"] for mount in content["mounts"])}:
        content["mounts"].append(bundle.bind(point, point))
