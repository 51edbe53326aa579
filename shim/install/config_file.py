"""A configuration file that belongs to somebody else: read it, check whose it is, replace it."""

from __future__ import annotations

import difflib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from shim.errors import Busy, FailedPrecondition, InvalidArgument, PermissionDenied
from shim.host import files
from shim.host.oserror import typed

_LIMIT_BYTES = 4 << 20
_NEW_MODE = 0o644
# A comment before the first setting that says that changes do not last.
_MANAGED = re.compile(
    r"do not (edit|modify)|(ansible|chef|puppet|salt)[- ]managed"
    r"|managed by (ansible|chef|puppet|salt)",
    re.IGNORECASE,
)
# What k3s, RKE2 and MicroK8s write the file from.
_TEMPLATES = ("{name}.tmpl", "config-v3.toml.tmpl", "containerd-template.toml")


@dataclass(frozen=True)
class Change:
    """A file and its text before and after; None is a file that does not exist."""

    path: Path
    before: str | None
    after: str | None

    def __bool__(self) -> bool:
        """Return whether there is anything to do."""
        return self.before != self.after

    @property
    def diff(self) -> str:
        """The change as a unified diff."""
        names = (_name(self.path, self.before), _name(self.path, self.after))
        lines = difflib.unified_diff(_lines(self.before), _lines(self.after), *names)
        return "".join(
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in lines
        )

    @property
    def backup(self) -> Path:
        """Where the text before is kept."""
        return self.path.with_name(f"{self.path.name}.before-cryo")

    def check(self) -> None:
        """Check that the file may be changed.

        Raises:
            FailedPrecondition: another tool writes it.
            PermissionDenied: this user cannot, or the filesystem is read-only.
        """
        _check_unmanaged(self.path, self.before or "")
        folder = next(one for one in self.path.parents if one.exists())
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            message = f"{self.path} is on a read-only filesystem"
            remedy = "change it where the image of this host is made"
            raise PermissionDenied(message, remedy=remedy)
        if not os.access(folder, os.W_OK | os.X_OK):
            message = f"cannot write into {folder}"
            raise PermissionDenied(message, remedy="run as root")

    def apply(self) -> None:
        """Replace the file, with its mode and owner, and keep what it was as the backup.

        A backup that is no different from the new text is removed.

        Raises:
            Busy: it was changed since it was read; nothing is written.
        """
        if read(self.path) != self.before:
            message = f"{self.path} was changed in the meantime"
            raise Busy(message, remedy="run the command again")
        if self.before is not None and self._backed_up() != self.after:
            files.write_atomic(self.backup, self.before.encode(), like=self.path)
        if self.after is None:
            _unlink(self.path)
        elif self.before is None:
            files.make_folders(self.path.parent)
            files.write_atomic(self.path, self.after.encode(), _NEW_MODE)
        else:
            files.write_atomic(self.path, self.after.encode(), like=self.path)
        if self._backed_up() == self.after and self.after is not None:
            _unlink(self.backup)

    def _backed_up(self) -> str | None:
        return read(self.backup)


def read(path: Path) -> str | None:
    """Return the text of a file, or None if there is none.

    Raises:
        FailedPrecondition: it is a symbolic link.
        InvalidArgument: it is not a text file.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise typed(error, f"read {path}") from error
    if stat.S_ISLNK(found.st_mode):
        message = f"{path} is a symbolic link to {path.readlink()}"
        remedy = f"change what makes the link, or name the file: --config {path.resolve()}"
        raise FailedPrecondition(message, remedy=remedy)
    try:
        return files.read_bounded(path, _LIMIT_BYTES).decode()
    except UnicodeDecodeError as error:
        message = f"{path} is not UTF-8: {error}"
        raise InvalidArgument(message, remedy="correct it") from error


def _check_unmanaged(path: Path, text: str) -> None:
    for name in _TEMPLATES:
        template = path.with_name(name.format(name=path.name))
        if template.exists() and template != path:
            message = f"{path} is written from {template}"
            raise FailedPrecondition(message, remedy="add the runtime there: docs/install.md")
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            return
        if _MANAGED.search(line):
            message = f"another tool writes {path}: {line.strip('# .')}"
            raise FailedPrecondition(message, remedy="add the runtime there: docs/install.md")


def _unlink(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise typed(error, f"remove {path}") from error
    files.fsync_dir(path.parent)


def _name(path: Path, text: str | None) -> str:
    return "/dev/null" if text is None else str(path)


def _lines(text: str | None) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text or "")
