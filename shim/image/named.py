"""Images by name: `<images>/<namespace>[/<Kubernetes namespace>]/NAME/<fingerprint>/<time>`.

A name is looked up in the namespaces of the container that gives it, and nowhere else: the author
of an annotation must not be able to read the memory of another namespace's container. Beside the
images of a fingerprint lies what it was computed from, so that a refusal can say what differs.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from shim.errors import Busy, CryoError, InvalidArgument, PermissionDenied
from shim.host import files, trusted
from shim.host.filelock import try_lock
from shim.host.oserror import typed
from shim.image import deletion, labels, store, walk
from shim.image import manifest as manifests
from shim.image.named_use import USE
from shim.image.verify_cache import VerifyCache
from shim.model import Value, check_id
from shim.oci import canonical, untrusted_json

# The file of a fingerprint.
PARTS = "fingerprint.json"
_MAX_PARTS_BYTES = 8 << 20
_KEY = re.compile(r"[0-9a-f]{32}")
# A name has a fingerprint for each kind of host and template in use.
_MAX_KEYS = 64
_KEPT_KEYS = 4
_LOCK = ".lock"


class Fingerprint(Value):
    """What decides whether an image fits, by name: values of JSON."""

    parts: dict[str, Any]

    @property
    def key(self) -> str:
        """Return the name of the folder of images with these parts."""
        return canonical.digest(canonical.encode(self.parts))[:32]


def read_fingerprint(folder: Path) -> Fingerprint | None:
    """Read the fingerprint in a folder; None if there is none, or it is damaged."""
    try:
        return decode_fingerprint(files.read_bounded(folder / PARTS, _MAX_PARTS_BYTES))
    except (CryoError, ValueError, RecursionError):
        return None


def decode_fingerprint(data: bytes) -> Fingerprint:
    """Decode a fingerprint, which may come from another host.

    Raises:
        ValueError, RecursionError: it is damaged.
    """
    untrusted_json.check_shape(data)
    return msgspec.json.decode(data, type=Fingerprint)


class ImageRef(Value):
    """The full name of an image; `kubernetes_namespace` is None outside Kubernetes."""

    namespace: str
    name: str
    kubernetes_namespace: str | None = None

    def __post_init__(self) -> None:
        """Reject names that are not safe file names."""
        check_id("namespace", self.namespace)
        check_id("image name", self.name)
        if self.kubernetes_namespace is not None:
            check_id("Kubernetes namespace", self.kubernetes_namespace)

    def __str__(self) -> str:
        """Return the form used in messages."""
        return self.name

    def folder(self, images: Path) -> Path:
        """Return the folder of everything that has this name."""
        inner = [self.kubernetes_namespace] if self.kubernetes_namespace is not None else []
        return images.joinpath(self.namespace, *inner, self.name)


def is_name_folder(folder: Path) -> bool:
    """Whether a folder has images of a name, or counters; a task of that name has neither."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names only
    except OSError:
        return False
    return any(name == USE or _KEY.fullmatch(name) for name in names)


def is_of_name(path: Path) -> bool:
    """Whether an image is one of a name."""
    return bool(_KEY.fullmatch(path.parent.name)) and os.path.lexists(path.parent / PARTS)


@contextlib.contextmanager
def not_saving(path: Path) -> Iterator[None]:
    """Let no save of the fingerprint of an image begin within the block, which may remove it.

    Raises:
        Busy: an image of the fingerprint is being saved.
    """
    if not is_of_name(path):
        yield
        return
    folder = path.parent
    fd = try_lock(trusted.open_file(folder / _LOCK, os.O_RDWR | os.O_CREAT))
    if fd is None:
        message = f"an image is being saved in {folder}"
        raise Busy(message, remedy="try again when it is saved")
    try:
        yield
        if not any(map(walk.is_image, folder.iterdir())):
            files.remove_tree(folder)
    except OSError as error:
        raise typed(error, f"tidy {folder}") from error
    finally:
        os.close(fd)


