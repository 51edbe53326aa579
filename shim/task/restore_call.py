"""A restore in one call: creates the tasks of an image, and loads it into all of them."""

from __future__ import annotations

import contextlib

import msgspec

from shim.config import Config
from shim.host.shielded import shielded
from shim.image.images import Images
from shim.image.verify import HeldImage
from shim.model import Phase, Progress, Report, RestoreOptions, RestoreResult, TaskRef
from shim.state import TaskState
from shim.task.container import Container
from shim.task.creation import Creation
from shim.task.owner import Owner
from shim.task.preparation import Preparation, Prepared
from shim.task.restored_container import RestoredContainer
from shim.transaction.pages_check import PagesCheck
from shim.transaction.restore_txn import Restore


class RestoreCall:
    """Restores whole sandboxes from images."""

    def __init__(self, config: Config, images: Images, creation: Creation, owner: Owner) -> None:
        self._config = config
        self._images = images
        self._creation = creation
        self._owner = owner

    async def run(self, ref: TaskRef, options: RestoreOptions, report: Report) -> RestoreResult:
        """Restore an image as task `ref`, with the containers that shared its sandbox.

        Raises:
            CryoError: it failed; none of the tasks is left.
        """
        preparation = await self._preparation(ref, options)
        async with self._images.holding(
            options.image_path,
            ref.namespace,
            strict=not options.untrusted_folder,
            own_specs=_uses_own_specs(options),
            then=preparation.run,
        ) as (held, prepared):
            return await self._run(prepared, report, held)

    async def run_held(
        self,
        ref: TaskRef,
        options: RestoreOptions,
        report: Report,
        held: HeldImage,
        pages: PagesCheck,
    ) -> RestoreResult:
        """Restore an image that the caller holds and verifies, for several restores.

        Raises:
            CryoError: it failed; none of the tasks is left.
        """
        preparation = await self._preparation(ref, options, clone=True)
        own_specs = _uses_own_specs(options)
        prepared = await self._images.check_held(held, own_specs=own_specs, then=preparation.run)
        return await self._run(prepared, report, held, pages)

    async def _preparation(
        self, ref: TaskRef, options: RestoreOptions, *, clone: bool = False
    ) -> Preparation:
        able, folder_of = await self._owner.capabilities(), self._owner.context().layout.task
        return Preparation(self._config, ref, options, able, folder_of, clone=clone)

    async def _run(
        self,
        prepared: Prepared,
        report: Report,
        held: HeldImage,
        pages: PagesCheck | None = None,
    ) -> RestoreResult:
        for text in prepared.warnings:
            report(Progress(phase=Phase.VERIFY, message=text, warning=True))
        made: list[Container] = []
        try:
            for origin in prepared.origins:
                task = await self._creation.create(origin)
                made.append(task)  # one after the other, to be removed on an error
            result = await self._fill(made, prepared, report, held, pages)
            warnings = (*prepared.warnings, *result.warnings)
            return msgspec.structs.replace(result, warnings=warnings)
        except BaseException:  # also on a bug or a cancellation
            await shielded(self._creation.remove(made, "its restore"), deadline_s=None)
            raise

    async def _fill(
        self,
        made: list[Container],
        prepared: Prepared,
        report: Report,
        held: HeldImage,
        pages: PagesCheck | None,
    ) -> RestoreResult:
        """Load the image into the created tasks, the root task first."""
        root, *others = map(RestoredContainer, made)
        options, reading = prepared.options, prepared.reading
        restore = Restore(root, self._config, options, report, held, pages, reading)
        async with contextlib.AsyncExitStack() as stack:
            for task in made:
                alone = task.machine.holding(TaskState.CREATED, verb="restore")
                await stack.enter_async_context(alone)
                task.machine.move(TaskState.RESTORING)
            members = dict(zip(prepared.members, others, strict=True))
            result = await restore.run(prepared.capabilities, members)
            for task in made:
                task.note_started()
                task.machine.run()
        return result


def _uses_own_specs(options: RestoreOptions) -> bool:
    """Whether specs of the image are used, and the caller does not trust them by an option."""
    return not (options.bundle or options.trust_spec)
