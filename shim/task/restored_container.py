"""A container as the target of a restore transaction."""

from __future__ import annotations

import asyncio

import msgspec

from shim.host.exit_status import UNKNOWN_STATUS
from shim.model import Exit, RestoreOptions, utcnow
from shim.state import TaskState
from shim.task.container import Container
from shim.transaction import network
from shim.transaction.beside_load import Load
from shim.transaction.journal import Journal
from shim.transaction.target import CheckpointTarget


class RestoredContainer:
    """One created container into which an image is loaded."""

    def __init__(self, container: Container) -> None:
        self.journal: Journal = container.journal
        self._container = container

    async def network_warnings(self) -> tuple[str, ...]:
        """Return what the network of the restored container will lack, one warning each."""
        path = network.namespace(self._container.files.spec, (await self.target()).flags)
        return () if path is None else await asyncio.to_thread(network.warnings, path)

    def hold_exit(self) -> None:
        """Publish no exit before `settle` or `remove_sandbox`."""
        self._container.init.process.hold_exit()

    async def load_image(self, options: RestoreOptions, load: Load) -> int:
        """Run `runsc restore`, and call what is to be called on its way; return its sandbox."""
        init = self._container.init
        return await init.restore(options, load, tentative=self._is_tentative)

    async def hold_until_loaded(self, fd: int) -> None:
        """Keep a descriptor open until runsc has read all of the image in the background.

        A `runsc wait`, which outlives this process, inherits it. A runsc without that keeps none.
        """
        container = self._container
        if not container.runsc.capabilities.wait_restore:
            return
        async with container.init.streams.nothing() as nothing:
            streams = msgspec.structs.replace(nothing, stdin=fd)
            held = await container.runsc.supervised.wait_restored(container.ref.id, streams)
        work = container.context.supervisor.wait(held.pid, held.start)
        container.context.background.start(work, name=f"load of {container.init.name}")

    def settle(self) -> None:
        """Publish its exit from now on: its restore is complete."""
        self._container.init.settle()
        self._container.init.process.release_exit()

    @property
    def _is_tentative(self) -> bool:
        """Whether a cold start follows if the restore fails."""
        named = self._container.record.named
        return named is not None and named.falls_back and not self._container.init.is_watched

    async def watch_restored(self) -> None:
        """Watch for the exit, now that the container runs."""
        await self._container.init.watch_restored()

    async def target(self) -> CheckpointTarget:
        """Return the loaded container as the CUDA steps see it."""
        return await self._container.target()

    async def remove_sandbox(self) -> None:
        """Kill and delete what a failed restore made; the container has exited with it.

        A container whose sandbox is gone has exited, even if runsc cannot delete it. One that is to
        be started cold is as it was before.
        """
        container = self._container
        container.init.process.release_exit()
        if self._is_tentative:
            await container.init.discard()
            container.machine.state = TaskState.CREATED
            return
        try:
            if container.record.pid:
                await container.init.stop()
            await container.runsc.delete(container.ref.id)
        finally:
            if container.state is TaskState.RESTORING and not container.init.is_sandbox_alive:
                await container.init.end(Exit(status=UNKNOWN_STATUS, at=utcnow()))
