"""The image store: which paths are allowed, and how images are listed and removed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from shim.errors import (
    AlreadyExists,
    CryoError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from shim.host import files, trusted
from shim.host.oserror import typed
from shim.image import in_use
from shim.image import manifest as manifests
from shim.image.manifest import Manifest
from shim.image.staging import is_abandoned, is_staging, name_staging
from shim.image.verify import read_manifest
from shim.image.verify_cache import VerifyCache
from shim.model import ImageView, TaskRef

_log = logging.getLogger(__name__)
# <images>/<namespace>/<task>/<time>; the paths in `shim.image.named` are longer by up to two.
_DEPTH = 5
_MAX_PATH_BYTES = 4000


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
    if is_staging(path):
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


def list_images(images: Path) -> list[ImageView]:
    """List the images below the configured folder, newest first; a damaged one has no digest."""
    views = [view(path) for path in _folders(images) if not is_staging(path)]
    found = [one for one in views if one is not None]
    return sorted(found, key=lambda one: one.created_at, reverse=True)


def stale_stagings(images: Path) -> list[Path]:
    """List the staging folders below the configured one that are not in use."""
    return [path for path in _folders(images) if is_staging(path) and is_abandoned(path)]


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
    trash = name_staging(path)
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


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _folders(images: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Yield images and staging folders; links are not followed."""
    try:
        with os.scandir(images) as entries:
            names = sorted(each.name for each in entries if each.is_dir(follow_symlinks=False))
    except OSError:
        return
    for name in names:
        path = images / name
        if is_staging(path) or _is_image(path):
            yield path
        elif depth > 1:
            yield from _folders(path, depth - 1)


def _is_image(path: Path) -> bool:
    return os.path.lexists(path / manifests.NAME)


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
