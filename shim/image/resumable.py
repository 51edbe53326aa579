"""The staging folder of a pull, in which the next pull of the same image continues."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from shim import failpoints
from shim.errors import Busy
from shim.host.filelock import try_lock
from shim.image.staging import PULL_PREFIX, Staging, beginning, is_at, written_bytes

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


def resume(final: Path, digest: str) -> Staging:
    """Lock the staging folder of a pull next to `final`, and create it if no earlier one left it.

    Raises:
        Busy: another process pulls the same image there.
        PermissionDenied: it cannot be written there, or another user could replace it.
        ResourceExhausted: the disk is full.
    """
    path = final.with_name(f"{PULL_PREFIX}{digest}")
    with beginning(path, failpoints.around("pull.begin")) as made:
        return Staging(path, tuple(made), _open_resumed(path))


def resumable_bytes(final: Path, digest: str) -> int:
    """Return the space that an earlier pull of an image next to `final` takes."""
    return written_bytes(final.with_name(f"{PULL_PREFIX}{digest}"))


def _open_resumed(path: Path) -> int:
    while True:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        lock = try_lock(os.open(path, _DIR))
        if lock is None:
            message = f"the same image is being pulled to {path.parent} already"
            raise Busy(message, remedy="wait for that to end")
        if is_at(lock, path):
            os.utime(lock)
            return lock
        os.close(lock)  # it was being removed