class NamedImages:
    """The images of one name. Every method may block."""

    def __init__(self, images: Path, ref: ImageRef) -> None:
        """Take the configured folder of all images."""
        self.ref = ref
        self.folder = ref.folder(images)
        self._images = images

    def find(self, key: str) -> Path | None:
        """Return the newest image of a fingerprint; None if there is none.

        Raises:
            PermissionDenied: the folder is a link, or another user could replace it.
        """
        return next(iter(self.of(key)), None)

    def of(self, key: str) -> list[Path]:
        """List the images of a fingerprint, newest first."""
        folder = self._fingerprint_folder(key)
        found = [folder / name for name in self._names(folder)]
        return [path for path in found if os.path.lexists(path / manifests.NAME)]

    def fingerprints(self) -> list[str]:
        """List the fingerprints of which there are images, newest first."""
        keys = [name for name in self._names(self.folder) if _KEY.fullmatch(name)][:_MAX_KEYS]
        newest = {key: path.name for key in keys if (path := self.find(key)) is not None}
        return sorted(newest, key=lambda key: newest[key], reverse=True)

    def parts(self, key: str) -> Fingerprint | None:
        """Return what a fingerprint was computed from; None if that cannot be read."""
        return read_fingerprint(self._fingerprint_folder(key))

    def new_image(self, fingerprint: Fingerprint, now: datetime) -> Path:
        """Return the path of a new image, and write what its fingerprint was computed from.

        Raises:
            CryoError: that cannot be written.
        """
        folder = self._fingerprint_folder(fingerprint.key)
        files.make_folders(folder, 0o700)
        self._check(folder)
        files.write_atomic(folder / PARTS, msgspec.json.encode(fingerprint))
        return folder / store.stamp(now)

    def lock(self, key: str) -> int | None:
        """Lock a fingerprint for a save until the descriptor is closed; None if another saves it.

        Raises:
            CryoError: the lock cannot be opened.
        """
        folder = self._fingerprint_folder(key)
        files.make_folders(folder, 0o700)
        self._check(folder)
        return try_lock(trusted.open_file(folder / _LOCK, os.O_RDWR | os.O_CREAT))

    def prune(self, keep: Path, cache: VerifyCache) -> list[str]:
        """Remove what an image replaces: older ones of its fingerprint, and old fingerprints.

        Pinned images stay. Returns what could not be removed, one line each.
        """
        stale = [path for path in self.of(keep.parent.name) if path.name < keep.name]
        for key in self.fingerprints()[_KEPT_KEYS:]:
            stale += self.of(key)
        left = [path for path in stale if not labels.read(path).pinned]
        return [line for path in left if (line := self.remove(path, cache))]

    def drop(self, cache: VerifyCache) -> int:
        """Remove everything that has this name; return how many images that were.

        Raises:
            Busy: one is being saved, or a container is being restored from one.
            Refused: one is pinned; none was removed.
            CryoError: something could not be removed.
        """
        self._check(self.folder)
        number = 0
        with self._no_saves():
            found = [path for key in self.fingerprints() for path in self.of(key)]
            for path in found:
                deletion.check_unpinned(path)(labels.read(path))
            for path in found:
                deletion.remove(path, self._images, cache)
                number += 1
            for name in self._all_names():
                if _KEY.fullmatch(name) or name.startswith("."):
                    files.remove_tree(self.folder / name)
        with contextlib.suppress(OSError):  # a task of that name has images too
            self.folder.rmdir()
        return number

    @contextlib.contextmanager
    def _no_saves(self) -> Iterator[None]:
        """Hold the lock of every fingerprint within the block.

        Raises:
            Busy: an image is being saved.
        """
        with contextlib.ExitStack() as locks:
            for key in filter(_KEY.fullmatch, self._all_names()):
                fd = self.lock(key)
                if fd is None:
                    message = f"an image is being saved as {self.ref}"
                    raise Busy(message, remedy="try again when it is saved")
                locks.callback(os.close, fd)
            yield

    def remove(self, path: Path, cache: VerifyCache) -> str | None:
        """Remove an image; return why it could not be removed, None if it was."""
        try:
            deletion.remove(path, self._images, cache)
            if not self.of(path.parent.name):
                files.remove_tree(path.parent)
        except CryoError as error:
            return f"{path}: {error}"
        return None

    def _all_names(self) -> list[str]:
        try:
            return os.listdir(self.folder)  # noqa: PTH208 - names only
        except OSError as error:
            raise typed(error, f"list {self.folder}") from error

    def _fingerprint_folder(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            message = f"{key!r} is not a fingerprint"
            raise InvalidArgument(message)
        return self.folder / key

    def _names(self, folder: Path) -> list[str]:
        """List the names in a folder, last first; none if there is no such folder."""
        try:
            names = sorted(os.listdir(folder), reverse=True)  # noqa: PTH208 - names only
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise typed(error, f"list {folder}") from error
        self._check(folder)
        return [name for name in names if not name.startswith(".")]

    def _check(self, folder: Path) -> None:
        """Check that a folder is where its name says, and that only root can replace it.

        Raises:
            PermissionDenied: there is a link below the folder of all images, or another user's
                folder.
        """
        trusted.check(folder)
        if folder.resolve() != self._images.resolve() / folder.relative_to(self._images):
            message = f"{folder} is behind a symbolic link"
            raise PermissionDenied(message, remedy="remove the link: it is not followed")
