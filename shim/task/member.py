"""A container that shares another's sandbox, as those of a pod do.

Its sandbox's end is not its own, so a `runsc wait` tells how it ended; it gets its streams when it
starts; and killing it must leave the sandbox alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from shim.checkpoint.subject import Subject
from shim.errors import CryoError, NotFound
from shim.host import procs
from shim.host.cgroup import Cgroup
from shim.model import Exit, Stats, utcnow
from shim.runsc.client import Born, Runsc, Streams
from shim.spec import pod
from shim.task.context import Context
from shim.task.record import TaskRecord
from shim.task.task import LIVE, Task

_KILL = 9
_WITH_SANDBOX = 137
_LIMIT_BYTES = 4096


class Member(Task):
    """A task in somebody else's sandbox."""

    _waiting: asyncio.Task[None] | None = None

    def _streams_at_create(self) -> AbstractAsyncContextManager[Streams]:
        return self._streams.nothing()

    async def _start_container(self) -> None:
        async with self._streams.opened() as streams:
            await self._runsc.start_member(self.ref.id, streams, self._folder / "runsc.log")
        await self.attend_end()

    async def adopt(self) -> None:
        """Take over what an earlier owner made, and listen for the container's own end."""
        await super().adopt()
        if self.state in LIVE:
            with contextlib.suppress(NotFound):  # it was never restored to its end
                await self.attend_end()

    async def subject(self) -> Subject:
        """Hand the task to a transaction of its sandbox."""
        own = await super().subject()
        return replace(own, container=self.ref.id, name=pod.name_of(own.spec))

    async def attend_end(self) -> None:
        """Have a `runsc wait` write down how the container ends."""
        path = self._folder / "wait.json"
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            async with self._streams.nothing() as null:
                streams = Streams(stdin=null.stdin, stdout=out, stderr=null.stderr)
                waiter = await self._runsc.wait_spawn(self.ref.id, streams)
        finally:
            os.close(out)
        self._waiting = asyncio.create_task(self._hear(waiter))

    async def _hear(self, waiter: Born) -> None:
        ended = await self._context.keeper.wait(waiter.pid, waiter.start)
        text = (self._folder / "wait.json").read_bytes()[:_LIMIT_BYTES]
        try:
            status = int(json.loads(text)["exitStatus"])
        except (ValueError, KeyError, TypeError):
            status = _WITH_SANDBOX
        await self._ended_once(Exit(status=status, at=ended.at))

    async def _watch(self, born: Born) -> None:
        """Take the sandbox's end for ours when nothing else was heard of it."""
        ended = await self._context.keeper.wait(born.pid, born.start)
        if self._waiting is not None:
            await self._waiting
        await self._ended_once(Exit(status=_WITH_SANDBOX, at=ended.at))

    async def _ended_once(self, exit_: Exit) -> None:
        if self._exit.value is None:
            await self._ended(exit_)

    async def _measured_in(self, own: Cgroup) -> Stats:  # noqa: ARG002 - not ours alone
        """Ask runsc, which tells its containers apart: the cgroup is that of all of them."""
        return await self._runsc.stats(self.ref.id)

    async def end_without_sentry(self, error: CryoError) -> None:
        """Do nothing: the sandbox is not this container's alone.

        Raises:
            CryoError: `error`.
        """
        raise error

    async def stop(self) -> None:
        """Kill the container, not the sandbox, and wait for its end."""
        if self.record.started:
            try:
                await self._runsc.kill(self.ref.id, _KILL, everyone=True)
            except CryoError:
                if procs.is_alive(self.record.pid, self.record.start):
                    raise  # else the sandbox has gone, and the container with it
        else:
            await self._runsc.delete(self.ref.id)
            await self._ended_once(Exit(status=_WITH_SANDBOX, at=utcnow()))
        await self._exit.get()

    def let_go(self) -> None:
        """Stop watching, so that nothing is noted while the owner ends; the task runs on."""
        super().let_go()
        if self._waiting is not None:
            self._waiting.cancel()


def task_of(context: Context, runsc: Runsc, record: TaskRecord) -> Task:
    """Make the kind of task that a record describes."""
    kind = Member if record.sandbox_id else Task
    return kind(context, runsc, record)
