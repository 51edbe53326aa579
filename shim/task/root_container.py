"""The root container of a sandbox: its exit is that of the sandbox process."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from shim.host.process_id import ProcessId
from shim.model import Exit
from shim.runsc.supervised import Streams
from shim.task.init_process import InitProcess
from shim.task.process import exit_of


class RootLifecycle:
    """The root container of a sandbox, which exits with the sandbox process."""

    def streams_at_create(self, init: InitProcess) -> AbstractAsyncContextManager[Streams]:
        """Open the container's streams: the sandbox is created with them."""
        return init.streams.opened()

    async def start(self, init: InitProcess) -> None:
        """Start the container."""
        record = init.store.record
        await init.runsc.start(record.ref.id, record.own_flags)

    async def watch_restored(self, init: InitProcess) -> None:
        """Do nothing: the sandbox process is watched."""

    async def watch_adopted(self, init: InitProcess) -> None:
        """Do nothing: the sandbox process is watched."""

    async def exit_of_sandbox(self, init: InitProcess, sandbox: ProcessId) -> Exit:
        """Wait for the exit of the sandbox process, which has the container's exit status."""
        return await exit_of(init.context.supervisor, sandbox)

    async def kill(self, init: InitProcess) -> None:
        """Kill the sandbox process."""
        init.kill_sandbox()
