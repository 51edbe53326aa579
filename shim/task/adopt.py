"""Taking over what an earlier owner left: running tasks, exits, half-made things, open journals."""

from __future__ import annotations

import logging
from collections.abc import Callable

from shim.errors import CryoError
from shim.host import procs
from shim.model import Progress, TaskRef
from shim.task import record as records
from shim.task.context import Context
from shim.task.member import task_of
from shim.task.pod import Pod
from shim.task.record import TaskRecord
from shim.task.task import Task
from shim.transaction.journal import Entry, Operation
from shim.transaction.recover import discard, recover

_log = logging.getLogger(__name__)

Say = Callable[[str], None]
"""Hears what a recovery did, a line each."""


async def adopt(context: Context, ref: TaskRef, say: Say) -> Task | None:
    """Take over one task; None when there was nothing to keep.

    Its journal is for `close_journal`, once all tasks of its sandbox are there.
    """
    folder = context.layout.task(ref)
    record = records.load(folder)
    if record is None:
        say(f"removing {folder}: it has no record")
        context.layout.remove_task(ref)
        return None
    task = task_of(context, await context.runsc(ref.namespace), record)
    if _half_made(record):
        say(f"removing task {ref}: its creation was interrupted")
        await task.clear()
        return None
    await task.adopt()
    return task


def _half_made(record: TaskRecord) -> bool:
    # What waits for a Start to restore it is whole without a sandbox.
    return record.pid == 0 and (record.one_call or not record.image_path)


async def close_journal(pod: Pod, say: Say) -> list[Task]:
    """Undo what was under way with a sandbox; return the tasks that are gone with that."""
    gone = await _close(pod, say)
    if not gone:
        for task in pod.tasks:
            await task.check_paused()
    return gone


async def _close(pod: Pod, say: Say) -> list[Task]:
    task = pod.own
    try:
        entry = task.journal.load()
    except CryoError as error:
        damage = f"its GPU processes may be frozen: its journal is damaged: {error}"
        say(f"task {task.ref}: {damage}")
        task.warn(damage)
        return []
    if entry is None:
        return []
    if entry.operation is Operation.RESTORE:
        say(f"removing task {task.ref}: its restore was interrupted")
        gone = list(pod.tasks)
        for one in gone:
            await one.clear()
        return gone
    if task.is_parked:
        return []
    await _undo(pod, entry, say)
    return []


async def _undo(pod: Pod, entry: Entry, say: Say) -> None:
    task = pod.own
    try:
        done = await _brought_back(pod, entry)
    except (CryoError, TimeoutError) as error:
        text = str(error) or "it did not end in time"
        done = f"could not undo its {entry.operation}: {text}"
        task.warn(done)
    else:
        task.note_recovered()
    say(f"task {task.ref}: {done}")


async def _brought_back(pod: Pod, entry: Entry) -> str:
    task = pod.own
    alive = procs.is_alive(task.record.pid, task.record.start)
    if entry.operation is Operation.PARK:
        if alive:
            await pod.recover_parking(log_progress)
            return "brought it back to running: its park was interrupted"
        task.journal.close()
        return "it ended while it was parked"
    if alive:
        return await recover(await pod.subject(), entry, log_progress)
    return await discard(await task.subject(), entry)


def log_progress(progress: Progress) -> None:
    """Write news that nobody else hears into the log."""
    _log.info("%s %s %s", progress.phase, progress.message, progress.pid_state)
