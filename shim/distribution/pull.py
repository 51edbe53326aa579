"""Pull: fetch an image into a staging folder, check it, and give it its name."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from shim import failpoints
from shim.distribution import remote as remotes
from shim.distribution.artifact import corrupt
from shim.distribution.chunk_map import ChunkMap
from shim.distribution.crew import Crew
from shim.distribution.local_chunks import LocalChunks
from shim.distribution.meter import Meter
from shim.distribution.place import Place
from shim.distribution.prefix import Prefix
from shim.distribution.receiver import Receiver
from shim.distribution.remote import Remote
from shim.distribution.transfer import Offer, PullOptions, PullTarget, Transfer
from shim.errors import AlreadyExists, ImageCorrupt, NotFound, ResourceExhausted
from shim.host import files, trusted
from shim.host.oserror import typed
from shim.image import labels, resumable, seal, signature
from shim.image import manifest as manifests
from shim.image.labels import Labels
from shim.image.manifest import ImageFile
from shim.image.side_files import SIGNATURES
from shim.image.staging import Staging
from shim.image.verify import read_manifest
from shim.model import Phase, Report

_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def pull(
    place: Place,
    reference: str,
    tag_or_digest: str,
    target: PullTarget,
    options: PullOptions,
    report: Report,
) -> Transfer:
    """Fetch an image; it blocks. `reference` names it in messages.

    `report` is called often, and raises to cancel: all threads have ended when this does. After
    that, or a failure of the place, the next pull of the image continues where this one ended.

    Raises:
        NotFound: the place has nothing of that tag or digest.
        ImageCorrupt: what it has is damaged; nothing of it is kept.
        AlreadyExists: the final path has something else.
        Busy: another process pulls the same image to the same folder.
        PermissionDenied: there is no key for it, or the target's `admit` refuses it.
        ResourceExhausted: it is too large, or there is no room for it.
    """
    meter = Meter(Phase.PULL, report)
    meter.report()
    remote = remotes.read(place, reference, tag_or_digest, options)
    if target.admit is not None:
        target.admit(remote.offer)
    final = target.path_for(remote.offer)
    meter.begin(remote.offer.size_bytes)
    if os.path.lexists(final):
        _check_same(final, remote.offer)
        if remote.offer.signatures is not None:
            signature.add_all(final, remote.offer.signatures)
        for size_bytes in {
            one.blob.digest: one.blob.size for one in remote.artifact.chunks
        }.values():
            meter.reused(size_bytes)
        return meter.result(str(final), remote.offer.digest)
    if target.make_room is not None:
        there = resumable.resumable_bytes(final, remote.offer.manifest.digest)
        target.make_room(max(0, sum(each.length for each in remote.artifact.chunks) - there))
    folder = resumable.resume(final, remote.offer.manifest.digest)
    try:
        with contextlib.closing(LocalChunks(target.images, remote.artifact.chunks)) as local:
            _fetch(place, remote, folder, local, options, meter)
        meter.report()  # the last moment in which the caller can cancel
        _finish(remote, folder, final, target.labels)
    except (ImageCorrupt, ResourceExhausted) as error:
        if isinstance(error, ImageCorrupt) or _is_full(error):
            folder.discard()
        raise
    finally:
        folder.close()
    if target.verified is not None:
        target.verified.remember_image(final, remote.offer.manifest)
    return meter.result(str(final), remote.offer.digest)


def _is_full(error: ResourceExhausted) -> bool:
    """Whether the disk is full: what was fetched would keep it full."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in {errno.ENOSPC, errno.EDQUOT}


def _check_same(final: Path, offer: Offer) -> None:
    """Check that this image was pulled to its path before.

    Raises:
        AlreadyExists: the path has something else.
    """
    message = f"image path {final} exists, and is not {offer.where}"
    taken = AlreadyExists(message, remedy="choose another name, or remove that image first")
    try:
        found = read_manifest(final, strict=True)
    except (ImageCorrupt, NotFound) as error:
        raise taken from error
    if found.digest != offer.manifest.digest:
        raise taken


def _fetch(
    place: Place,
    remote: Remote,
    folder: Staging,
    local: LocalChunks,
    options: PullOptions,
    meter: Meter,
) -> None:
    """Fill the files of an image; they are hashed behind those who write them."""
    manifest, chunks = remote.offer.manifest, remote.artifact.chunks
    with contextlib.ExitStack() as open_until_the_end:
        journal = ChunkMap(folder.folder.fd)
        open_until_the_end.callback(journal.close)
        fds: dict[str, int] = {}
        for file in manifest.files:
            fds[file.name] = _open(folder, file)
            open_until_the_end.callback(os.close, fds[file.name])
        with Crew(options.jobs, place, meter.poll, beside=1) as crew:
            prefix = Prefix(fds, chunks, crew.check)
            hashes = crew.start(lambda: [prefix.hash(file) for file in manifest.files])
            receiver = Receiver(place, remote, fds, journal, local, prefix, meter, crew.check)
            for _ in crew.map(receiver.receive, chunks):
                pass
            found = crew.result(hashes)
        for file, digest in zip(manifest.files, found, strict=True):
            if digest != file.blake3:
                raise corrupt(remote.offer.where, f"{file.name} is not what was sealed")
        for fd in fds.values():
            os.fsync(fd)


def _open(folder: Staging, file: ImageFile) -> int:
    """Open a file of the image, with its size; what no chunk has stays a hole."""
    path = folder.path / file.name
    try:
        fd = os.open(file.name, _OPEN, 0o600, dir_fd=folder.folder.fd)
        try:
            trusted.check_file(os.fstat(fd), path)
            os.truncate(fd, file.size_bytes)
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise typed(error, f"write {path}") from error
    return fd


def _finish(remote: Remote, folder: Staging, final: Path, labelled: Labels | None) -> None:
    """Write the manifest, make all durable, and give the image its name."""
    offer, fd = remote.offer, folder.folder.fd
    try:
        for name in (manifests.NAME, SIGNATURES):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=fd)
        if offer.signatures is not None:
            files.write_atomic(Path(f"/proc/self/fd/{fd}") / SIGNATURES, offer.signatures)
        if labelled is not None:
            labels.write(Path(f"/proc/self/fd/{fd}"), labelled)
        with failpoints.around("pull.manifest"):
            seal.write_manifest(fd, offer.config, durable=True)
    except OSError as error:
        raise typed(error, f"complete the image in {folder.path}") from error
    folder.check()
    with failpoints.around("pull.commit"):
        seal.commit(folder.path, final)
