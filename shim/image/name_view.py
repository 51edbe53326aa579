"""The names in a namespace as a listing shows them: their images, and how they were used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from shim.errors import InvalidArgument, NotFound
from shim.image import listing, named_use
from shim.image.named import ImageRef, NamedImages, is_name_folder
from shim.image.named_use import NamedUse
from shim.model import Value


class NamedImageView(Value):
    """An image of a name; a damaged one has no digest. `parts` are those of its fingerprint."""

    path: str
    fingerprint: str
    created_at: datetime
    size_bytes: int
    digest: str
    parts: dict[str, Any] = {}


class NameView(Value):
    """A name, with its images, newest first, and how it was used."""

    namespace: str
    name: str
    kubernetes_namespace: str | None = None
    images: tuple[NamedImageView, ...] = ()
    use: NamedUse = NamedUse()

    @property
    def size_bytes(self) -> int:
        """Return the size of all images together."""
        return sum(image.size_bytes for image in self.images)


def list_names(images: Path, namespace: str) -> list[NameView]:
    """List the names of a containerd namespace, those of its Kubernetes namespaces too."""
    return [_view(NamedImages(images, ref), with_parts=False) for ref in _refs(images, namespace)]


def uses(images: Path) -> list[tuple[ImageRef, NamedUse]]:
    """Return how each name of every namespace was used."""
    return [
        (ref, named_use.read(ref.folder(images)))
        for folder in _folders(images)
        for ref in _refs(images, folder.name)
    ]


def show_name(images: Path, ref: ImageRef) -> NameView:
    """Describe a name, with what the fingerprints of its images were computed from.

    Raises:
        NotFound: nothing has that name.
    """
    return _view(existing(images, ref), with_parts=True)


def existing(images: Path, ref: ImageRef) -> NamedImages:
    """Return the images of a name that has images or counters.

    Raises:
        NotFound: nothing has that name.
    """
    named = NamedImages(images, ref)
    if is_name_folder(named.folder):
        return named
    where = ref.namespace
    if ref.kubernetes_namespace is not None:
        where = f"{where}, Kubernetes namespace {ref.kubernetes_namespace}"
    message = f"nothing is named {ref.name} in namespace {where}"
    raise NotFound(message, remedy="'cryo warm ls' lists the names")


def _refs(images: Path, namespace: str) -> Iterator[ImageRef]:
    for folder in _folders(images / namespace):
        if is_name_folder(folder):
            yield from _ref(namespace, folder.name, None)
        for inner in _folders(folder):
            if is_name_folder(inner):
                yield from _ref(namespace, inner.name, folder.name)


def _ref(namespace: str, name: str, kubernetes_namespace: str | None) -> Iterator[ImageRef]:
    try:
        yield ImageRef(namespace=namespace, name=name, kubernetes_namespace=kubernetes_namespace)
    except InvalidArgument:  # a folder that an operator made
        return


def _folders(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            names = [each.name for each in entries if each.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [path / name for name in sorted(names)]


def _view(named: NamedImages, *, with_parts: bool) -> NameView:
    ref = named.ref
    found = [
        NamedImageView(
            path=view.path,
            fingerprint=key,
            created_at=view.created_at,
            size_bytes=view.size_bytes,
            digest=view.digest,
            parts=_parts(named, key) if with_parts else {},
        )
        for key in named.fingerprints()
        for path in named.of(key)
        if (view := listing.view(path)) is not None
    ]
    return NameView(
        namespace=ref.namespace,
        name=ref.name,
        kubernetes_namespace=ref.kubernetes_namespace,
        images=tuple(found),
        use=named_use.read(named.folder),
    )


def _parts(named: NamedImages, key: str) -> dict[str, Any]:
    found = named.parts(key)
    return found.parts if found is not None else {}
