"""Undo or finish a checkpoint whose owner died during it. Idempotent."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from shim.cuda import driver, inventory
from shim.errors import CryoError
from shim.host import files, procs
from shim.host.background import BackgroundTasks
from shim.host.filecalls import file_call
from shim.image.verify import read_manifest
from shim.model import Phase, Progress, Report
from shim.transaction.hook_runner import HookRunner
from shim.transaction.journal import Entry
from shim.transaction.new_image import REMOVE_S
from shim.transaction.save_idle import wait_for_save_idle
from shim.transaction.steps import Steps, engine_for, group_for
from shim.transaction.target import CheckpointTarget
from shim.transaction.transaction import in_time

_SAVE_GOES_ON = "the sandbox still writes the image"


async def committed(entry: Entry) -> bool:
    """Whether the image got its name, also if the owner died before the journal said so.

    Raises:
        DeadlineExceeded: its filesystem does not answer.
    """
    if entry.committed or entry.phase not in (Phase.COMMIT, Phase.STOP):
        return entry.committed
    return await file_call(lambda: _is_named(entry), doing=f"look for {entry.image_path}")


def _is_named(entry: Entry) -> bool:
    if Path(entry.staging).exists():
        return False
    try:
        read_manifest(Path(entry.image_path))
    except CryoError:
        return False
    return True


async def recover(target: CheckpointTarget, entry: Entry, report: Report) -> str:
    """Bring a task out of an open checkpoint and say what was done.

    Either the image is complete, and what was left to do is done; or the task runs as before. One
    that was parked is so again, and no process of it was moved.

    Raises:
        CryoError: a process could not be brought back; the journal stays.
    """
    target.journal.allow_write_errors()
    report(Progress(phase=Phase.ROLLBACK, message=f"found a checkpoint in phase {entry.phase}"))
    if entry.tracing:
        await target.end_trace()
    steps = None if entry.from_park else _steps(target, entry, report)
    await _wait_for_save(target, entry, steps)
    if await committed(entry) and entry.exit:
        await target.stop_all()
        target.journal.close()
        return f"stopped it: its image {entry.image_path} is complete"
    await _undo_in_time(target, entry, steps)
    if entry.from_park:
        done = await _remove_unfinished(entry)
        target.journal.park_again()
        return f"it is parked as before; {done}"
    await HookRunner(target, report).report_after_thaw()
    done = await discard(target, entry)
    return f"brought it back to {'paused' if entry.was_paused else 'running'}; {done}"


def _steps(target: CheckpointTarget, entry: Entry, report: Report) -> Steps | None:
    if entry.engine is None:
        return None
    facts = driver.capabilities(inventory.read(target.config.cuda.nvidia_proc).driver)
    noted = [(one, entry.cuda_processes(one.container)) for one in target.containers]
    group = group_for([(one, found) for one, found in noted if found], facts, report)
    return Steps(engine=engine_for(target, entry.engine, group), processes=group)


async def _undo_in_time(target: CheckpointTarget, entry: Entry, steps: Steps | None) -> None:
    limit_s = target.config.timeouts.rollback
    if entry.from_park:
        idle = _save_idle(target, entry)
        await in_time(limit_s, idle, lambda: _SAVE_GOES_ON)
    else:
        unfinished = steps.processes.unfinished if steps else lambda: ""
        await in_time(limit_s, _undo(target, entry, steps), unfinished)


async def _undo(target: CheckpointTarget, entry: Entry, steps: Steps | None) -> None:
    paused_ids = target.paused_ids if entry.was_paused else ()
    if steps is not None:
        for paused in paused_ids:
            await target.runsc.sentry.reconcile_pause(paused)
            with contextlib.suppress(CryoError):  # it is no longer paused: the resume was done
                await target.runsc.resume(paused)
        await _save_idle(target, entry)
        await steps.engine.undo()
    for paused in paused_ids:
        with contextlib.suppress(CryoError):  # paused already
            await target.runsc.pause(paused)


async def _save_idle(target: CheckpointTarget, entry: Entry) -> None:
    device = entry.stage_device
    await wait_for_save_idle(target, entry.staging, entry.exec_processes, device=device)


async def discard(target: CheckpointTarget, entry: Entry) -> str:
    """Remove an unfinished image, close the journal, and say whether the image is complete."""
    done = await _remove_unfinished(entry)
    target.journal.close()
    return done


async def _remove_unfinished(entry: Entry) -> str:
    finished = await committed(entry)
    if (staging := entry.unfinished_image) is not None and not finished:
        await file_call(
            lambda: files.remove_tree(staging), doing=f"remove {staging}", deadline_s=REMOVE_S
        )
    return f"its image {entry.image_path} is " + ("complete" if finished else "removed")


async def _wait_for_save(target: CheckpointTarget, entry: Entry, steps: Steps | None) -> None:
    """Wait for a save that outlived its owner: the sentry finishes it.

    A tool that hangs in it is ended, because it would block the save indefinitely.
    """
    if not procs.is_alive(entry.save_pid, entry.save_start):
        return
    own = frozenset(entry.exec_processes)
    helpers = BackgroundTasks()
    if steps is not None:
        helpers.start(steps.engine.guard(own), name="guard of a save")
    try:
        async with asyncio.timeout(target.config.timeouts.save):
            await procs.wait_pidfd(entry.save_pid, entry.save_start)
    finally:
        await helpers.aclose()
