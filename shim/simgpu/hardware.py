"""A machine with the host's own GPU: the same workload on the CUDA driver API, or on PyTorch.

docs/gpu-results.md says on which GPUs it ran.
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
# The loader knows more places than can be guessed: it is asked what it took.
_LOAD = """
import ctypes
ctypes.CDLL("libcuda.so.1")
print(next(line.split(None, 5)[5] for line in open("/proc/self/maps") if "/libcuda.so" in line))
"""
_ENVIRONMENT = ("NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility")


def why_not(*, tool: bool) -> str:
    """Return why the host's GPU cannot be used, empty when it can.

    `tool` is whether there is something to do the CUDA steps with.
    """
    if not _NODE.exists() or not _DRIVER.exists():
        return "this machine has no NVIDIA GPU"
    if not tool:
        return "this machine has an NVIDIA GPU, and neither cuda-checkpoint nor a usable cryo-cuda"
    return ""


def library() -> Path | None:
    """Return the file that programs of this host get for libcuda.so.1, None where they get none."""
    argv = [sys.executable, "-ISc", _LOAD]
    try:
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=_LOAD_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if ran.returncode else Path(ran.stdout.strip())


class Hardware(Machine):
    """The product finds GPU, driver and cuda-checkpoint by itself, as for any container."""

    host_dev: ClassVar[bool] = True

    def __init__(self, runsc: Path, *, helper: str = "auto") -> None:
        """Take the runsc to use, and whether cryo-cuda does the CUDA steps (`config.Cuda`)."""
        super().__init__(runsc)
        self._helper = helper

    def settings_of_cuda(self) -> dict[str, Any]:
        """Leave everything to be found but what was chosen."""
        return {"helper": self._helper}

    def hardware(self, content: dict[str, Any], settings: Settings) -> None:
        """Ask for the GPUs in the way that images do.

        Raises:
            FailedPrecondition: PyTorch is wanted, and no Python here has it.
        """
        content["process"]["env"] += _ENVIRONMENT
        if found := library():
            _add_library(content, found)
        if settings.pytorch:
            _use_pytorch(content)


def _add_library(content: dict[str, Any], found: Path) -> None:
    """Let the container load the host's libcuda.so.1, also where it is on a mount of its own."""
    folders = [str(found.parent), *filter(None, os.environ.get(_LIBRARY_PATH, "").split(":"))]
    content["process"]["env"].append(f"{_LIBRARY_PATH}={':'.join(dict.fromkeys(folders))}")
    _show(content, str(found.parent))


def _use_pytorch(content: dict[str, Any]) -> None:
    """Run the workload by a Python that has PyTorch, in place of ours."""
    found = pytorch.find()
    if found is None:
        message = "no Python on this host has PyTorch"
        raise FailedPrecondition(message, remedy="put one first on PATH, or leave out --pytorch")
    for place in found.places:
        _show(content, place)
    # -S would hide what a virtual environment has.
    content["process"]["args"][:2] = [str(found.python), "-IB"]
    content["process"]["env"].append(f"HOME={content['process']['cwd']}")


def _show(content: dict[str, Any], place: str) -> None:
    """Mount what a folder is on, where that is not the rootfs."""
    point = bundle.mount_point(place)
    if point not in {"/", *(mount["destination"] for mount in content["mounts"])}:
        content["mounts"].append(bundle.bind(point, point))
