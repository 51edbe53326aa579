"""The containerd lines, and the other programs, that tests of the containerd shim run against."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from hack.tools.cache import cache_root
from hack.tools.running import NotHere

LINES = ("1.6", "1.7", "2.1", "2.4")


@dataclass(frozen=True)
class ContainerdBuild:
    """A containerd in a folder, with its ctr and its shim for runc beside it."""

    line: str
    folder: Path

    def __str__(self) -> str:
        """Give the name that test ids use."""
        return self.line

    @property
    def numbers(self) -> tuple[int, ...]:
        """Return the line as numbers, to compare."""
        return tuple(int(part) for part in self.line.split("."))

    @property
    def config_version(self) -> int:
        """Return the version of the config format that this line was made for."""
        return 3 if self.numbers >= (2, 0) else 2

    @property
    def needs_local_import(self) -> bool:
        """Whether `ctr image import` must be told not to leave the work to the daemon.

        ctr 2.4 otherwise asks its transfer service, which refuses: it has no unpack platform.
        """
        return self.numbers >= (2, 0)


def find_program(tool: str, program: str = "") -> Path:
    """Return a program of a tool that `make tools` has chosen; the tool's first without a name.

    Raises:
        NotHere: it has not looked, or found none, or what it found is gone.
    """
    try:
        choice = json.loads((cache_root() / f"{tool}.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        message = f"nobody has looked for {tool} yet: run `make tools`"
        raise NotHere(message) from error
    if choice["reason"]:
        message = f"there is no {tool}: {choice['reason']}"
        raise NotHere(message)
    path = Path(choice["path"])
    path = path.with_name(program) if program else path
    if not os.access(path, os.X_OK):
        message = f"{path} is gone: run `make tools`"
        raise NotHere(message)
    return path


def find_containerd(line: str) -> ContainerdBuild:
    """Return the containerd of this line.

    Raises:
        NotHere: there is none.
    """
    return ContainerdBuild(line, find_program(f"containerd-{line}").parent)
