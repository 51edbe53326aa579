"""A filesystem that does not answer, as an NFS mount whose server is gone: FUSE without a server.

A process that looks into it waits in uninterruptible sleep (state D), where even SIGKILL does not
reach it, until the mount is released. Needs root and the kernel's FUSE.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builds import excuse
from tests.fuse import FuseMount


class HungMount:
    """A mounted filesystem that takes every request and answers none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Set once somebody waits in it.
        self.asked = threading.Event()
        self._mount = FuseMount(path, "hung", stat.S_IFDIR, lambda _: self.asked.set())

    def release(self) -> None:
        """End all waits with an error, and unmount."""
        self._mount.release()


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
