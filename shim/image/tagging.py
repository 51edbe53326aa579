"""Changes of names, pins and expiries of images. Each is whole or not made, also after a kill."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import msgspec

from shim.errors import InvalidArgument, NotFound
from shim.image import labels, walk
from shim.image.index import NameIndex
from shim.image.labels import Labels
from shim.image.name import ImageName
from shim.image.store_lock import NAMES, store_lock

Change = Callable[[Labels], Labels]


def tag(
    images: Path, image: Path, name: ImageName, now: datetime, *, expires_at: datetime | None = None
) -> None:
    """Give an image a name, which any other image loses; set its expiry, if one is given.

    Raises:
        InvalidArgument: the image is not below the configured folder.
        NotFound: there is no such image.
        ResourceExhausted: it has too many names.
    """
    _check_inside(image, images)
    index = NameIndex(images)
    with store_lock(images, NAMES), labels.keeping(image):
        named = labels.read(image).with_name(name, now)
        if expires_at is not None:
            named = msgspec.structs.replace(named, expires_at=expires_at)
        others = [path for path in index.holders(name) if not _same(path, image)]
        index.forget()
        # First the new image: killed before the others are changed, it has the later time.
        labels.write(image, named)
        for path in others:
            _without(path, name)
        index.rebuild()


def untag(images: Path, image: Path, name: ImageName) -> None:
    """Take a name from an image.

    Raises:
        NotFound: it does not have that name.
    """
    _check_inside(image, images)
    index = NameIndex(images)
    with store_lock(images, NAMES), labels.keeping(image):
        if not labels.read(image).has(name):
            message = f"image {image} is not named {name} in namespace {name.namespace}"
            raise NotFound(message, remedy="`cryo checkpoints ls` lists the names")
        index.forget()
        _without(image, name)
        index.rebuild()


def change(images: Path, image: Path, to: Change) -> None:
    """Change the labels of an image, except its names.

    Raises:
        InvalidArgument: it is not below the configured folder.
        NotFound: there is no such image.
    """
    _check_inside(image, images)
    with store_lock(images, NAMES), labels.keeping(image):
        labels.write(image, to(labels.read(image)))


def pin(images: Path, image: Path, *, pinned: bool) -> None:
    """Keep an image from being removed, or no longer."""
    change(images, image, lambda old: msgspec.structs.replace(old, pinned=pinned))


def _without(image: Path, name: ImageName) -> None:
    labels.write(image, labels.read(image).without(name))


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are of one folder: a link below the configured folder may lead to it."""
    return one == other or one.resolve() == other.resolve()


def _check_inside(image: Path, images: Path) -> None:
    if not image.is_relative_to(images):
        message = f"image {image} is not below {images}: it cannot have a name or a pin"
        raise InvalidArgument(message, remedy="move it there, or set paths.images")
    if not walk.is_image(image):
        message = f"{image} is not an image"
        raise NotFound(message, remedy="name the image's own folder")
