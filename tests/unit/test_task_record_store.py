"""Changes of a task's record: on disk first, or in memory where the disk is full."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from shim.errors import NotFound
from shim.model import Stdio, TaskRef
from shim.task import record as records
from shim.task.record import TaskRecord
from shim.task.record_store import RecordStore

RECORD = TaskRecord(
    ref=TaskRef(namespace="ns", id="a"),
    bundle="/b",
    stdio=Stdio(),
    created_at=datetime(2026, 11, 28, tzinfo=UTC),
)


def test_a_change_is_on_disk(tmp_path: Path) -> None:
    """And in memory."""
    store = RecordStore(tmp_path, RECORD)

    store.update(pid=7, started=True)

    assert (store.record.pid, store.record.started) == (7, True)
    assert records.load(tmp_path) == store.record


def test_a_change_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    """Nothing has changed for a caller who gets the error."""
    store = RecordStore(tmp_path / "none", RECORD)

    with pytest.raises(NotFound):
        store.update(pid=7)

    assert store.record == RECORD


def test_what_has_happened_is_kept_in_memory(tmp_path: Path) -> None:
    """Also where it cannot be written."""
    store = RecordStore(tmp_path / "none", RECORD)

    store.try_update(paused=True)

    assert store.record.paused
