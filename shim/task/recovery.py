"""Recovery at an owner's start: adopt the tasks of the last owner, undo what it did not finish."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from shim.errors import CryoError
from shim.host import progress_log
from shim.image.images import Images
from shim.model import Progress, TaskRef
from shim.task import record as records
from shim.task.container import Container
from shim.task.context import Context
from shim.task.record import TaskRecord
from shim.task.sandbox import Sandbox
from shim.task.task_map import TaskMap
from shim.transaction.journal import Entry, Operation
from shim.transaction.recover import discard, recover

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")
# Each adoption runs several runsc commands.
_ADOPTED_AT_ONCE = 4

Log = Callable[[str], None]
"""Records what a recovery did, one line per action."""


class Recovery:
    """Recovers the tasks of one state directory, once."""

    def __init__(self, context: Context, tasks: TaskMap) -> None:
        """Take the map to which the adopted tasks are added."""
        self._context = context
        self._tasks = tasks
        # What was done, one line per action.
        self.lines: list[str] = []

    async def run(self) -> None:
        """Adopt all tasks; then undo, sandbox by sandbox, what was interrupted."""
        await _each(self._adopt, self._context.layout.found())
        await _each(self._undo, [task for task in self._tasks if not task.record.sandbox_id])

    async def tidy(self, images: Images, is_closing: Callable[[], bool]) -> None:
        """Remove what interrupted checkpoints left among the images.

        A staging directory in an open journal is kept: it may hold what could not be thawed.
        """

        def staging_in_use() -> set[str] | None:
            return None if is_closing() else {task.journal.staging() for task in self._tasks}

        await images.tidy(staging_in_use, self._log_line)

    def _log_line(self, text: str) -> None:
        _log.warning("%s", text)
        self.lines.append(text)

    def _say_failed(self, ref: TaskRef, error: Exception) -> None:
        """Report a task that cannot be adopted, with a traceback where that is a bug."""
        if not isinstance(error, CryoError | OSError):
            _log.error("task %s cannot be taken over", ref, exc_info=error)
        self._log_line(f"task {ref} cannot be taken over: {str(error) or type(error).__name__}")

    async def _adopt(self, ref: TaskRef) -> None:
        try:
            task = await adopt(self._context, ref, self._log_line)
        except Exception as error:  # noqa: BLE001 - one task must not block the others
            self._say_failed(ref, error)
            self._tasks.keep_unreadable(ref)
            return
        if task is not None:
            self._tasks.add(task)

    async def _undo(self, root: Container) -> None:
        try:
            removed = await close_journal(self._tasks.sandbox_of(root), self._log_line)
        except Exception as error:  # noqa: BLE001 - one task must not block the others
            self._say_failed(root.ref, error)
            root.warnings.set(f"it could not be taken over: {error}")
            return
        for task in removed:
            self._tasks.remove(task)


async def _each(do: Callable[[_Item], Awaitable[None]], items: Iterable[_Item]) -> None:
    """Call `do` for each item, a few of them at a time."""
    slots = asyncio.Semaphore(_ADOPTED_AT_ONCE)

    async def one(item: _Item) -> None:
        async with slots:
            await do(item)

    await asyncio.gather(*(one(item) for item in items))


# -- one task ------------------------------------------------------------------------------------


async def adopt(context: Context, ref: TaskRef, log: Log) -> Container | None:
    """Adopt one task; None when there was nothing to keep.

    Its journal is left to `close_journal`, once all tasks of its sandbox are adopted.
    """
    folder = context.layout.task(ref)
    record = records.load(folder)
    if record is None:
        log(f"removing {folder}: it has no record")
        context.layout.remove_task(ref)
        return None
    task = Container(context, await context.runsc(ref.namespace), record)
    if _is_half_created(record):
        log(f"removing task {ref}: its creation was interrupted")
        await task.clear()
        return None
    await task.adopt()
    return task


def _is_half_created(record: TaskRecord) -> bool:
    # A task that its Start will restore, or create, is complete without a sandbox.
    waits = bool(record.image_path or record.absent)
    return record.pid == 0 and (record.one_call or not waits)


# -- one sandbox ---------------------------------------------------------------------------------


async def close_journal(sandbox: Sandbox, log: Log) -> list[Container]:
    """Undo what was under way with a sandbox; return the tasks that are removed with that."""
    removed = await _close(sandbox, log)
    if not removed:
        for task in sandbox.containers:
            await task.machine.check_paused()
    return removed


async def _close(sandbox: Sandbox, log: Log) -> list[Container]:
    root = sandbox.root
    try:
        entry = root.journal.load()
    except CryoError as error:
        damage = f"its GPU processes may be frozen: its journal is damaged: {error}"
        log(f"task {root.ref}: {damage}")
        root.warnings.set(damage)
        return []
    if entry is None:
        return []
    if entry.operation is Operation.RESTORE:
        log(f"removing task {root.ref}: its restore was interrupted")
        removed = list(sandbox.containers)
        for task in removed:
            await task.clear()
        return removed
    if not root.is_parked:
        await _undo(sandbox, entry, log)
    return []


async def _undo(sandbox: Sandbox, entry: Entry, log: Log) -> None:
    root = sandbox.root
    try:
        done = await _undone(sandbox, entry)
    except (CryoError, TimeoutError) as error:
        text = str(error) or "it did not end in time"
        done = f"could not undo its {entry.operation}: {text}"
        root.warnings.set(done)
    else:
        root.warnings.clear()
    log(f"task {root.ref}: {done}")


async def _undone(sandbox: Sandbox, entry: Entry) -> str:
    """Undo a checkpoint or park; return what was done."""
    root = sandbox.root
    alive = root.init.is_sandbox_alive
    if entry.operation is Operation.CHECKPOINT:
        for one in sandbox.containers:
            one.files.instance.set_result("error the checkpoint was interrupted")
    if entry.operation is Operation.PARK:
        if alive:
            await sandbox.recover_parking(log_progress)
            return "resumed it: its park was interrupted"
        root.journal.close()
        return "it exited while it was parked"
    if alive:
        return await recover(await sandbox.target(), entry, log_progress)
    return await discard(await root.target(), entry)


def log_progress(progress: Progress) -> None:
    """Log the progress of an operation that has no caller to report it to."""
    progress_log.log(_log, logging.INFO, progress)
