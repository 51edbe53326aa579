"""The image that a checkpoint makes: begun, sealed and given its name, or removed again."""

from __future__ import annotations

from pathlib import Path

import msgspec

from shim.errors import CryoError, CudaError, ResourceExhausted
from shim.host.filecalls import file_call
from shim.host.shielded import shielded
from shim.host.sizes import size
from shim.image import copying, seal, staging, timelines
from shim.image.images import Images
from shim.image.manifest import Manifest
from shim.image.memory_stage import MemoryStage
from shim.image.staging import Staging
from shim.image.verify_cache import VerifyCache
from shim.model import CheckpointOptions, Phase, Report, Stage, Timeline
from shim.transaction.draft import Content, draft
from shim.transaction.saving import Saving
from shim.transaction.stage_choice import Choice, open_chosen
from shim.transaction.target import CheckpointTarget
from shim.transaction.transaction import Transaction
from shim.transaction.worker import in_thread, throttled

# How long the removal of an unfinished image may take.
REMOVE_S = 60.0


class NewImage:
    """An image at `path`, complete once it has that name; `content` says what was saved into it.

    `choice` is where runsc saves to, and `stage` that place if it is in memory.
    """

    def __init__(
        self,
        path: Path,
        target: CheckpointTarget,
        options: CheckpointOptions,
        transaction: Transaction,
        saving: Saving,
    ) -> None:
        self.path = path
        self.content = Content()
        self.choice = Choice(Stage.DISK, "")
        self.stage: MemoryStage | None = None
        self._target = target
        self._options = options
        self._transaction = transaction
        self._saving = saving
        self._staging: Staging | None = None

    async def begin(self, expected_bytes: int) -> Staging:
        """Make the staging folder that runsc will write to, and room for this much in it.

        Raises:
            ResourceExhausted: others have begun images meanwhile, and there is no room for all.
        """
        path = staging.name_staging(self.path, expected_bytes)
        # Before it is made: the process that finds this journal knows of it then.
        self._target.journal.note(staging=str(path))

        def make() -> Staging:
            self._staging = staging.begin(path)
            return self._staging

        # To its end, so that a rollback knows what to remove.
        made = await shielded(
            file_call(make, doing=f"begin an image in {path.parent}"), deadline_s=None
        )
        # Now that others see its expected size: of two that found room for one, not both go on.
        await Images(self._target.config).make_room(folder=path)
        return made

    async def choose_stage(self, expected_bytes: int, device_bytes: int) -> None:
        """Choose where runsc saves to, and make the stage if that is memory.

        Raises:
            CryoError: memory was requested, and a stage is not possible.
        """
        target, options, folder = self._target, self._options, self.path.parent

        def choose() -> None:
            made = open_chosen(target, options, expected_bytes, device_bytes, folder)
            self.stage, self.choice = made

        # To its end, so that a rollback knows what to free.
        await shielded(file_call(choose, doing=f"look at {folder}"), deadline_s=None)
        if self.stage is not None:
            target.journal.note(stage_device=self.stage.device)

    async def leave_stage(self) -> None:
        """Save to the disk from now on: the image has filled the stage."""
        if self.stage is not None:
            reason = f"it took more memory than the {size(self.stage.size_bytes)} set aside for it"
            self.choice = Choice(Stage.DISK, reason)
            await self._close_stage()
            self._target.journal.note(stage_device=0)

    async def _close_stage(self) -> None:
        """Free the memory of the stage, which takes a while if much is in it."""
        stage, self.stage = self.stage, None
        if stage is not None:
            await file_call(stage.close, doing="free the stage in memory")

    async def finish(self, staging: Staging, *, thawed: bool, frozen_s: float = 0.0) -> Manifest:
        """Hash the files, write the manifest and give the image its name: after that it stays.

        Unless the task is `thawed` a stage is kept whole until then, for there is no other copy.
        """
        with self._transaction.step(Phase.SEAL):
            manifest = await self._seal(staging, free=thawed, frozen_s=frozen_s)
            await self._close_stage()
        with self._transaction.step(Phase.COMMIT):
            await self._commit(staging, manifest)
        return manifest

    async def _seal(self, staging: Staging, *, free: bool, frozen_s: float) -> Manifest:
        drafted = await draft(self._target, self._options, self._transaction, self.content)
        drafted = msgspec.structs.replace(
            drafted, stage=self.choice.stage, stage_reason=self.choice.reason, frozen_s=frozen_s
        )
        sealed, stage = self._options.seal, self.stage

        def hash_files(report: Report) -> Manifest:
            staging.check()
            folder = staging.folder
            source = stage.folder if stage else folder
            on_bytes = throttled(report, Phase.SEAL, source.size_bytes)
            if stage is None:
                return seal.seal(folder, drafted, sealed=sealed, on_bytes=on_bytes)
            copied = copying.copy(source, folder, on_bytes, sealed=sealed, free=free)
            return seal.seal(folder, drafted, sealed=sealed, copied=copied)

        return await in_thread(hash_files, self._transaction.report)

    async def _commit(self, staging: Staging, manifest: Manifest) -> None:
        options = self._options

        def name() -> None:
            seal.commit(staging.path, self.path, durable=options.seal, fill=options.fill)
            staging.close()

        naming = file_call(name, doing=f"name the image {self.path}")
        await self._transaction.commit(naming, made=self._complete)
        if not options.seal:
            return
        cache = VerifyCache(Path(self._target.config.paths.verified))
        try:
            await file_call(
                lambda: cache.remember_image(self.path, manifest), doing=f"read {self.path}"
            )
        except (CryoError, OSError) as error:
            # Without the entry a restore reads the image again; nothing else is lost.
            self._transaction.warn(f"the image could not be recorded in paths.verified: {error}")

    async def keep_timeline(self, manifest: Manifest, timeline: Timeline) -> None:
        """Add to the complete image where the time went, unless its folder is the caller's.

        What a caller does with its folder is not known: an older cryo may refuse the added file.
        """
        if self._options.fill:
            return
        try:
            await file_call(
                lambda: timelines.write(self.path, manifest, timeline),
                doing=f"write the timeline of {self.path}",
            )
        except CryoError as error:
            self._transaction.warn(f"the timeline of the image could not be written: {error}")

    @property
    def _complete(self) -> str:
        return f"the image {self.path} is complete"

    def lost(self, cause: CryoError) -> CryoError:
        """Make the error for a process that cannot be thawed, and that only this image has."""
        message = f"{cause.message}; {self._complete}"
        remedy = "kill the task and restore the image"
        if isinstance(cause, ResourceExhausted):
            return ResourceExhausted(message, remedy=f"free GPU memory, {remedy}")
        return CudaError(message, remedy=remedy)

    # -- undoing -------------------------------------------------------------------------------

    async def undo(self) -> None:
        """Remove the unfinished image; finish it if it has a process that could not be thawed.

        Raises:
            CryoError: it could not be removed, or not be finished.
        """
        staging, failed = self._staging, self._transaction.failed
        if staging is None:
            return  # nor is there a stage, which is made after it
        if failed is not None and self._saving.complete:
            self._transaction.failed = await self._keep(staging, failed)
            return
        await self._close_stage()
        await file_call(staging.discard, doing=f"remove {staging.path}", deadline_s=REMOVE_S)

    async def _keep(self, staging: Staging, failed: CryoError) -> CryoError:
        """Finish the image of a task that cannot be thawed; return the error that reports both."""
        try:
            if self.stage is not None:  # a copy may have begun
                await file_call(staging.empty, doing=f"empty {staging.path}", deadline_s=REMOVE_S)
            await self.finish(staging, thawed=False)
        except CryoError as error:
            # Its files stay, for there is no other copy; the open journal protects them, and a
            # stage lasts as long as this process.
            place = self.stage.path if self.stage else staging.path
            await file_call(staging.close, doing=f"close {staging.path}")
            message = f"{failed.message}; and its image could not be completed: {error.message}"
            return CudaError(message, remedy=f"what was saved is in {place}; {error.remedy}")
        return self.lost(failed)
