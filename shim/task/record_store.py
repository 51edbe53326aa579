"""The record of one task, in memory and on disk, and the changes that are made to it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypedDict, Unpack

import msgspec

from shim.errors import CryoError
from shim.model import Exit
from shim.task import record as records
from shim.task.record import ExecRecord, NamedOrigin, TaskRecord

_log = logging.getLogger(__name__)


class RecordChanges(TypedDict, total=False):
    """The fields of a record that change after the task's creation."""

    pid: int
    start: int
    creator_pid: int
    creator_start: int
    started: bool
    paused: bool
    unsettled: bool
    exit: Exit | None
    warning: str
    notices: tuple[str, ...]
    exec_ran: bool
    execs: dict[str, ExecRecord]
    image_path: str
    image_digest: str
    named: NamedOrigin | None
    finished: tuple[str, ...]


class RecordStore:
    """The record of one task."""

    def __init__(self, folder: Path, record: TaskRecord) -> None:
        """Take the task's folder; nothing is written yet."""
        self._folder = folder
        self.record = record

    def update(self, **changes: Unpack[RecordChanges]) -> None:
        """Change the record, on disk first.

        Raises:
            CryoError: it cannot be written; nothing has changed.
        """
        changed = msgspec.structs.replace(self.record, **changes)
        records.save(self._folder, changed)
        self.record = changed

    def try_update(self, **changes: Unpack[RecordChanges]) -> None:
        """Change the record, on disk if possible: what it describes has already happened."""
        try:
            self.update(**changes)
        except CryoError as error:
            _log.warning("task %s: %s", self.record.ref, error)
            self.record = msgspec.structs.replace(self.record, **changes)
