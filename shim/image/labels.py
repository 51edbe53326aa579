"""What the store knows of an image besides its content: names, a pin, an expiry, its last use.

It is in a file in the image's folder, so that it is moved, copied and removed with the image. The
seal does not cover it, and verification ignores it. The time of last use is that of the file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec

from shim import failpoints
from shim.errors import CryoError, NotFound, ResourceExhausted
from shim.host import files
from shim.host.oserror import typed
from shim.image import in_use
from shim.image.directory import begin_image_dir
from shim.image.name import ImageName
from shim.image.side_files import LABELS
from shim.model import Value

_MAX_BYTES = 256 << 10
_MAX_NAMES = 256
_TOUCH = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class NameLabel(Value):
    """A name of an image, and since when; of two images with one name the later one has it."""

    name: ImageName
    since: Moment


class Labels(Value, omit_defaults=True):
    """The labels of an image. `source` is the reference from which it was pulled.

    `last_used_at` is not stored in the file: it is the time of the file itself.
    """

    names: Annotated[tuple[NameLabel, ...], msgspec.Meta(max_length=_MAX_NAMES)] = ()
    pinned: bool = False
    expires_at: Moment | None = None
    last_used_at: Moment | None = None
    source: Annotated[str, msgspec.Meta(max_length=4096)] | None = None

    def has(self, name: ImageName) -> bool:
        """Whether the image has this name."""
        return any(one.name == name for one in self.names)

    def with_name(self, name: ImageName, now: datetime) -> Labels:
        """Return them with a name added.

        Raises:
            ResourceExhausted: there are too many.
        """
        others = self.without(name).names
        if len(others) >= _MAX_NAMES:
            message = f"the image has {_MAX_NAMES} names, and cannot have more"
            raise ResourceExhausted(message, remedy="remove one: cryo checkpoints tag --remove")
        return msgspec.structs.replace(self, names=(*others, NameLabel(name=name, since=now)))

    def without(self, name: ImageName) -> Labels:
        """Return them without a name."""
        left = tuple(one for one in self.names if one.name != name)
        return msgspec.structs.replace(self, names=left)


# A file that cannot be read may have held a pin, so nothing removes the image by itself; and a
# source, so it counts as one from elsewhere.
_DAMAGED = Labels(pinned=True, source="an unknown place: its labels are damaged")


def read(image: Path) -> Labels:
    """Read the labels of an image; one without the file has none, a damaged file is a pin."""
    path = image / LABELS
    try:
        used_at = datetime.fromtimestamp(path.lstat().st_mtime, UTC)
        data = files.read_bounded(path, _MAX_BYTES)
        found = msgspec.json.decode(data, type=Labels) if data else Labels()
    except (FileNotFoundError, NotADirectoryError, NotFound):
        return Labels()
    except (CryoError, OSError, msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return _DAMAGED
    return msgspec.structs.replace(found, last_used_at=used_at)


def write(image: Path, labels: Labels) -> None:
    """Replace the labels of an image, atomically and durably; this counts as a use.

    Raises:
        CryoError: they cannot be written.
    """
    kept = msgspec.structs.replace(labels, last_used_at=None)
    with failpoints.around("image.label"):
        files.write_atomic(image / LABELS, msgspec.json.encode(kept))


def note_use(image: Path, now: datetime) -> None:
    """Record that an image was used now.

    Raises:
        CryoError: it cannot be recorded.
    """
    path = image / LABELS
    try:
        fd = os.open(path, _TOUCH, 0o600)
        try:
            os.utime(fd, (now.timestamp(), now.timestamp()))
        finally:
            os.close(fd)
    except OSError as error:
        raise typed(error, f"record the use of {image}") from error


@contextlib.contextmanager
def keeping(image: Path) -> Iterator[None]:
    """Keep an image from being removed while its labels change.

    Raises:
        NotFound: there is none, or it was removed meanwhile.
        PermissionDenied: another user can change it.
    """
    folder = begin_image_dir(image, strict=True)
    try:
        in_use.keep(folder)
        yield
    finally:
        os.close(folder.fd)
