"""`cryo recover`: rolls back interrupted operations, as a sidecar does at its start, and exits."""

from __future__ import annotations

import asyncio

from shim.config import Config
from shim.entry import logs
from shim.errors import FailedPrecondition
from shim.host.environment import private_umask
from shim.task.tasks import Tasks

_NOTHING = "nothing to recover"


def run(config: Config) -> list[str]:
    """Recover and return what was done, a line each; the next sidecar adopts running tasks.

    Raises:
        AlreadyExists: a sidecar is running, and has already recovered.
        FailedPrecondition: a task could not be recovered.
        Unavailable: runsc was not found, or the supervisor did not start.
    """
    logs.set_up("error", config.log.format)
    private_umask()
    return asyncio.run(_recover(config))


async def _recover(config: Config) -> list[str]:
    tasks = Tasks(config)
    try:
        await tasks.recover()
        done = await tasks.tidy()
        if undone := tasks.undone:
            message = "; ".join(done)
            names = ", ".join(ref.id for ref in undone)
            remedy = f"remove the cause and run cryo recover again; or kill and delete {names}"
            raise FailedPrecondition(message, remedy=remedy)
        return done or [_NOTHING]
    finally:
        await tasks.close()
