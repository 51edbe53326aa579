"""What is mounted at a path, from /proc/self/mountinfo."""

from __future__ import annotations

import os
import re
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")
_POINT = 4


def filesystem(path: Path, table: Path = _TABLE) -> str:
    """Return the type of the filesystem that is mounted at a path; empty if none is.

    The table is read only if the path and its parent are on two devices.
    """
    if path.lstat().st_dev == path.parent.lstat().st_dev:
        return ""
    wanted, found = os.fsencode(path), ""
    for line in table.read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        if _plain(before.split(b" ")[_POINT]) == wanted:
            found = after.split(b" ")[0].decode("ascii", "replace")  # the last one covers others
    return found


def _plain(text: bytes) -> bytes:
    """Undo the kernel's escapes in octal, such as that of a space."""
    decoded = _ESCAPED.sub(lambda match: chr(int(match.group(1), 8)), text.decode("latin-1"))
    return decoded.encode("latin-1")
