"""Removes images: by a rename first, so that no image is ever seen without a part of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shim import failpoints
from shim.errors import CryoError, InvalidArgument, NotFound, Refused
from shim.host import files
from shim.host.oserror import typed
from shim.image import in_use, labels, tagging, walk
from shim.image import manifest as manifests
from shim.image.labels import Labels
from shim.image.name import ImageName, is_path, parse
from shim.image.staging import name_staging
from shim.image.store import resolve_existing
from shim.image.verify import read_manifest
from shim.image.verify_cache import VerifyCache
from shim.model import DEFAULT_NAMESPACE

Check = Callable[[Labels], None]
"""Raises if an image with these labels may not be removed; no label changes meanwhile."""


def remove_ref(
    requested: str, images: Path, cache: VerifyCache, namespace: str = DEFAULT_NAMESPACE
) -> bool:
    """Remove an image by its path, or a name, and the image with its last name.

    Returns whether the image was removed, which it is not while it has other names.

    Raises:
        Busy: a container is being restored from it, or it is being verified.
        InvalidArgument: it is not below the configured folder.
        NotFound: there is no image.
        Refused: it is pinned.
    """
    path = resolve_existing(requested, images, namespace)
    if is_path(requested):
        remove(path, images, cache)
        return True
    name = parse(requested, namespace)
    if len(labels.read(path).names) > 1:
        tagging.untag(images, path, name)
        return False
    remove(path, images, cache, _check_last(path, name))
    return True


def check_unpinned(path: Path) -> Check:
    """Return the check that an image is not pinned."""

    def check(known: Labels) -> None:
        if known.pinned:
            message = f"image {path} is pinned"
            raise Refused(message, remedy=f"cryo checkpoints unpin {path}")

    return check


def _check_last(path: Path, name: ImageName) -> Check:
    """Return the check that an image is not pinned, and has no other name than this."""

    def check(known: Labels) -> None:
        check_unpinned(path)(known)
        if known.without(name).names:
            message = f"image {path} was given another name than {name}"
            raise Refused(message, remedy="try again: then only the name is removed")

    return check


def remove(path: Path, images: Path, cache: VerifyCache, check: Check | None = None) -> None:
    """Remove an image below the configured folder, and its entry in the cache.

    Raises:
        Busy: a container is being restored from it, or it is being verified.
        InvalidArgument: it is not below the configured folder.
        NotFound: there is no image.
        Refused: it is pinned.
    """
    path = resolve_existing(str(path), images)
    _check_removable(path, images)
    digest = _digest(path)
    trash = name_staging(path)
    with in_use.alone(path):
        (check or check_unpinned(path))(labels.read(path))
        with failpoints.around("image.remove"):
            _rename(path, trash)
    if digest is not None:
        cache.forget(digest)
    with failpoints.around("image.erase"):
        files.remove_tree(trash)
    _remove_empty(path.parent, images)


def _check_removable(path: Path, images: Path) -> None:
    if not path.is_relative_to(images):
        message = f"image {path} is not below {images}"
        raise InvalidArgument(message, remedy="remove it by hand, or set paths.images")
    if not walk.is_image(path):
        message = f"{path} is not an image: it has no {manifests.NAME}"
        raise NotFound(message, remedy="name the image's own folder")


def _digest(path: Path) -> str | None:
    try:
        return read_manifest(path).digest
    except CryoError:
        return None


def _rename(path: Path, trash: Path) -> None:
    try:
        path.rename(trash)
    except OSError as error:
        raise typed(error, f"remove image {path}") from error


def _remove_empty(folder: Path, images: Path) -> None:
    while folder != images and folder.is_relative_to(images):
        try:
            folder.rmdir()
        except OSError:
            return  # it has other images
        folder = folder.parent
