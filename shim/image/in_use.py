"""Locks on the folder of an image: all who load or verify it share one, a removal needs it alone.

They are released with the descriptor, also when the process dies. The folder of an image that is
being written has the same lock, by itself, until the image has its name.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from shim.errors import Busy, NotFound
from shim.host.oserror import typed
from shim.image.directory import ImageDir

_log = logging.getLogger(__name__)
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


def keep(folder: ImageDir) -> None:
    """Keep an open image from being removed until its descriptor is closed.

    It blocks for the moment in which another process gives the folder its name or another one.

    Raises:
        NotFound: it was removed meanwhile.
    """
    try:
        fcntl.flock(folder.fd, fcntl.LOCK_SH)
    except OSError as error:  # a filesystem without locks
        _log.warning("image %s can be removed while it is in use: %s", folder.path, error)
    own = os.fstat(folder.fd)
    try:
        found = folder.path.lstat()
    except FileNotFoundError:
        found = None
    except OSError as error:
        raise typed(error, f"look at {folder.path}") from error
    if found is None or (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino):
        message = f"image {folder.path} was removed or replaced"
        raise NotFound(message, remedy="use another one; `cryo checkpoints ls` lists them")


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let no one begin to use an image within the block.

    Raises:
        Busy: it is in use.
    """
    try:
        fd = os.open(path, _DIR)
    except OSError as error:
        raise typed(error, f"open image {path}") from error
    try:
        _lock_alone(path, fd)
        yield
    finally:
        os.close(fd)


def _lock_alone(path: Path, fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        message = f"image {path} is in use: a container is being restored from it, or it is read"
        raise Busy(message, remedy="remove it when that has ended") from error
    except OSError as error:
        _log.warning("image %s is removed without a lock: %s", path, error)
