"""The init process of a container: created, started, restored and stopped by runsc."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from signal import SIGKILL
from typing import Protocol

from shim.host import procs
from shim.host.background import OnCrash
from shim.host.process_id import ProcessId
from shim.model import Direct, Exit, RestoreOptions, utcnow
from shim.oci.terminal import console_size
from shim.runsc.argv import CreateArgs, RestoreArgs
from shim.runsc.client import Runsc
from shim.runsc.supervised import Streams
from shim.task.container_files import ContainerFiles
from shim.task.context import Context
from shim.task.oom import OomEvents
from shim.task.process import Process, Publish, until_killed
from shim.task.record_store import RecordStore
from shim.task.streams import ProcessStreams
from shim.transaction.beside_load import Load


class Lifecycle(Protocol):
    """The operations that differ between the root container of a sandbox and the others in it.

    `RootLifecycle` is for the root container, `PodContainerLifecycle` for the others.
    """

    def streams_at_create(self, init: InitProcess) -> AbstractAsyncContextManager[Streams]:
        """Open the streams for `runsc create`."""

    async def start(self, init: InitProcess) -> None:
        """Start the container."""

    async def watch_restored(self, init: InitProcess) -> None:
        """Watch the container, once its whole sandbox is restored."""

    async def watch_adopted(self, init: InitProcess) -> None:
        """Watch a running container that an earlier owner started."""

    async def exit_of_sandbox(self, init: InitProcess, sandbox: ProcessId) -> Exit:
        """Wait for the exit of the sandbox process; return the container's."""

    async def kill(self, init: InitProcess) -> None:
        """Kill the container with SIGKILL.

        Raises:
            CryoError: it cannot be killed.
        """


