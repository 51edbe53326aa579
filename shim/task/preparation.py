"""What a restore in one call decides before it makes anything, in one call into a filesystem."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from shim.config import Config
from shim.image.manifest import Manifest, Member
from shim.image.verify import HeldImage
from shim.model import CreateRequest, MemberOptions, RestoreOptions, TaskRef
from shim.oci import host_access
from shim.oci.copy_identity import CopyIdentity
from shim.runsc.probe import Capabilities
from shim.task.member_mapping import resolve_members
from shim.task.origin import Origin
from shim.task.plan import ImageSource, Joining, plan
from shim.task.pod_volumes import TaskFolder
from shim.transaction import page_reading, restore
from shim.transaction.page_reading import Reading


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The options with the image's path, and what each container of the image becomes.

    The first one is the root container, whose plan is made. `capabilities` are those of runsc.
    `reading` is how the pages are read; None if the image is not verified yet. `warnings` name the
    hooks that will not run.
    """

    options: RestoreOptions
    capabilities: Capabilities
    manifest: Manifest
    origins: tuple[Origin, ...]
    reading: Reading | None
    warnings: tuple[str, ...]

    @property
    def members(self) -> list[str]:
        """List the names in the image of the containers that join the sandbox."""
        return [one.name for one in self.manifest.members]


class Preparation:
    """Prepares the restore of an image as task `ref`. Its calls block.

    A `clone` is one of several tasks that are restored from an image; the caller verifies it.
    """

    def __init__(
        self,
        config: Config,
        ref: TaskRef,
        options: RestoreOptions,
        capabilities: Capabilities,
        folder_of: TaskFolder,
        *,
        clone: bool,
    ) -> None:
        self._config = config
        self._ref = ref
        self._options = options
        self._capabilities = capabilities
        self._folder_of = folder_of
        self._clone = clone

    def run(self, held: HeldImage) -> Prepared:
        """Prepare it, and verify the image if nothing has to be read for that.

        Raises:
            ImageCorrupt: the image is damaged.
            InvalidArgument: the options do not fit the image.
            CryoError: as `plan.plan`.
        """
        manifest = held.read()
        self._options = msgspec.structs.replace(self._options, image_path=str(held.image))
        root, *members = self._origins(manifest)
        planned = plan(self._config, root.request, self._folder_of, root.source)
        return Prepared(
            options=self._options,
            capabilities=self._capabilities,
            manifest=manifest,
            origins=(msgspec.structs.replace(root, plan=planned), *members),
            reading=self._reading(held, manifest),
            warnings=_hook_warnings(manifest, self._options),
        )

    def _reading(self, held: HeldImage, manifest: Manifest) -> Reading | None:
        if not self._clone and not restore.verify_known(held, self._options, self._config):
            return None
        able, options = self._capabilities, self._options
        return page_reading.plan(held, manifest, options, able, shared=self._clone)

    def _origins(self, manifest: Manifest) -> list[Origin]:
        """Return what each container of the image becomes, the root container first."""
        options = self._options
        own = MemberOptions(saved=manifest.task, bundle=options.bundle, stdio=options.stdio)
        mapped = resolve_members(manifest, self._ref, options)
        found = [self._origin(self._ref, manifest.root, own, manifest)]
        for saved, member in zip(manifest.members, mapped, strict=True):
            one = TaskRef(namespace=self._ref.namespace, id=member.id)
            joining = Joining(name=saved.name, sandbox_id=self._ref.id)
            found.append(self._origin(one, saved, member, manifest, joining))
        return found

    def _origin(
        self,
        ref: TaskRef,
        saved: Member,
        mapped: MemberOptions,
        manifest: Manifest,
        joining: Joining | None = None,
    ) -> Origin:
        """Return what a container of the image becomes."""
        options = self._options
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
            identity=self._identity,
            image_hooks=options.image_hooks,
            one_call=True,
        )
        return Origin(request=request, source=source)

    @property
    def _identity(self) -> CopyIdentity:
        options = self._options
        return CopyIdentity(
            hostname=options.hostname,
            netns=options.netns,
            env=options.env,
            # Clones with one spec would share the limits of its cgroup.
            cgroup=self._ref.id if self._clone and not options.bundle else "",
        )


def _hook_warnings(manifest: Manifest, options: RestoreOptions) -> tuple[str, ...]:
    """Return warnings that name the hooks of the image that will not run."""
    if options.bundle or options.image_hooks:
        return ()
    found = ((one.task, host_access.hooks(one.spec)) for one in (manifest.root, *manifest.members))
    return tuple(
        f"hooks of the image do not run for {task} without --image-hooks: "
        + ", ".join(map(str, hooks))
        for task, hooks in found
        if hooks
    )
