"""When the sentry is done with a save whose command may be gone.

A save goes on without `runsc checkpoint`: who kills that command, we at a timeout or the kernel for
its memory, does not stop the sentry, whose own CUDA steps would then run beside ours and invert
them. Nothing announces the end. But the image's files are open in the sentry from the first step
to the end of the save, and the steps after it are processes in the container.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from shim.cuda.strays import Strays
from shim.transaction.target import CheckpointTarget

_POLL_S = 0.05
# Between two of its steps the sentry shows nothing, for microseconds: two looks are enough.
_CALM = 2


def writes(pid: int, folder: Path) -> bool:
    """Whether a process has a file of this folder open, though its name may be gone."""
    with contextlib.suppress(OSError):
        return any(_target(fd).startswith(f"{folder}/") for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _target(fd: Path) -> str:
    with contextlib.suppress(OSError):
        return str(fd.readlink())
    return ""


async def wait_for_save_idle(
    target: CheckpointTarget, staging: str, exec_processes: tuple[int, ...]
) -> None:
    """Wait for the end of a save and of its tools; a tool that hangs is ended after its time.

    How long the save itself may go on is bounded by the caller, whose time it is.
    """
    timeouts = target.config.timeouts
    tools = Strays([one.guest for one in target.containers], exec_processes, timeouts.freeze)
    looks = 0
    while looks < _CALM:
        found = await tools.look()
        busy = found or (bool(staging) and writes(target.sandbox.pid, Path(staging)))
        looks = 0 if busy else looks + 1
        for pid, guest in tools.late().items():
            await guest.end(pid)
        await asyncio.sleep(_POLL_S)
