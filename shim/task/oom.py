"""Publishes the OOM kills of a task by the kernel."""

from __future__ import annotations

import logging

from shim.errors import CryoError
from shim.host import cgroup
from shim.host.oom import OomWatch
from shim.model import TaskRef
from shim.task.context import Context

_log = logging.getLogger(__name__)


class OomEvents:
    """The /tasks/oom events of one task."""

    def __init__(self, context: Context, ref: TaskRef) -> None:
        self._context = context
        self._ref = ref
        self._watch: OomWatch | None = None

    def watch(self, pid: int) -> None:
        """Watch the cgroup of the sandbox process; without one there are no events."""
        try:
            if own := cgroup.find(pid):
                self._watch = OomWatch(
                    own, lambda: self._context.publish_event("/tasks/oom", self._ref)
                )
        except CryoError as error:
            _log.warning("task %s: its OOM events are not published: %s", self._ref, error)

    async def publish_last(self) -> None:
        """Publish the kills so far, before the exit that they cause, and close."""
        try:
            if self._watch is not None:
                self._watch.look()
        finally:
            self.close()

    def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.close()
