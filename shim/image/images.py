"""The images of a host, for an event loop: a filesystem that hangs blocks only its own caller."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from shim.config import Config
from shim.errors import CryoError
from shim.host.filecalls import file_call
from shim.host.shielded import shielded
from shim.image import deletion, labels, listing, retention, staging, store, tagging, trust
from shim.image.directory import open_image_dir
from shim.image.eviction import Eviction, Pruned
from shim.image.manifest import Manifest
from shim.image.name import ImageName
from shim.image.retention import AS_CONFIGURED, Policy, PruneOptions, Removal
from shim.image.trust import Action
from shim.image.verify import HeldImage, decode_manifest, read_manifest
from shim.image.verify_cache import VerifyCache
from shim.model import DEFAULT_NAMESPACE, ImageView, utcnow

T = TypeVar("T")

# A list reads every manifest, and has to time out before a client with the default timeout does. A
# removal frees the blocks of possibly hundreds of GiB.
LIST_S = 50.0
REMOVE_S = 600.0
# A change of labels may have to wait for another one, and to read the labels of all images.
LABEL_S = 50.0


class Images:
    """The images in the configured folder, and images elsewhere by their paths."""

    def __init__(self, config: Config) -> None:
        self._folder = Path(config.paths.images)
        self._policy = retention.policy_of(config.store)
        self._verified = Path(config.paths.verified)
        self._trust = config.trust

    async def find(self, requested: str, namespace: str = DEFAULT_NAMESPACE) -> Path:
        """Return the folder of an image, given its path or its name in a namespace.

        Raises:
            InvalidArgument, NotFound: as `store.resolve_existing`.
            DeadlineExceeded: its filesystem does not answer.
        """
        return await file_call(
            lambda: store.resolve_existing(requested, self._folder, namespace),
            doing=f"look for the image {requested}",
        )

    async def manifest(self, image: Path, *, strict: bool = False) -> Manifest:
        """Read the manifest of an image; `strict` if something is done with the image.

        Raises:
            NotFound, ImageCorrupt, PermissionDenied: as `verify.read_manifest`.
            DeadlineExceeded: its filesystem does not answer.
        """
        return await file_call(
            lambda: read_manifest(image, strict=strict), doing=f"read the image {image}"
        )

    async def to_restore(
        self, requested: str, namespace: str = DEFAULT_NAMESPACE, *, strict: bool = True
    ) -> tuple[Path, Manifest]:
        """Return the folder and the manifest of an image that is to be restored, if accepted.

        Raises:
            PermissionDenied: [trust] does not accept it, or another user can change it.
            InvalidArgument: as `store.resolve_existing`.
            NotFound, ImageCorrupt: as `verify.read_manifest`.
            DeadlineExceeded: its filesystem does not answer.
        """

        def work() -> tuple[Path, Manifest]:
            image = store.resolve_existing(requested, self._folder, namespace)
            with open_image_dir(image, strict=strict) as folder:
                manifest, _ = decode_manifest(folder)
                trust.check_folder(self._trust, Action.RESTORE, folder)
            return image, manifest

        return await file_call(work, doing=f"read the image {requested}")

    @contextlib.asynccontextmanager
    async def holding(
        self,
        requested: str,
        namespace: str,
        *,
        strict: bool,
        own_specs: bool,
        then: Callable[[HeldImage], T],
    ) -> AsyncIterator[tuple[HeldImage, T]]:
        """Hold an image that is to be restored, if it is accepted; its manifest is read.

        `own_specs` is whether it is to be restored with the specs that are in it. `then` is called
        with it in the same call into its filesystem, and its result is returned.

        Raises:
            PermissionDenied: [trust] does not accept it, another user can change it, or it is from
                elsewhere, and one of its own specs uses something of this host.
            InvalidArgument: as `store.resolve_existing`.
            NotFound, ImageCorrupt: as `verify.read_manifest`.
            DeadlineExceeded: its filesystem does not answer.
        """
        with contextlib.ExitStack() as stack:

            def work() -> tuple[HeldImage, T]:
                image = store.resolve_existing(requested, self._folder, namespace)
                held = HeldImage(image, strict=strict)
                stack.callback(held.close)
                self._check_held(held, own_specs=own_specs)
                return held, then(held)

            # It must not be closed while it is read.
            reading = file_call(work, doing=f"read the image {requested}")
            yield await shielded(reading, deadline_s=None)

    async def check_held(
        self, held: HeldImage, *, own_specs: bool, then: Callable[[HeldImage], T]
    ) -> T:
        """Check an image that the caller holds, as `holding` does; return what `then` does."""

        def work() -> T:
            self._check_held(held, own_specs=own_specs)
            return then(held)

        reading = file_call(work, doing=f"read the image {held.image}")
        return await shielded(reading, deadline_s=None)

    def _check_held(self, held: HeldImage, *, own_specs: bool) -> None:
        manifest = held.read()
        trust.check_folder(self._trust, Action.RESTORE, held.folder)
        source = labels.read(held.image).source if own_specs else None
        if source is not None:
            trust.check_foreign(manifest, source, self._trust.rootfs, str(held.image))

    async def list(self) -> list[ImageView]:
        """List the images below the configured folder, newest first."""
        return await file_call(
            lambda: listing.list_images(self._folder),
            doing=f"list the images in {self._folder}",
            deadline_s=LIST_S,
        )

    async def remove(self, requested: str, namespace: str = DEFAULT_NAMESPACE) -> bool:
        """Delete an image below the configured folder, or one of several names of it.

        Returns whether the image was deleted.
        """
        cache = VerifyCache(self._verified)
        return await file_call(
            lambda: deletion.remove_ref(requested, self._folder, cache, namespace),
            doing=f"remove the image {requested}",
            deadline_s=REMOVE_S,
        )

    async def tag(
        self, requested: str, name: ImageName, *, expires_at: datetime | None = None
    ) -> Path:
        """Give an image a name, which any other image loses; return its path.

        `requested` is a path or another name in the same namespace.

        Raises:
            InvalidArgument: it is not below the configured folder.
            NotFound: there is no such image.
        """

        def work() -> Path:
            path = store.resolve_existing(requested, self._folder, name.namespace)
            tagging.tag(self._folder, path, name, utcnow(), expires_at=expires_at)
            return path

        return await file_call(
            work, doing=f"give the image {requested} the name {name}", deadline_s=LABEL_S
        )

    async def untag(self, requested: str, name: ImageName) -> Path:
        """Take a name from an image; return its path.

        Raises:
            NotFound: there is no such image, or it does not have that name.
        """

        def work() -> Path:
            path = store.resolve_existing(requested, self._folder, name.namespace)
            tagging.untag(self._folder, path, name)
            return path

        return await file_call(
            work, doing=f"take the name {name} from the image {requested}", deadline_s=LABEL_S
        )

    async def pin(self, requested: str, namespace: str, *, pinned: bool) -> Path:
        """Keep an image from being removed, or no longer; return its path."""

        def work() -> Path:
            path = store.resolve_existing(requested, self._folder, namespace)
            tagging.pin(self._folder, path, pinned=pinned)
            return path

        verb = "pin" if pinned else "unpin"
        return await file_call(work, doing=f"{verb} the image {requested}", deadline_s=LABEL_S)

    async def make_room(self, needed_bytes: int = 0, folder: Path | None = None) -> bool:
        """Remove images by the configured policy until there is room; return whether any was.

        Call this before an image is written below the configured folder: with its expected size,
        or without it once it has a staging folder that is named with that. `folder` is where it
        will be, if that may be elsewhere, where there is no policy.

        Raises:
            ResourceExhausted: the images that may not be removed leave no room; none was removed.
            DeadlineExceeded: the filesystem does not answer.
        """
        inside = folder is None or folder.is_relative_to(self._folder)
        if not (inside and self._policy.limits_space):
            return False
        stop = threading.Event()
        eviction = self._eviction(self._policy, stop)
        try:
            removed = await file_call(
                lambda: eviction.make_room(needed_bytes).removed,
                doing=f"make room in {self._folder}",
                deadline_s=REMOVE_S,
            )
        finally:
            stop.set()  # the call continues in its thread if it is cancelled
        return bool(removed)

    async def removed_for(self, needed_bytes: int, folder: Path) -> tuple[Removal, ...]:
        """List what `make_room` would remove for an image of this size in a folder.

        Raises:
            ResourceExhausted, DeadlineExceeded: as `make_room`.
        """
        if not (folder.is_relative_to(self._folder) and self._policy.limits_space):
            return ()
        eviction = self._eviction(self._policy, threading.Event())
        return await file_call(
            lambda: eviction.make_room(needed_bytes, dry_run=True).removed,
            doing=f"look for room in {self._folder}",
            deadline_s=LIST_S,
        )

    async def prune(self, options: PruneOptions = AS_CONFIGURED) -> Pruned:
        """Remove what the policy does not keep: the configured one, with what `options` change."""
        policy = retention.changed(self._policy, options)
        stop = threading.Event()
        eviction = self._eviction(policy, stop)
        try:
            # Without a deadline: a filesystem that hangs is then waited for by one call, not many.
            return await file_call(
                lambda: self._prune(eviction, dry_run=options.dry_run),
                doing=f"prune the images in {self._folder}",
                deadline_s=None,
            )
        finally:
            stop.set()

    def _prune(self, eviction: Eviction, *, dry_run: bool) -> Pruned:
        for path in store.stale_stagings(self._folder) if not dry_run else ():
            # Of the others the journal of a checkpoint may know.
            if staging.is_of_pull(path):
                staging.remove_abandoned(path)
        return eviction.prune(dry_run=dry_run)

    def _eviction(self, policy: Policy, stop: threading.Event) -> Eviction:
        return Eviction(self._folder, VerifyCache(self._verified), policy, stop.is_set)

    async def prune_cache(self) -> None:
        """Remove the cache entries of removed images, by whatever program they were removed."""
        cache = VerifyCache(self._verified)
        await file_call(cache.prune, doing=f"prune {self._verified}", deadline_s=None)

    async def tidy(self, kept: Callable[[], set[str] | None], log: Callable[[str], None]) -> None:
        """Remove the remains of interrupted checkpoints and removals.

        `kept` is called before each removal: it returns the staging folders to keep, or None to
        stop. `log` logs a removal.
        """
        await file_call(
            lambda: self._tidy(kept, log),
            doing=f"tidy up {self._folder}",
            deadline_s=None,
        )

    def _tidy(self, kept: Callable[[], set[str] | None], log: Callable[[str], None]) -> None:
        for path in store.stale_stagings(self._folder):
            stay = kept()
            if stay is None:
                return
            if str(path) in stay:
                continue
            log(f"removing {path}: it is not in use")
            try:
                staging.remove_abandoned(path)
            except CryoError as error:
                log(f"{path} was not removed: {error}")
