"""What a check has found: a level, a class, a text, and a remedy."""

from __future__ import annotations

import enum

import msgspec

from shim.model import Value


class Level(enum.StrEnum):
    """How bad a finding is: a failure prevents checkpoints, a warning limits or slows them."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


class Area(enum.StrEnum):
    """The class of a finding, in the order in which failures are to be corrected."""

    SETTINGS = "settings"
    SYSTEM = "system"
    RUNSC = "runsc"
    GPU = "gpu"
    CONTAINERD = "containerd"
    STORAGE = "storage"
    SOCKETS = "sockets"
    LEFTOVERS = "leftovers"
    TASK = "task"
    CHECK = "check"


class Finding(Value, rename={"area": "class"}):
    """One line of the result. `remedy` is empty only if all is well."""

    area: Area
    subject: str
    level: Level
    text: str
    remedy: str = ""


class Topic(msgspec.Struct, frozen=True):
    """What a check examines; makes the findings about it."""

    area: Area
    name: str

    def ok(self, text: str) -> Finding:
        """Make a finding: all is well."""
        return self._finding(Level.OK, text, "")

    def warning(self, text: str, remedy: str) -> Finding:
        """Make a finding: checkpoints work, with a limit or slowly."""
        return self._finding(Level.WARNING, text, remedy)

    def failure(self, text: str, remedy: str) -> Finding:
        """Make a finding: checkpoints do not work until this is corrected."""
        return self._finding(Level.FAILURE, text, remedy)

    def _finding(self, level: Level, text: str, remedy: str) -> Finding:
        return Finding(area=self.area, subject=self.name, level=level, text=text, remedy=remedy)
