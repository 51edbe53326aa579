"""Complete an image: hash its files, write the manifest, make both durable, rename the folder."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from pathlib import Path

import msgspec

from shim import failpoints
from shim.errors import AlreadyExists
from shim.host import files
from shim.host.oserror import typed, typed_number
from shim.image import manifest as manifests
from shim.image.directory import ImageDir
from shim.image.hashing import OnBytes, ignore_bytes
from shim.image.manifest import ImageFile, Manifest

_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


def seal(
    folder: ImageDir,
    manifest: Manifest,
    *,
    sealed: bool = True,
    on_bytes: OnBytes = ignore_bytes,
    copied: tuple[ImageFile, ...] = (),
) -> Manifest:
    """Hash the files of a folder, write cryo.json next to them, and sync all to disk.

    Without `sealed` only sizes are recorded and nothing is synced. `copied` are the files, if they
    were hashed and synced already.

    Raises:
        ImageCorrupt: the folder has something that is not a regular file, or still being written.
        ResourceExhausted: the disk is full.
    """
    try:
        entries = copied or tuple(
            _seal_file(folder, name, sealed=sealed, on_bytes=on_bytes)
            for name in folder.names()
            if name != manifests.NAME
        )
        whole = msgspec.structs.replace(manifest, files=entries, sealed=sealed)
        done, data = manifests.encode(whole)
        with failpoints.around("image.manifest"):
            write_manifest(folder.fd, data, durable=sealed)
    except OSError as error:
        raise typed(error, f"seal {folder.path}") from error
    return done


def commit(staging: Path, final: Path, *, durable: bool = True, fill: bool = False) -> None:
    """Rename the complete image to its final name, atomically.

    With `fill` the final name may be that of an empty folder, which rename(2) replaces.

    Raises:
        AlreadyExists: the name was taken meanwhile.
    """
    with failpoints.around("image.name"):
        if fill:
            _rename_onto(staging, final)
        else:
            _rename(staging, final)
    if durable:
        with failpoints.around("image.sync"):
            files.fsync_dir(final.parent)


def _seal_file(folder: ImageDir, name: str, *, sealed: bool, on_bytes: OnBytes) -> ImageFile:
    with folder.opened(name) as fd:
        os.fchmod(fd, 0o600)
        if not sealed:
            return ImageFile(name=name, size_bytes=os.fstat(fd).st_size)
        with failpoints.around("image.hash"), _Syncing(fd):
            digest = folder.hash(name, fd, on_bytes)
        return ImageFile(name=name, size_bytes=os.fstat(fd).st_size, blake3=digest)


class _Syncing:
    """Sync a file to disk while it is hashed: the one waits for the disk, the other computes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._sync, name="fsync", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_raised: object) -> None:
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            self._error = error


def write_manifest(folder: int, data: bytes, *, durable: bool) -> None:
    """Write cryo.json into an open folder that has none; its errors are OSErrors."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(manifests.NAME, flags, 0o600, dir_fd=folder)
    with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(data)
        file.flush()
        if durable:
            os.fsync(fd)
    if durable:
        os.fsync(folder)


def _rename(old: Path, new: Path) -> None:
    names = (_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new))
    if _libc.renameat2(*names, _RENAME_NOREPLACE) == 0:
        return
    number = ctypes.get_errno()
    if number in {errno.EINVAL, errno.ENOSYS}:  # a filesystem without NOREPLACE, such as some NFS
        _rename_checked(old, new)
        return
    if number in {errno.EEXIST, errno.ENOTEMPTY}:
        raise _taken(new)
    raise typed_number(number, f"name the image {new}")


def _rename_onto(old: Path, new: Path) -> None:
    try:
        old.rename(new)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise _taken(new) from error
        raise typed(error, f"name the image {new}") from error


def _rename_checked(old: Path, new: Path) -> None:
    if os.path.lexists(new):
        raise _taken(new)
    try:
        old.rename(new)
    except OSError as error:
        raise typed(error, f"name the image {new}") from error


def _taken(path: Path) -> AlreadyExists:
    return AlreadyExists(f"image path {path} exists", remedy="choose another path")
