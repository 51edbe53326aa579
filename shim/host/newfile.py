"""A new file that gets its name when it is complete: before that, a crash leaves nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets

# Filesystems without files that have no name.
_ABSENT = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})
_TEMPORARY = re.compile(r"\.cryo-[0-9a-f]{16}\.tmp")
_OLD_S = 24 * 3600.0
_NAMED = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


class NewFile:
    """A file in an open folder, for reading and writing. Its methods raise OSError."""

    def __init__(self, folder: int, mode: int = 0o600) -> None:
        self._folder = folder
        self._temporary: str | None = None
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            self.fd = os.open(f"/proc/self/fd/{folder}", flags | os.O_TMPFILE, mode)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            self._temporary = _temporary_name()
            self.fd = os.open(self._temporary, flags | _NAMED, mode, dir_fd=folder)

    def write(self, data: bytes | memoryview) -> None:
        """Write all of it at the end."""
        left = memoryview(data)
        while left:
            left = left[os.write(self.fd, left) :]

    def commit(self, name: str, *, replace: bool) -> None:
        """Make the content durable and give it its name, which is not durable yet.

        Raises:
            FileExistsError: the name is taken, without `replace`.
        """
        os.fsync(self.fd)
        if not replace or self._temporary is None:
            try:
                self._link(name)
            except FileExistsError:
                if not replace:
                    raise
            else:
                return
        if self._temporary is None:
            temporary = _temporary_name()
            self._link(temporary)
            self._temporary = temporary
        os.rename(self._temporary, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._temporary = None

    def close(self) -> None:
        """Close it, and remove it if it has no name yet. Idempotent."""
        if self.fd < 0:
            return
        os.close(self.fd)
        self.fd = -1
        if self._temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary, dir_fd=self._folder)

    def _link(self, name: str) -> None:
        source = f"/proc/self/fd/{self.fd}"
        os.link(source, name, dst_dir_fd=self._folder, follow_symlinks=True)


def remove_old(folder: int, now_s: float) -> None:
    """Remove what was left in an open folder by those who were killed; it raises OSError."""
    for name in os.listdir(folder):
        if not _TEMPORARY.fullmatch(name):
            continue
        with contextlib.suppress(FileNotFoundError):
            if now_s - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime > _OLD_S:
                os.unlink(name, dir_fd=folder)


def _temporary_name() -> str:
    return f".cryo-{secrets.token_hex(8)}.tmp"
