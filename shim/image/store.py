"""The image store: which paths are allowed, and how images are begun, listed and removed."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from shim import failpoints
from shim.errors import (
    AlreadyExists,
    CryoError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from shim.host import files, removal, trusted
from shim.host.oserror import typed
from shim.image import in_use
from shim.image import manifest as manifests
from shim.image.directory import ImageDir
from shim.image.manifest import Manifest
from shim.image.verify import read_manifest
from shim.image.verify_cache import VerifyCache
from shim.model import ImageView, TaskRef

_log = logging.getLogger(__name__)
STAGING_PREFIX = ".cryo-staging-"
_UNLOCKED_PREFIX = ".cryo-begin-"
# A folder has this prefix for microseconds; one that has it for longer was left behind.
_BEGIN_S = 60.0
# <images>/<namespace>/<task>/<time>; the paths in `shim.image.named` are longer by up to two.
_DEPTH = 5
_MAX_PATH_BYTES = 4000
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


class Staging:
    """The folder of an image that is being written; others see by its lock that it is in use."""

    def __init__(self, path: Path, made: tuple[Path, ...], fd: int) -> None:
        self.path = path
        self._made = made
        self._fd = fd

    def close(self) -> None:
        """Release the lock; call this after the image was committed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def folder(self) -> ImageDir:
        """Return the folder itself, also if another one has its name now."""
        return ImageDir(self.path, self._fd, strict=True)

    def check(self) -> None:
        """Check that its name still refers to it: runsc opens it by name.

        Raises:
            PermissionDenied: it was replaced by another folder or a link.
        """
        try:
            found = self.path.lstat()
        except OSError as error:
            raise typed(error, f"look at {self.path}") from error
        own = os.fstat(self._fd)
        if (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino):
            message = f"{self.path} was replaced while the image was written"
            raise PermissionDenied(message, remedy=trusted.REMEDY)

    def empty(self) -> None:
        """Remove the files of a failed save: runsc does not overwrite any."""
        removal.empty_folder(self.path, self._fd)

    def discard(self) -> None:
        """Remove it, and the parent folders that were created for it."""
        with failpoints.around("image.discard"):
            files.remove_tree(self.path)
        self.close()
        _unmake(self._made)


def default_path(images: Path, ref: TaskRef, now: datetime) -> Path:
    """Return the default path of a new image: `<images>/<namespace>/<task>/<UTC time>`."""
    return images / ref.namespace / ref.id / stamp(now)


def stamp(now: datetime) -> str:
    """Return the name of an image that was begun now; names sort by time."""
    return now.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


def resolve_new(
    requested: str, images: Path, ref: TaskRef, now: datetime, *, fill: bool = False
) -> Path:
    """Return the path of a new image: the requested one, or a default. Nothing is created.

    With `fill` the path may be an existing empty folder.

    Raises:
        InvalidArgument: it is relative, has a `..`, or leaves the configured folder by a link.
        AlreadyExists: the path exists.
        PermissionDenied: it cannot be written there, or another user could replace it.
    """
    path = _checked(requested, images) if requested else default_path(images, ref, now)
    if _is_staging(path):
        message = f"image path {path} has a name that is reserved"
        raise InvalidArgument(message, remedy="choose another name")
    if os.path.lexists(path) and not (fill and _is_empty(path)):
        message = f"image path {path} exists"
        raise AlreadyExists(message, remedy="choose another path, or remove it first")
    _check_writable(path.parent)
    trusted.check(path.parent)
    return path


def resolve_existing(requested: str, images: Path) -> Path:
    """Return the path of an existing image.

    Raises:
        InvalidArgument: it is relative, has a `..`, or leaves the configured folder by a link.
        NotFound: there is not a folder.
    """
    if not requested:
        message = "no image was named"
        raise InvalidArgument(message, remedy="give the image's absolute path")
    path = _checked(requested, images)
    if path.is_symlink() or not path.is_dir():
        message = f"no image at {path}"
        raise NotFound(message, remedy="name the image's folder; `cryo checkpoints ls` lists them")
    return path


