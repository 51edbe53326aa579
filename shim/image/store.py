"""The image store: which paths are allowed, and which image a path or a name refers to."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from shim.errors import AlreadyExists, InvalidArgument, NotFound, PermissionDenied
from shim.host import trusted
from shim.image import walk
from shim.image.index import NameIndex
from shim.image.name import ImageName, is_path, parse
from shim.image.staging import is_abandoned, is_staging
from shim.model import DEFAULT_NAMESPACE, TaskRef

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


def resolve_existing(requested: str, images: Path, namespace: str = DEFAULT_NAMESPACE) -> Path:
    """Return the path of an existing image, given its path or its name in a namespace.

    Raises:
        InvalidArgument: it is not a name and not an absolute path, has a `..`, or leaves the
            configured folder by a link.
        NotFound: there is not a folder, or no image has that name.
    """
    if not requested:
        message = "no image was named"
        raise InvalidArgument(message, remedy="give the image's name or absolute path")
    if not is_path(requested):
        return _named(parse(requested, namespace), images)
    path = _checked(requested, images)
    if path.is_symlink() or not path.is_dir():
        message = f"no image at {path}"
        raise NotFound(message, remedy="name the image's folder; `cryo checkpoints ls` lists them")
    return path


def _named(name: ImageName, images: Path) -> Path:
    path = NameIndex(images).find(name)
    if path is None:
        message = f"no image is named {name} in namespace {name.namespace}"
        raise NotFound(message, remedy="`cryo checkpoints ls` lists the names")
    return path


def stale_stagings(images: Path) -> list[Path]:
    """List the staging folders below the configured one that are not in use."""
    return [path for path in walk.stagings(images) if is_abandoned(path)]


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
