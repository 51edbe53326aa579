"""A container that shares another's sandbox, as those of a pod do.

Its sandbox's end is not its own, so a `runsc wait` tells how it ended; it gets its streams when it
starts; and killing it must leave the sandbox alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from signal import SIGKILL
from typing import Any

from shim.errors import CryoError, NotFound, Unavailable
from shim.host import procs
from shim.host.cgroup import Cgroup
from shim.model import Exit, Stats, utcnow
from shim.runsc.client import Born, Runsc, Streams
from shim.spec import pod
from shim.state import TaskState
from shim.task.context import Context
from shim.task.process import SIGKILL_STATUS, UNKNOWN_STATUS, exit_of
from shim.task.record import TaskRecord
from shim.task.task import LIVE, Task
from shim.transaction.target import CheckpointTarget

_log = logging.getLogger(__name__)
_LIMIT_BYTES = 4096
# Between one `runsc wait` without an answer and the next.
_RETRY_S = 1.0
# What a `runsc wait` gets to write after its sandbox has gone.
_LAST_WORDS_S = 5.0


class Member(Task):
    """A task in somebody else's sandbox."""

    _waiting: asyncio.Task[None] | None = None

    def _streams_at_create(self) -> AbstractAsyncContextManager[Streams]:
        return self._streams.nothing()

    async def _start_container(self) -> None:
        async with self._streams.opened() as streams:
            log = self._folder / "runsc.log"
            overlay2 = self.record.overlay2
            await self._runsc.start_member(self.ref.id, streams, log, overlay2=overlay2)
        await self.attend_end()

    async def adopt(self) -> None:
        """Take over what an earlier owner made, and listen for the container's own end."""
        await super().adopt()
        if self.state in LIVE:
            with contextlib.suppress(NotFound):  # it was never restored to its end
                await self._attend_adopted()

    async def _attend_adopted(self) -> None:
        try:
            await self.attend_end()
        except Unavailable as error:  # the keeper has gone: the sandbox's end is seen without it
            _log.warning("%s: %s", self._init.name, error)
            self._listen(None)

    async def subject(self) -> CheckpointTarget:
        """Hand the task to a transaction of its sandbox."""
        own = await super().subject()
        return replace(own, container=self.ref.id, name=pod.name_of(own.spec))

    async def attend_end(self) -> None:
        """Have a `runsc wait` write down how the container ends."""
        self._listen(await self._spawn_wait())

    def _listen(self, waiter: Born | None) -> None:
        exit_of_container = partial(self._exit_of_container, waiter)
        self._waiting = self._init.watch(exit_of_container, self._before_exit)

    async def _spawn_wait(self) -> Born:
        path = self._folder / "wait.json"
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            async with self._streams.nothing() as null:
                streams = Streams(stdin=null.stdin, stdout=out, stderr=null.stderr)
                return await self._runsc.wait_spawn(self.ref.id, streams)
        finally:
            os.close(out)

    async def _try_spawn_wait(self) -> Born | None:
        try:
            return await self._spawn_wait()
        except (CryoError, OSError) as error:
            _log.warning("%s: runsc wait cannot be run: %s", self._init.name, error)
            return None

    async def _exit_of_container(self, waiter: Born | None) -> Exit | None:
        """Wait for the container's exit; None where the sandbox has gone without telling it.

        A `runsc wait` that ends without an answer (killed for want of memory, say) tells nothing
        of the container: it is run again while the sandbox lives.
        """
        while True:
            if waiter is not None:
                ended = await exit_of(self._context.keeper, waiter)
                status = self._written_status()
                if status is not None:
                    return Exit(status=status, at=ended.at)
                _log.warning("%s: runsc wait ended without an exit status", self._init.name)
            if not procs.is_alive(self.record.pid, self.record.start):
                return None
            if await self._is_gone():
                return Exit(status=UNKNOWN_STATUS, at=utcnow())
            await asyncio.sleep(_RETRY_S)
            waiter = await self._try_spawn_wait()

    def _written_status(self) -> int | None:
        try:
            text = (self._folder / "wait.json").read_bytes()[:_LIMIT_BYTES]
            return int(json.loads(text)["exitStatus"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    async def _is_gone(self) -> bool:
        """Whether the container has stopped, or runsc knows of none."""
        try:
            return await self._runsc.status(self.ref.id) == "stopped"
        except NotFound:
            return True
        except CryoError as error:
            _log.warning("%s: %s", self._init.name, error)
            return False

    async def _exit_of_sandbox(self, born: Born) -> Exit | None:
        """Take the sandbox's end for the container's when nothing else reports that."""
        ended = await exit_of(self._context.keeper, born)
        if self._waiting is not None:  # it ends with the sandbox
            await asyncio.wait({self._waiting}, timeout=_LAST_WORDS_S)
        return Exit(status=SIGKILL_STATUS, at=ended.at)

    async def _measured_in(self, own: Cgroup) -> Stats:  # noqa: ARG002 - not ours alone
        """Ask runsc, which tells its containers apart: the cgroup is that of all of them."""
        return await self._runsc.stats(self.ref.id)

    async def end_without_sentry(self, error: CryoError) -> None:
        """Do nothing: the sandbox is not this container's alone.

        Raises:
            CryoError: `error`.
        """
        raise error

    @property
    def _patience_s(self) -> float:
        """Give `runsc kill` its own time: there is no other way."""
        return self._context.config.timeouts.command

    async def kill_interrupted(self, cancelled: Collection[asyncio.Task[Any]]) -> None:
        """Kill the container whose sandbox's checkpoint or restore was cancelled for that.

        The sandbox is not this container's alone, so the sentry is asked: at once, and where it
        does not answer (it may be paused for a save) again when the rollback is over.
        """
        with contextlib.suppress(CryoError):
            await self._kill_now(everyone=True)
            return
        await asyncio.wait(cancelled, timeout=self._context.config.timeouts.rollback)
        if self.state is not TaskState.STOPPED:
            await self._kill_now(everyone=True)

    async def stop(self) -> None:
        """Kill the container, not the sandbox, and wait for its end.

        Raises:
            DeadlineExceeded: it does not end.
        """
        if self.record.started:
            try:
                await self._runsc.kill(self.ref.id, SIGKILL, everyone=True)
            except CryoError:
                if procs.is_alive(self.record.pid, self.record.start):
                    raise  # else the sandbox has gone, and the container with it
        else:
            await self._runsc.delete(self.ref.id)
            await self._ended(Exit(status=SIGKILL_STATUS, at=utcnow()))
        await self._init.killed(self._sandbox, self._context.config.timeouts.command)


def task_of(context: Context, runsc: Runsc, record: TaskRecord) -> Task:
    """Make the kind of task that a record describes."""
    kind = Member if record.sandbox_id else Task
    return kind(context, runsc, record)
