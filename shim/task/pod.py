"""Every task of one sandbox. A task that shares its sandbox with nobody is the case of one."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from shim.errors import CryoError, Refused
from shim.model import CheckpointOptions, CheckpointResult, Report
from shim.spec import wishes
from shim.spec.pod import CONTAINER_NAME
from shim.state import TaskState, require
from shim.task.task import LIVE, Task
from shim.transaction.checkpoint import Checkpoint
from shim.transaction.park import Parking
from shim.transaction.target import CheckpointTarget, whole


class Pod:
    """A sandbox's own task, and those that have joined it by the time that it is held."""

    def __init__(self, own: Task, members: Callable[[], Sequence[Task]]) -> None:
        self.own = own
        self._members = members

    @property
    def tasks(self) -> tuple[Task, ...]:
        """List the tasks, the sandbox's own first."""
        return (self.own, *self._members())

    async def subject(self) -> CheckpointTarget:
        """Hand the whole sandbox to a transaction."""
        members = [await task.subject() for task in self._members()]
        return whole(await self.own.subject(), members)

    async def checkpoint(self, options: CheckpointOptions, report: Report) -> CheckpointResult:
        """Save all of them into one image; they run on unless `options.exit`.

        Raises:
            Busy, IllegalState: one of them is in a state that does not allow it; none was touched.
        """
        async with self._held(*LIVE, verb="checkpoint", quiesce=True) as tasks:
            subject = await self.subject()
            _check_names(subject)
            before = [task.state for task in tasks]
            for task in tasks:
                task.move(TaskState.CHECKPOINTING)
            try:
                filled = wishes.for_checkpoint(options, wishes.read(subject.spec))
                result = await Checkpoint(subject, filled, report).run()
            except CryoError as error:
                self.own.note_damage(error)
                raise
            finally:
                for task, state in zip(tasks, before, strict=True):
                    task.back_to(state)
            self.own.note_recovered()
        for task in tasks:
            task.tell_checkpoint(result.image_path)
        return result

    async def park(self, report: Report) -> None:
        """Pause the sandbox's one task, with its GPU memory given back.

        Raises:
            Refused: others share the sandbox, whom a pause would stop as well.
            CryoError: why it was not done; the task runs as before.
        """
        async with self._held(TaskState.RUNNING, verb="pause", quiesce=True) as tasks:
            if len(tasks) > 1:
                others = ", ".join(task.ref.id for task in tasks[1:])
                message = f"{others} would be stopped as well: they share {self.own.ref}'s sandbox"
                raise Refused(message, remedy="leave out io.cryo.park in pods")
            await self._parked(lambda parking: parking.park(), report)
        self.own.tell_paused()

    async def unpark(self, report: Report) -> None:
        """Let a parked task go on with its GPU memory; where it cannot, it stays parked.

        Raises:
            CryoError: why it stays.
        """
        async with self._held(TaskState.PAUSED, verb="resume"):
            await self._parked(self._unpark, report)
            self.own.note_recovered()
        self.own.tell_resumed()

    async def _unpark(self, parking: Parking) -> None:
        try:
            await parking.unpark()
        except CryoError as error:
            # Parked it is, but perhaps with a process that the driver has given up.
            if parking.began:
                self.own.warn(f"it could not go on: {error}")
            raise

    async def recover_parking(self, report: Report) -> None:
        """Bring the task back whose park, or its end, the last owner did not live to end.

        Raises:
            CryoError: it cannot be brought back; its journal stays open.
        """
        async with self._held(*LIVE, verb="bring back"):
            await self._parked(lambda parking: parking.recover(), report)

    async def _parked(self, do: Callable[[Parking], Awaitable[None]], report: Report) -> None:
        own = self.own
        subject = await own.subject()
        own.move(TaskState.CHECKPOINTING)
        try:
            await do(Parking(subject, report, pause=own.halt, resume=own.go_on))
        except CryoError as error:
            own.note_damage(error)
            raise
        finally:
            own.back_to_record()

    @contextlib.asynccontextmanager
    async def _held(
        self, *allowed: TaskState, verb: str, quiesce: bool = False
    ) -> AsyncIterator[tuple[Task, ...]]:
        """Hold all tasks for one operation; while the first is held nobody joins.

        Raises:
            Busy, IllegalState: one is in a state that is not allowed; the message names it.
        """
        async with contextlib.AsyncExitStack() as stack:
            own = self.own.holding(*allowed, verb=verb, quiesce=quiesce)
            await stack.enter_async_context(own)
            tasks = self.tasks
            for task in tasks:
                require(task.ref.id, task.state, *allowed, verb=verb)
            for task in tasks[1:]:
                held = task.holding(*allowed, verb=verb, quiesce=quiesce)
                await stack.enter_async_context(held)
            # One may have exited while the others were waited for.
            for task in tasks:
                require(task.ref.id, task.state, *allowed, verb=verb)
            yield tasks


def _check_names(subject: CheckpointTarget) -> None:
    """See that runsc can tell the containers of the image apart.

    Raises:
        Refused: one has no name, or that of another.
    """
    counts = Counter(one.name for one in subject.members)
    unclear = [one.ref.id for one in subject.members if not one.name or counts[one.name] > 1]
    if unclear:
        message = f"{', '.join(unclear)} cannot be told apart in an image of their sandbox"
        raise Refused(message, remedy=f"give each a name of its own in {CONTAINER_NAME}")