def name_staging(final: Path) -> Path:
    """Return an unused name for a staging folder next to `final`, on the same filesystem."""
    return final.with_name(f"{STAGING_PREFIX}{secrets.token_hex(8)}")


def begin(path: Path) -> Staging:
    """Create and lock a staging folder of this name, with its parents.

    Raises:
        PermissionDenied: it cannot be written there, or another user could replace it.
        ResourceExhausted: the disk is full.
    """
    made: list[Path] = []
    try:
        with failpoints.around("image.begin"):
            _make_parents(path.parent, made)
            trusted.check(path.parent)
            fd = _make_locked(path)
    except OSError as error:
        _unmake(made)
        raise typed(error, f"begin an image in {path.parent}") from error
    except CryoError:
        _unmake(made)
        raise
    return Staging(path, tuple(made), fd)


def list_images(images: Path) -> list[ImageView]:
    """List the images below the configured folder, newest first; a damaged one has no digest."""
    views = [view(path) for path in _folders(images) if not _is_staging(path)]
    found = [one for one in views if one is not None]
    return sorted(found, key=lambda one: one.created_at, reverse=True)


def stale_stagings(images: Path) -> list[Path]:
    """List the staging folders below the configured one that are not in use."""
    return [path for path in _folders(images) if _is_staging(path) and _abandoned(path)]


def remove(requested: str, images: Path, cache: VerifyCache) -> None:
    """Remove an image below the configured folder, and its entry in the cache.

    It is renamed first, so that no partial image is visible.

    Raises:
        Busy: a container is being restored from it, or it is being verified.
        InvalidArgument: it is not below the configured folder.
        NotFound: there is no image.
    """
    path = resolve_existing(requested, images)
    _check_removable(path, images)
    manifest = _readable(path)
    trash = path.with_name(f"{STAGING_PREFIX}{secrets.token_hex(8)}")
    with in_use.alone(path):
        try:
            path.rename(trash)
        except OSError as error:
            raise typed(error, f"remove image {path}") from error
    if manifest is not None:
        cache.forget(manifest.digest)
    files.remove_tree(trash)
    _remove_empty(path.parent, images)


def _checked(requested: str, images: Path) -> Path:
    if not requested.startswith("/"):
        message = f"image path {requested!r} is not absolute"
        raise InvalidArgument(message, remedy="give an absolute path")
    if "\0" in requested or len(os.fsencode(requested)) > _MAX_PATH_BYTES:
        message = "the image path is too long or has a NUL byte"
        raise InvalidArgument(message, remedy="give a shorter path, without NUL")
    if ".." in requested.split("/"):
        message = f"image path {requested} has a '..' in it"
        raise InvalidArgument(message, remedy="write the path without '..'")
    # pathlib keeps two leading slashes; they mean nothing here.
    path = Path("/" + requested.lstrip("/"))
    _check_links(path, images)
    return path


def _check_links(path: Path, images: Path) -> None:
    """Reject a path below the configured folder that leads out of it through a link."""
    if path == images:
        message = f"image path {path} is the folder of all images"
        raise InvalidArgument(message, remedy="name a folder below it")
    if not path.is_relative_to(images):
        return
    try:
        real = path.parent.resolve()
        inside = real.is_relative_to(images.resolve())
    except (OSError, RuntimeError) as error:
        message = f"image path {path} cannot be resolved: {error}"
        raise InvalidArgument(message, remedy="remove the links in it") from error
    if not inside:
        message = f"image path {path} leaves {images} through a link"
        raise InvalidArgument(message, remedy="remove the link, or name the real path")


