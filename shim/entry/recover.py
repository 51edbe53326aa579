"""`cryo recover`: what a sidecar does first, without one: undo what was interrupted, and leave."""

from __future__ import annotations

import asyncio

from shim.config import Config
from shim.entry import logs
from shim.errors import FailedPrecondition
from shim.host.environment import private_umask
from shim.task.tasks import Tasks

_NOTHING = "nothing to recover"


def run(config: Config) -> list[str]:
    """Recover and return what was done, a line each; the tasks run on, and wait for a sidecar.

    Raises:
        AlreadyExists: a sidecar runs, which has done it.
        FailedPrecondition: some task could not be brought back.
        Unavailable: there is no runsc, or the supervisor does not start.
    """
    logs.set_up("error", "plain")
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
            remedy = f"see what holds {names} up, and run it again; or kill and delete it"
            raise FailedPrecondition(message, remedy=remedy)
        return done or [_NOTHING]
    finally:
        await tasks.close()
