"""Checkpoint as a transaction: a complete image, or a task that runs as if nothing had happened.

What is saved is a whole sandbox: a task, and the tasks that share its sandbox, if any.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from shim.config import Defaults
from shim.errors import CryoError, DeadlineExceeded, IllegalState
from shim.host.filecalls import file_call
from shim.image import store
from shim.image.manifest import Manifest
from shim.image.staging import Staging
from shim.model import (
    CheckpointOptions,
    CheckpointResult,
    CudaMode,
    Phase,
    Progress,
    Report,
    Timeline,
    utcnow,
)
from shim.transaction import connections, preflight
from shim.transaction.alive import is_alive
from shim.transaction.draft import Content
from shim.transaction.execs import ExecCheck
from shim.transaction.freezing import Freezing
from shim.transaction.hook_runner import HookRunner
from shim.transaction.journal import Operation
from shim.transaction.judge import Strict
from shim.transaction.new_image import REMOVE_S, NewImage
from shim.transaction.saving import Saving
from shim.transaction.survey import Findings, Survey
from shim.transaction.target import CheckpointTarget
from shim.transaction.transaction import Transaction

# How often a save is repeated because a process began to use the GPU during it.
_RETRIES = 3
_CLOSE_S = 10.0


class Checkpoint:
    """One checkpoint of one sandbox. Make it, `run` it once."""

    def __init__(
        self, target: CheckpointTarget, options: CheckpointOptions, report: Report
    ) -> None:
        self._target = target
        self._policy = chosen(options, target.config.defaults)
        self._options = msgspec.structs.replace(options, **msgspec.structs.asdict(self._policy))
        self._journal = target.journal
        self._transaction = Transaction(
            f"checkpoint of {target.ref}",
            target.journal,
            report,
            deadline_s=options.timeout_s or target.config.timeouts.checkpoint,
        )
        self._execs = ExecCheck(
            target, self._policy.exec_processes, self._transaction.warn, exit=options.exit
        )
        self._saving = Saving(target, self._options, self._transaction)
        self._freezing = Freezing(target, self._transaction, self._saving, self._execs)
        self._hooks = HookRunner(target, self._transaction.report, self._transaction.step)
        self._gpu_bytes = 0

    async def run(self) -> CheckpointResult:
        """Make the image, or undo everything.

        Raises:
            CryoError: why it was not made, and the task runs as before; or what failed although
                the image is complete, which the message says.
            DeadlineExceeded: the checkpoint took too long; the message names the phase.
        """
        path = await file_call(self._resolve, doing="look at the image's path")
        image = NewImage(path, self._target, self._options, self._transaction, self._saving)
        self._open_journal(path)
        # A rollback runs these from the last to the first.
        timeouts = self._target.config.timeouts
        undo_with = self._transaction.undo_with
        undo_with("close the journal", self._close_undone, deadline_s=_CLOSE_S)
        undo_with("remove the unfinished image", image.undo, deadline_s=REMOVE_S + timeouts.save)
        undo_with("run its post-thaw hooks", self._undo_hooks, deadline_s=self._hooks.limit_s)
        undo_with(
            "bring the task back",
            self._freezing.undo,
            deadline_s=timeouts.rollback,
            held_up=self._freezing.held_up,
        )
        try:
            result = await self._transaction.run(self._forward(image))
        except BaseException as error:
            self._transaction.keep_timeline(self._timeline(image, error=error))
            raise
        self._transaction.keep_timeline(self._timeline(image, result.size_bytes))
        return result

    async def _forward(self, image: NewImage) -> CheckpointResult:
        found = await self._survey(image)
        self._gpu_bytes = found.gpu_bytes
        staging = await image.begin(found.image_bytes)
        await image.choose_stage(found.image_bytes, found.device_bytes)
        await self._freeze_and_save(image, staging, found)
        preflight.check_none_ended(self._target)
        if not self._options.exit:
            await self._freezing.thaw()
        self._freezing.end()
        if not self._options.exit:
            await self._after_thaw()
        manifest = await image.finish(
            staging, thawed=self._freezing.thawed, frozen_s=self._freezing.frozen_s
        )
        if self._options.exit:
            with self._transaction.step(Phase.STOP):
                await self._stop()
        if self._freezing.unthawed is not None:
            raise image.lost(self._freezing.unthawed) from self._freezing.unthawed
        self._close_journal()
        await image.keep_timeline(manifest, self._timeline(image, manifest.size_bytes))
        return self._result(image, manifest)

    # -- the phases ----------------------------------------------------------------------------

    async def _survey(self, image: NewImage) -> Findings:
        """Run the pre-freeze hooks and find what there is to save: a hook may change that."""
        survey = Survey(
            self._target,
            self._policy,
            Strict(self._target, self._transaction, self._freezing.resume),
            self._execs,
            for_copies=self._options.for_copies,
        )
        with self._transaction.step(Phase.PREFLIGHT):
            await survey.check()
        self._transaction.warn(*await self._hooks.before_freeze())
        with self._transaction.step(Phase.PREFLIGHT):
            return await survey.run(image.path.parent)

    async def _after_thaw(self) -> None:
        """Run the post-thaw hooks, unless a process could not be thawed."""
        if self._freezing.unthawed is None:
            self._transaction.warn(*await self._hooks.after_thaw())

    async def _undo_hooks(self) -> None:
        """Run the post-thaw hooks of a rollback; what could not be thawed is left for recovery."""
        if self._transaction.failed is None and is_alive(self._target.sandbox):
            hooks = HookRunner(self._target, self._transaction.report)
            self._transaction.warn(*await hooks.after_thaw())

    async def _freeze_and_save(self, image: NewImage, staging: Staging, found: Findings) -> None:
        """Fill the staging folder; again if a process began to use the GPU during the save."""
        retries = _RETRIES
        while True:
            if found.steps is not None:
                await self._freezing.freeze(found.steps)
                await self._check_connections(found)
            preflight.check_none_ended(self._target)
            image.content = self._content(found)
            stage = image.stage or staging
            self._freezing.begin()
            try:
                with self._transaction.step(Phase.SAVE):
                    await self._saving.save(stage, found.steps, found.image_bytes)
                    if found.steps is not None:
                        await found.steps.engine.check()
            except CryoError as error:
                filled = self._saving.answered and image.stage is not None and image.stage.full
                if not filled and (retries <= 0 or not self._saving.met_a_newcomer(error)):
                    raise
                await file_call(stage.empty, doing=f"empty {stage.path}")
                if filled:
                    await self._freezing.thaw_failed_save()
                    await image.leave_stage()
                message = f"{error.message}; retrying"
                self._transaction.report(Progress(phase=Phase.SAVE, message=message))
                retries -= 1
            else:
                if image.stage is not None:
                    image.stage.saved()
                return

    async def _check_connections(self, found: Findings) -> None:
        policy = self._policy.connections
        warnings = await connections.check(self._target, policy, found.inside, host=True)
        self._transaction.warn(*warnings)

    def _content(self, found: Findings) -> Content:
        """List what the next save puts into the image: what exits after this is in it, too."""
        known = found.steps.processes.known if found.steps else ()
        return Content(
            engine=found.steps.engine.name if found.steps else None,
            processes=tuple(self._execs.marked(process) for process in known),
            inventory=found.inventory,
            used_gpus=found.used_gpus,
            memory_bytes=found.image_bytes,
            data_folders=found.data_folders,
        )

    async def _stop(self) -> None:
        """Stop the task, whose image is complete.

        Raises:
            DeadlineExceeded: it does not exit; the next owner tries again.
        """
        limit_s = self._target.config.timeouts.rollback
        try:
            async with asyncio.timeout(limit_s):
                await self._target.stop_all()
        except TimeoutError as error:
            message = f"task {self._target.ref} did not stop in {limit_s:g} s"
            raise DeadlineExceeded(message, remedy="kill the task") from error

    def _result(self, image: NewImage, manifest: Manifest) -> CheckpointResult:
        return CheckpointResult(
            image_path=str(image.path),
            size_bytes=manifest.size_bytes,
            digest=manifest.digest,
            engine=manifest.engine,
            processes=manifest.all_processes,
            members=tuple(one.task for one in manifest.members),
            warnings=tuple(self._transaction.warnings),
            timings_s=dict(self._transaction.timings_s),
            stage=image.choice.stage,
            stage_reason=image.choice.reason,
            frozen_s=self._freezing.frozen_s,
        )

    def _timeline(
        self, image: NewImage, size_bytes: int = 0, error: BaseException | None = None
    ) -> Timeline:
        return msgspec.structs.replace(
            self._transaction.recorder.timeline(error),
            engine=image.content.engine or "",
            image_path=str(image.path),
            size_bytes=size_bytes,
            gpu_bytes=self._gpu_bytes,
            frozen_s=self._freezing.frozen_s,
            notes=(f"saved to {image.choice.stage}: {image.choice.reason}",),
        )

    # -- path and journal ----------------------------------------------------------------------

    def _resolve(self) -> Path:
        return store.resolve_new(
            self._options.image_path,
            Path(self._target.config.paths.images),
            self._target.ref,
            utcnow(),
            fill=self._options.fill,
        )

    def _open_journal(self, image: Path) -> None:
        """Open the journal; that of a parked task is open already, and is carried along.

        Raises:
            IllegalState: the image of a parked task would not say which processes are frozen.
        """
        exits = self._options.exit
        if not self._journal.parked:
            paused = bool(self._target.paused_ids)
            self._journal.open(Operation.CHECKPOINT, str(image), was_paused=paused, exit=exits)
            return
        if self._policy.cuda is CudaMode.IGNORE:
            message = (
                f"task {self._target.ref} is parked: its image must record the frozen processes"
            )
            raise IllegalState(message, remedy="leave out --cuda ignore, or resume it first")
        self._journal.open_from_park(str(image), exit=exits)

    def _close_journal(self) -> None:
        """Leave nothing to undo; a parked task is parked again, if its sandbox is alive."""
        if self._journal.entry.from_park and is_alive(self._target.sandbox):
            self._journal.park_again()
        else:
            self._journal.close()

    async def _close_undone(self) -> None:
        if self._transaction.failed is None:
            self._close_journal()


def chosen(options: CheckpointOptions, defaults: Defaults) -> Defaults:
    """Return the defaults with the caller's own choices in their place."""
    return Defaults(
        engine=options.engine or defaults.engine,
        cuda=options.cuda or defaults.cuda,
        connections=options.connections or defaults.connections,
        exec_processes=options.exec_processes or defaults.exec_processes,
        stage=options.stage or defaults.stage,
    )
