"""The pods whose restore has failed, by their uid: their next sandbox starts cold.

The kubelet makes a new sandbox for such a pod, in another shim, so this is kept in files.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from shim.errors import CryoError
from shim.host import files
from shim.host.oserror import typed
from shim.model import Value

# Longer than the kubelet's back-off between two attempts.
KEPT_S = 3600.0
MAX_NOTES = 1024
_MAX_BYTES = 16384
_MAX_REASON = 2048
# A uid of the apiserver, or the hash that the kubelet gives a static pod.
_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


class FailedRestore(Value):
    """Why a pod was not restored; `image` is the image that did not fit, empty if it may."""

    reason: str
    image: str = ""


class ColdPods:
    """A folder with one small file for each pod. Every method may block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, uid: str, failed: FailedRestore) -> None:
        """Note why a pod was not restored, and remove old notes; an unusual uid is not noted.

        Raises:
            CryoError: it cannot be written.
        """
        if not _UID.fullmatch(uid):
            return
        files.private_dir(self._folder)
        self._remove_old()
        short = msgspec.structs.replace(failed, reason=failed.reason[:_MAX_REASON])
        files.write_atomic(self._folder / uid, msgspec.json.encode(short))

    def find(self, uid: str) -> FailedRestore | None:
        """Return why a pod was not restored a short time ago; None if that did not happen."""
        path = self._folder / uid
        if not _UID.fullmatch(uid) or _age_s(path) > KEPT_S:
            return None
        try:
            return msgspec.json.decode(files.read_bounded(path, _MAX_BYTES), type=FailedRestore)
        except (CryoError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def _remove_old(self) -> None:
        """Remove notes that are old, and the oldest ones if there are too many."""
        found = sorted(self._aged())
        for at, (age_s, path) in enumerate(found):
            if age_s > KEPT_S or at >= MAX_NOTES - 1:
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise typed(error, f"remove {path}") from error

    def _aged(self) -> Iterator[tuple[float, Path]]:
        for path in self._folder.iterdir():
            yield _age_s(path), path


def _age_s(path: Path) -> float:
    """Return the age of a file by the wall clock; infinite if it does not exist."""
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return float("inf")
