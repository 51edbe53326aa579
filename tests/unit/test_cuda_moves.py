"""The moves of a CUDA process: where each leads, and what is said of it on the way."""

from __future__ import annotations

from itertools import pairwise

import pytest

from shim.config import Timeouts
from shim.cuda.moves import AFTER, PHASE, UNDER_WAY, Action, limit_s
from shim.model import CudaState, Phase


def test_the_whole_cycle() -> None:
    """The four actions in the order that the driver demands lead from running back to it."""
    states = [CudaState.RUNNING, *(AFTER[action] for action in Action)]

    assert states == ["running", "locked", "checkpointed", "locked", "running"]
    assert all(before is not after for before, after in pairwise(states))
    assert CudaState.FAILED not in AFTER.values()


@pytest.mark.parametrize(
    ("action", "phase", "under_way", "seconds"),
    (
        (Action.LOCK, Phase.LOCK, "locking", 1),
        (Action.CHECKPOINT, Phase.FREEZE, "checkpointing", 2),
        (Action.RESTORE, Phase.THAW, "restoring", 3),
        (Action.UNLOCK, Phase.THAW, "unlocking", 3),
    ),
)
def test_each_move(action: Action, phase: Phase, under_way: str, seconds: float) -> None:
    """Its phase, its word in the journal, and its own timeout."""
    assert PHASE[action] is phase
    assert UNDER_WAY[action] == under_way
    assert limit_s(action, Timeouts(lock=1, freeze=2, thaw=3)) == seconds
