"""Whether a sandbox's kernel is paused, on which runsc and the sentry may disagree.

`runsc pause` calls the sentry and then writes its own state file; so does `runsc resume`. If it is
killed in between, a paused sandbox is recorded as running, or the reverse, and runsc can fix
neither: it refuses, or the sentry, which counts pauses, panics at a surplus resume
(pkg/sentry/kernel/task_stop.go). The sentry has no method to query it; its stacks show it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from shim.errors import Unavailable
from shim.runsc import urpc

_TASK = "/sentry/kernel.(*Task).run("
_STOPPED = "/sentry/kernel.(*Task).doStop("
_CALL = "/urpc.(*Server).handleOne("
# The call that reads the stacks, and calls that last as long as a process: neither pauses.
_IDLE_CALLS = ("(*debug).Stacks(", "(*containerManager).Wait")
_SAVING = "/boot.(*Loader).save("
_POLL_S = 0.1
# A signal stops all tasks for microseconds, so two reads in a row must agree.
_LOOKS = 2


def read(stacks: str) -> bool | None:
    """Return whether the sentry's stacks show all tasks stopped; None while that may change.

    Tasks that are all stopped by signals look the same.
    """
    blocks = stacks.split("\n\n")
    calls = [b for b in blocks if _CALL in b and not any(idle in b for idle in _IDLE_CALLS)]
    if calls or any(_SAVING in block for block in blocks):
        return None
    tasks = [block for block in blocks if _TASK in block]
    return bool(tasks) and all(_STOPPED in block for block in tasks)


async def is_paused(socket: Path, *, timeout_s: float) -> bool:
    """Return whether a kernel is paused, once no command is changing that.

    Raises:
        Unavailable: the sentry does not answer, or is busy for longer than `timeout_s`.
    """
    looks: list[bool | None] = []
    try:
        async with asyncio.timeout(timeout_s):
            while len(looks) < _LOOKS or None in looks or len(set(looks)) > 1:
                if looks:
                    await asyncio.sleep(_POLL_S)
                now = read(str(await urpc.call(socket, "debug.Stacks", None)))
                looks = [*looks, now][-_LOOKS:]
    except TimeoutError as error:
        message = f"the sentry was busy for more than {timeout_s:g} s"
        raise Unavailable(message, remedy="read the sandbox's log") from error
    return bool(looks[-1])


async def pause(socket: Path) -> None:
    """Pause a kernel without changing runsc's state.

    Raises:
        Unavailable: the sentry does not answer.
    """
    await urpc.call(socket, "containerManager.Pause", None)


async def resume(socket: Path, *, timeout_s: float) -> None:
    """Resume a paused kernel; this also runs its pending CUDA steps.

    Raises:
        Unavailable: the sentry does not answer.
    """
    await urpc.call(socket, "containerManager.Resume", None, timeout_s=timeout_s)
