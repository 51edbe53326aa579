"""Whether the files whose code this process runs are still those that it has loaded.

A package that is upgraded, or edited in place, keeps its version and its path. The standard library
is left out: another interpreter has another prefix or version, which are in the socket's name.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

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


class Loaded:
    """The files of the modules that are loaded, as they were when they were looked at first."""

    def __init__(self) -> None:
        """Look at those of now."""
        self._files: dict[str, _File | None] = {}
        self.look()

    def look(self) -> None:
        """Look at those that have been loaded since."""
        found = (vars(module).get("__file__") for module in list(sys.modules.values()))
        for path in found:
            if isinstance(path, str) and path not in self._files and _is_ours(path):
                self._files[path] = _file(path)

    def __len__(self) -> int:
        """Count the files."""
        return len(self._files)

    @property
    def changed(self) -> bool:
        """Tell whether one is another by now, or gone."""
        return any(_file(path) != known for path, known in self._files.items())
