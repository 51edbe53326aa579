"""Paths inside the container that the host and the guest side of the simulation share."""

from __future__ import annotations

# Below /dev, which is a tmpfs of gVisor, so mount points can be created despite a read-only rootfs.
CODE_DIR = "/dev/simgpu/code"
DEVICE_DIR = "/dev/simgpu/device"
DEVICE_SOCKET = f"{DEVICE_DIR}/device.sock"
CONTROL_NODE = "/dev/nvidiactl"
TOOL = "/dev/cryo/cuda-checkpoint"
# With the value `none` in the container's environment, its tools ask the device for no fault.
FAULTS = "CRYO_SIMGPU_FAULTS"
# The name of a worker's constant memory on a real GPU.
WEIGHTS = "weights"

# Sockets on the guest's private tmpfs survive a checkpoint and are invisible to other containers.
RUN_DIR = "/tmp/.simgpu"  # noqa: S108  # the guest's private tmpfs


def driver_socket(pid: int) -> str:
    """Return the socket of the driver thread of a CUDA process."""
    return f"{RUN_DIR}/cuda.{pid}"


def worker_socket(pid: int) -> str:
    """Return the socket on which a worker serves queries."""
    return f"{RUN_DIR}/worker.{pid}"


SUPERVISOR_SOCKET = f"{RUN_DIR}/supervisor"
