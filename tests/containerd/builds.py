"""The containerd lines that tests of the containerd shim run against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.builds import find_program

LINES = ("1.6", "1.7", "2.1", "2.4")


@dataclass(frozen=True)
class ContainerdBuild:
    """A directory with containerd, its ctr and its shim for runc."""

    line: str
    folder: Path

    def __str__(self) -> str:
        """Return the name that test ids use."""
        return self.line

    @property
    def numbers(self) -> tuple[int, ...]:
        """Return the line as numbers, to compare."""
        return tuple(int(part) for part in self.line.split("."))

    @property
    def config_version(self) -> int:
        """Return the version of this line's config format."""
        return 3 if self.numbers >= (2, 0) else 2

    @property
    def needs_local_import(self) -> bool:
        """Whether `ctr image import` needs the option to import in ctr instead of the daemon.

        Otherwise ctr 2.4 uses the transfer service, which fails: it has no unpack platform.
        """
        return self.numbers >= (2, 0)


def find_containerd(line: str) -> ContainerdBuild:
    """Return the containerd of this line.

    Raises:
        NotHere: it is not installed.
    """
    return ContainerdBuild(line, find_program(f"containerd-{line}").parent)
