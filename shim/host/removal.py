"""Removal of an untrusted tree: by descriptors, to any depth, across no link or mount."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from shim.errors import CryoError, FailedPrecondition
from shim.host.oserror import typed

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_SHOWN = 4


def remove_tree(path: Path) -> None:
    """Remove a file, link or directory tree, if it exists; follow no link, cross no mount.

    It continues after an entry that cannot be removed, and raises the first such error at the end.

    Raises:
        FailedPrecondition: something inside is a mount point; its contents were not touched.
        CryoError: something cannot be removed, such as an immutable file.
    """
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise typed(error, f"open {path.parent}") from error
    try:
        _Removal(path.parent, parent).run([path.name])
    finally:
        os.close(parent)


def empty_folder(path: Path, fd: int) -> None:
    """Remove all entries of an open folder, as `remove_tree` does; `path` is for messages."""
    _Removal(path, fd).run(os.listdir(fd))


class _Level:
    """A folder of the current path: its name, its identity, and its remaining subfolders."""

    def __init__(self, name: str, fd: int) -> None:
        found = os.fstat(fd)
        self.name = name
        self.identity = (found.st_dev, found.st_ino)
        self.folders: list[str] = []


class _Removal:
    """One walk. Only one folder is open at a time, so the depth is not limited."""

    def __init__(self, path: Path, parent: int) -> None:
        self._path = path
        self._parent = parent
        self._mount = mount_id(parent)
        self._levels: list[_Level] = []
        self._first: CryoError | None = None

    def run(self, names: list[str]) -> None:
        """Remove these names from the parent.

        Raises:
            CryoError: the first entry that could not be removed.
        """
        for name in names:
            if self._unlink(self._parent, name):
                self._descend(name)
        if self._first is not None:
            raise self._first

    def _descend(self, name: str) -> None:
        """Remove a folder of the parent with all that is in it."""
        fd = self._enter(self._parent, name)
        while fd >= 0:
            level = self._levels[-1]
            below = self._enter(fd, level.folders.pop()) if level.folders else -1
            if below >= 0:
                os.close(fd)
                fd = below
            elif not level.folders:
                fd = self._leave(fd)

    def _enter(self, parent: int, name: str) -> int:
        """Open a folder and remove its files; -1 if it cannot be entered."""
        try:
            fd = os.open(name, _DIR, dir_fd=parent)
        except FileNotFoundError:
            return -1
        except OSError as error:
            self._note(error, name)
            return -1
        # A rootfs that is still mounted here may be the host's own `/`: same device, other mount.
        if mount_id(fd) != self._mount:
            os.close(fd)
            shown = self._shown(name)
            message = f"cannot remove {shown}: it is a mount point"
            self._keep(FailedPrecondition(message, remedy=f"umount {shown}"))
            return -1
        level = _Level(name, fd)
        self._levels.append(level)
        try:
            names = os.listdir(fd)  # noqa: PTH208 - a descriptor, not a path
        except OSError as error:
            self._note(error)
            names = []
        level.folders = [each for each in names if self._unlink(fd, each)]
        return fd

    def _leave(self, fd: int) -> int:
        """Go up and remove the folder just emptied; -1 at the start of the walk."""
        level = self._levels.pop()
        if not self._levels:
            os.close(fd)
            self._rmdir(self._parent, level.name)
            return -1
        above = os.open("..", _DIR, dir_fd=fd)
        os.close(fd)
        found = os.fstat(above)
        if (found.st_dev, found.st_ino) != self._levels[-1].identity:
            os.close(above)
            self._levels.clear()
            message = f"{self._path} was moved while it was being removed"
            self._keep(FailedPrecondition(message, remedy="remove it by hand"))
            return -1
        self._rmdir(above, level.name)
        return above

    def _unlink(self, parent: int, name: str) -> bool:
        """Remove an entry unless it is a folder; return whether it is one."""
        try:
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                return True
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._note(error, name)
        return False

    def _rmdir(self, parent: int, name: str) -> None:
        try:
            os.rmdir(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        except OSError as error:
            # The entry still in it has been reported already.
            if error.errno != errno.ENOTEMPTY or self._first is None:
                self._note(error, name)

    def _note(self, error: OSError, name: str = "") -> None:
        self._keep(typed(error, f"remove {self._shown(name)}"))

    def _keep(self, error: CryoError) -> None:
        self._first = self._first or error

    def _shown(self, name: str) -> Path:
        """Return a path for messages, shortened if it is very deep."""
        names = [level.name for level in self._levels]
        middle = [*names[:_SHOWN], "..."] if len(names) > _SHOWN else names
        return self._path.joinpath(*middle, name)


def mount_id(fd: int) -> str:
    """Return the mount of a descriptor as an opaque string. Source: proc_pid_fdinfo(5)."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text("ascii").splitlines():
        if line.startswith("mnt_id:"):
            return line
    return ""
