"""A sandbox: its root container and those that share it, and the operations on all of them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

from shim.errors import Busy, CryoError, IllegalState, Impossible, Refused
from shim.finding import Finding
from shim.image.named import Fingerprint
from shim.model import CheckpointOptions, CheckpointResult, Report
from shim.oci.annotations import fill_checkpoint_options, read_annotations
from shim.oci.pod import CONTAINER_NAME
from shim.state import TaskState
from shim.task.container import Container
from shim.task.state_machine import LIVE
from shim.transaction import questions
from shim.transaction.checkpoint import Checkpoint
from shim.transaction.examination import Examination
from shim.transaction.park import Parking
from shim.transaction.target import CheckpointTarget, combined


class Sandbox:
    """A root container, and the containers that have joined it by the time that it is held.

    A root container that is alone in its sandbox is the usual case. The journal is that of the
    root container.
    """

    def __init__(self, root: Container, members: Callable[[], Sequence[Container]]) -> None:
        """Take what lists the other containers of the sandbox."""
        self.root = root
        self._members = members

    @property
    def containers(self) -> tuple[Container, ...]:
        """List the containers, the root container first."""
        return (self.root, *self._members())

    async def target(self) -> CheckpointTarget:
        """Return the sandbox as a transaction sees it."""
        members = [await one.target() for one in self._members()]
        return combined(await self.root.target(), members)

    async def checkpoint(self, options: CheckpointOptions, report: Report) -> CheckpointResult:
        """Save all containers into one image; they run on unless `options.exit`.

        Raises:
            Busy, IllegalState: one is in a state that does not allow it; none was touched.
        """
        root = self.root
        async with self._holding(*LIVE, verb="checkpoint", quiesce=True) as containers:
            target = await self.target()
            _check_names(target)
            before = [one.state for one in containers]
            for one in containers:
                one.machine.move(TaskState.CHECKPOINTING)
            _set_result(containers, "")
            try:
                filled = fill_checkpoint_options(options, read_annotations(target.spec))
                result = await Checkpoint(target, filled, report).run()
            except CryoError as error:
                _set_result(containers, f"error {error}")
                self._keep_damage(error)
                raise
            except BaseException:  # killed, or the caller has left
                _set_result(containers, "error the checkpoint was cancelled")
                raise
            finally:
                for one, state in zip(containers, before, strict=True):
                    one.machine.leave_checkpoint(state)
            _set_result(containers, "resume")
            root.warnings.clear()
        for one in containers:
            one.context.publish_event("/tasks/checkpointed", one.ref, checkpoint=result.image_path)
        return result

    async def examine(self, fingerprint: Fingerprint) -> tuple[Finding, ...]:
        """Ask what a checkpoint would ask, and change nothing.

        `fingerprint` is that of the root container.
        """
        try:
            async with self._holding(*LIVE, verb="checkpoint", quiesce=True):
                target = await self.target()
                options = fill_checkpoint_options(
                    CheckpointOptions(), read_annotations(target.spec)
                )
                found = await Examination(target, options).run(fingerprint)
                return (*self._of_task(target), *found)
        except (Busy, IllegalState) as error:
            return (questions.STATE.topic.failure(error.message, error.remedy),)

    def _of_task(self, target: CheckpointTarget) -> Iterator[Finding]:
        """Return what only the task layer knows: names of containers, and a warning of the task."""
        try:
            _check_names(target)
        except Impossible as error:
            yield questions.CONTAINERS.topic.failure(error.message, error.remedy)
        if self.root.is_undone:
            text = f"an operation was not rolled back: {self.root.record.warning}"
            yield questions.STATE.topic.failure(text, "restart the sidecar: it tries again")
        elif self.root.record.warning:
            yield questions.STATE.topic.warning(self.root.record.warning, questions.STATE.remedy)

    async def park(self, report: Report) -> None:
        """Pause the only container of the sandbox, and release its GPU memory.

        Raises:
            Refused: others share the sandbox, and a pause would stop them as well.
            CryoError: it failed; the container runs as before.
        """
        root = self.root
        async with self._holding(TaskState.RUNNING, verb="pause", quiesce=True) as containers:
            if len(containers) > 1:
                others = ", ".join(one.ref.id for one in containers[1:])
                message = f"{others} would be stopped as well: they share {root.ref}'s sandbox"
                raise Refused(message, remedy="do not set io.cryo.park in pods")
            await self._parking(lambda parking: parking.park(), report)
        root.context.publish_event("/tasks/paused", root.ref)

    async def unpark(self, report: Report) -> None:
        """Resume a parked container with its GPU memory; on failure it stays parked.

        Raises:
            CryoError: it failed.
        """
        root = self.root
        async with self._holding(TaskState.PAUSED, verb="resume"):
            await self._parking(self._unpark, report)
            root.warnings.clear()
        root.context.publish_event("/tasks/resumed", root.ref)

    async def _unpark(self, parking: Parking) -> None:
        try:
            await parking.unpark()
        except CryoError as error:
            # It is parked, but the driver may have given up one of its processes.
            if parking.began:
                self.root.warnings.set(f"it could not go on: {error}")
            raise

    async def recover_parking(self, report: Report) -> None:
        """Resume a container whose park or unpark the last owner did not finish.

        Raises:
            CryoError: it cannot be resumed; its journal stays open.
        """
        async with self._holding(*LIVE, verb="bring back"):
            await self._parking(lambda parking: parking.recover(), report)

    async def _parking(self, do: Callable[[Parking], Awaitable[None]], report: Report) -> None:
        machine = self.root.machine
        target = await self.root.target()
        machine.move(TaskState.CHECKPOINTING)
        try:
            await do(Parking(target, report, pause=machine.pause, resume=machine.resume))
        except CryoError as error:
            self._keep_damage(error)
            raise
        finally:
            machine.leave_checkpoint(machine.recorded)

    def _keep_damage(self, error: CryoError) -> None:
        """Set a warning if the rollback failed: the journal is then still open."""
        if self.root.is_undone and not self.root.record.warning:
            self.root.warnings.set(str(error))

    @contextlib.asynccontextmanager
    async def _holding(
        self, *allowed: TaskState, verb: str, quiesce: bool = False
    ) -> AsyncIterator[tuple[Container, ...]]:
        """Hold all containers for one operation; none joins while the root container is held.

        Raises:
            Busy, IllegalState: one is in a state that is not allowed; the message names it.
        """
        async with contextlib.AsyncExitStack() as stack:
            held = self.root.machine.holding(*allowed, verb=verb, quiesce=quiesce)
            await stack.enter_async_context(held)
            containers = self.containers
            for one in containers:
                one.machine.require(*allowed, verb=verb)
            for one in containers[1:]:
                held = one.machine.holding(*allowed, verb=verb, quiesce=quiesce)
                await stack.enter_async_context(held)
            # One may have exited while the others were waited for.
            for one in containers:
                one.machine.require(*allowed, verb=verb)
            yield containers


def _set_result(containers: Sequence[Container], text: str) -> None:
    """Say in each container how its checkpoint ended; empty while it is under way."""
    for one in containers:
        one.files.instance.set_result(text)


def _check_names(target: CheckpointTarget) -> None:
    """Check that runsc can distinguish the containers of the image.

    Raises:
        Impossible: one has no name, or the same as another.
    """
    counts = Counter(one.name for one in target.members)
    unclear = [one.ref.id for one in target.members if not one.name or counts[one.name] > 1]
    if unclear:
        message = f"{', '.join(unclear)} cannot be distinguished in an image of their sandbox"
        raise Impossible(message, remedy=f"give each a unique name in {CONTAINER_NAME}")
