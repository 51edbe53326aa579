"""One process of a task, its init or an exec: its streams, its exit, and its waiters.

The start is published first, then the exit. The exit is published once, after the output of the
process has been forwarded, even if other steps fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from shim.errors import CryoError, DeadlineExceeded, Unavailable
from shim.host import procs, procstat
from shim.host.background import BackgroundTasks, OnCrash
from shim.host.exit_status import UNKNOWN_STATUS
from shim.host.process_id import ProcessId
from shim.host.supervisor.protocol import ProcessSupervisor
from shim.model import Exit, utcnow
from shim.task.set_once import SetOnce
from shim.task.streams import ProcessStreams

_log = logging.getLogger(__name__)
# Longer than a terminal may take to forward its output; a logger may take longer than this.
_CLOSE_S = 12.0
_RETRY_S = 1.0

Publish = Callable[[Exit], None]
"""Publishes an exit: changes the state and sends the event, in one step."""


class Process:
    """A process that is started at most once and ends once.

    `ended` is set as soon as the process is known to have exited, `exit` once that is published.
    """

    def __init__(
        self,
        name: str,
        background: BackgroundTasks,
        streams: ProcessStreams,
        publish: Publish,
        on_crash: OnCrash | None = None,
    ) -> None:
        """Take the name for the log, what publishes the exit, and what is called on a crash."""
        self.name = name
        self.streams = streams
        self.ended: SetOnce[Exit] = SetOnce()
        self.exit: SetOnce[Exit] = SetOnce()
        self._background = background
        self._publish = publish
        self._on_crash = on_crash
        self._may_publish = asyncio.Event()
        self._may_publish.set()
        self._work: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        """Hold the exit back until the start has been published, however soon the exit is."""
        self.hold_exit()
        try:
            yield
        finally:
            self.release_exit()

    def hold_exit(self) -> None:
        """Publish no exit before `release_exit`; `ended` is set nevertheless."""
        self._may_publish.clear()

    def release_exit(self) -> None:
        """Publish the exit, or the one that comes. Idempotent."""
        self._may_publish.set()

    # -- how it ends ---------------------------------------------------------------------------

    def watch(
        self,
        exit_of: Callable[[], Awaitable[Exit | None]],
        before: Callable[[Exit], Awaitable[None]] | None = None,
    ) -> asyncio.Task[None]:
        """Wait in the background for the exit, and publish it after `before`.

        None for the exit means that another owner publishes it.
        """
        return self.run(self._watch(exit_of, before), "exit")

    async def _watch(
        self,
        exit_of: Callable[[], Awaitable[Exit | None]],
        before: Callable[[Exit], Awaitable[None]] | None,
    ) -> None:
        exit_ = await exit_of()
        if exit_ is not None:
            await self.end(exit_, before)

    def run(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        """Run work of this process in the background; a crash of it ends the wait for the exit."""
        task = self._background.start(work, name=f"{what} of {self.name}", on_crash=self._crashed)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    def _crashed(self, error: BaseException) -> None:
        # The log has the traceback. A waiter for an exit that is not watched any more would
        # wait without end.
        self._end_now(Exit(status=UNKNOWN_STATUS, at=utcnow()))
        if self._on_crash is not None:
            self._on_crash(error)

    async def end(
        self, exit_: Exit, before: Callable[[Exit], Awaitable[None]] | None = None
    ) -> None:
        """Publish the exit once, after `before` and after the output; safe to call again."""
        if self.ended.value is not None:
            await self.exit.get()
            return
        self.ended.put(exit_)
        try:
            await self._may_publish.wait()
            await asyncio.gather(
                self.attempt(self._close_streams),
                *([self.attempt(partial(before, exit_))] if before is not None else []),
            )
        finally:
            self._end_now(exit_)

    def _end_now(self, exit_: Exit) -> None:
        self.ended.put(exit_)
        if self.exit.value is not None:
            return
        try:
            self._publish(exit_)
        except Exception:  # noqa: BLE001 - the exit must not wait for this
            _log.exception("%s exited with %s, which was not published", self.name, exit_.status)
        finally:
            self.exit.put(exit_)

    def set_exited(self, exit_: Exit) -> None:
        """Set an exit without publishing it: an earlier owner did, or the task is removed."""
        self.ended.put(exit_)
        self.exit.put(exit_)

    async def attempt(self, step: Callable[[], Awaitable[None]]) -> None:
        """Run one step before the exit; a failure is logged and does not delay the exit."""
        try:
            await step()
        except (CryoError, OSError) as error:
            _log.warning("%s exited; a step after its exit failed: %s", self.name, error)
        except Exception:  # noqa: BLE001 - a bug in a step must not lose the exit either
            _log.exception("%s exited; a step after its exit crashed", self.name)

    async def _close_streams(self) -> None:
        """Close the streams; what takes too long continues in the background."""
        closing = self.run(self.attempt(self.streams.close), "streams")
        _, late = await asyncio.wait({closing}, timeout=_CLOSE_S)
        if late:
            _log.warning("%s exited; its output is still being read", self.name)

    async def killed(self, process: ProcessId, timeout_s: float) -> Exit:
        """Wait for the exit of a process that was sent SIGKILL.

        Raises:
            DeadlineExceeded: it has not exited in `timeout_s`, and is still watched.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self.ended.get()
        except TimeoutError as error:
            raise unkillable(self.name, process, timeout_s) from error
        return await self.exit.get()

    def detach(self) -> None:
        """Stop watching: the owner exits, and the process keeps running."""
        for task in list(self._work):
            task.cancel()


async def exit_of(supervisor: ProcessSupervisor, process: ProcessId) -> Exit:
    """Wait for the exit of a process, with its status if the supervisor has it."""
    try:
        ended = await supervisor.wait(process.pid, process.start)
    except Unavailable as error:
        _log.warning("the exit status of process %s is lost: %s", process.pid, error)
    except Exception:  # noqa: BLE001 - a bug there must not lose the exit
        _log.exception("waiting for process %s failed; its exit status is lost", process.pid)
    else:
        return Exit(status=ended.status, at=ended.at)
    await _until_gone(process)
    return Exit(status=UNKNOWN_STATUS, at=utcnow())


def unkillable(name: str, process: ProcessId, timeout_s: float) -> DeadlineExceeded:
    """Return the error for a process that does not exit after SIGKILL."""
    found = procstat.read(process.pid)
    state = found.state if found is not None else "unknown"
    sleeps = " in uninterruptible sleep" if state == "D" else ""
    return DeadlineExceeded(
        f"{name}: process {process.pid} was sent SIGKILL and has not exited in {timeout_s:g} s: "
        f"it is{sleeps} in state {state}",
        remedy="it exits when the device or filesystem that it waits for responds; "
        f"/proc/{process.pid}/stack shows where it waits",
    )


async def until_killed(name: str, process: ProcessId, timeout_s: float) -> None:
    """Wait for the exit of a process that is not our child and was sent SIGKILL.

    Raises:
        DeadlineExceeded: it has not exited in `timeout_s`.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await procs.wait_pidfd(process.pid, process.start)
    except TimeoutError as error:
        raise unkillable(name, process, timeout_s) from error


async def _until_gone(process: ProcessId) -> None:
    """Wait without a supervisor; if that fails, for lack of descriptors for example, retry."""
    while True:
        try:
            await procs.wait_pidfd(process.pid, process.start)
        except CryoError as error:
            _log.warning("process %s cannot be watched: %s", process.pid, error)
            await asyncio.sleep(_RETRY_S)
        else:
            return
