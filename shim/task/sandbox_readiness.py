"""Whether a sandbox is ready to be saved.

Alone in its sandbox, a container is ready when its check succeeds. A pod is when all containers of
its sandbox run, none was added recently, and the check succeeds in one of them: a pod's annotations
reach all of its containers, and do not say which of them the check is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from shim.errors import CryoError, DeadlineExceeded, NotFound, Unavailable
from shim.model import utcnow
from shim.runsc.port_forward import PortStream
from shim.runsc.run import Completed
from shim.state import TaskState
from shim.task.container import Container
from shim.task.readiness import TRY_S, Check, NotReady, parse, until_ready
from shim.task.sandbox import Sandbox
from shim.task.state_machine import LIVE

# How long no container may have joined a pod: the kubelet starts one after the other.
_QUIET_S = 2.0
_MAY_BE_READY = (TaskState.CREATED, *LIVE, TaskState.CHECKPOINTING)
_TEST = ("/bin/sh", "-c", 'test -e "$0"')


class CheckedContainer:
    """A container as the checks see it."""

    def __init__(self, container: Container) -> None:
        self._container = container

    async def run(self, argv: Sequence[str], *, timeout_s: float) -> Completed:
        """Run a program in it."""
        return await self._container.guest.run(argv, timeout_s=timeout_s)

    def connect(self, port: int, *, timeout_s: float) -> AbstractAsyncContextManager[PortStream]:
        """Connect to a port of the sandbox's loopback."""
        sentry = self._container.runsc.sentry
        return sentry.connect(self._container.ref.id, port, timeout_s=timeout_s)

    async def has_file(self, path: str) -> bool:
        """Whether a file exists: by the image's shell, or else the sentry reads a small one."""
        try:
            return (await self.run([*_TEST, path], timeout_s=TRY_S)).status == 0
        except NotFound:
            if not self._container.is_root:
                raise
        try:
            await self._container.runsc.sentry.read_files(self._container.ref.id, [path])
        except Unavailable:
            return False
        return True


class SandboxReadiness:
    """The readiness of one sandbox; `reason` is why it was not ready when last asked."""

    def __init__(self, sandbox: Sandbox, check: str | None) -> None:
        """Take the value of the annotation; without one it is ready when all of it runs."""
        self._sandbox = sandbox
        self._check: Check | None = None if check is None else parse(check)
        self.reason = ""

    async def wait(self, period_s: float) -> None:
        """Wait until it is ready, has exited, or no longer needs a save."""
        await until_ready(self._attempt, period_s, self._note)

    def _note(self, error: CryoError) -> None:
        self.reason = str(error)

    async def _attempt(self) -> None:
        root = self._sandbox.root
        named = root.record.named
        if root.state not in _MAY_BE_READY or named is None or named.settled:
            return
        _require_running(root)
        asked = self._members() if named.in_pod else [root]
        if self._check is not None:
            await _first(self._check, asked)

    def _members(self) -> list[Container]:
        """Return the containers of a pod, if all of it runs.

        Raises:
            NotReady: otherwise.
        """
        members = list(self._sandbox.containers[1:])
        for one in members:
            _require_running(one)
        age_s = min(
            ((utcnow() - one.record.created_at).total_seconds() for one in members), default=0.0
        )
        if age_s < _QUIET_S:
            message = "its containers are still being started"
            raise NotReady(message)
        return members


def _require_running(one: Container) -> None:
    if one.state is not TaskState.RUNNING:
        message = f"container {one.ref} is {one.state}"
        raise NotReady(message)


async def _first(check: Check, containers: Sequence[Container]) -> None:
    """Return when the check succeeds in one of the containers, each asked in turn.

    Raises:
        CryoError: it succeeds in none; this is the last reason.
    """
    failed: CryoError = NotReady("no container is running")
    for one in containers:
        try:
            await check.check(CheckedContainer(one))
        except DeadlineExceeded:  # the loopback is the same in all of them
            raise
        except CryoError as error:
            failed = error
        else:
            return
    raise failed
