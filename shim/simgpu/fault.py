"""Faults that the stand-in for cuda-checkpoint suffers on demand."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Kind(enum.StrEnum):
    """What goes wrong."""

    FAIL = "fail"  # exits 1 with `message`, nothing was done
    FAIL_AFTER = "fail_after"  # exits 1 with `message`, yet it was done
    HANG = "hang"  # never returns (`seconds` 0) or that late, then fails; nothing was done
    HANG_AFTER = "hang_after"  # does it, then never returns
    SLOW = "slow"  # takes `seconds` longer
    WRONG_STATE = "wrong_state"  # says that all is well and does nothing
    OOM = "oom"  # restore: the device is out of memory, and the process poisoned
    BUSY = "busy"  # lock: submitted work runs for `seconds` more (0: without end)
    DIE = "die"  # the process ends while the tool works on it


@dataclass(frozen=True, kw_only=True)
class Fault:
    """When and how the tool fails.

    `action` is lock, checkpoint, restore, unlock, get-state, get-restore-tid or `*`; a --toggle is
    the two actions that it is made of, so one fault serves both engines. `pid` is the container's
    own number, 0 for any; `task` the container's id, empty for any; `nth` counts the calls
    that match, from 1, 0 for each of them.

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
        """Refuse a kind that does not exist, or a message of two lines."""
        Kind(self.kind)
        if "\n" in self.message:
            raise ValueError(self.message)

    def matches(self, action: str, pid: int, task: str) -> bool:
        """Whether a call is one that this fault counts."""
        return self.action in ("*", action) and self.pid in (0, pid) and self.task in ("", task)

    def due(self, count: int) -> bool:
        """Whether the `count`th matching call suffers it."""
        return self.nth in (0, count)

    def line(self) -> str:
        """Return what the tool receives: kind, seconds, message."""
        return f"{self.kind} {self.seconds} {self.message}"
