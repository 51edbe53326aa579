"""Waiting until the sentry has finished a save whose command may have exited.

A save continues without `runsc checkpoint`: killing that command, at our timeout or by the kernel's
OOM killer, does not stop the sentry, whose own CUDA steps would then run concurrently with ours and
invert them. There is no notification of its end. But the sentry keeps the files of the image open
until the save is over, and its steps after that are processes in the container.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from shim.cuda.tool_processes import ToolProcesses
from shim.transaction.target import CheckpointTarget

_POLL_S = 0.05
# Between two of its steps nothing is visible, for microseconds: two idle polls are enough.
_IDLE_POLLS = 2


def writes(pid: int, folder: Path) -> bool:
    """Whether a process has a file of this folder open, even one that was unlinked."""
    with contextlib.suppress(OSError):
        return any(_target(fd).startswith(f"{folder}/") for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False


def writes_to_device(pid: int, device: int) -> bool:
    """Whether a process has a file of a filesystem open that is mounted nowhere."""
    with contextlib.suppress(OSError):
        return any(_device(fd) == device for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _device(fd: Path) -> int:
    with contextlib.suppress(OSError):
        return fd.stat().st_dev
    return 0


def _target(fd: Path) -> str:
    with contextlib.suppress(OSError):
        return str(fd.readlink())
    return ""


async def wait_for_save_idle(
    target: CheckpointTarget, staging: str, exec_processes: tuple[int, ...], *, device: int = 0
) -> None:
    """Wait for the end of a save and of its tools; a tool is ended at its own timeout.

    The save is one to the folder `staging`, or into the memory with the device number `device`.

    The caller bounds the time of the save itself.
    """
    timeouts = target.config.timeouts
    tools = ToolProcesses([one.guest for one in target.containers], exec_processes, timeouts.freeze)
    idle = 0
    while idle < _IDLE_POLLS:
        found = await tools.look()
        pid = target.sandbox.pid
        busy = found or (bool(staging) and writes(pid, Path(staging)))
        busy = busy or (bool(device) and writes_to_device(pid, device))
        idle = 0 if busy else idle + 1
        for pid, guest in tools.late().items():
            await guest.end(pid)
        await asyncio.sleep(_POLL_S)
