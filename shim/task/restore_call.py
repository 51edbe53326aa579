"""A restore in one call: creates the tasks of an image, and loads it into all of them."""

from __future__ import annotations

import contextlib

import msgspec

from shim.config import Config
from shim.host.shielded import shielded
from shim.image.contents import host_access
from shim.image.images import Images
from shim.image.manifest import Manifest, Member
from shim.image.verify import HeldImage
from shim.model import (
    CreateRequest,
    MemberOptions,
    Phase,
    Progress,
    Report,
    RestoreOptions,
    RestoreResult,
    TaskRef,
)
from shim.oci.copy_identity import CopyIdentity
from shim.state import TaskState
from shim.task.container import Container
from shim.task.creation import Creation
from shim.task.member_mapping import resolve_members
from shim.task.owner import Owner
from shim.task.plan import ImageSource, Joining
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
        strict, own_specs = not options.untrusted_folder, _uses_own_specs(options)
        async with self._images.holding(
            options.image_path, ref.namespace, strict=strict, own_specs=own_specs
        ) as held:
            return await self._run(ref, options, report, held)

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
        await self._images.check_held(held, own_specs=_uses_own_specs(options))
        return await self._run(ref, options, report, held, pages)

    async def _run(
        self,
        ref: TaskRef,
        options: RestoreOptions,
        report: Report,
        held: HeldImage,
        pages: PagesCheck | None = None,
    ) -> RestoreResult:
        manifest = held.read()
        options = msgspec.structs.replace(options, image_path=str(held.image))
        mapped = resolve_members(manifest, ref, options)
        warnings = _hook_warnings(manifest, options)
        for text in warnings:
            report(Progress(phase=Phase.VERIFY, message=text, warning=True))
        identity = CopyIdentity(
            hostname=options.hostname,
            netns=options.netns,
            env=options.env,
            # Clones with one spec would share the limits of its cgroup.
            cgroup=ref.id if pages is not None and not options.bundle else "",
        )
        made: list[Container] = []
        try:
            own = MemberOptions(saved=manifest.task, bundle=options.bundle, stdio=options.stdio)
            made.append(await self._create(ref, manifest.root, own, options, manifest, identity))
            for saved, member in zip(manifest.members, mapped, strict=True):
                one = TaskRef(namespace=ref.namespace, id=member.id)
                joining = Joining(name=saved.name, sandbox_id=ref.id)
                made.append(
                    await self._create(one, saved, member, options, manifest, identity, joining)
                )
            names = [saved.name for saved in manifest.members]
            result = await self._fill(made, names, options, report, held, pages)
            return msgspec.structs.replace(result, warnings=(*warnings, *result.warnings))
        except BaseException:  # also on a bug or a cancellation
            await shielded(self._creation.remove(made, "its restore"), deadline_s=None)
            raise

    async def _create(
        self,
        ref: TaskRef,
        saved: Member,
        mapped: MemberOptions,
        options: RestoreOptions,
        manifest: Manifest,
        identity: CopyIdentity,
        joining: Joining | None = None,
    ) -> Container:
        """Create the task that a container of the image becomes."""
        request = CreateRequest(
            ref=ref,
            bundle=mapped.bundle or saved.bundle,
            stdio=mapped.stdio,
            checkpoint=options.image_path,
        )
        source = ImageSource(
            manifest=manifest,
            own_bundle=bool(mapped.bundle),
            joining=joining,
            identity=identity,
            image_hooks=options.image_hooks,
            one_call=True,
        )
        return await self._creation.create(request, source)

    async def _fill(
        self,
        made: list[Container],
        names: list[str],
        options: RestoreOptions,
        report: Report,
        held: HeldImage,
        pages: PagesCheck | None,
    ) -> RestoreResult:
        """Load the image into the created tasks, the root task first."""
        restore = Restore(RestoredContainer(made[0]), self._config, options, report, held, pages)
        async with contextlib.AsyncExitStack() as stack:
            for task in made:
                alone = task.machine.holding(TaskState.CREATED, verb="restore")
                await stack.enter_async_context(alone)
                task.machine.move(TaskState.RESTORING)
            members = dict(zip(names, map(RestoredContainer, made[1:]), strict=True))
            result = await restore.run(await self._owner.capabilities(), members)
            for task in made:
                task.note_started()
                task.machine.run()
        return result


def _uses_own_specs(options: RestoreOptions) -> bool:
    """Whether specs of the image are used, and the caller does not trust them by an option."""
    return not (options.bundle or options.trust_spec)


def _hook_warnings(manifest: Manifest, options: RestoreOptions) -> tuple[str, ...]:
    """Return warnings that name the hooks of the image that will not run."""
    if options.bundle or options.image_hooks:
        return ()
    return tuple(
        f"hooks of the image do not run for {one.task} without --image-hooks: "
        + ", ".join(map(str, one.hooks))
        for one in host_access(manifest)
        if one.hooks
    )
