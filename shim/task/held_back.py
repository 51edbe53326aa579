"""Containers of a pod that are not in the image from which the pod is restored."""

from __future__ import annotations

import logging

from shim.errors import CryoError
from shim.model import Exit, utcnow
from shim.state import TaskState
from shim.task.container import Container
from shim.task.state_machine import LIVE

_log = logging.getLogger(__name__)
# As of a container that could not be started.
_START_FAILED = 128


async def finish_at_once(task: Container) -> None:
    """Start a container that had finished before the save: it exits with success."""
    async with task.machine.holding(TaskState.CREATED, verb="start"):
        async with task.init.process.starting():
            await task.init.streams.end_unused()
            task.note_started()
            task.machine.run()
        await task.init.end(Exit(status=0, at=utcnow()))


async def start_cold(root: Container, task: Container) -> None:
    """Create and start a container in its sandbox, which is running.

    Raises:
        CryoError: it cannot be started.
    """
    idle = (*LIVE, TaskState.STOPPED)
    async with root.machine.holding(*idle, verb="join"), task.machine.locked():
        task.machine.require(TaskState.CREATED, verb="start")
        await task.init.create()
    await task.start()


async def start_held_back(root: Container, task: Container) -> None:
    """Start a container whose Start was answered before its sandbox ran."""
    try:
        await start_cold(root, task)
    except CryoError as error:
        if task.state is TaskState.STOPPED:  # it was killed meanwhile
            _log.info("task %s: %s", task.ref, error)
            return
        task.warnings.add_notice(f"it was not started after the restore of its pod: {error}")
        await task.init.end(Exit(status=_START_FAILED, at=utcnow()))
    finally:
        task.start_answered = False
