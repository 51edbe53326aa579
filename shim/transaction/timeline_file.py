"""The timelines of the last operations on a task, in its folder: they outlive its owner.

Written by rename and without fsync, as the journal beside it.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Annotated

import msgspec

from shim.errors import CryoError
from shim.host.files import read_bounded
from shim.model import Timeline
from shim.transaction import observers

_log = logging.getLogger(__name__)
NAME = "timelines.json"
# How many operations are kept.
KEPT = 16
_LIMIT_BYTES = 1 << 20
_Kept = Annotated[tuple[Timeline, ...], msgspec.Meta(max_length=KEPT)]


def read(folder: Path) -> tuple[Timeline, ...]:
    """Return the timelines of a task, oldest first; none if they cannot be read."""
    path = folder / NAME
    if not path.exists():
        return ()
    try:
        return msgspec.json.decode(read_bounded(path, _LIMIT_BYTES), type=_Kept)
    except (CryoError, OSError, ValueError, RecursionError) as error:
        _log.warning("%s cannot be read: %s", path, error)
        return ()


def add(folder: Path, timeline: Timeline) -> None:
    """Add a timeline, and drop the oldest; the operation does not depend on it."""
    observers.ended(folder, timeline)
    path = folder / NAME
    temporary = path.with_suffix(".tmp")
    kept = [*read(folder), timeline][-KEPT:]
    data = msgspec.json.encode(kept)
    while len(data) > _LIMIT_BYTES:
        kept = kept[1:]
        data = msgspec.json.encode(kept)
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        _log.warning("%s cannot be written: %s", path, error)
