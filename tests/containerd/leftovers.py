"""Finds leftovers of containers: compares snapshots before and after, and prints the difference."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.containerd.place import Place

# Only a failure takes that long; a busy machine reaps exited processes slowly.
_SETTLE_S = 60.0
# runsc keeps it mounted for the next sandbox, until the fork server has been idle.
_KEPT = "/null-netns"


@dataclass(frozen=True)
class Look:
    """A snapshot of everything that exists at one moment."""

    processes: dict[str, str]
    # The idle fork servers among `processes`.
    forkservers: list[str]
    mounts: list[str]
    files: list[str]
    cgroups: list[str]
    descriptors: dict[str, dict[str, int]]

    def more_than(self, before: Look) -> list[str]:
        """Return a line for everything that is not in the earlier snapshot."""
        lines = [f"process {pid}: {command}" for pid, command in self._new_processes(before)]
        for kind in ("mounts", "files", "cgroups"):
            new = set(getattr(self, kind)) - set(getattr(before, kind))
            lines += [f"{kind}: {item}" for item in sorted(new) if not item.endswith(_KEPT)]
        return lines + self._more_open(before)

    def _new_processes(self, before: Look) -> Iterator[tuple[str, str]]:
        """Yield the new processes; an idle fork server may have exited."""
        heirs = Counter(
            before.processes[pid] for pid in before.forkservers if pid not in self.processes
        )
        for pid, command in self.processes.items():
            if pid in before.processes:
                continue
            if pid in self.forkservers and heirs[command] > 0:
                heirs[command] -= 1
                continue
            yield pid, command

    def _more_open(self, before: Look) -> list[str]:
        return [
            f"descriptors of containerd ({pid}): {count - was} more of {target}"
            for pid, now in self.descriptors.items()
            if pid in before.descriptors
            for target, count in now.items()
            if count > (was := before.descriptors[pid].get(target, 0))
        ]


def look(place: Place, folder: str, cgroup: str) -> Look:
    """Return a snapshot."""
    raw: dict[str, Any] = json.loads(place.python("tests.containerd.look", folder, cgroup).out)
    return Look(**raw)


def left_behind(
    place: Place,
    folder: str,
    cgroup: str,
    before: Look,
    ignored: Sequence[str] = (),
    timeout_s: float = _SETTLE_S,
) -> list[str]:
    """Return what exists and did not before, once nothing more disappears.

    Lines that contain one of `ignored` are left out.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = look(place, folder, cgroup).more_than(before)
        lines = [line for line in found if not any(part in line for part in ignored)]
        if not lines or time.monotonic() > deadline:
            return lines
        time.sleep(0.1)
