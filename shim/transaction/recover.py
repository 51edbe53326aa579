"""Undo or finish a checkpoint that its owner did not live to end. Safe to run twice."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from shim.cuda import driver, inventory
from shim.errors import CryoError
from shim.host import files, procs
from shim.host.filecalls import file_call
from shim.host.supervisor import Supervisor
from shim.image.verify import read_manifest
from shim.model import Phase, Progress, Report
from shim.transaction.checkpoint import REMOVE_S, stop_all
from shim.transaction.journal import Entry
from shim.transaction.save_idle import wait_for_save_idle
from shim.transaction.steps import Steps, engine_for, group_for, late_rollback
from shim.transaction.target import CheckpointTarget

_POLL_S = 0.1
_SAVE_GOES_ON = "the sandbox still writes the image"


async def committed(entry: Entry) -> bool:
    """Whether the image got its name, even when the journal did not live to say so.

    Raises:
        DeadlineExceeded: it cannot be seen, for its filesystem does not answer.
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

    Either the image is complete, and what was left to do is done; or the task runs as before.

    Raises:
        CryoError: a process could not be brought back; the journal stays.
    """
    target.journal.allow_write_errors()
    report(Progress(phase=Phase.ROLLBACK, message=f"found a checkpoint in phase {entry.phase}"))
    if entry.tracing:
        await target.runsc.end_trace(target.ref.id)
        await target.runsc.agree(target.ref.id)
    if entry.from_park:
        return await _recover_parked(target, entry)
    steps = _steps(target, entry, report)
    await _save_over(target, entry, steps)
    if await committed(entry) and entry.exit:
        await stop_all(target)
        target.journal.close()
        return f"stopped it: its image {entry.image_path} is complete"
    limit_s = target.config.timeouts.rollback
    try:
        async with asyncio.timeout(limit_s):
            if steps is not None:
                await _tools_over(target, entry)
            await _undo(target, entry, steps)
    except TimeoutError as error:
        raise late_rollback(limit_s, steps.processes.unfinished() if steps else "") from error
    done = await discard(target, entry)
    return f"brought it back to {'paused' if entry.was_paused else 'running'}; {done}"


async def _recover_parked(target: CheckpointTarget, entry: Entry) -> str:
    """Bring a task out of a checkpoint that found it parked and touched no process of it."""
    await _save_over(target, entry, None)
    if await committed(entry) and entry.exit:
        await stop_all(target)
        target.journal.close()
        return f"stopped it: its image {entry.image_path} is complete"
    limit_s = target.config.timeouts.rollback
    try:
        async with asyncio.timeout(limit_s):
            await wait_for_save_idle(target, entry.staging, entry.exec_processes)
    except TimeoutError as error:
        raise late_rollback(limit_s, _SAVE_GOES_ON) from error
    done = await _tidy(entry)
    target.journal.park_again()
    return f"it is parked as before; {done}"


def _steps(target: CheckpointTarget, entry: Entry, report: Report) -> Steps | None:
    if entry.engine is None:
        return None
    facts = driver.capabilities(inventory.read(target.config.cuda.nvidia_proc).driver)
    noted = [(one, entry.cuda_processes(one.container)) for one in target.containers]
    group = group_for([(one, found) for one, found in noted if found], facts, report)
    return Steps(engine=engine_for(target, entry.engine, group), processes=group)


async def _undo(target: CheckpointTarget, entry: Entry, steps: Steps | None) -> None:
    if steps is not None:
        await steps.engine.undo()
    await _pause_again(target, entry)


async def discard(target: CheckpointTarget, entry: Entry) -> str:
    """Remove what an unfinished image left, close the journal, and say which it was."""
    done = await _tidy(entry)
    target.journal.close()
    return done


async def _tidy(entry: Entry) -> str:
    finished = await committed(entry)
    if entry.staging and not finished:
        staging = Path(entry.staging)
        await file_call(
            lambda: files.remove_tree(staging), doing=f"remove {staging}", deadline_s=REMOVE_S
        )
    return f"its image {entry.image_path} is " + ("complete" if finished else "gone")


async def _save_over(target: CheckpointTarget, entry: Entry, steps: Steps | None) -> None:
    """Wait for a save that outlived its owner: the sentry finishes what it began.

    A tool that hangs in it would hold it for ever.
    """
    if not procs.is_alive(entry.save_pid, entry.save_start):
        return
    own = frozenset(entry.exec_processes)
    helpers = Supervisor()
    if steps is not None:
        helpers.start(steps.engine.guard(own), name="guard of a save")
    try:
        async with asyncio.timeout(target.config.timeouts.save):
            await procs.wait_pidfd(entry.save_pid, entry.save_start)
    finally:
        await helpers.aclose()


async def _tools_over(target: CheckpointTarget, entry: Entry) -> None:
    """Wait for what the dead owner had begun in the container."""
    for paused in _paused_ids(target, entry):
        await target.runsc.agree(paused)
        with contextlib.suppress(CryoError):  # it is paused no more when the resume had been done
            await target.runsc.resume(paused)
    await wait_for_save_idle(target, entry.staging, entry.exec_processes)


async def _pause_again(target: CheckpointTarget, entry: Entry) -> None:
    for paused in _paused_ids(target, entry):
        with contextlib.suppress(CryoError):  # paused already
            await target.runsc.pause(paused)


def _paused_ids(target: CheckpointTarget, entry: Entry) -> tuple[str, ...]:
    return target.paused_ids if entry.was_paused else ()
