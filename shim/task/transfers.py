"""Pushes and pulls of the images of this host."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath

import msgspec

from shim.config import Config
from shim.distribution import copies, reference
from shim.distribution.reference import ArchiveRef, BucketRef, Reference, RegistryRef
from shim.distribution.settings import TransferSettings
from shim.distribution.transfer import Offer, PullTarget, Transfer, Transferred
from shim.host.filecalls import file_call
from shim.image import name as names
from shim.image import tagging
from shim.image.images import Images
from shim.image.labels import Labels
from shim.image.name import ImageName
from shim.image.named import ImageRef
from shim.image.trust import Action, check_offered
from shim.image.verify_cache import VerifyCache
from shim.model import Phase, Progress, Report, utcnow
from shim.task.pulled_name import PulledName
from shim.transaction.worker import in_thread

# Of a digest in the path of a pulled image.
_SHORT = 16
_ODD = re.compile(r"[^a-z0-9]+")


class Transfers:
    """Copies images from this host to other places, and from there."""

    def __init__(self, config: Config, images: Images) -> None:
        self._folder = Path(config.paths.images)
        self._verified = VerifyCache(Path(config.paths.verified))
        self._images = images
        self._trust = config.trust

    async def push(
        self, image: str, namespace: str, to: str, settings: TransferSettings, report: Report
    ) -> Transferred:
        """Copy an image, given by its path or its name in a namespace, elsewhere.

        Raises:
            CryoError: it was not copied; the reference is as it was.
        """
        target = reference.parse(to)
        path = await self._images.find(image, namespace)

        def work(progress: Report) -> Transfer:
            return copies.send(path, target, settings, progress)

        return _result(await in_thread(work, report), target)

    async def pull(
        self,
        wanted: str,
        namespace: str,
        settings: TransferSettings,
        report: Report,
        *,
        name: str | None = None,
    ) -> Transferred:
        """Copy an image from elsewhere, and name it; by default as the end of the reference.

        Raises:
            CryoError: it was not copied; what was fetched is used by the next call.
        """
        source = reference.parse(wanted)
        named = _default_name(source, namespace) if name is None else names.parse(name, namespace)
        path_for = partial(self._path, named)
        target = self._target(source, path_for, self._folder / named.namespace)

        def work(progress: Report) -> Transfer:
            return copies.fetch(source, target, settings, progress)

        moved = await in_thread(work, report)
        path = Path(moved.image_path)
        await file_call(
            lambda: tagging.tag(self._folder, path, named, utcnow()),
            doing=f"give the image {path} the name {named}",
        )
        return _result(moved, source, str(named))

    async def pull_warm(
        self, wanted: str, ref: ImageRef, settings: TransferSettings, report: Report
    ) -> Transferred:
        """Copy an image from elsewhere for the warm starts of a name.

        Raises:
            CryoError: it was not copied; what was fetched is used by the next call.
        """
        source = reference.parse(wanted)
        named = PulledName(self._folder, ref, self._verified)
        target = self._target(source, named.path_for, ref.folder(self._folder).parent)

        def work(progress: Report) -> Transfer:
            with named:
                moved = copies.fetch(source, target, settings, progress)
                for line in named.tidy(Path(moved.image_path)):
                    progress(Progress(phase=Phase.PULL, message=line, warning=True))
            return moved

        return _result(await in_thread(work, report), source, str(ref))

    def _target(
        self, source: Reference, path_for: Callable[[Offer], Path], besides: Path
    ) -> PullTarget:
        """Return where an image goes; it may get chunks of the images below the folder `besides`.

        Those of other namespaces are not taken: the author of an image needs to know the digest
        of a chunk only, and would get its content.
        """
        return PullTarget(
            path_for=path_for,
            images=besides,
            verified=self._verified,
            admit=lambda offer: self._admit(offer, source),
            make_room=self._room_maker(),
            labels=Labels(source=str(source)),
        )

    def _room_maker(self) -> Callable[[int], None]:
        """Return what makes room for an image, for a thread beside this event loop."""
        loop = asyncio.get_running_loop()

        def make_room(needed_bytes: int) -> None:
            made = asyncio.run_coroutine_threadsafe(self._images.make_room(needed_bytes), loop)
            made.result()

        return make_room

    def _admit(self, offer: Offer, source: Reference) -> None:
        """Check what is elsewhere, before its files are fetched.

        Raises:
            CryoError: this host does not take it.
        """
        action = Action.IMPORT if isinstance(source, ArchiveRef) else Action.PULL
        check_offered(
            self._trust, action, offer.manifest, offer.config, offer.signatures, offer.where
        )

    def _path(self, named: ImageName, offer: Offer) -> Path:
        """Return where a pulled image goes: the same path for the same image and name."""
        folder = self._folder / named.namespace / named.repository.replace("/", "_")
        return folder / offer.manifest.digest[:_SHORT]


def _result(moved: Transfer, elsewhere: Reference, name: str | None = None) -> Transferred:
    return Transferred(**msgspec.structs.asdict(moved), reference=str(elsewhere), name=name)


def _default_name(source: Reference, namespace: str) -> ImageName:
    """Return the name of a pulled image: the last part of where it is, and its tag."""
    if isinstance(source, RegistryRef):
        last = source.repository.rpartition("/")[2]
    elif isinstance(source, BucketRef):
        last = source.prefix.rpartition("/")[2]
    else:
        last = PurePosixPath(source.path).name.removesuffix(".tar")
    plain = _ODD.sub("-", last.lower()).strip("-") or "image"
    return ImageName(namespace=namespace, repository=plain, tag=source.tag)
