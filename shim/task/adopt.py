"""Taking over what an earlier owner left: running tasks, exits, half-made things, open journals."""

from __future__ import annotations

import logging

from shim.checkpoint.journal import Entry, Operation
from shim.checkpoint.recover import discard, recover
from shim.errors import CryoError
from shim.host import procs
from shim.model import Progress, TaskRef
from shim.task import record as records
from shim.task.context import Context
from shim.task.member import task_of
from shim.task.pod import Pod
from shim.task.record import TaskRecord
from shim.task.task import Task

_log = logging.getLogger(__name__)


async def adopt(context: Context, ref: TaskRef) -> Task | None:
    """Take over one task; None when there was nothing to keep.

    Its journal is for `close_journal`, once all tasks of its sandbox are there.
    """
    folder = context.layout.task(ref)
    record = records.load(folder)
    if record is None:
        _log.warning("removing %s: it has no record", folder)
        context.layout.remove_task(ref)
        return None
    task = task_of(context, await context.runsc(ref.namespace), record)
    if _half_made(record):
        _log.warning("removing task %s: its creation was interrupted", ref)
        await task.clear()
        return None
    await task.adopt()
    return task


def _half_made(record: TaskRecord) -> bool:
    return record.pid == 0 and not record.image_path


async def close_journal(pod: Pod) -> list[Task]:
    """Undo what was under way with a sandbox; return the tasks that are gone with that."""
    task = pod.own
    try:
        entry = task.journal.load()
    except CryoError as error:
        task.note(warning=f"its GPU processes may be frozen: its journal is damaged: {error}")
        return []
    if entry is None:
        return []
    if entry.operation is Operation.RESTORE:
        _log.warning("removing task %s: its restore was interrupted", task.ref)
        gone = list(pod.tasks)
        for one in gone:
            await one.clear()
        return gone
    await _undo_checkpoint(pod, entry)
    return []


async def _undo_checkpoint(pod: Pod, entry: Entry) -> None:
    task = pod.own
    alive = procs.is_alive(task.record.pid, task.record.start)
    try:
        if alive:
            done = await recover(await pod.subject(), entry, _log_progress)
        else:
            done = discard(await task.subject(), entry)
    except (CryoError, TimeoutError) as error:
        text = str(error) or "it did not end in time"
        done = f"could not undo its checkpoint: {text}"
        task.note(warning=done)
    else:
        task.note(warning="")
    _log.warning("task %s: %s", task.ref, done)


def _log_progress(progress: Progress) -> None:
    _log.info("recovery: %s %s %s", progress.phase, progress.message, progress.pid_state)
