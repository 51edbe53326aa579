"""What the timelines in the state directory say: the last operations, and which GPU processes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from shim.model import Timeline, Value
from shim.page.operations import Ended
from shim.task.state_files import StateFiles
from shim.transaction import timeline_file

_SHOWN = 20


class Past(Value):
    """An operation that has ended, of a task that may be gone."""

    name: str
    namespace: str
    task: str
    began_at: datetime
    took_s: float
    frozen_s: float = 0.0
    size_bytes: int = 0
    image: str = ""
    error: str = ""
    has_timeline: bool = False


class History(Value):
    """The last operations, newest first.

    By namespace and task, how many GPU processes were moved in the last of them that says so, and
    the image of the last that succeeded.
    """

    last: tuple[Past, ...] = ()
    gpu_processes: dict[tuple[str, str], int] = {}
    images: dict[tuple[str, str], str] = {}


class _File(Value):
    """What is kept of a file with timelines while it does not change."""

    changed_ns: int
    past: tuple[Past, ...]
    gpu_processes: dict[tuple[str, str], int]


class TimelineFiles:
    """Reads the files with timelines, each once for each change; it blocks."""

    def __init__(self, files: StateFiles) -> None:
        """Take where they are."""
        self._files = files
        self._read: dict[Path, _File] = {}

    def history(self, ended: Sequence[Ended]) -> History:
        """Return what they say, with what the sidecar has answered and they do not have."""
        known, self._read = self._read, {}
        for namespace, path in self._files.timelines():
            try:
                changed_ns = path.stat().st_mtime_ns
            except FileNotFoundError:  # deleted with its task
                continue
            before = known.get(path)
            if before is None or before.changed_ns != changed_ns:
                before = _summary(namespace, changed_ns, timeline_file.read(path.parent))
            self._read[path] = before
        past = [one for file in self._read.values() for one in file.past]
        past += [_of(one) for one in ended if not any(_is_same(one, other) for other in past)]
        past.sort(key=lambda one: one.began_at, reverse=True)
        counts: dict[tuple[str, str], int] = {}
        for file in self._read.values():
            counts |= file.gpu_processes
        images = {
            (one.namespace, one.task): one.image
            for file in self._read.values()
            for one in file.past
            if one.image and not one.error
        }
        return History(last=tuple(past[:_SHOWN]), gpu_processes=counts, images=images)


def _summary(namespace: str, changed_ns: int, timelines: Sequence[Timeline]) -> _File:
    counts: dict[tuple[str, str], int] = {}
    for one in timelines:
        found: dict[tuple[str, str], set[int]] = {}
        for span in one.spans:
            if span.pid:
                found.setdefault((namespace, span.container or one.task), set()).add(span.pid)
        counts |= {task: len(pids) for task, pids in found.items()}
    past = tuple(
        Past(
            name=one.operation,
            namespace=namespace,
            task=one.task,
            began_at=one.began_at,
            took_s=one.total_s,
            frozen_s=one.frozen_s,
            size_bytes=one.size_bytes,
            image=one.image_path,
            error=one.error,
            has_timeline=True,
        )
        for one in timelines[-_SHOWN:]
    )
    return _File(changed_ns=changed_ns, past=past, gpu_processes=counts)


def _is_same(one: Ended, other: Past) -> bool:
    """Whether the timeline of a task is that of a request."""
    return (one.namespace, one.task) == (other.namespace, other.task) and (
        one.began_at <= other.began_at <= one.ended_at
    )


def _of(one: Ended) -> Past:
    return Past(
        name=one.name,
        namespace=one.namespace,
        task=one.task,
        began_at=one.began_at,
        took_s=one.took_s,
        image=one.image,
        error=one.error,
    )
