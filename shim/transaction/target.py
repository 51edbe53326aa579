"""What a transaction works on: one sandbox, described by the task layer, which owns it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from shim.config import Config
from shim.cuda.guest import Guest
from shim.host.process_id import ProcessId
from shim.model import TaskRef
from shim.oci.document import Spec
from shim.runsc.client import Runsc
from shim.runsc.container_flags import NO_FLAGS, ContainerFlags
from shim.transaction.journal import Journal


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointTarget:
    """One task under checkpoint or restore, with the `members` that share its sandbox.

    `guest_tool` is cuda-checkpoint's path inside the container, `gpu` whether it may hold CUDA
    state at all, `stop` kills the task and waits for its exit, `ended` returns whether it has
    exited, `exec_ran` whether an exec was ever started in it. For a member, `container` is its id,
    and `name` its name in an image of runsc; both are empty for the sandbox's own task.
    `own_flags` are the flags that were chosen for it where the operator set none.
    """

    ref: TaskRef
    config: Config
    runsc: Runsc
    guest: Guest
    sandbox: ProcessId
    spec: Spec
    bundle: Path
    guest_tool: str
    gpu: bool
    paused: bool
    journal: Journal
    stop: Callable[[], Awaitable[None]]
    ended: Callable[[], bool] = lambda: False
    exec_ran: bool = False
    container: str = ""
    name: str = ""
    own_flags: ContainerFlags = NO_FLAGS
    members: tuple[CheckpointTarget, ...] = ()
    finished: tuple[str, ...] = ()

    @property
    def containers(self) -> tuple[CheckpointTarget, ...]:
        """Return all containers of the sandbox, its own task first."""
        return (self, *self.members)

    @property
    def with_gpu(self) -> tuple[CheckpointTarget, ...]:
        """Return the containers that may have CUDA state."""
        return tuple(one for one in self.containers if one.gpu)

    @property
    def shown_name(self) -> str:
        """Return the name of the container in its pod; outside one, the id of its task."""
        return self.name or self.ref.id

    @property
    def flags(self) -> dict[str, str]:
        """Return the top-level flags with which runsc created the container."""
        return self.own_flags.added_to(self.runsc.flags)

    @property
    def paused_ids(self) -> tuple[str, ...]:
        """List the paused tasks: pausing one stops all of the sandbox, but only it is paused."""
        return tuple(one.ref.id for one in self.containers if one.paused)

    async def end_trace(self) -> None:
        """End the trace session that a dead owner left behind, which may have left a pause."""
        await self.runsc.sentry.end_trace(self.ref.id)
        await self.runsc.sentry.reconcile_pause(self.ref.id)

    async def stop_all(self) -> None:
        """Stop every task of the sandbox, its own last: with that one the sandbox exits."""
        for member in self.members:
            if not member.ended():
                await member.stop()
        await self.stop()


def combined(own: CheckpointTarget, members: Iterable[CheckpointTarget]) -> CheckpointTarget:
    """Combine the tasks of a sandbox; its journal is that of its own task."""
    return replace(own, members=tuple(replace(one, journal=own.journal) for one in members))
