"""The processes that a fake supervisor has started, as children of the test."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime

from shim.host import procs
from shim.host.process_id import ProcessId
from shim.host.supervisor.exits import Exited


@dataclass
class Children:
    """Starts processes and waits for them; `end` has to be awaited before the test's loop ends.

    asyncio learns of an exit by a callback in the loop. A child whose exit comes after the last
    one is an unclosed transport, and its warning fails whichever test runs when it is collected.
    """

    children: dict[int, asyncio.subprocess.Process] = field(default_factory=dict)

    async def _child(self, *argv: str) -> ProcessId:
        child = await asyncio.create_subprocess_exec(*argv)
        self.children[child.pid] = child
        return ProcessId(child.pid, procs.start_time(child.pid) or 0)

    async def wait(self, pid: int, start: int) -> Exited:
        """Wait until a child has exited."""
        status = await self.children[pid].wait()
        return Exited(status if status >= 0 else 128 - status, datetime.now(UTC))

    async def end(self) -> None:
        """End every process that a test has left."""
        for child in self.children.values():
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
