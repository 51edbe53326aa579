"""A stage in memory: runsc saves into it, and the image is copied out of it while the task runs."""

from __future__ import annotations

from pathlib import Path

from shim import failpoints
from shim.host.memory_promises import MemoryPromise
from shim.host.oserror import typed
from shim.host.tmpfs import Tmpfs
from shim.image.directory import ImageDir

# What a file takes beyond its size: the rest of its last huge page, and the tmpfs itself.
SLACK_BYTES = 16 << 20
# A write that failed for lack of space has left less than one huge page.
_FULL_BYTES = 2 << 20


class MemoryStage:
    """A tmpfs for one image, and the promise of its memory, which ends once that is in use."""

    def __init__(self, tmpfs: Tmpfs, promise: MemoryPromise) -> None:
        self._tmpfs = tmpfs
        self._promise = promise
        self.size_bytes = tmpfs.size_bytes
        self.device = tmpfs.device

    @property
    def path(self) -> Path:
        """Return the path that runsc saves to."""
        return self._tmpfs.path

    @property
    def folder(self) -> ImageDir:
        """Return the folder with its files."""
        return ImageDir(self.path, self._tmpfs.fd)

    @property
    def full(self) -> bool:
        """Whether a save that failed has filled it."""
        return self._tmpfs.free_bytes < _FULL_BYTES

    def empty(self) -> None:
        """Remove the files of a failed save, also if the sentry has them open for a while."""
        try:
            self._tmpfs.empty()
        except OSError as error:
            raise typed(error, "empty the stage in memory") from error

    def saved(self) -> None:
        """Take back the promise: its memory is in use, or no longer needed."""
        self._promise.close()

    def close(self) -> None:
        """Free the memory. Idempotent."""
        self._promise.close()
        self._tmpfs.close()


def open_stage(size_bytes: int, promise: MemoryPromise) -> MemoryStage:
    """Make a stage for an image of at most this size; the promise is ended if that fails.

    Raises:
        CryoError: the kernel makes none.
    """
    try:
        with failpoints.around("image.stage"):
            return MemoryStage(Tmpfs(size_bytes), promise)
    except BaseException as error:
        promise.close()
        if isinstance(error, OSError):
            raise typed(error, "make a stage in memory") from error
        raise
