"""Reads the output of `ctr events`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from shim.simgpu.waiting import wait_until

_LINE = re.compile(r"^\S+ \S+ \S+ \S+ (?P<namespace>\S+) (?P<topic>/\S+) (?P<body>.*)$")


@dataclass(frozen=True)
class Event:
    """A line; `body` is the event as JSON."""

    namespace: str
    topic: str
    body: str


@dataclass(frozen=True)
class Events:
    """The output file of `ctr events`."""

    path: Path

    def all(self) -> list[Event]:
        """Return every event so far, in the order of arrival."""
        lines = self.path.read_text("utf-8", "replace").splitlines()
        return [Event(**found.groupdict()) for line in lines if (found := _LINE.match(line))]

    def of(self, topic: str) -> list[Event]:
        """Return the events with this topic."""
        return [event for event in self.all() if event.topic == topic]

    def topics(self, start: str = "/tasks/") -> list[str]:
        """Return the topics with this prefix, in the order of arrival."""
        return [event.topic for event in self.all() if event.topic.startswith(start)]

    def until(self, topic: str, count: int = 1, timeout_s: float = 60.0) -> list[Event]:
        """Wait until this many events have this topic."""
        wait_until(lambda: len(self.of(topic)) >= count, f"{count} of {topic}", timeout_s)
        return self.of(topic)
