"""A tmpfs that is mounted nowhere: it is gone when its last descriptor is, also by SIGKILL.

Source: fsopen(2), fsconfig(2), fsmount(2), tmpfs(5).
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from shim.errors import Unimplemented
from shim.host.oserror import typed_number

# These numbers are the same on every architecture.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC = 1
_SET_STRING, _CREATE = 1, 6
_FSMOUNT_CLOEXEC = 1
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MIB = 1 << 20
# The order of the free blocks that the kernel gives back to the hypervisor; far above the largest
# one where it does not.
_REPORTED = Path("/sys/module/page_reporting/parameters/page_reporting_order")
_ORDERS = 64
_libc = ctypes.CDLL(None, use_errno=True)


class Tmpfs:
    """A detached tmpfs that holds at most `size_bytes`; only root can open its files."""

    def __init__(self, size_bytes: int) -> None:
        """Make it.

        Raises:
            Unimplemented: this kernel cannot make one, or this process may not.
            CryoError: it cannot be made.
        """
        self.size_bytes = size_bytes
        self._fd = _make(size_bytes)

    @property
    def fd(self) -> int:
        """Return the descriptor of its root directory, which keeps it."""
        return self._fd

    @property
    def path(self) -> Path:
        """Return the path by which other processes reach it."""
        return Path(f"/proc/{os.getpid()}/fd/{self._fd}")

    @property
    def device(self) -> int:
        """Return its device number, which every open file of it has."""
        return os.fstat(self._fd).st_dev

    @property
    def free_bytes(self) -> int:
        """Return how much more fits."""
        found = os.fstatvfs(self._fd)
        return found.f_bfree * found.f_frsize

    def empty(self) -> None:
        """Remove its files, and free their memory although a process has them open."""
        for name in os.listdir(self._fd):  # noqa: PTH208 - a descriptor, not a path
            os.truncate(f"/proc/self/fd/{self._fd}/{name}", 0)
            os.unlink(name, dir_fd=self._fd)

    def close(self) -> None:
        """Free it. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def huge_pages(reported: Path = _REPORTED) -> str:
    """Return the mount option `huge` with which the first touch of pages costs least.

    Huge pages halve it. But a virtual machine that reports its free pages gives back exactly the
    large blocks, and the hypervisor has to find memory for them again: 3.5 s per GiB were measured
    for them, and 0.4 s for small pages.
    """
    try:
        order = int(reported.read_text("ascii"))
    except (OSError, ValueError):
        return "always"
    return "never" if 0 <= order < _ORDERS else "always"


def _make(size_bytes: int) -> int:
    options = {"size": str(-(-size_bytes // _MIB) * _MIB), "mode": "0700", "huge": huge_pages()}
    context = _call(_FSOPEN, b"tmpfs", _FSOPEN_CLOEXEC)
    try:
        for name, value in options.items():
            _call(_FSCONFIG, context, _SET_STRING, name.encode(), value.encode(), 0)
        _call(_FSCONFIG, context, _CREATE, None, None, 0)
        mount = _call(_FSMOUNT, context, _FSMOUNT_CLOEXEC, _NOSUID | _NODEV | _NOEXEC)
    finally:
        os.close(context)
    try:
        # That of a mount is only a path: it cannot be listed or measured.
        return os.open(".", _DIR, dir_fd=mount)
    finally:
        os.close(mount)


def _call(number: int, *arguments: int | bytes | None) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result >= 0:
        return result
    error = ctypes.get_errno()
    if error in {errno.ENOSYS, errno.EPERM}:
        message = f"this kernel makes no tmpfs without a mount point: {os.strerror(error)}"
        raise Unimplemented(message, remedy="use Linux 5.2 or newer, as root")
    raise typed_number(error, "make a tmpfs")
