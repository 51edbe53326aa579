"""Walks the configured folder: which folders below it are images, or remains of some."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from shim.image import manifest as manifests
from shim.image.staging import is_staging

# <images>/<namespace>/<task>/<time>; the paths in `shim.image.named` are longer by up to two.
_DEPTH = 5


def is_image(path: Path) -> bool:
    """Whether a folder has a manifest, damaged or not."""
    return os.path.lexists(path / manifests.NAME)


def images(folder: Path) -> Iterator[Path]:
    """Yield the images below a folder."""
    return (path for path in _folders(folder) if not is_staging(path))


def stagings(folder: Path) -> Iterator[Path]:
    """Yield the folders in which an image is, or was, written or removed."""
    return filter(is_staging, _folders(folder))


def _folders(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Yield images and staging folders; links are not followed."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(each.name for each in entries if each.is_dir(follow_symlinks=False))
    except OSError:
        return
    for name in names:
        path = folder / name
        if is_staging(path) or is_image(path):
            yield path
        elif depth > 1:
            yield from _folders(path, depth - 1)
