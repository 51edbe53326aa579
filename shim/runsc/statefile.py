"""runsc's own file about a container, which a runsc that is killed while it writes leaves cut off.

runsc empties the file and then writes it (runsc/container/state_file.go). Cut off in between, no
command can be used on the container any more, though it runs.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from shim.errors import CryoError
from shim.host.files import read_bounded, write_atomic

_LIMIT_BYTES = 16 << 20
_log = logging.getLogger(__name__)


class StateFile:
    """What the file says before a command that writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = _read(path)
        self._mode = _mode(path)

    def mend(self) -> None:
        """Put the file back if it was cut off; what a command has not written it has not done."""
        if not _is_whole(self._before) or _is_whole(_read(self._path)):
            return
        _log.warning("%s was cut off: it is put back as it was", self._path)
        try:
            write_atomic(self._path, self._before, self._mode)
        except CryoError as error:
            _log.warning("%s cannot be put back: %s", self._path, error)


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, _LIMIT_BYTES)
    except CryoError:
        return b""


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        return 0o600


def _is_whole(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return False
