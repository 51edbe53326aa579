"""Verification: read an image, or the part of it that is needed, and compare with the manifest."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from shim import failpoints
from shim.host.oserror import typed
from shim.image import in_use
from shim.image import manifest as manifests
from shim.image.directory import Identity, ImageDir, begin_image_dir, identity, open_image_dir
from shim.image.manifest import PAGES, ImageFile, Manifest
from shim.image.verify_cache import Known, VerifyCache
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


def _never(_manifest: Manifest) -> bool:
    return False


def _unreported(_progress: Progress) -> None:
    pass


class HeldImage:
    """An image that stays open from its verification until it is loaded, and is not removed.

    With `strict` it is an error if another user than root or our own can change it.
    """

    def __init__(self, image: Path, *, strict: bool = True) -> None:
        self.image = image
        self._strict = strict
        self._folder: ImageDir | None = None
        self._found: dict[str, Identity] = {}
        self._decoded: tuple[Manifest, bytes] | None = None
        self._manifest: Manifest | None = None
        self._left: _Reading | None = None

    def copy(self) -> HeldImage:
        """Return the same verified image with a descriptor of its own, to be closed by itself."""
        other = HeldImage(self.image, strict=self._strict)
        other._folder = ImageDir(self.image, os.dup(self.fd), strict=self._strict)
        other._found, other._decoded = self._found, self._decoded
        other._manifest = self._manifest
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

    def read(self) -> Manifest:
        """Read its manifest, once: that of a later verification is the same.

        Raises:
            NotFound, ImageCorrupt, HostMismatch, PermissionDenied: as `verify`.
        """
        return self._read()[0]

    def _read(self) -> tuple[Manifest, bytes]:
        if self._decoded is None:
            self._decoded = decode_manifest(self.folder)
        return self._decoded

    def check(self) -> tuple[Manifest, bytes]:
        """Check presence, kinds and sizes of its files, as `verify` always does.

        Returns the manifest, and the bytes of cryo.json.
        """
        manifest, data = self._read()
        _check_names(self.folder, manifest)
        try:
            self._found = {file.name: _measure(self.folder, file) for file in manifest.files}
        except OSError as error:
            raise typed(error, f"read image {self.image}") from error
        return manifest, data

    def verify(
        self,
        mode: Verify,
        cache: VerifyCache,
        report: Report,
        *,
        may_load: Callable[[Manifest], bool] = _never,
    ) -> Manifest:
        """Check that it is complete and unchanged; `mode` is how much is read again.

        `full` and `first` read everything, `auto` what this host has not read since it last
        changed, `none` only the manifest. Presence, kinds and sizes are always checked.

        If `may_load` allows that the image is loaded before its pages are verified, and this host
        has sealed or read all of it before, the pages are left to `verify_pages`. With `first`
        they never are.

        Raises:
            NotFound: there is no image.
            ImageCorrupt: a file is missing, added, truncated, grown, changed or not regular.
            HostMismatch: the image has a newer format.
            PermissionDenied: another user can change it.
        """
        manifest, _ = self.check()
        if mode is not Verify.NONE:
            reading = self._reading(manifest, mode, cache, may_load, report)
            try:
                self._left = reading if reading.run(self._found) else None
            except OSError as error:
                raise typed(error, f"read image {self.image}") from error
        self._manifest = manifest
        return manifest

    def verify_known(
        self, mode: Verify, cache: VerifyCache, *, may_load: Callable[[Manifest], bool] = _never
    ) -> bool:
        """Verify it as `verify` does if that reads nothing but pages that may be read later.

        Return whether it is verified; if not, nothing has changed.

        Raises:
            NotFound, ImageCorrupt, HostMismatch, PermissionDenied: as `verify`.
        """
        manifest, _ = self.check()
        if mode is not Verify.NONE:
            reading = self._reading(manifest, mode, cache, may_load, _unreported)
            if not manifest.sealed or reading.reads_now(self._found):
                return False
            self._left = reading if reading.run(self._found) else None
        self._manifest = manifest
        return True

    def _reading(
        self,
        manifest: Manifest,
        mode: Verify,
        cache: VerifyCache,
        may_load: Callable[[Manifest], bool],
        report: Report,
    ) -> _Reading:
        known = cache.known(manifest)
        later = mode is not Verify.FIRST and known.is_read and may_load(manifest)
        everything = mode in (Verify.FULL, Verify.FIRST)
        return _Reading(
            self.folder, manifest, cache, known, report, everything=everything, later=later
        )

    @property
    def has_pages_left(self) -> bool:
        """Whether the verification has left the pages to `verify_pages`."""
        return self._left is not None

    def verify_pages(self, report: Report) -> None:
        """Complete a verification that has left the pages.

        Raises:
            ImageCorrupt: they were changed.
        """
        if self._left is None:
            return
        try:
            with failpoints.around("image.verify-pages"):
                self._left.run_rest(self._found, report)
        except OSError as error:
            raise typed(error, f"read image {self.image}") from error

    def check_unchanged(self) -> None:
        """Check after loading that its files are those that were verified.

        Raises:
            ImageCorrupt: one was written to or replaced.
        """
        for name, before in self._found.items():
            if self.folder.identity(name) != before:
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
    """One pass over the files of an image, the pages last.

    It reads the files that this host has not read since they last changed, or `everything`. With
    `later` the pages are left to `run_rest`.
    """

    def __init__(
        self,
        folder: ImageDir,
        manifest: Manifest,
        cache: VerifyCache,
        known: Known,
        report: Report,
        *,
        everything: bool,
        later: bool,
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._cache = cache
        self._known = known
        self._report = report
        self._everything = everything
        self._later = later
        self._done_bytes = 0
        self._total_bytes = 0
        self._rest: list[ImageFile] = []

    def reads_now(self, found: dict[str, Identity]) -> bool:
        """Whether `run` has to read a file."""
        return any(not self._is_left(file) for file in self._stale(found))

    def run(self, found: dict[str, Identity]) -> bool:
        """Read what has to be read now, and cache the result.

        Return whether `run_rest` has to read the pages.
        """
        if not self._manifest.sealed:
            self._warn("the image was not sealed: its content cannot be checked")
            return False
        stale = self._stale(found)
        self._rest = [file for file in stale if self._is_left(file)]
        self._total_bytes = sum(file.size_bytes for file in stale)
        self._compare_all([file for file in stale if file not in self._rest], found)
        if stale and not self._rest:
            self._remember(found)
        return bool(self._rest)

    def run_rest(self, found: dict[str, Identity], report: Report) -> None:
        """Read what was left, and cache the result."""
        self._report = report
        self._compare_all(self._rest, found)
        self._remember(found)

    def _compare_all(self, files: list[ImageFile], found: dict[str, Identity]) -> None:
        self._on_bytes(0)
        for file in files:
            self._compare(file, found[file.name])

    def _remember(self, found: dict[str, Identity]) -> None:
        if not self._cache.remember(self._manifest, self._folder.path, found):
            self._warn(
                "this could not be recorded in paths.verified: it will be read again next time"
            )

    def _stale(self, found: dict[str, Identity]) -> list[ImageFile]:
        files = self._manifest.files
        if self._everything:
            return list(files)
        return [file for file in files if not self._known.covers(file.name, found[file.name])]

    def _is_left(self, file: ImageFile) -> bool:
        return self._later and file.name == PAGES

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
    found = folder.identity(file.name)
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
