"""Verification: read an image, or the part of it that is needed, and compare with the manifest."""

from __future__ import annotations

import os
from pathlib import Path

from shim.host.oserror import typed
from shim.image import in_use
from shim.image import manifest as manifests
from shim.image.directory import Identity, ImageDir, begin_image_dir, identity, open_image_dir
from shim.image.manifest import ImageFile, Manifest
from shim.image.verify_cache import VerifyCache
from shim.model import Phase, Progress, Report, Verify


def read_manifest(image: Path, *, strict: bool = False) -> Manifest:
    """Read and check cryo.json alone; `strict` if something is done with the image.

    Raises:
        NotFound: there is no image.
        ImageCorrupt: the folder is not an image, or its manifest was changed.
        HostMismatch: the image has a newer format.
        PermissionDenied: with `strict`, another user can change it.
    """
    with open_image_dir(image, strict=strict) as folder:
        return decode_manifest(folder)[0]


class HeldImage:
    """An image that stays open from its verification until it is loaded, and is not removed.

    With `strict` it is an error if another user than root or our own can change it.
    """

    def __init__(self, image: Path, *, strict: bool = True) -> None:
        self.image = image
        self._strict = strict
        self._folder: ImageDir | None = None
        self._found: dict[str, Identity] = {}
        self._manifest: Manifest | None = None

    def copy(self) -> HeldImage:
        """Return the same verified image with a descriptor of its own, to be closed by itself."""
        other = HeldImage(self.image, strict=self._strict)
        other._folder = ImageDir(self.image, os.dup(self.fd), strict=self._strict)
        other._found, other._manifest = self._found, self._manifest
        return other

    @property
    def manifest(self) -> Manifest | None:
        """Return the manifest, once the image is verified."""
        return self._manifest

    @property
    def path(self) -> str:
        """Return a path to the verified folder, also if another one has its name now."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @property
    def fd(self) -> int:
        """Return the descriptor that keeps it from being removed: as does each copy of it."""
        return self.folder.fd

    @property
    def folder(self) -> ImageDir:
        """Return the open folder."""
        if self._folder is None:
            self._folder = begin_image_dir(self.image, strict=self._strict)
            if self._strict:  # in another user's folder that user could hold the lock
                in_use.keep(self._folder)
        return self._folder

    def check(self) -> tuple[Manifest, bytes]:
        """Check presence, kinds and sizes of its files, as `verify` always does.

        Returns the manifest, and the bytes of cryo.json.
        """
        manifest, data = decode_manifest(self.folder)
        _check_names(self.folder, manifest)
        try:
            self._found = {file.name: _measure(self.folder, file) for file in manifest.files}
        except OSError as error:
            raise typed(error, f"read image {self.image}") from error
        return manifest, data

    def verify(self, mode: Verify, cache: VerifyCache, report: Report) -> Manifest:
        """Check that it is complete and unchanged; `mode` is how much is read again.

        `full` reads everything, `auto` what this host has not read since it last changed, `none`
        only the manifest. Presence, kinds and sizes are always checked.

        Raises:
            NotFound: there is no image.
            ImageCorrupt: a file is missing, added, truncated, grown, changed or not regular.
            HostMismatch: the image has a newer format.
            PermissionDenied: another user can change it.
        """
        manifest, _ = self.check()
        if mode is not Verify.NONE:
            try:
                _Reading(self.folder, manifest, cache, report).run(self._found, mode)
            except OSError as error:
                raise typed(error, f"read image {self.image}") from error
        self._manifest = manifest
        return manifest

    def check_unchanged(self) -> None:
        """Check after loading that its files are those that were verified.

        Raises:
            ImageCorrupt: one was written to or replaced.
        """
        for name, before in self._found.items():
            with self.folder.opened(name) as fd:
                if identity(fd) != before:
                    self.folder.corrupt(f"{name} was changed while it was loaded")

    def close(self) -> None:
        """Close it. Idempotent."""
        if self._folder is not None:
            os.close(self._folder.fd)
            self._folder = None


def verify(
    image: Path, mode: Verify, cache: VerifyCache, report: Report, *, strict: bool = True
) -> Manifest:
    """Check an image as `HeldImage.verify` does, and close it."""
    held = HeldImage(image, strict=strict)
    try:
        return held.verify(mode, cache, report)
    finally:
        held.close()


class _Reading:
    """One pass over the files of an image."""

    def __init__(
        self, folder: ImageDir, manifest: Manifest, cache: VerifyCache, report: Report
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._cache = cache
        self._report = report
        self._done_bytes = 0
        self._total_bytes = 0

    def run(self, found: dict[str, Identity], mode: Verify) -> None:
        """Read every file that `mode` requires, and cache the result."""
        if not self._manifest.sealed:
            self._warn("the image was not sealed: its content cannot be checked")
            return
        stale = [file for file in self._manifest.files if self._stale(file, found, mode)]
        self._total_bytes = sum(file.size_bytes for file in stale)
        self._on_bytes(0)
        for file in stale:
            self._compare(file, found[file.name])
        if stale and not self._remembered(found):
            self._warn(
                "this could not be recorded in paths.verified: it will be read again next time"
            )

    def _remembered(self, found: dict[str, Identity]) -> bool:
        return self._cache.remember(self._manifest, self._folder.path, found)

    def _stale(self, file: ImageFile, found: dict[str, Identity], mode: Verify) -> bool:
        known = self._cache.knows
        return mode is Verify.FULL or not known(self._manifest, file.name, found[file.name])

    def _compare(self, file: ImageFile, measured: Identity) -> None:
        with self._folder.opened(file.name) as fd:
            digest = self._folder.hash(file.name, fd, self._on_bytes)
            same = identity(fd) == measured
        if not same:
            self._folder.corrupt(f"{file.name} is being changed")
        if digest != file.blake3:
            self._folder.corrupt(f"{file.name} was changed after it was sealed")

    def _on_bytes(self, count: int) -> None:
        self._done_bytes += count
        self._report(
            Progress(phase=Phase.VERIFY, bytes_done=self._done_bytes, bytes_total=self._total_bytes)
        )

    def _warn(self, text: str) -> None:
        self._report(Progress(phase=Phase.VERIFY, message=text, warning=True))


def decode_manifest(folder: ImageDir) -> tuple[Manifest, bytes]:
    """Read cryo.json of an open folder; return it decoded, and its bytes.

    Raises:
        ImageCorrupt, HostMismatch: as `read_manifest`.
    """
    data = read_file(folder, manifests.NAME, manifests.MAX_MANIFEST_BYTES)
    return manifests.decode(data, str(folder.path)), data


def read_file(folder: ImageDir, name: str, most_bytes: int) -> bytes:
    """Read a small file of an open folder.

    Raises:
        ImageCorrupt: it is missing, not a regular file, or larger.
    """
    try:
        with folder.opened(name) as fd, open(fd, "rb", closefd=False) as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise typed(error, f"read {folder.path / name}") from error
    if len(data) > most_bytes:
        folder.corrupt(f"{name} is too large: more than {most_bytes} bytes")
    return data


def _measure(folder: ImageDir, file: ImageFile) -> Identity:
    with folder.opened(file.name) as fd:
        found = identity(fd)
    if found.size_bytes != file.size_bytes:
        how = "was truncated" if found.size_bytes < file.size_bytes else "has grown"
        folder.corrupt(f"{file.name} {how}: {found.size_bytes} bytes, not {file.size_bytes}")
    return found


def _check_names(folder: ImageDir, manifest: Manifest) -> None:
    expected = {file.name for file in manifest.files} | {manifests.NAME}
    found = set(folder.names())
    if missing := sorted(expected - found):
        folder.corrupt(f"{', '.join(missing)} missing")
    if extra := sorted(found - expected):
        folder.corrupt(f"{', '.join(extra)[:200]} is not part of it")
