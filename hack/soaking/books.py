"""Counts the entries of a shim's tables, which the shim writes into a file on SIGUSR2.

The shim itself has no such handler. A `sitecustomize` on the path of the fork server calls `arm`
there, and forked shims inherit the handler.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from pathlib import Path

from shim.host.supervisor.local import LocalSupervisor
from shim.simgpu.waiting import wait_until
from shim.task.container import Container
from shim.task.execs import Exec

ENV = "CRYO_SOAK_BOOKS"
# The content of `sitecustomize`, which Python imports at startup.
ARMING = """
import sys

if "shim.entry.shimbin.forkserver" in sys.orig_argv:
    from hack.soaking import books

    books.arm()
"""
_LOOK_S = 60.0


def arm() -> None:
    """Let this process and its forks write their counts on SIGUSR2."""
    folder = Path(os.environ[ENV])

    def write(_number: int, _frame: object) -> None:
        path = folder / str(os.getpid())
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(_books()), "ascii")
        temporary.replace(path)

    signal.signal(signal.SIGUSR2, write)


def _books() -> dict[str, int]:
    found = {"execs": 0, "exec_objects": 0, "asyncio_tasks": len(asyncio.all_tasks())}
    gc.collect()
    for one in gc.get_objects():
        if isinstance(one, LocalSupervisor):
            found |= one.books
        elif isinstance(one, Container):
            found["execs"] += len(one.execs.ids)
        elif isinstance(one, Exec):
            found["exec_objects"] += 1
    return found


def look(folder: Path, pid: int) -> dict[str, int]:
    """Let a shim write its counts, and return them."""
    path = folder / str(pid)
    path.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR2)
    wait_until(path.exists, "the shim's books", _LOOK_S)
    books: dict[str, int] = json.loads(path.read_text("ascii"))
    return books
