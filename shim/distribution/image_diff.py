"""How two images differ: manifests, specs, files, and how much of their pages has equal content.

Files are cut into chunks as for a push, so the shared bytes are those that a push of the one would
not send again after a push of the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from shim.distribution import chunks
from shim.distribution.blob import FileSlice, digest_of_stream
from shim.host.oserror import typed
from shim.image import plain_diff
from shim.image.directory import ImageDir, open_image_dir
from shim.image.manifest import ImageFile, Manifest
from shim.image.plain_diff import Change, ContainerChanges
from shim.image.verify import decode_manifest
from shim.model import Phase, Progress, Report, Value

_Chunks = Counter[tuple[str, int]]


class FileChange(Value):
    """A file that differs; a size is None where the image lacks it.

    `shared_bytes` have equal content in both, as far as whole chunks do.
    """

    name: str
    old_bytes: int | None
    new_bytes: int | None
    shared_bytes: int = 0


class ImageDiff(Value):
    """What differs between two images. Bytes are those of all files, without zeros."""

    old: str
    new: str
    manifest: tuple[Change, ...]
    containers: tuple[ContainerChanges, ...]
    files: tuple[FileChange, ...]
    old_bytes: int
    new_bytes: int
    shared_bytes: int


def compare(old: Path, new: Path, report: Report) -> ImageDiff:
    """Compare two images; reads all files that differ, and blocks.

    Raises:
        NotFound, ImageCorrupt, PermissionDenied: one cannot be read.
    """
    with open_image_dir(old) as one, open_image_dir(new) as other:
        return _Comparison(one, other, report).run()


class _Comparison:
    """One comparison, with its progress."""

    def __init__(self, old: ImageDir, new: ImageDir, report: Report) -> None:
        self._old, self._new, self._report = old, new, report
        self._was, self._now = decode_manifest(old)[0], decode_manifest(new)[0]
        self._done_bytes = 0

    def run(self) -> ImageDiff:
        was, now = _files(self._was), _files(self._now)
        names = sorted(was.keys() | now.keys())
        self._total_bytes = self._was.size_bytes + self._now.size_bytes
        self._advance(0)
        found = [self._compare(name, was.get(name), now.get(name)) for name in names]
        return ImageDiff(
            old=str(self._old.path),
            new=str(self._new.path),
            manifest=plain_diff.of_manifests(self._was, self._now),
            containers=plain_diff.of_containers(self._was, self._now),
            files=tuple(change for change, _, _ in found if not _is_same(change, was, now)),
            old_bytes=sum(before for _, before, _ in found),
            new_bytes=sum(after for _, _, after in found),
            shared_bytes=sum(change.shared_bytes for change, _, _ in found),
        )

    def _compare(
        self, name: str, old: ImageFile | None, new: ImageFile | None
    ) -> tuple[FileChange, int, int]:
        """Return how a file differs, and how many bytes it has in each image, without zeros."""
        average = chunks.average_for(max(one.size_bytes for one in (old, new) if one is not None))
        before = self._chunks(self._old, old, average)
        after = self._chunks(self._new, new, average)
        change = FileChange(
            name=name,
            old_bytes=None if old is None else old.size_bytes,
            new_bytes=None if new is None else new.size_bytes,
            shared_bytes=_size(before & after),
        )
        return change, _size(before), _size(after)

    def _chunks(self, folder: ImageDir, file: ImageFile | None, average: int) -> _Chunks:
        if file is None:
            return Counter()
        try:
            with folder.opened(file.name) as fd:
                return Counter(self._digests(fd, file.size_bytes, average))
        except OSError as error:
            raise typed(error, f"read {folder.path / file.name}") from error

    def _digests(self, fd: int, size_bytes: int, average: int) -> Iterator[tuple[str, int]]:
        for cut in chunks.cuts(fd, size_bytes, average):
            if not cut.hole:
                content = FileSlice(fd, cut.offset, cut.length)
                yield digest_of_stream(content, lambda: None), cut.length
            self._advance(cut.length)

    def _advance(self, count: int) -> None:
        self._done_bytes += count
        self._report(
            Progress(phase=Phase.VERIFY, bytes_done=self._done_bytes, bytes_total=self._total_bytes)
        )


def _files(manifest: Manifest) -> dict[str, ImageFile]:
    return {file.name: file for file in manifest.files}


def _is_same(change: FileChange, was: dict[str, ImageFile], now: dict[str, ImageFile]) -> bool:
    old, new = was.get(change.name), now.get(change.name)
    return old is not None and old == new and bool(old.blake3)


def _size(found: _Chunks) -> int:
    return sum(length * count for (_, length), count in found.items())