def _check_writable(folder: Path) -> None:
    """Check the nearest existing folder, in which the others would be created."""
    for place in (folder, *folder.parents):
        if not os.path.lexists(place):
            continue
        if not place.is_dir():
            message = f"{place} is not a folder"
            raise InvalidArgument(message, remedy="choose another path")
        if not os.access(place, os.W_OK | os.X_OK):
            message = f"{place} cannot be written to"
            raise PermissionDenied(message, remedy="run as root, or choose another path")
        return


def _make_parents(folder: Path, made: list[Path]) -> None:
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for place in reversed(missing):
        with contextlib.suppress(FileExistsError):  # created concurrently: not ours to remove
            place.mkdir(mode=0o700)
            made.append(place)


def _make_locked(path: Path) -> int:
    """Create a folder that gets its final name once it is locked, so it never looks stale."""
    unlocked = path.with_name(path.name.replace(STAGING_PREFIX, _UNLOCKED_PREFIX))
    unlocked.mkdir(mode=0o700)
    fd = os.open(unlocked, _DIR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlocked.rename(path)
    except OSError:
        os.close(fd)
        unlocked.rmdir()
        raise
    return fd


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _unmake(made: Iterable[Path]) -> None:
    for folder in reversed(list(made)):
        with contextlib.suppress(OSError):  # in use by another process
            folder.rmdir()


def _folders(images: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Yield images and staging folders; links are not followed."""
    try:
        with os.scandir(images) as entries:
            names = sorted(each.name for each in entries if each.is_dir(follow_symlinks=False))
    except OSError:
        return
    for name in names:
        path = images / name
        if _is_staging(path) or _is_image(path):
            yield path
        elif depth > 1:
            yield from _folders(path, depth - 1)


def _is_staging(path: Path) -> bool:
    return path.name.startswith((STAGING_PREFIX, _UNLOCKED_PREFIX))


def _is_image(path: Path) -> bool:
    return os.path.lexists(path / manifests.NAME)


def _abandoned(path: Path) -> bool:
    if not path.name.startswith(_UNLOCKED_PREFIX):
        return not _locked(path)
    try:
        return time.time() - path.stat().st_mtime > _BEGIN_S
    except OSError:
        return False


def _locked(path: Path) -> bool:
    try:
        fd = os.open(path, _DIR)
    except OSError:
        return True  # removed, or not accessible
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def view(path: Path) -> ImageView | None:
    """Describe an image, also a damaged one, so that one image cannot break a list.

    None if it was removed meanwhile.
    """
    try:
        manifest = read_manifest(path)
    except NotFound:
        return None  # removed meanwhile
    except CryoError:
        return _damaged(path)
    except Exception:  # noqa: BLE001 - a file may have any content
        _log.exception("image %s cannot be read", _text(path))
        return _damaged(path)
    return ImageView(
        path=_text(path),
        task=manifest.task,
        created_at=manifest.created_at,
        size_bytes=manifest.size_bytes,
        engine=manifest.engine,
        processes=len(manifest.all_processes),
        digest=manifest.digest,
    )


def _damaged(path: Path) -> ImageView | None:
    try:
        changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        return None
    return ImageView(
        path=_text(path),
        task="",
        created_at=changed,
        size_bytes=0,
        engine="",
        processes=0,
        digest="",
    )


def _text(path: Path) -> str:
    """Return a path as text that every protocol can carry, even if it is not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _check_removable(path: Path, images: Path) -> None:
    if not path.is_relative_to(images):
        message = f"image {path} is not below {images}"
        raise InvalidArgument(message, remedy="remove it by hand, or set paths.images")
    if not _is_image(path):
        message = f"{path} is not an image: it has no {manifests.NAME}"
        raise NotFound(message, remedy="name the image's own folder")


def _readable(path: Path) -> Manifest | None:
    try:
        return read_manifest(path)
    except CryoError:
        return None


def _remove_empty(folder: Path, images: Path) -> None:
    while folder != images and folder.is_relative_to(images):
        try:
            folder.rmdir()
        except OSError:
            return  # it has other images
        folder = folder.parent
