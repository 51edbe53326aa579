"""A filesystem that does not answer, as an NFS mount whose server is gone: FUSE without a server.

A process that looks into it waits in uninterruptible sleep (state D), where even SIGKILL does not
reach it, until the mount is released. Needs root and the kernel's FUSE.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import stat
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builds import excuse

_DEVICE = Path("/dev/fuse")
_MNT_FORCE, _MNT_DETACH = 1, 2
_REQUEST_BYTES = 1 << 18
# Opcode 26, version 7.31, and the limits of struct fuse_init_out. Source: linux/fuse.h.
_INIT = 26
_IN = struct.Struct("<IIQQIIII")
_OUT = struct.Struct("<IiQ")
_INIT_OUT = struct.Struct("<IIIIHHIIHHI7I")
_libc = ctypes.CDLL(None, use_errno=True)


class HungMount:
    """A mounted filesystem that takes every request and answers none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Set once somebody waits in it.
        self.asked = threading.Event()
        self._fd = _open_device()
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0"
        names = (b"hung", os.fsencode(path), b"fuse", 0, options.encode())
        if _libc.mount(*names) != 0:
            os.close(self._fd)
            raise OSError(ctypes.get_errno(), f"mount {path}")
        self._thread = threading.Thread(target=self._take, name="hung", daemon=True)
        self._thread.start()

    def _take(self) -> None:
        """Take requests: one that was taken can no longer be interrupted."""
        with contextlib.suppress(OSError):  # the mount is gone
            while True:
                request = os.read(self._fd, _REQUEST_BYTES)
                _, opcode, unique, *_ = _IN.unpack_from(request)
                if opcode == _INIT:
                    body = _INIT_OUT.pack(7, 31, 65536, 0, 12, 9, 65536, 1, 0, 0, *[0] * 8)
                    os.write(self._fd, _OUT.pack(_OUT.size + len(body), 0, unique) + body)
                else:
                    self.asked.set()

    def release(self) -> None:
        """End all waits with an error, and unmount."""
        # By force: then the kernel gives up all that is under way (fuse_umount_begin).
        _libc.umount2(os.fsencode(self.path), _MNT_FORCE)
        _libc.umount2(os.fsencode(self.path), _MNT_DETACH)
        self._thread.join(10)
        os.close(self._fd)


def _open_device() -> int:
    """Open the device, also where a machine's /dev has none: that of a simulation."""
    if _DEVICE.exists():
        return os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    with tempfile.TemporaryDirectory(prefix="hung-") as folder:
        node = Path(folder) / "fuse"
        os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(10, 229))
        return os.open(node, os.O_RDWR | os.O_CLOEXEC)


def main() -> None:
    """Mount one over the folder that is named, until SIGTERM."""
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    mount = HungMount(Path(sys.argv[1]))
    sys.stdout.write("mounted\n")
    sys.stdout.flush()
    signal.sigwait(ends)
    mount.release()


@contextlib.contextmanager
def hung_mount(path: Path) -> Iterator[HungMount]:
    """Mount a filesystem that does not answer, for as long as the block."""
    if os.geteuid() != 0:
        pytest.skip("mounting a filesystem that hangs needs root")
    path.mkdir(parents=True, exist_ok=True)
    try:
        mount = HungMount(path)
    except OSError as error:
        excuse(f"this machine mounts no FUSE filesystem: {error}")
    try:
        yield mount
    finally:
        mount.release()


if __name__ == "__main__":
    main()
