"""The moves of cuda-checkpoint: the state that each leads to, its phase and its timeout. Pure.

running --lock--> locked --checkpoint--> checkpointed --restore--> locked --unlock--> running
failed: terminal
"""

from __future__ import annotations

import enum

from shim.config import Timeouts
from shim.model import CudaState, Phase


class Action(enum.StrEnum):
    """What `cuda-checkpoint --action` takes."""

    LOCK = "lock"
    CHECKPOINT = "checkpoint"
    RESTORE = "restore"
    UNLOCK = "unlock"


AFTER = {
    Action.LOCK: CudaState.LOCKED,
    Action.CHECKPOINT: CudaState.CHECKPOINTED,
    Action.RESTORE: CudaState.LOCKED,
    Action.UNLOCK: CudaState.RUNNING,
}
PHASE = {
    Action.LOCK: Phase.LOCK,
    Action.CHECKPOINT: Phase.FREEZE,
    Action.RESTORE: Phase.THAW,
    Action.UNLOCK: Phase.THAW,
}
# What the journal has of a process while it is moved.
UNDER_WAY = {
    Action.LOCK: "locking",
    Action.CHECKPOINT: "checkpointing",
    Action.RESTORE: "restoring",
    Action.UNLOCK: "unlocking",
}


def limit_s(action: Action, timeouts: Timeouts) -> float:
    """Return how long one process may take for a move."""
    match action:
        case Action.LOCK:
            return timeouts.lock
        case Action.CHECKPOINT:
            return timeouts.freeze
        case Action.RESTORE | Action.UNLOCK:
            return timeouts.thaw
