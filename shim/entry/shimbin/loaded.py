"""Detects changes of the source files that this process has loaded.

A package that is upgraded or edited in place may keep its version and path. The standard library is
not checked: another interpreter has another prefix or version, which are part of the name of the
fork server's socket.
"""

from __future__ import annotations

import os
import sys
import time
from typing import NamedTuple

from shim.host import procstat

_STDLIB = os.path.dirname(os.__file__) + os.sep  # noqa: PTH120 - compared as text
_PACKAGES = f"{os.sep}site-packages{os.sep}"


class _File(NamedTuple):
    inode: int
    mtime_ns: int
    size_bytes: int


def _file(path: str) -> _File | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - hundreds of them, before each container
    except OSError:
        return None
    return _File(found.st_ino, found.st_mtime_ns, found.st_size)


def _is_ours(path: str) -> bool:
    return not path.startswith(_STDLIB) or _PACKAGES in path


def _began_ns() -> int:
    """Return when this process was started, before it loaded our code."""
    # Rounded up: the kernel counts whole ticks, and the interpreter takes longer than one to start.
    ticks = (procstat.start_time(os.getpid()) or 0) + 1
    started_s = ticks / os.sysconf("SC_CLK_TCK")
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - started_s
    return time.time_ns() - int(age_s * 1e9)


class Loaded:
    """The files of the loaded modules, with their state when first seen.

    A file that was changed after the start of this process counts as changed, since it may have
    been loaded before the change.
    """

    def __init__(self) -> None:
        """Record the modules that are loaded now."""
        self._files: dict[str, _File | None] = {}
        self._began_ns = _began_ns()
        self.look()

    def look(self) -> None:
        """Record the modules that have been loaded since."""
        found = (vars(module).get("__file__") for module in list(sys.modules.values()))
        for path in found:
            if isinstance(path, str) and path not in self._files and _is_ours(path):
                self._files[path] = None if self._is_newer(path) else _file(path)

    def _is_newer(self, path: str) -> bool:
        """Whether a file was changed after this process was started.

        It compares the ctime, which an installer cannot set, unlike the mtime. A ctime in the
        future, after the clock was set back, is ignored.
        """
        try:
            changed_ns = os.stat(path).st_ctime_ns  # noqa: PTH116 - as above
        except OSError:
            return False
        return self._began_ns <= changed_ns <= time.time_ns()

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._files)

    @property
    def changed(self) -> bool:
        """Whether a file has changed or was removed."""
        return any(_file(path) != known for path, known in self._files.items())