class InitProcess:
    """The init process of one container, which stands for the container itself."""

    def __init__(
        self,
        context: Context,
        runsc: Runsc,
        store: RecordStore,
        files: ContainerFiles,
        lifecycle: Lifecycle,
        end_execs: Callable[[datetime], Awaitable[None]],
        publish_exit: Publish,
        on_crash: OnCrash,
    ) -> None:
        """Take what ends the execs before the exit, and what publishes the exit."""
        ref = store.record.ref
        self.context = context
        self.runsc = runsc
        self.store = store
        self.files = files
        self.streams = ProcessStreams(context.supervisor, ref, "", store.record.stdio, files.folder)
        self.process = Process(
            f"task {ref}", context.background, self.streams, publish_exit, on_crash
        )
        self.is_watched = False
        self._id = ref.id
        self._lifecycle = lifecycle
        self._end_execs = end_execs
        self._oom = OomEvents(context, ref)

    @property
    def name(self) -> str:
        """Return the name for logs and errors."""
        return self.process.name

    @property
    def sandbox(self) -> ProcessId:
        """Return the sandbox process."""
        return ProcessId(pid=self.store.record.pid, start=self.store.record.start)

    # -- create, restore, start ----------------------------------------------------------------

    async def create(self) -> None:
        """Create the container with runsc."""
        record = self.store.record
        self.files.note_cgroups()
        args = CreateArgs(
            id=self._id,
            bundle=str(self.files.bundle),
            pid_file=str(self.files.pid_file),
            console_socket=await self.streams.listen(),
        )
        async with self._lifecycle.streams_at_create(self) as streams:
            process = await self.runsc.supervised.create(
                args,
                streams,
                gpu=record.gpu,
                log=self.files.log,
                own=record.own_flags,
                started=self._record_creator,
            )
        self.store.update(pid=process.pid, start=process.start, unsettled=False)
        self._watch_sandbox(process)
        await self._connect_terminal()

    async def restore(self, options: RestoreOptions, load: Load, *, tentative: bool = False) -> int:
        """Create the container from an image with runsc; return the sandbox's pid.

        With `tentative` its exit is not watched before `settle`: until then `discard` removes the
        sandbox without a trace, and the container can be created again.
        """
        record = self.store.record

        def started(pid: int, start: int) -> None:
            self._record_creator(pid, start)
            load.begun()

        self.files.note_cgroups()
        args = RestoreArgs(
            id=self._id,
            bundle=str(self.files.bundle),
            pid_file=str(self.files.pid_file),
            image_path=options.image_path,
            console_socket=await self.streams.listen(),
            background=options.background,
            direct=options.direct is Direct.ON,
        )
        async with self.streams.opened() as streams:
            process = await self.runsc.supervised.restore(
                args,
                streams,
                gpu=record.gpu,
                log=self.files.log,
                own=record.own_flags,
                timeout_s=self.context.config.timeouts.save,
                started=started,
            )
        load.ended()
        # It runs before its restore is over, and before that can be recorded.
        self.store.update(pid=process.pid, start=process.start, unsettled=True)
        if not tentative:
            self._watch_sandbox(process)
        await self._connect_terminal()
        return process.pid

    def settle(self) -> None:
        """Watch the exit of a tentatively restored container from now on."""
        if not self.is_watched:
            self._watch_sandbox(self.sandbox)

    async def discard(self) -> None:
        """Kill and delete a tentatively restored container, without an exit.

        Raises:
            CryoError: it cannot be removed.
        """
        if self.store.record.pid:
            self.kill_sandbox()
            timeout_s = self.context.config.timeouts.command
            await until_killed(self.name, self.sandbox, timeout_s)
        await self.runsc.delete(self._id)
        await self.files.remove_cgroups()
        await self.streams.end_terminal()
        self.store.update(pid=0, start=0, creator_pid=0, creator_start=0, unsettled=False)

    def _record_creator(self, pid: int, start: int) -> None:
        self.store.update(creator_pid=pid, creator_start=start)

    async def _connect_terminal(self) -> None:
        self.streams.suggest_size(console_size(self.files.spec.data.get("process")))
        await self.streams.connect(self.context.config.timeouts.console)

    async def start(self) -> None:
        """Start the created container."""
        await self._lifecycle.start(self)

    # -- exit ----------------------------------------------------------------------------------

    def _watch_sandbox(self, process: ProcessId) -> None:
        """Watch for the sandbox's exit, and for OOM kills."""
        self.is_watched = True
        self.watch(partial(self._lifecycle.exit_of_sandbox, self, process))
        self._oom.watch(process.pid)

    def watch(self, exit_of: Callable[[], Awaitable[Exit | None]]) -> asyncio.Task[None]:
        """Wait for an exit in the background, and publish it."""
        return self.process.watch(exit_of, self._before_exit)

    async def watch_restored(self) -> None:
        """Watch the container, once its whole sandbox is restored."""
        await self._lifecycle.watch_restored(self)

    async def end(self, exit_: Exit) -> None:
        """Publish the exit, once."""
        await self.process.end(exit_, self._before_exit)

    async def _before_exit(self, exit_: Exit) -> None:
        """Do what comes before the exit: the exits of the execs, the record, OOM events."""
        await self.process.attempt(partial(self._end_execs, exit_.at))
        await self.process.attempt(partial(self._note_exit, exit_))
        await self.process.attempt(self._oom.publish_last)

    async def _note_exit(self, exit_: Exit) -> None:
        self.store.update(exit=exit_, paused=False)

    # -- stop ----------------------------------------------------------------------------------

    def kill_sandbox(self) -> None:
        """Send SIGKILL to the sandbox process."""
        procs.kill(self.store.record.pid, self.store.record.start, SIGKILL)

    @property
    def is_sandbox_alive(self) -> bool:
        """Whether the sandbox process runs."""
        return procs.is_alive(self.store.record.pid, self.store.record.start)

    async def stop(self) -> None:
        """Kill the container and wait for its exit.

        Raises:
            DeadlineExceeded: it does not exit; the message names its process and says why.
        """
        await self._lifecycle.kill(self)
        await self.process.killed(self.sandbox, self.context.config.timeouts.command)

    async def end_unstarted(self, signal: int) -> None:
        """End a container whose init never ran, as if by a signal, which runsc cannot send."""
        if self.store.record.pid:
            await self.stop()
        else:
            await self.end(Exit(status=128 + signal, at=utcnow()))

    async def end_creator(self) -> None:
        """Wait for a dead owner's runsc that still creates the sandbox, or kill it."""
        pid, start = self.store.record.creator_pid, self.store.record.creator_start
        if not procs.is_alive(pid, start):
            return
        timeouts = self.context.config.timeouts
        try:
            async with asyncio.timeout(timeouts.create):
                await procs.wait_pidfd(pid, start)
        except TimeoutError:
            for number, since in ((pid, start), *procs.kill_tree(pid, start)):
                process = ProcessId(pid=number, start=since)
                await until_killed(f"runsc for {self.name}", process, timeouts.command)

    # -- owners --------------------------------------------------------------------------------

    async def adopt(self, *, live: bool) -> None:
        """Adopt from an earlier owner: the streams, and the wait for the exit."""
        if self.store.record.pid:
            await self.streams.adopt()
            self._watch_sandbox(self.sandbox)
        if live:
            await self._lifecycle.watch_adopted(self)

    def detach(self) -> None:
        """Stop watching: the owner exits, the process keeps running."""
        self.process.detach()
        self._oom.close()
