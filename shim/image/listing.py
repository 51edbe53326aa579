"""Lists images with what is known of each."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from shim.errors import CryoError, NotFound
from shim.image import labels, walk
from shim.image.labels import Labels
from shim.image.verify import read_manifest
from shim.model import ImageView

_log = logging.getLogger(__name__)


def list_images(images: Path) -> list[ImageView]:
    """List the images below the configured folder, newest first; a damaged one has no digest."""
    found = [one for path in walk.images(images) if (one := view(path)) is not None]
    return sorted(found, key=lambda one: one.created_at, reverse=True)


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
    plain = ImageView(
        path=_text(path),
        task=manifest.task,
        created_at=manifest.created_at,
        size_bytes=manifest.size_bytes,
        engine=manifest.engine,
        processes=len(manifest.all_processes),
        digest=manifest.digest,
    )
    return _labelled(plain, labels.read(path))


def _damaged(path: Path) -> ImageView | None:
    try:
        changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        return None
    plain = ImageView(
        path=_text(path),
        task="",
        created_at=changed,
        size_bytes=0,
        engine="",
        processes=0,
        digest="",
    )
    return _labelled(plain, labels.read(path))


def _labelled(plain: ImageView, known: Labels) -> ImageView:
    names: dict[str, tuple[str, ...]] = {}
    for one in known.names:
        inside = one.name.namespace
        names[inside] = tuple(sorted((*names.get(inside, ()), str(one.name))))
    return msgspec.structs.replace(
        plain,
        names=names,
        pinned=known.pinned,
        expires_at=known.expires_at,
        last_used_at=known.last_used_at,
        source=known.source,
    )


def _text(path: Path) -> str:
    """Return a path as text that every protocol can carry, even if it is not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
