"""The states of CUDA processes for a listing: from the journal, or as their driver says now."""

from __future__ import annotations

from shim.cuda import driver, inventory
from shim.model import Progress
from shim.transaction.journal import Entry, key
from shim.transaction.steps import group_for
from shim.transaction.target import CheckpointTarget


def recorded(entry: Entry, pid: int, container: str) -> str | None:
    """Return the state of a process that an operation under way, or a park, has recorded."""
    found = entry.processes.get(key(pid, container))
    return None if found is None else found.state


async def asked(target: CheckpointTarget) -> dict[int, str]:
    """Return the states of the CUDA processes of a running container, by pid in the container.

    Programs are run in the container to find them; nothing is changed.

    Raises:
        CryoError: they cannot be found, or asked.
    """
    facts = driver.capabilities(inventory.read(target.config.cuda.nvidia_proc).driver)
    group = group_for([(target, ())], facts, _ignored)
    await group.find()
    return {pid: str(state) for mover in group.movers for pid, state in mover.table.states.items()}


def _ignored(progress: Progress) -> None:
    del progress
