"""The timelines that shims have left since the last look, for what is counted of them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from shim.model import Timeline
from shim.task.state_files import StateFiles
from shim.transaction import timeline_file


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
