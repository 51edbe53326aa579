"""The kernel's FUSE without a library: a mounted filesystem whose requests a test answers itself.

Needs root. Structures and numbers are those of linux/fuse.h, version 7.31.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_DEVICE = Path("/dev/fuse")
_MNT_FORCE, _MNT_DETACH = 1, 2
_REQUEST_BYTES = 1 << 18
_INIT = 26
_IN = struct.Struct("<IIQQIIII")
_OUT = struct.Struct("<IiQ")
_INIT_OUT = struct.Struct("<IIIIHHIIHHI7I")
_END_S = 10
_libc = ctypes.CDLL(None, use_errno=True)


class Request(NamedTuple):
    """A request of the kernel; `unique` names it in the answer."""

    opcode: int
    unique: int
    body: bytes


class FuseMount:
    """A filesystem mounted at a path; `take` gets its requests, in a thread."""

    def __init__(self, path: Path, kind: str, mode: int, take: Callable[[Request], None]) -> None:
        """Mount it; `mode` is that of its root, which may be a regular file."""
        self._path = path
        self._take = take
        self._fd = _open_device()
        options = f"fd={self._fd},rootmode={mode:o},user_id=0,group_id=0,allow_other"
        names = (kind.encode(), os.fsencode(path), b"fuse", 0, options.encode())
        if _libc.mount(*names) != 0:
            os.close(self._fd)
            raise OSError(ctypes.get_errno(), f"mount {path}")
        self._thread = threading.Thread(target=self._serve, name=kind, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        """Take requests: one that was taken can no longer be interrupted."""
        with contextlib.suppress(OSError):  # the mount is gone
            while True:
                data = os.read(self._fd, _REQUEST_BYTES)
                _, opcode, unique, *_ = _IN.unpack_from(data)
                if opcode == _INIT:
                    body = _INIT_OUT.pack(7, 31, 65536, 0, 12, 9, 65536, 1, 0, 0, *[0] * 8)
                    self.answer(unique, body)
                else:
                    self._take(Request(opcode, unique, data[_IN.size :]))

    def answer(self, unique: int, body: bytes = b"", *, error: int = 0) -> None:
        """Answer a request, with an errno if it fails."""
        os.write(self._fd, _OUT.pack(_OUT.size + len(body), -error, unique) + body)

    def release(self) -> None:
        """End all waits with an error, and unmount."""
        # By force: then the kernel gives up all that is under way (fuse_umount_begin).
        _libc.umount2(os.fsencode(self._path), _MNT_FORCE)
        _libc.umount2(os.fsencode(self._path), _MNT_DETACH)
        self._thread.join(_END_S)
        os.close(self._fd)


def _open_device() -> int:
    """Open the device, also where a machine's /dev has none: that of a simulation."""
    if _DEVICE.exists():
        return os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    with tempfile.TemporaryDirectory(prefix="fuse-") as folder:
        node = Path(folder) / "fuse"
        os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(10, 229))
        return os.open(node, os.O_RDWR | os.O_CLOEXEC)
