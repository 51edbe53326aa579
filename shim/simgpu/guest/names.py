"""Paths inside the container that both halves of the simulation agree on."""

from __future__ import annotations

# Below /dev because gVisor's own tmpfs is there: mount points can be made on a read-only rootfs.
CODE_DIR = "/dev/simgpu/code"
DEVICE_DIR = "/dev/simgpu/device"
DEVICE_SOCKET = f"{DEVICE_DIR}/device.sock"
CONTROL_NODE = "/dev/nvidiactl"
TOOL = "/dev/cryo/cuda-checkpoint"
# The store of a worker that is memory of a real GPU and stays as it is.
WEIGHTS = "weights"

# Sockets on the guest's own tmpfs survive a save, and no other container sees them.
RUN_DIR = "/tmp/.simgpu"  # noqa: S108  # the guest's private tmpfs


def driver_socket(pid: int) -> str:
    """Return where the driver thread of a CUDA process listens."""
    return f"{RUN_DIR}/cuda.{pid}"


def worker_socket(pid: int) -> str:
    """Return where a worker answers questions about itself."""
    return f"{RUN_DIR}/worker.{pid}"


SUPERVISOR_SOCKET = f"{RUN_DIR}/supervisor"
