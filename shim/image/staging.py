"""Folders in which images are written, until they are complete and get their names."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from shim import failpoints
from shim.errors import CryoError, PermissionDenied
from shim.host import files, removal, trusted
from shim.host.filelock import try_lock
from shim.host.oserror import typed
from shim.image.directory import ImageDir

STAGING_PREFIX = ".cryo-staging-"
_EXPECTED = re.compile(r"[0-9a-f]{16}-(\d{1,19})$")
_UNLOCKED_PREFIX = ".cryo-begin-"
# A pull of the same image continues in the folder of an interrupted one, for a day.
PULL_PREFIX = ".cryo-pull-"
_RESUMABLE_S = 24 * 3600.0
# The unit of st_blocks.
_BLOCK_BYTES = 512
# A folder has this prefix for microseconds; one that has it for longer was left behind.
_BEGIN_S = 60.0
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


class Staging:
    """The folder of an image that is being written; others see by its lock that it is in use."""

    def __init__(self, path: Path, made: tuple[Path, ...], fd: int) -> None:
        self.path = path
        self._made = made
        self._fd = fd

    def close(self) -> None:
        """Release the lock; call this after the image was committed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def folder(self) -> ImageDir:
        """Return the folder itself, also if another one has its name now."""
        return ImageDir(self.path, self._fd, strict=True)

    def check(self) -> None:
        """Check that its name still refers to it: runsc opens it by name.

        Raises:
            PermissionDenied: it was replaced by another folder or a link.
        """
        try:
            same = is_at(self._fd, self.path)
        except OSError as error:
            raise typed(error, f"look at {self.path}") from error
        if not same:
            message = f"{self.path} was removed or replaced while the image was written"
            raise PermissionDenied(message, remedy=trusted.REMEDY)

    def empty(self) -> None:
        """Remove the files of a failed save: runsc does not overwrite any."""
        removal.empty_folder(self.path, self._fd)

    def discard(self) -> None:
        """Remove it, and the parent folders that were created for it."""
        with failpoints.around("image.discard"):
            files.remove_tree(self.path)
        self.close()
        _unmake(self._made)


def name_staging(final: Path, expected_bytes: int = 0) -> Path:
    """Return an unused name for a staging folder next to `final`, on the same filesystem.

    The name has the expected size of the image, which others must not use meanwhile.
    """
    expected = f"-{expected_bytes}" if expected_bytes else ""
    return final.with_name(f"{STAGING_PREFIX}{secrets.token_hex(8)}{expected}")


def expected_bytes(path: Path) -> int:
    """Return the size that the image in a staging folder is expected to have; 0 if unknown."""
    found = _EXPECTED.search(path.name)
    return int(found[1]) if found else 0


def begin(path: Path) -> Staging:
    """Create and lock a staging folder of this name, with its parents.

    Raises:
        PermissionDenied: it cannot be written there, or another user could replace it.
        ResourceExhausted: the disk is full.
    """
    with beginning(path, failpoints.around("image.begin")) as made:
        return Staging(path, tuple(made), _make_locked(path))


@contextlib.contextmanager
def beginning(path: Path, point: AbstractContextManager[None]) -> Iterator[list[Path]]:
    """Create the parents of a staging folder, and remove those again if the block fails.

    `point` is the failpoint around all of this.

    Raises:
        PermissionDenied: it cannot be written there, or another user could replace it.
        ResourceExhausted: the disk is full.
    """
    made: list[Path] = []
    try:
        with point:
            _make_parents(path.parent, made)
            trusted.check(path.parent)
            yield made
    except OSError as error:
        _unmake(made)
        raise typed(error, f"begin an image in {path.parent}") from error
    except CryoError:
        _unmake(made)
        raise


def written_bytes(path: Path) -> int:
    """Return the space that the files of a folder take, as many as there still are."""
    return sum(found.st_blocks * _BLOCK_BYTES for found in files_in(path))


def files_in(path: Path) -> Iterator[os.stat_result]:
    """Yield what each file of a folder is, as many as there still are."""
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                yield entry.stat(follow_symlinks=False)
    except OSError:
        return


def is_live(path: Path) -> bool:
    """Whether a process writes an image in a staging folder."""
    return _locked(path)


def is_staging(path: Path) -> bool:
    """Whether a folder is one in which an image is, or was, written."""
    return path.name.startswith((STAGING_PREFIX, _UNLOCKED_PREFIX, PULL_PREFIX))


def is_of_pull(path: Path) -> bool:
    """Whether a folder is one in which a pull writes an image, or an interrupted one has."""
    return path.name.startswith(PULL_PREFIX)


def is_abandoned(path: Path) -> bool:
    """Whether no process writes an image in a staging folder, and none will continue in it."""
    if path.name.startswith(_UNLOCKED_PREFIX):
        return _age_s(path) > _BEGIN_S
    if is_of_pull(path) and _age_s(path) <= _RESUMABLE_S:
        return False
    return not _locked(path)


def remove_abandoned(path: Path) -> None:
    """Remove a staging folder, unless a pull has begun to continue in it meanwhile.

    Raises:
        CryoError: it cannot be removed.
    """
    if not is_of_pull(path):
        files.remove_tree(path)
        return
    try:
        lock = try_lock(os.open(path, _DIR))
    except FileNotFoundError:
        return
    except OSError as error:
        raise typed(error, f"remove {path}") from error
    if lock is None:
        return
    try:
        if _age_s(path) > _RESUMABLE_S:
            trash = name_staging(path)
            path.rename(trash)
            files.remove_tree(trash)
    except OSError as error:
        raise typed(error, f"remove {path}") from error
    finally:
        os.close(lock)


def _age_s(path: Path) -> float:
    """Return for how long a folder has been as it is; 0 if it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def is_at(fd: int, path: Path) -> bool:
    """Whether a path still refers to an open folder."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    own = os.fstat(fd)
    return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)


def _make_parents(folder: Path, made: list[Path]) -> None:
    """Create a folder with its parents, and add those that were missing to `made`."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for place in reversed(missing):
        with contextlib.suppress(FileExistsError):  # created concurrently: not ours to remove
            place.mkdir(mode=0o700)
            made.append(place)


def _make_locked(path: Path) -> int:
    """Create a folder that gets its final name once it is locked, so it never looks stale."""
    unlocked = path.with_name(path.name.replace(STAGING_PREFIX, _UNLOCKED_PREFIX))
    unlocked.mkdir(mode=0o700)
    fd = os.open(unlocked, _DIR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlocked.rename(path)
    except OSError:
        os.close(fd)
        unlocked.rmdir()
        raise
    return fd


def _unmake(made: Iterable[Path]) -> None:
    """Remove parent folders that were created, as far as nothing is in them."""
    for folder in reversed(list(made)):
        with contextlib.suppress(OSError):  # in use by another process
            folder.rmdir()


def _locked(path: Path) -> bool:
    try:
        lock = try_lock(os.open(path, _DIR))
    except OSError:
        return True  # removed, not accessible, or on a filesystem without locks
    if lock is None:
        return True
    os.close(lock)
    return False
