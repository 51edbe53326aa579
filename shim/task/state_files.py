"""What the state directory says of all tasks, the sidecar's and the shims'; only read here."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from shim.errors import CryoError
from shim.model import Phase, Value
from shim.transaction import timeline_file
from shim.transaction.journal import NAME as JOURNAL
from shim.transaction.journal import Entry, Journal


class OpenJournal(Value):
    """An operation under way, and for how long; or a parked task, which may stay so.

    The task is the one in whose folder the journal is: of a pod, its sandbox. `processes` are the
    states of its CUDA processes by pid, in a pod by container and pid. `gpu_bytes` is the GPU
    memory that a parked task has released, and that its resume needs.
    """

    namespace: str
    task: str
    operation: str
    phase: Phase
    age_s: float
    is_parked: bool
    processes: dict[str, str] = {}
    gpu_bytes: int = 0


class TimelineFile(NamedTuple):
    """The file with the timelines of a task."""

    namespace: str
    path: Path


class StateFiles:
    """The folders of the tasks below one state directory."""

    def __init__(self, state: Path) -> None:
        self._own = state / "tasks"
        self._shims = state / "shims"

    def namespaces(self) -> set[str]:
        """Return the namespaces that may have tasks."""
        return {path.name for path in self._found("*")}

    def open_journals(self, now: datetime) -> list[OpenJournal]:
        """Return the journals that are open."""
        found = []
        for path in self._found(f"*/*/{JOURNAL}"):
            entry = _entry(path.parent)
            if entry is not None:
                found.append(_open(path.parent, entry, now))
        return found

    def timelines(self) -> Iterator[TimelineFile]:
        """Return the files with the timelines of all tasks."""
        for path in self._found(f"*/*/{timeline_file.NAME}"):
            yield TimelineFile(path.parent.parent.name, path)

    def timelines_of_shims(self) -> Iterator[Path]:
        """Return the files with the timelines of the tasks of shims."""
        return self._shims.glob(f"*/tasks/*/*/{timeline_file.NAME}")

    def _found(self, pattern: str) -> Iterator[Path]:
        yield from self._own.glob(pattern)
        yield from self._shims.glob(f"*/tasks/{pattern}")


def _open(folder: Path, entry: Entry, now: datetime) -> OpenJournal:
    opened_at = entry.opened_at or now
    return OpenJournal(
        namespace=folder.parent.name,
        task=folder.name,
        operation=entry.operation.value,
        phase=entry.phase,
        age_s=max((now - opened_at).total_seconds(), 0.0),
        is_parked=entry.is_parked,
        processes={key: one.state for key, one in entry.processes.items()},
        gpu_bytes=sum(entry.gpu_bytes.values()),
    )


def _entry(folder: Path) -> Entry | None:
    """Read a journal; None if it was closed meanwhile, or cannot be read."""
    try:
        return Journal(folder).load()
    except (CryoError, OSError):
        return None
