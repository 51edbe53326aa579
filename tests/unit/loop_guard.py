"""Notes calls of ours, on the event loop's thread, into a folder whose filesystem may hang."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

_ROOT = Path(__file__).parents[2]
_CALLS: tuple[tuple[ModuleType, str], ...] = (
    (io, "open"),
    *(
        (os, name)
        for name in (
            "access",
            "chmod",
            "listdir",
            "lstat",
            "mkdir",
            "open",
            "readlink",
            "remove",
            "rename",
            "replace",
            "rmdir",
            "scandir",
            "stat",
            "statvfs",
            "unlink",
        )
    ),
)


@contextlib.contextmanager
def watched(*folders: Path) -> Iterator[list[str]]:
    """Give the calls into these folders that our own code makes on this thread."""
    found: list[str] = []
    loop_thread = threading.get_ident()
    plain = {(module, name): getattr(module, name) for module, name in _CALLS}

    def noting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def noted(*args: Any, **more: Any) -> Any:
            if threading.get_ident() == loop_thread and _is_in(args, folders):
                caller = _caller()
                if caller.startswith("shim/"):
                    found.append(f"{caller}: {name} {args[0]}")
            return call(*args, **more)

        return noted

    try:
        for (module, name), call in plain.items():
            setattr(module, name, noting(name, call))
        yield found
    finally:
        for (module, name), call in plain.items():
            setattr(module, name, call)


def _is_in(args: tuple[Any, ...], folders: tuple[Path, ...]) -> bool:
    if not args or not isinstance(args[0], str | bytes | os.PathLike):
        return False
    path = os.fsdecode(os.fspath(args[0]))
    return any(path == str(folder) or path.startswith(f"{folder}/") for folder in folders)


def _caller() -> str:
    """Name the nearest line of this repository, past the standard library."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith((f"{_ROOT}/shim/", f"{_ROOT}/tests/")) and name != __file__:
            return f"{name.removeprefix(f'{_ROOT}/')}:{frame.f_lineno}"
        assert frame.f_back is not None
        frame = frame.f_back
    return ""
