"""Which image has a name: a cache of the labels of all images, which a scan of them rebuilds.

An entry counts only while the labels of its image agree, so images may be moved, copied and
removed by any program. The file is removed before labels change and written after: a process that
is killed in between leaves no entry that a scan would contradict.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from shim import failpoints
from shim.errors import CryoError
from shim.host import files
from shim.host.oserror import typed
from shim.image import labels, walk
from shim.image.labels import NameLabel
from shim.image.name import ImageName
from shim.image.store_lock import NAMES, store_lock
from shim.model import Value

_log = logging.getLogger(__name__)
_INDEX = ".cryo-index.json"
_MAX_BYTES = 64 << 20


class _Index(Value):
    """The path of each image below the folder, by namespace and name."""

    names: dict[str, dict[str, str]] = {}

    def path(self, name: ImageName) -> str | None:
        return self.names.get(name.namespace, {}).get(str(name))


class NameIndex:
    """The names of the images below a folder. Every method may block."""

    def __init__(self, images: Path) -> None:
        self._images = images

    def find(self, name: ImageName) -> Path | None:
        """Return the image that has a name; None if none has.

        Raises:
            Busy: names are being changed, and that does not end.
        """
        if not self._images.is_dir():
            return None
        found = self._known(name)
        if found is not None:
            return found
        with store_lock(self._images, NAMES):
            return self.rebuild().get(name)

    def forget(self) -> None:
        """Remove the file; call this with the lock, before labels change."""
        try:
            (self._images / _INDEX).unlink(missing_ok=True)
        except OSError as error:
            raise typed(error, f"remove {self._images / _INDEX}") from error

    def rebuild(self) -> dict[ImageName, Path]:
        """Write the file again from the labels of all images, and return the image of each name.

        Call this with the lock. That the file cannot be written is only logged.
        """
        newest = self._newest()
        try:
            self._write(newest)
        except CryoError as error:  # as on a full disk: without the file a look takes longer
            _log.warning("the index of names was not written: %s", error)
        return newest

    def _write(self, newest: dict[ImageName, Path]) -> None:
        names: dict[str, dict[str, str]] = {}
        for name, path in newest.items():
            names.setdefault(name.namespace, {})[str(name)] = str(path.relative_to(self._images))
        made = _Index(names=names)
        if made != self._read() or not (self._images / _INDEX).exists():
            with failpoints.around("image.index"):
                files.write_atomic(self._images / _INDEX, msgspec.json.encode(made))

    def holders(self, name: ImageName) -> list[Path]:
        """List every image whose labels have a name: more than one after a copy, or a crash."""
        return [path for path in walk.images(self._images) if labels.read(path).has(name)]

    def _newest(self) -> dict[ImageName, Path]:
        """Return the image of each name: of several, that which has it since the latest time."""
        found: dict[ImageName, tuple[NameLabel, Path]] = {}
        for path, one in self._labelled():
            other = found.get(one.name)
            if other is None or other[0].since < one.since:
                found[one.name] = (one, path)
        return {name: path for name, (_, path) in found.items()}

    def _labelled(self) -> Iterable[tuple[Path, NameLabel]]:
        for path in walk.images(self._images):
            if _is_text(path):
                yield from ((path, one) for one in labels.read(path).names)

    def _known(self, name: ImageName) -> Path | None:
        """Return the image of a name by the file, if its labels agree."""
        inner = self._read().path(name)
        if inner is None or inner.startswith("/") or ".." in inner.split("/"):
            return None
        path = self._images / inner
        return path if walk.is_image(path) and labels.read(path).has(name) else None

    def _read(self) -> _Index:
        try:
            data = files.read_bounded(self._images / _INDEX, _MAX_BYTES)
            return msgspec.json.decode(data, type=_Index)
        except (CryoError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return _Index()  # absent or damaged: it is rebuilt


def _is_text(path: Path) -> bool:
    """Whether a path can be written in JSON."""
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
