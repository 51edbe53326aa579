"""The link by which containerd finds the program of the shim.

It is a link, not a copy: the program finds its installation beside the file that the link names.
"""

from __future__ import annotations

import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from shim.errors import AlreadyExists, NotFound, PermissionDenied
from shim.host.files import make_folders
from shim.host.oserror import typed

SHIM = "containerd-shim-cryo-v1"
# Where services of systemd, containerd among them, find programs.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Link:
    """The link in a directory, to the program of this installation."""

    path: Path
    target: Path

    @property
    def is_made(self) -> bool:
        """Whether the path names the program, by a link or because it is the program."""
        return os.path.lexists(self.path) and self.path.resolve() == self.target.resolve()

    @property
    def on_path(self) -> bool:
        """Whether a service of systemd finds it without its path."""
        return str(self.path.parent) in PATH.split(":")

    def check(self) -> None:
        """Check that the link is there, or can be made.

        Raises:
            NotFound: this installation has no such program.
            AlreadyExists: something else has the name.
            PermissionDenied: the directory cannot be written.
        """
        if not os.access(self.target, os.X_OK):
            message = f"{self.target} is not a program"
            raise NotFound(message, remedy="install the package cryoshim again, or name --shim")
        if self.is_made:
            return
        if os.path.lexists(self.path) and not self._is_dangling():
            message = f"{self.path} is another program: {self.path.resolve()}"
            remedy = "remove it, or choose another directory with --bin-dir"
            raise AlreadyExists(message, remedy=remedy)
        folder = next(one for one in self.path.parents if one.exists())
        if not os.access(folder, os.W_OK | os.X_OK):
            message = f"cannot write into {folder}"
            remedy = "run as root, or choose another directory with --bin-dir"
            raise PermissionDenied(message, remedy=remedy)

    def make(self) -> None:
        """Make the link; one that names nothing is replaced."""
        make_folders(self.path.parent)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            temporary.symlink_to(self.target)
            temporary.replace(self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise typed(error, f"make the link {self.path}") from error

    def remove(self) -> None:
        """Remove the link; the program stays."""
        try:
            self.path.unlink()
        except OSError as error:
            raise typed(error, f"remove the link {self.path}") from error

    @property
    def is_removable(self) -> bool:
        """Whether it is a link to the program of this installation."""
        return self.path.is_symlink() and self.is_made

    def _is_dangling(self) -> bool:
        return self.path.is_symlink() and not self.path.exists()


def program() -> Path:
    """Return the program of the shim in the installation that runs this."""
    return Path(sysconfig.get_path("scripts")) / SHIM
