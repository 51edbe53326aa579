"""Faults that can be injected into the stand-in for cuda-checkpoint."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Kind(enum.StrEnum):
    """What goes wrong."""

    FAIL = "fail"  # exits 1 with `message`, without having acted
    FAIL_AFTER = "fail_after"  # acts, then exits 1 with `message`
    HANG = "hang"  # waits `seconds` (0: without end), then fails; does not act
    HANG_AFTER = "hang_after"  # acts, then waits and fails likewise
    SLOW = "slow"  # takes `seconds` longer
    WRONG_STATE = "wrong_state"  # exits 0 without having acted
    OOM = "oom"  # restore: out of device memory, and no later restore works
    BUSY = "busy"  # lock: submitted work takes `seconds` more (0: without end)
    DIE = "die"  # the process is killed while the tool works on it


@dataclass(frozen=True, kw_only=True)
class Fault:
    """When and how the tool fails.

    `action` is lock, checkpoint, restore, unlock, get-state, get-restore-tid or `*`; a --toggle
    counts as the two actions that it performs, so a fault works with both engines. `pid` is the pid
    in the container, 0 for any; `task` the container's id, empty for any. `nth` selects one of the
    matching calls, counted from 1; 0 selects all.

    Example:
        Fault(action="lock", kind=Kind.BUSY, pid=3)
        Fault(action="checkpoint", kind=Kind.FAIL, nth=2, message="unspecified launch failure")
    """

    action: str
    kind: str
    pid: int = 0
    task: str = ""
    nth: int = 0
    seconds: float = 0.0
    message: str = "OS call failed or operation not supported on this OS"

    def __post_init__(self) -> None:
        """Reject an unknown kind, or a message of more than one line."""
        Kind(self.kind)
        if "\n" in self.message:
            raise ValueError(self.message)

    def matches(self, action: str, pid: int, task: str) -> bool:
        """Whether a call matches this fault."""
        return self.action in ("*", action) and self.pid in (0, pid) and self.task in ("", task)

    def due(self, count: int) -> bool:
        """Whether the fault applies to the `count`th matching call."""
        return self.nth in (0, count)

    def line(self) -> str:
        """Return the line that the tool receives: kind, seconds, message."""
        return f"{self.kind} {self.seconds} {self.message}"
