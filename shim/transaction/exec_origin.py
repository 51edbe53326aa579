"""Which processes descend from an exec: runsc ends them in a restore.

A live exec session is recognized by its parent, and most processes of the container's own command
by their ancestors and process groups. For the rest, such as a process whose parent has exited and
that has a process group of its own, only the sentry knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shim.cuda.tool_processes import init_of
from shim.errors import CryoError
from shim.model import Value
from shim.runsc.output import GuestProcess
from shim.transaction.target import CheckpointTarget


class ExecOrigins(Value):
    """The processes of a container that descend from an exec, and those that may; pids of `ps`."""

    execs: frozenset[int] = frozenset()
    unknown: frozenset[int] = frozenset()

    def of(self, pids: Iterable[int]) -> ExecOrigins:
        """Return the same for some of the processes."""
        chosen = frozenset(pids)
        return ExecOrigins(execs=self.execs & chosen, unknown=self.unknown & chosen)


def by_parents(rows: Sequence[GuestProcess]) -> ExecOrigins:
    """Return what parents and process groups show. Pure.

    An exec begins a session, and a process group never leaves its session: a process in the group
    of init descends from init.
    """
    known = {row.pid: row for row in rows}
    init = known.get(init_of(list(rows)))
    if init is None:
        return ExecOrigins()
    execs: set[int] = set()
    unknown: set[int] = set()
    for row in rows:
        line = _ancestry(row, known)
        if any(one.group and one.group == init.group for one in line if one is not init):
            continue
        oldest = line[-1]
        if oldest.parent == 0 and oldest is not init:
            execs.add(row.pid)
        elif row is not init:
            unknown.add(row.pid)
    return ExecOrigins(execs=frozenset(execs), unknown=frozenset(unknown))


def _ancestry(row: GuestProcess, known: dict[int, GuestProcess]) -> list[GuestProcess]:
    """Return a process and its ancestors in the container, the oldest last."""
    line = [row]
    while (parent := known.get(line[-1].parent)) is not None and parent not in line:
        line.append(parent)
    return line


async def find(
    target: CheckpointTarget, listed: Sequence[list[GuestProcess]], *, paused: bool
) -> tuple[ExecOrigins, ...]:
    """Find the origins of the processes that are `listed` for each container.

    The sentry cannot be asked while the sandbox is `paused`.
    """
    found = tuple(by_parents(rows) for rows in listed)
    if not target.runsc.capabilities.ends_execs:
        return tuple(ExecOrigins() for _ in found)
    if not any(one.exec_ran for one in target.containers):
        # A process that was started without us has no parent in the container.
        return tuple(ExecOrigins(execs=one.execs) for one in found)
    unclear = frozenset(pid for one in found for pid in one.unknown)
    if not unclear or paused:
        return found
    answers = await _ask_sentry(target, unclear)
    return tuple(_with_answers(one, answers) for one in found)


def _with_answers(one: ExecOrigins, answers: dict[int, bool]) -> ExecOrigins:
    execs = frozenset(pid for pid in one.unknown if answers.get(pid))
    return ExecOrigins(execs=one.execs | execs, unknown=one.unknown - answers.keys())


async def _ask_sentry(target: CheckpointTarget, pids: frozenset[int]) -> dict[int, bool]:
    """Ask the sentry whether each process descends from an exec; a failure gives no answers."""
    target.journal.note(tracing=True)
    try:
        return await target.runsc.sentry.exec_descendants(target.ref.id, pids)
    except CryoError:
        return {}
    finally:
        target.journal.note(tracing=False)
