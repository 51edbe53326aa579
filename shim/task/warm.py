"""Warm starts: a container that was started cold is saved under its name once it is ready.

The save runs in the background, and never harms the container: a checkpoint that fails is
rolled back. Of containers that are started at once, the first that is ready is saved, and the
others find its lock or its image. The next owner continues to wait for the containers of the last.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec

from shim.config import Config
from shim.errors import Busy, CryoError, DeadlineExceeded, FailedPrecondition, Impossible
from shim.image.named import ImageRef
from shim.image.named_use import NameOutcome
from shim.model import CheckpointResult, Report, TaskRef
from shim.oci import pod
from shim.oci.annotations import TaskAnnotations, WarmFallback, read_annotations
from shim.task.container import Container
from shim.task.early_image import ended_since
from shim.task.name_counters import NameCounters
from shim.task.named_save import Checkpoint, NamedSaves
from shim.task.owner import Owner
from shim.task.record import NamedOrigin
from shim.task.recovery import log_progress
from shim.task.sandbox_readiness import SandboxReadiness
from shim.task.state_machine import LIVE
from shim.task.task_map import TaskMap

_log = logging.getLogger(__name__)
# Without a check: how long after its start a container is saved.
SETTLE_S = 10.0
TIMEOUT_S = 300.0
PERIOD_S = 1.0
# Between two attempts to save a container that is busy.
_RETRY_S = 5.0


class WarmStarts:
    """Has the containers of one owner saved under their names once they are ready."""

    def __init__(
        self,
        config: Config,
        tasks: TaskMap,
        owner: Owner,
        counters: NameCounters,
        checkpoint: Checkpoint,
    ) -> None:
        self._tasks = tasks
        self._owner = owner
        self._counters = counters
        self._saves = NamedSaves(config, owner, checkpoint)

    def started(self, task: Container) -> None:
        """Count how a task was started, and arrange the save of one that was started cold."""
        named = task.record.named
        if named is None:
            self._joined(task)
            return
        ref = named.ref(task.ref.namespace)
        if task.record.image_path:
            self._counters.count(ref, NameOutcome.HIT, task.ref)
        elif named.fell_back:
            self._counters.count(ref, NameOutcome.REFUSAL, task.ref, named.reason)
        self.resume(task)

    def resume(self, task: Container) -> None:
        """Save a task in the background once it is ready, if its warm start is to be saved."""
        named = task.record.named
        if named is None or not named.warm or named.settled:
            return
        if task.record.image_path and not named.early:
            return
        work = self._save_when_ready(task, named)
        self._owner.context().background.start(work, name=f"warm start of {task.ref}")

    def _joined(self, task: Container) -> None:
        """Check the image of a pod that a container has joined after the save, or the restore."""
        root = self._tasks.root(task.ref.namespace, task.record.sandbox_id)
        named = root.record.named if root is not None else None
        if root is None or named is None or not named.warm or task.record.image_path:
            return
        if image := named.saved_image or root.record.image_path:
            work = self._replace_early(root, task, named, Path(image))
            self._owner.context().background.start(work, name=f"warm start of {root.ref}")

    async def _replace_early(
        self, root: Container, joined: Container, named: NamedOrigin, path: Path
    ) -> None:
        """Save a pod again, and remove its image, if that was made too early."""
        ref = named.ref(root.ref.namespace)
        try:
            ended = await ended_since(path, self._tasks.sandbox_of(root), joined)
        except CryoError as error:  # it was replaced or dropped since
            _log.info("task %s: %s", root.ref, error)
            return
        if not ended:
            return
        await self._saves.remove(ref, path)
        reason = f"it was saved before {', '.join(ended)} had ended, and is saved again"
        self._counters.count(ref, NameOutcome.FAILURE, root.ref, reason)
        again = msgspec.structs.replace(
            named, saved_image="", failed_image=str(path), settled=False, early=True
        )
        root.store.try_update(named=again)
        self.resume(root)

    async def _save_when_ready(self, task: Container, named: NamedOrigin) -> None:
        try:
            await self._attempts(task, named)
        except CryoError as error:
            if task.state in LIVE:
                text = f"not saved as the image {named.name}: {error}"
                task.warnings.add_notice(text)
                ref = named.ref(task.ref.namespace)
                self._counters.count(ref, NameOutcome.FAILURE, task.ref, str(error))
        _settle(task)

    async def _attempts(self, task: Container, named: NamedOrigin) -> None:
        """Wait until the task is ready, and save it; again if that may succeed later.

        Raises:
            CryoError: it was not ready in time, or could not be saved.
        """
        wanted = await asyncio.to_thread(lambda: read_annotations(task.files.spec))
        until_s = _now_s() + (wanted.warm_timeout or TIMEOUT_S)
        retry_s = _RETRY_S
        while await self._is_due(task, wanted, until_s):
            try:
                await self._save_once(task, named)
            except Impossible:
                raise
            except (Busy, FailedPrecondition):
                if _now_s() + retry_s > until_s:
                    raise
                await asyncio.sleep(retry_s)
                retry_s *= 2
            else:
                return

    async def _is_due(self, task: Container, wanted: TaskAnnotations, until_s: float) -> bool:
        """Wait until the task is ready, or its time is over; return whether to save it then.

        Raises:
            DeadlineExceeded: it was not ready in time, and is not to be saved then.
        """
        readiness = SandboxReadiness(self._tasks.sandbox_of(task), wanted.warm_when)
        try:
            async with asyncio.timeout_at(until_s):
                if wanted.warm_when is None:
                    await asyncio.sleep(wanted.warm_period or SETTLE_S)
                await readiness.wait(wanted.warm_period or PERIOD_S)
        except TimeoutError as error:
            if wanted.warm_fallback is not WarmFallback.SAVE:
                raise _late(wanted.warm_timeout or TIMEOUT_S, readiness.reason) from error
        return task.state in LIVE and not is_settled(task)

    async def _save_once(self, task: Container, named: NamedOrigin) -> None:
        """Save the task under its name, unless another one was or is being saved."""
        ref = named.ref(task.ref.namespace)
        made = await self._saves.save(task, ref, log_progress, besides=named.failed_image)
        outcome = NameOutcome.SKIP if made is None else NameOutcome.SAVE
        self._counters.count(ref, outcome, task.ref)
        if made is not None:
            task.store.try_update(named=msgspec.structs.replace(named, saved_image=made.image_path))

    async def save(self, ref: TaskRef, name: str, report: Report) -> CheckpointResult:
        """Save a task, with all that share its sandbox, under a name; replace what has the name.

        Raises:
            Busy: another one is being saved under the name.
            CryoError: it was not saved; the task runs as before.
        """
        task = self._tasks.root_of(self._tasks.get(ref))
        group = await asyncio.to_thread(lambda: pod.kubernetes_namespace(task.files.spec))
        full = ImageRef(namespace=ref.namespace, name=name, kubernetes_namespace=group)
        made = await self._saves.save(task, full, report)
        if made is None:
            message = f"another container is being saved as {name}"
            raise Busy(message, remedy="try again when it is saved")
        self._counters.count(full, NameOutcome.SAVE, task.ref)
        return made


def is_settled(task: Container) -> bool:
    """Whether no further save of a warm start is due: it was saved, or left to another."""
    named = task.record.named
    return named is None or named.settled


def _settle(task: Container) -> None:
    named = task.record.named
    if named is not None and task.state in LIVE:
        task.store.try_update(named=msgspec.structs.replace(named, settled=True))


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _late(limit_s: float, reason: str) -> DeadlineExceeded:
    why = f"it was not ready in {limit_s:g} s"
    return DeadlineExceeded(
        f"{why}: {reason}" if reason else why,
        remedy="correct io.cryo.warm-when, or raise io.cryo.warm-timeout",
    )
