"""Parking: a pause in which a task releases its GPU memory, without an image.

Its CUDA processes are frozen as for a save; their GPU state stays in host memory until the task is
resumed. The journal stays open meanwhile, because only it lists them: a frozen process holds no
device by which it could be found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from shim.cuda import driver, inventory
from shim.cuda.group import CudaGroup
from shim.errors import CryoError, CudaError, ResourceExhausted
from shim.host.shielded import shielded, succeeded
from shim.model import EngineName, Phase, Progress, Report, Timeline
from shim.transaction import memory, observers, preflight, timeline_file
from shim.transaction.alive import if_alive, is_alive
from shim.transaction.execs import cuda_execs
from shim.transaction.hook_runner import HookRunner
from shim.transaction.journal import Operation
from shim.transaction.recorder import Recorder
from shim.transaction.save_idle import wait_for_save_idle
from shim.transaction.steps import group_for, look
from shim.transaction.target import CheckpointTarget
from shim.transaction.transaction import Transaction, in_time

_T = TypeVar("_T")
_WITHOUT = "without io.cryo.park the task can be paused with its GPU memory"


class Parking:
    """Parks a task, and unparks it.

    `pause` and `resume` are those of the task layer, which records what they do; `resume` does
    nothing to a task that is not paused.
    """

    def __init__(
        self,
        target: CheckpointTarget,
        report: Report,
        *,
        pause: Callable[[], Awaitable[None]],
        resume: Callable[[], Awaitable[None]],
    ) -> None:
        self._target = target
        self._journal = target.journal
        self._timeouts = target.config.timeouts
        self._report = report
        self._pause = pause
        self._resume = resume
        # Whether an unpark has begun to move processes.
        self.began = False
        self._hooks = HookRunner(target, report)
        self._recorder = Recorder("unpark", target.ref.id)
        self._gpu_bytes = 0
        if target.journal.parked:
            self._gpu_bytes = sum(target.journal.entry.gpu_bytes.values())
        self._facts = driver.capabilities(inventory.read(target.config.cuda.nvidia_proc).driver)

    async def park(self) -> None:
        """Freeze every CUDA process, then pause; on a failure the task runs as before.

        Raises:
            CryoError: why it was not parked.
            CudaError: a process could not be brought back; the journal stays open.
        """
        transaction = Transaction(
            f"park of {self._target.ref}",
            self._journal,
            self._report,
            deadline_s=self._timeouts.checkpoint,
        )
        self._journal.open(Operation.PARK, "")

        async def woken() -> None:
            if transaction.failed is None:
                await self._woken()

        group = group_for([(self._target, ())], self._facts, transaction.report)
        transaction.undo_with("end the park", woken, deadline_s=self._hooks.limit_s)
        transaction.undo_with(
            "bring the task back",
            lambda: self._bring_back(group),
            deadline_s=self._timeouts.rollback,
            held_up=group.unfinished,
        )
        try:
            await transaction.run(self._forward(group, transaction))
        except BaseException as error:
            transaction.keep_timeline(self._timeline(transaction.recorder, error))
            raise
        transaction.keep_timeline(self._timeline(transaction.recorder))

    def _timeline(self, recorder: Recorder, error: BaseException | None = None) -> Timeline:
        return msgspec.structs.replace(
            recorder.timeline(error), engine=EngineName.PHASED, gpu_bytes=self._gpu_bytes
        )

    async def _forward(self, group: CudaGroup, transaction: Transaction) -> None:
        hooks = HookRunner(self._target, transaction.report, transaction.step)
        transaction.warn(*await hooks.before_freeze())
        with transaction.step(Phase.PREFLIGHT):
            await self._find(group)
        with transaction.step(Phase.FREEZE):
            if group.known:
                await group.freeze()
        with transaction.recorder.step(Phase.COMMIT):
            made = f"task {self._target.ref} is parked"
            await transaction.commit(self._pause_parked(), made=made)

    async def unpark(self) -> None:
        """Thaw and resume the task; it stays parked if it cannot have its GPU memory.

        Raises:
            ResourceExhausted: too little GPU memory is free.
            CryoError: why else it stays parked.
            CudaError: a process could neither be thawed nor be frozen again.
        """
        group = self._recorded()
        with self._recorder.step(Phase.PREFLIGHT), self._recorder.commands():
            await self._check_free_memory()
        # From here on the next owner thaws it.
        self.began = True
        self._journal.note(committed=False)
        observers.began(self._journal.path.parent, self._recorder.operation)
        # It is completed also if the caller is cancelled meanwhile.
        with self._recorder.commands():
            waking = asyncio.ensure_future(self._resume_and_thaw(group))
        try:
            with self._recorder.step(Phase.THAW):
                await shielded(waking, deadline_s=None)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError) or not succeeded(waking):
                self._keep_timeline(error)
                raise
        self._keep_timeline()

    def _keep_timeline(self, error: BaseException | None = None) -> None:
        """Keep with the task where the time of an unpark went."""
        timeline = self._timeline(self._recorder, error)
        self._recorder.close()
        timeline_file.add(self._journal.path.parent, timeline)

    async def recover(self) -> None:
        """Bring back a task whose park or unpark was interrupted. Idempotent.

        Raises:
            CryoError: a process could not be brought back; the journal stays open.
        """
        if self._journal.entry.tracing:
            await self._target.end_trace()
        await self._check_free_memory()
        await self._bring_back_in_time(self._recorded(), self._timeouts.rollback)

    def _recorded(self) -> CudaGroup:
        """Return the processes that the journal lists."""
        known = self._journal.entry.cuda_processes()

        def report(progress: Progress) -> None:
            self._recorder.progress(progress)
            self._report(progress)

        return group_for([(self._target, known)], self._facts, report)

    async def _find(self, group: CudaGroup) -> None:
        """Find what there is to freeze, and record it."""
        rows = await self._target.guest.ps()
        held = await self._or_warn(memory.bytes_in_use(self._target)) or {}
        exec_processes = tuple(row.pid for row in preflight.exec_processes(rows))
        self._journal.note(exec_processes=exec_processes, gpu_bytes=held)
        self._gpu_bytes = sum(held.values())
        preflight.check_memory(self._target, self._gpu_bytes)
        await look(group, otherwise=_WITHOUT)
        self._journal.note(engine=EngineName.PHASED, phase=Phase.FREEZE)
        self._journal.processes(group.known)
        execs, unclear = await cuda_execs(self._target, group.known)
        self._journal.note(execs=execs, execs_unclear=unclear)

    async def _or_warn(self, query: Awaitable[_T]) -> _T | None:
        """Query nvidia-smi; if it fails, warn that the check was left out."""
        try:
            return await query
        except ResourceExhausted:
            raise
        except CryoError as error:
            message = f"GPU memory was not checked in advance: {error}"
            self._report(Progress(phase=Phase.PREFLIGHT, message=message, warning=True))
            return None

    async def _check_free_memory(self) -> None:
        """Check that there is enough GPU memory to thaw the task.

        A process that finds too little when it is thawed is lost: the driver gives it up
        (cuda-checkpoint issue 44).
        """
        if needed := self._journal.entry.gpu_bytes:
            await self._or_warn(memory.check_free(self._target, needed))

    async def _pause_parked(self) -> None:
        """Pause, and record it: a park that the next owner would not know of must fail."""
        await self._pause()
        self._journal.note(committed=True)

    async def _bring_back_in_time(self, group: CudaGroup, limit_s: float) -> None:
        await in_time(limit_s, self._bring_back(group), group.unfinished)
        await self._woken()

    async def _bring_back(self, group: CudaGroup) -> None:
        """Resume and thaw the task from whatever state it is in."""
        self._journal.allow_write_errors()
        await if_alive(self._target.sandbox, lambda: self._thaw(group))

    async def _woken(self) -> None:
        """Run the post-thaw hooks of a task that runs again, and close the journal."""
        if is_alive(self._target.sandbox):
            await self._hooks.report_after_thaw()
        self._journal.close()

    async def _thaw(self, group: CudaGroup) -> None:
        await self._resume()
        # Tools that a dead owner started in the container would move the same processes.
        await wait_for_save_idle(self._target, "", self._journal.entry.exec_processes)
        if group.known:
            await group.thaw()

    async def _resume_and_thaw(self, group: CudaGroup) -> None:
        try:
            await self._bring_back_in_time(group, self._timeouts.restore)
        except CryoError as cause:
            await self._park_again(group, cause)
            raise

    async def _park_again(self, group: CudaGroup, cause: CryoError) -> None:
        """Freeze again the processes that were thawed: a half-thawed task cannot run."""
        try:
            await group.freeze()
            await self._pause_parked()
        except CryoError as failed:
            message = f"{cause.message}; and it could not be parked again: {failed.message}"
            raise CudaError(message, remedy=failed.remedy) from failed
