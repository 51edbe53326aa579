"""A restore by name, if possible: one that fails in Start is followed by a cold start in that call.

containerd sees one start. The streams stay open in between, and no exit is published for the
sandbox of the failed restore.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from shim.errors import CryoError
from shim.host.exit_status import SIGKILL_STATUS
from shim.host.shielded import shielded
from shim.model import Exit, utcnow
from shim.task.container import Container
from shim.task.origin import cold_because
from shim.task.record import NamedOrigin
from shim.task.state_machine import LIVE


async def restored_or_cold(task: Container, restore: Callable[[Container], Awaitable[int]]) -> int:
    """Restore a created task; if that fails and its policy allows it, start it cold.

    Raises:
        CryoError: the restore failed, or the cold start did.
    """
    named = task.record.named
    if named is None or not named.falls_back:
        return await restore(task)
    async with task.init.streams.kept_open():
        try:
            return await _one_or_the_other(task, named, restore)
        except CryoError:
            raise
        except BaseException:  # killed, or the caller has left
            if task.state not in LIVE:
                await shielded(_end(task), deadline_s=None)
            raise


async def _one_or_the_other(
    task: Container, named: NamedOrigin, restore: Callable[[Container], Awaitable[int]]
) -> int:
    try:
        return await restore(task)
    except CryoError as error:
        if task.is_undone:  # its rollback failed: what is left can be killed and deleted
            task.init.settle()
            raise
        return await _start_cold(task, named, error)


async def _start_cold(task: Container, named: NamedOrigin, error: CryoError) -> int:
    task.warnings.add_notice(cold_because(named.name, error))
    failed = task.record.image_path
    named = msgspec.structs.replace(named, reason=str(error), failed_image=failed, fell_back=True)
    task.store.update(image_path="", image_digest="", named=named)
    task.files.instance.write(task.files.spec, restored=False)
    async with task.machine.locked():
        await task.init.create()
    return await task.start()


async def _end(task: Container) -> None:
    await task.init.end(Exit(status=SIGKILL_STATUS, at=utcnow()))
