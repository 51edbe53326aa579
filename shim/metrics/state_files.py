"""What the state directory says of all tasks, the sidecar's and the shims'; only read here."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from shim.errors import CryoError
from shim.model import Timeline, Value
from shim.transaction import timeline_file
from shim.transaction.journal import NAME as JOURNAL
from shim.transaction.journal import Entry, Journal


class OpenJournal(Value):
    """An operation under way, and for how long; or a parked task, which may stay so."""

    operation: str
    age_s: float
    is_parked: bool


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
                opened_at = entry.opened_at or now
                found.append(
                    OpenJournal(
                        operation=entry.operation.value,
                        age_s=max((now - opened_at).total_seconds(), 0.0),
                        is_parked=entry.is_parked,
                    )
                )
        return found

    def timelines_of_shims(self) -> Iterator[Path]:
        """Return the files with the timelines of the tasks of shims."""
        return self._shims.glob(f"*/tasks/*/*/{timeline_file.NAME}")

    def _found(self, pattern: str) -> Iterator[Path]:
        yield from self._own.glob(pattern)
        yield from self._shims.glob(f"*/tasks/{pattern}")


class ShimTimelines:
    """The timelines of the shims' tasks, each once; those from before `since` are left out."""

    def __init__(self, files: StateFiles, since: datetime) -> None:
        self._files = files
        self._since = since
        self._read: dict[Path, tuple[int, datetime]] = {}

    def new(self) -> list[Timeline]:
        """Return the timelines that were added since the last call."""
        found: list[Timeline] = []
        known, self._read = self._read, {}
        for path in self._files.timelines_of_shims():
            try:
                changed_ns = path.stat().st_mtime_ns
            except FileNotFoundError:  # deleted with its task
                continue
            before_ns, last = known.get(path, (0, self._since))
            if changed_ns != before_ns:
                added = [one for one in timeline_file.read(path.parent) if one.began_at > last]
                found += added
                last = max((one.began_at for one in added), default=last)
            self._read[path] = changed_ns, last
        return found


def _entry(folder: Path) -> Entry | None:
    """Read a journal; None if it was closed meanwhile, or cannot be read."""
    try:
        return Journal(folder).load()
    except (CryoError, OSError):
        return None
