"""Resource usage of a container: its processes, its metrics, and its limits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from shim.errors import CryoError, FailedPrecondition, RunscError, Unimplemented
from shim.host import cgroup, cpu
from shim.model import Pids, Stats
from shim.state import TaskState
from shim.task.container import Container
from shim.task.state_machine import LIVE, exited


async def pids(container: Container) -> Pids:
    """List the processes of the container, with their pids on the host and inside.

    Before its restore a shim's task lists the shim alone: a restarted containerd takes a shim
    without any process for a leftover, and drops it.
    """
    record = container.record
    if container.state not in LIVE:
        pid = record.pid or (os.getpid() if record.owner else 0)
        return Pids(host=(pid,) if pid else ())
    guest = tuple(row.pid for row in await container.guest.ps())
    gofer = await asyncio.to_thread(container.runsc.containers.gofer_pid, container.ref.id)
    return Pids(host=(container.record.pid, *((gofer,) if gofer else ())), guest=guest)


async def stats(container: Container) -> Stats:
    """Measure the container: by its own cgroup if it has one, else by runsc.

    Raises:
        NotFound: it has exited, perhaps just now.
        FailedPrecondition: it is not restored yet.
    """
    container.machine.require_not_exited()
    try:
        own = cgroup.find(container.record.pid)
        if own is not None and container.is_root:
            return cgroup.measure(own)
        _require_loaded(container, "measured")
        if own is None:
            return await _stats_without_cgroup(container)
        return await container.runsc.stats(container.ref.id)  # the cgroup is the whole sandbox's
    except CryoError:
        if not container.record.pid or container.init.is_sandbox_alive:
            raise
        raise exited(container.ref) from None


def _require_loaded(container: Container, done: str) -> None:
    """Check that runsc may be asked about the container.

    A sandbox that waits for its image has no kernel yet: `runsc events` crashes it.

    Raises:
        FailedPrecondition: the container is not restored yet.
    """
    waits = container.state is TaskState.CREATED and container.record.image_path
    if waits or container.state is TaskState.RESTORING:
        message = f"task {container.ref.id} cannot be {done} before it is restored"
        raise FailedPrecondition(message, remedy="try again when its restore is over")


async def _stats_without_cgroup(container: Container) -> Stats:
    found = await container.runsc.stats(container.ref.id)
    # Without cgroups runsc reports the CPU time of the whole host as the container's.
    used = await asyncio.to_thread(cpu.used_below, container.record.pid)
    return msgspec.structs.replace(
        found,
        cpu_usage_ns=used.user_ns + used.system_ns,
        cpu_user_ns=used.user_ns,
        cpu_system_ns=used.system_ns,
    )


async def update(container: Container, resources: Mapping[str, Any]) -> None:
    """Apply LinuxResources.

    Raises:
        Unimplemented: this runsc has no update.
        FailedPrecondition: the container is not restored yet, or has no cgroup.
    """
    _require_loaded(container, "updated")
    async with container.machine.holding(TaskState.CREATED, *LIVE, verb="update"):
        if not container.runsc.capabilities.update:
            message = "this runsc has no update command"
            raise Unimplemented(message, remedy="use runsc from 2026-01 on")
        path = container.files.write_resources(resources)
        try:
            await container.runsc.update(container.ref.id, str(path))
        except RunscError as error:
            if "nil pointer" not in error.line:  # how runsc fails without the cgroup
                raise
            message = f"task {container.ref.id} has no cgroup to update"
            remedy = "run runsc without --ignore-cgroups"
            raise FailedPrecondition(message, remedy=remedy) from error
