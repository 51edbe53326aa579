"""The paths of a node, as the node and as the installer see them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shim.errors import FailedPrecondition
from shim.host import files
from shim.install.links import PATH, SHIM

__all__ = ("MARK", "PATH", "SHIM", "Node", "read", "write")

# The first line of a file of ours that the installer may replace and remove.
MARK = "# Written by the Cryoshim installer of this node; change its source instead.\n"


@dataclass(frozen=True)
class Node:
    """All paths are the node's own; `root` is where its root directory is mounted here.

    `prefix` is the directory of the installation, `containerd` containerd's config.toml,
    `settings` ours, and `units` the directory of systemd's units.
    """

    root: Path = Path("/")
    prefix: Path = Path("/opt/cryoshim")
    containerd: Path = Path("/etc/containerd/config.toml")
    settings: Path = Path("/etc/cryo/config.toml")
    units: Path = Path("/etc/systemd/system")

    def at(self, path: Path) -> Path:
        """Return where a path of the node is here."""
        return self.root / path.relative_to("/")

    @property
    def current(self) -> Path:
        """The link to the version in use."""
        return self.prefix / "current"

    @property
    def shim(self) -> Path:
        """The program that containerd starts."""
        return self.current / "bin" / SHIM


def read(path: Path) -> str | None:
    """Return the text of a file, or None if there is none.

    Raises:
        FailedPrecondition: it is a link, which may lead elsewhere on the node than here.
    """
    if path.is_symlink():
        message = f"{path} is a symbolic link"
        raise FailedPrecondition(message, remedy="replace it by a file")
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return None


def write(path: Path, text: str | None) -> None:
    """Write a file atomically, with the mode that it has; remove it if `text` is None."""
    if text is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    files.write_atomic(path, text.encode(), mode)
