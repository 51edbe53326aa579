"""Sending signals to a container; SIGKILL takes no lock and works without the sentry."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection
from signal import SIGKILL, SIGTERM
from typing import Any

from shim.errors import CryoError, DeadlineExceeded, FailedPrecondition
from shim.state import TaskState
from shim.task.container import Container
from shim.task.execs import check_signal
from shim.task.state_machine import LIVE

_log = logging.getLogger(__name__)
# Timeout of the sentry for a KILL, which must end a task within two seconds.
_SENTRY_S = 1.0


def ends_created(signal: int) -> bool:
    """Whether a signal ends a container that has not been started."""
    return signal in (SIGKILL, SIGTERM)


async def kill(container: Container, signal: int, *, everyone: bool) -> None:
    """Signal the init process or all; a paused container is resumed first, a created one ended.

    Raises:
        NotFound: it has exited.
        FailedPrecondition: it has not been started, and the signal would not end it.
    """
    container.machine.require_not_exited()
    check_signal(signal)
    if signal == SIGKILL:
        await _kill_now(container, everyone=everyone)
        return
    async with container.machine.holding(TaskState.CREATED, *LIVE, verb="kill"):
        if container.state is not TaskState.CREATED:
            await _signal(container, signal, everyone=everyone)
        elif ends_created(signal):
            await container.init.end_unstarted(signal)
        else:
            message = f"task {container.ref} has not been started; only KILL and TERM can end it"
            raise FailedPrecondition(message, remedy="start it, or kill it with KILL")


async def _signal(container: Container, signal: int, *, everyone: bool) -> None:
    if container.state is TaskState.PAUSED:
        await container.machine.resume()
        container.machine.move(TaskState.RUNNING)
    await container.runsc.kill(container.ref.id, signal, everyone=everyone)


async def _kill_now(container: Container, *, everyone: bool) -> None:
    """Kill without the lock: its holder may be waiting for the container.

    If the sentry does not respond, kill the sandbox, unless other containers share it.
    """
    if container.state is TaskState.CREATED:
        await container.init.end_unstarted(SIGKILL)
        return
    command_s = container.context.config.timeouts.command
    timeout_s = _SENTRY_S if container.is_root else command_s

    async def ask() -> CryoError | None:
        try:
            await _signal(container, SIGKILL, everyone=everyone)
        except CryoError as error:
            return error
        return None

    name = f"kill of {container.init.name}"
    work = container.context.background.start(ask(), name=name)
    await asyncio.wait({work}, timeout=timeout_s)
    error: CryoError | None
    if work.done():
        error = work.result()
    else:
        message = f"runsc kill of task {container.ref} did not end in {timeout_s:g} s"
        error = DeadlineExceeded(message)
    if error is None:
        return
    if not container.is_root or not container.init.is_sandbox_alive:
        raise error
    _log.warning("task %s: runsc kill failed, killing the sandbox: %s", container.ref, error)
    container.init.kill_sandbox()


async def kill_interrupted(container: Container, cancelled: Collection[asyncio.Task[Any]]) -> None:
    """Kill a container whose checkpoint, restore or start was cancelled for that.

    `cancelled` are the operations, which may still be rolling back; they remove what they create
    from now on.
    """
    timeouts = container.context.config.timeouts
    if container.is_root:
        # The sentry is not asked: it may be in the middle of a save.
        if not container.init.is_sandbox_alive:
            await asyncio.wait(cancelled, timeout=timeouts.command)
        if container.record.pid:
            container.init.kill_sandbox()
        return
    # Other containers share the sandbox, so the sentry is asked: at once and, if it does not
    # respond (it may be paused for a save), again after the rollback.
    with contextlib.suppress(CryoError):
        await _kill_now(container, everyone=True)
        return
    await asyncio.wait(cancelled, timeout=timeouts.rollback)
    if container.state is not TaskState.STOPPED:
        await _kill_now(container, everyone=True)
