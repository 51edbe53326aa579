"""Push: send an image elsewhere. What refers to blobs is stored when they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from shim import failpoints
from shim.distribution import artifact, chunk_map, media
from shim.distribution.artifact import Artifact, Chunk
from shim.distribution.blob import Descriptor
from shim.distribution.chunks import average_for, cuts
from shim.distribution.content import Part
from shim.distribution.crew import Crew
from shim.distribution.meter import Meter
from shim.distribution.place import Document, Place
from shim.distribution.sender import Sender
from shim.distribution.transfer import PushOptions, Transfer
from shim.errors import FailedPrecondition, ImageCorrupt, NotFound
from shim.image import contents, hashing, signature
from shim.image.manifest import ImageFile, Manifest
from shim.image.named import read_fingerprint
from shim.image.verify import HeldImage
from shim.model import Phase, Progress, Report


def push(image: Path, place: Place, tag: str, options: PushOptions, report: Report) -> Transfer:
    """Send an image to a place, under a tag; it blocks. The image is not removed meanwhile.

    `report` is called often, and raises to cancel: all threads have ended when this does. After a
    failure the place is closed, and may have blobs that the next push does not send again.

    Raises:
        ImageCorrupt: the image was changed; the place has no document of it.
        FailedPrecondition: it was not sealed, or has files that cannot be pushed.
        CryoError: the place fails, as `shim.distribution.place` lists.
    """
    meter = Meter(Phase.PUSH, report)
    with contextlib.ExitStack() as open_until_the_end:
        held = open_until_the_end.enter_context(contextlib.closing(HeldImage(image)))
        manifest, config = held.check()
        _check_portable(manifest, image)
        fds = {
            file.name: open_until_the_end.enter_context(held.folder.opened(file.name))
            for file in manifest.files
        }
        if options.cipher is None and (warning := contents.warning_of_secrets(manifest)):
            report(Progress(phase=Phase.PUSH, message=warning, warning=True))
        meter.begin(manifest.size_bytes)
        with Crew(options.jobs, place, meter.poll) as crew:
            # What the place has in clear is not used by an image that is encrypted.
            known = _known(place, tag) if options.cipher is None else {}
            sender = Sender(place, options, meter, known, crew.check)
            parts = _parts(held, manifest, fds, meter)
            chunks = tuple(crew.map(sender.send, parts))
            held.check_unchanged()
            chunk_map.write(held.folder, chunks)
            whole = _describe(held, manifest, config, chunks, sender, options)
            meter.report()  # the last moment in which the caller can cancel
            digest = _store_documents(place, whole, tag)
        return meter.result(str(image), digest)


def _check_portable(manifest: Manifest, image: Path) -> None:
    if not manifest.sealed:
        message = f"image {image} was not sealed: who pulls it could not check it"
        raise FailedPrecondition(message, remedy="take a checkpoint without --no-seal")
    if odd := sorted({file.name for file in manifest.files} - artifact.FILES):
        message = f"image {image} has the file {odd[0]}, which is not one of runsc's"
        raise FailedPrecondition(message, remedy="push an image that `cryo` has made")


def _known(place: Place, tag: str) -> dict[str, Descriptor]:
    """Return the compressed blobs of the image that has the tag now, by what they contain."""
    where = f"what has the tag {tag}"
    try:
        index = place.get_document(tag)
        manifest = place.get_document(artifact.manifest_in(index, where).digest)
        chunks = artifact.decode(manifest, where).chunks
    except (NotFound, ImageCorrupt):  # nothing has it, or something else, which is replaced
        return {}
    return {
        chunk.content: msgspec.structs.replace(chunk.blob, annotations={})
        for chunk in chunks
        if chunk.content is not None
    }


def _parts(
    held: HeldImage, manifest: Manifest, fds: Mapping[str, int], meter: Meter
) -> Iterator[Part]:
    """Yield the parts of all files that are not zeros."""
    average = average_for(manifest.size_bytes)
    for file in manifest.files:
        yield from _parts_of(held, file, fds[file.name], average, meter)


def _parts_of(
    held: HeldImage, file: ImageFile, fd: int, average: int, meter: Meter
) -> Iterator[Part]:
    """Yield the parts of a file, and compare all that is read with the manifest.

    Raises:
        ImageCorrupt: it is not what was sealed.
    """
    hasher = hashing.new_hasher()
    for cut in cuts(fd, file.size_bytes, average, hasher.update):
        if cut.hole:
            meter.done(cut.length)
        else:
            yield Part(file=file.name, fd=fd, offset=cut.offset, length=cut.length)
    if hasher.hexdigest() != file.blake3:
        held.folder.corrupt(f"{file.name} was changed after it was sealed")


def _describe(
    held: HeldImage,
    manifest: Manifest,
    config: bytes,
    chunks: tuple[Chunk, ...],
    sender: Sender,
    options: PushOptions,
) -> Artifact:
    """Send what is not a part of a file, and return the artifact."""
    cipher = options.cipher
    return Artifact(
        config=sender.send_small(config, media.CONFIG),
        chunks=chunks,
        signatures=_sent(sender, signature.read_side(held.folder), media.SIGNATURES),
        fingerprint=_sent(sender, _fingerprint(held.image), media.FINGERPRINT),
        key=cipher.wrapped if cipher is not None else None,
        annotations=artifact.annotations_of(manifest, encrypted=cipher is not None),
    )


def _sent(sender: Sender, data: bytes | None, media_type: str) -> Descriptor | None:
    return sender.send_small(data, media_type) if data is not None else None


def _fingerprint(image: Path) -> bytes | None:
    """Return the fingerprint beside an image that a name has; None if it is not such an image."""
    found = read_fingerprint(image.parent)
    if found is None or found.key != image.parent.name:
        return None
    return msgspec.json.encode(found)


def _store_documents(place: Place, whole: Artifact, tag: str) -> str:
    """Store the manifest and then the index with the tag; return the digest of that."""
    document = artifact.encode(whole)
    _store(place, document, None)
    return _store(place, artifact.wrap(document, whole.annotations), tag)


def _store(place: Place, document: Document, tag: str | None) -> str:
    with failpoints.around("push.document"):
        return place.put_document(document, tag).digest
