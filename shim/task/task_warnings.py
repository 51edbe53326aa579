"""The warnings in the listing of a task."""

from __future__ import annotations

import logging

from shim.task.context import Context
from shim.task.record_store import RecordStore

_log = logging.getLogger(__name__)


class TaskWarnings:
    """The warning of the last failure, and the notices that hold as long as the task runs."""

    def __init__(self, context: Context, store: RecordStore) -> None:
        self._context = context
        self._store = store

    @property
    def text(self) -> str:
        """Return all of them in one line."""
        record = self._store.record
        return "; ".join(filter(None, (record.warning, *record.notices)))

    def set(self, text: str) -> None:
        """Set the warning, until an operation succeeds."""
        self._store.try_update(warning=text)

    def clear(self) -> None:
        """Remove the warning."""
        if self._store.record.warning:
            self._store.try_update(warning="")

    def add_notice(self, text: str) -> None:
        """Add a notice and publish it, once."""
        record = self._store.record
        if text not in record.notices:
            _log.warning("task %s: %s", record.ref, text)
            self._context.publish_event("/cryo/warning", record.ref, text=text)
            self._store.try_update(notices=(*record.notices, text))
