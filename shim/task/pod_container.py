"""A container that shares another's sandbox, as those of a pod do.

The exit of the sandbox process is not its own, so a `runsc wait` reports its exit; it gets its
streams when it starts; and a kill of it must not affect the sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from contextlib import AbstractAsyncContextManager
from functools import partial
from signal import SIGKILL

from shim.errors import CryoError, NotFound, Unavailable
from shim.host.exit_status import SIGKILL_STATUS, UNKNOWN_STATUS
from shim.host.process_id import ProcessId
from shim.model import Exit, utcnow
from shim.runsc.supervised import Streams
from shim.task.init_process import InitProcess
from shim.task.process import exit_of

_log = logging.getLogger(__name__)
_LIMIT_BYTES = 4096
# Delay between a `runsc wait` without an answer and the next one.
_RETRY_S = 1.0
# How long a `runsc wait` may take to write its answer after its sandbox has exited.
_FLUSH_S = 5.0


class PodContainerLifecycle:
    """A container in the sandbox of another."""

    def __init__(self) -> None:
        self._exit_watch: asyncio.Task[None] | None = None

    def streams_at_create(self, init: InitProcess) -> AbstractAsyncContextManager[Streams]:
        """Open nothing: the container gets its streams at its start."""
        return init.streams.nothing()

    async def start(self, init: InitProcess) -> None:
        """Start the container with its streams, and watch it."""
        record = init.store.record
        async with init.streams.opened() as streams:
            await init.runsc.supervised.start(
                record.ref.id, streams, init.files.log, record.own_flags
            )
        await self.watch_restored(init)

    async def watch_restored(self, init: InitProcess) -> None:
        """Watch the container with a `runsc wait`."""
        self._watch(init, await _spawn_wait(init))

    async def watch_adopted(self, init: InitProcess) -> None:
        """Watch the container, if runsc has it: its restore may not have been completed."""
        with contextlib.suppress(NotFound):
            try:
                await self.watch_restored(init)
            except (
                Unavailable
            ) as error:  # no supervisor: the exit of the sandbox is seen without it
                _log.warning("%s: %s", init.name, error)
                self._watch(init, None)

    def _watch(self, init: InitProcess, waiter: ProcessId | None) -> None:
        self._exit_watch = init.watch(partial(_exit_of_container, init, waiter))

    async def exit_of_sandbox(self, init: InitProcess, sandbox: ProcessId) -> Exit:
        """Use the exit of the sandbox process if nothing else reports the container's."""
        ended = await exit_of(init.context.supervisor, sandbox)
        if self._exit_watch is not None:
            await asyncio.wait({self._exit_watch}, timeout=_FLUSH_S)
        return Exit(status=SIGKILL_STATUS, at=ended.at)

    async def kill(self, init: InitProcess) -> None:
        """Kill the container, but not the sandbox.

        Raises:
            CryoError: runsc cannot kill it, and the sandbox runs.
        """
        record = init.store.record
        if not record.started:
            await init.runsc.delete(record.ref.id)
            await init.end(Exit(status=SIGKILL_STATUS, at=utcnow()))
            return
        try:
            await init.runsc.kill(record.ref.id, SIGKILL, everyone=True)
        except CryoError:
            if init.is_sandbox_alive:
                raise


async def _spawn_wait(init: InitProcess) -> ProcessId:
    """Run a `runsc wait` that writes the container's exit to wait.json."""
    path = init.files.folder / "wait.json"
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        async with init.streams.nothing() as null:
            streams = Streams(stdin=null.stdin, stdout=out, stderr=null.stderr)
            return await init.runsc.supervised.wait(init.store.record.ref.id, streams)
    finally:
        os.close(out)


async def _exit_of_container(init: InitProcess, waiter: ProcessId | None) -> Exit | None:
    """Wait for the container's exit; None if the sandbox has exited and it is not reported.

    A `runsc wait` that exits without an answer (killed for lack of memory, for example) is run
    again while the sandbox runs.
    """
    while True:
        if waiter is not None:
            ended = await exit_of(init.context.supervisor, waiter)
            status = _written_status(init)
            if status is not None:
                return Exit(status=status, at=ended.at)
            _log.warning("%s: runsc wait exited without an exit status", init.name)
        if not init.is_sandbox_alive:
            return None
        if await _is_stopped(init):
            return Exit(status=UNKNOWN_STATUS, at=utcnow())
        await asyncio.sleep(_RETRY_S)
        try:
            waiter = await _spawn_wait(init)
        except (CryoError, OSError) as error:
            _log.warning("%s: runsc wait cannot be run: %s", init.name, error)
            waiter = None


def _written_status(init: InitProcess) -> int | None:
    try:
        text = (init.files.folder / "wait.json").read_bytes()[:_LIMIT_BYTES]
        return int(json.loads(text)["exitStatus"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


async def _is_stopped(init: InitProcess) -> bool:
    """Whether the container has stopped, or is unknown to runsc."""
    try:
        return await init.runsc.status(init.store.record.ref.id) == "stopped"
    except NotFound:
        return True
    except CryoError as error:
        _log.warning("%s: %s", init.name, error)
        return False
