"""The states of a CUDA process and the moves of cuda-checkpoint between them. Pure.

running --lock--> locked --checkpoint--> checkpointed --restore--> locked --unlock--> running
failed: terminal
"""

from __future__ import annotations

import enum

from shim.errors import CudaError
from shim.model import CudaState


class Action(enum.StrEnum):
    """What `cuda-checkpoint --action` takes."""

    LOCK = "lock"
    CHECKPOINT = "checkpoint"
    RESTORE = "restore"
    UNLOCK = "unlock"


_UP = [CudaState.RUNNING, CudaState.LOCKED, CudaState.CHECKPOINTED]
_DOWNWARD = {CudaState.RUNNING: Action.LOCK, CudaState.LOCKED: Action.CHECKPOINT}
_UPWARD = {CudaState.CHECKPOINTED: Action.RESTORE, CudaState.LOCKED: Action.UNLOCK}
AFTER = {
    Action.LOCK: CudaState.LOCKED,
    Action.CHECKPOINT: CudaState.CHECKPOINTED,
    Action.RESTORE: CudaState.LOCKED,
    Action.UNLOCK: CudaState.RUNNING,
}


def step(pid: int, now: CudaState, goal: CudaState) -> Action | None:
    """Return the next action on the way from `now` to `goal`; None when it is there.

    Raises:
        CudaError: the driver has declared the process failed; nothing leads out of that.
    """
    if CudaState.FAILED in (now, goal):
        message = f"the driver has declared process {pid} failed: its GPU state is lost"
        raise CudaError(message, pid=pid, remedy="kill the task and start it again")
    if now == goal:
        return None
    downward = _UP.index(now) < _UP.index(goal)
    return _DOWNWARD[now] if downward else _UPWARD[now]
