"""The states of a CUDA process: every way leads where it should, and never past a failure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.cuda.moves import AFTER, Action, step
from shim.errors import CudaError
from shim.model import CudaState

WORKING = (CudaState.RUNNING, CudaState.LOCKED, CudaState.CHECKPOINTED)


def path(now: CudaState, goal: CudaState) -> list[Action]:
    """Walk from one state to another."""
    actions: list[Action] = []
    while (action := step(7, now, goal)) is not None:
        actions.append(action)
        now = AFTER[action]
        assert len(actions) < 5
    assert now is goal
    return actions


@given(now=st.sampled_from(WORKING), goal=st.sampled_from(WORKING))
def test_every_state_is_reached_without_a_detour(now: CudaState, goal: CudaState) -> None:
    """As many actions as there are states between, all in one direction."""
    actions = path(now, goal)

    assert len(actions) == abs(WORKING.index(now) - WORKING.index(goal))
    downward = {Action.LOCK, Action.CHECKPOINT}
    assert set(actions) <= (
        downward if WORKING.index(now) < WORKING.index(goal) else set(Action) - downward
    )


def test_the_whole_cycle() -> None:
    """The four actions in the order that the driver demands."""
    assert path(CudaState.RUNNING, CudaState.CHECKPOINTED) == [Action.LOCK, Action.CHECKPOINT]
    assert path(CudaState.CHECKPOINTED, CudaState.RUNNING) == [Action.RESTORE, Action.UNLOCK]


@pytest.mark.parametrize("state", tuple(CudaState))
def test_nothing_leads_out_of_failed(state: CudaState) -> None:
    """A process that the driver has given up is said so, from either side."""
    with pytest.raises(CudaError, match="failed") as caught:
        step(7, CudaState.FAILED, state)
    assert caught.value.pid == 7
    with pytest.raises(CudaError):
        step(7, state, CudaState.FAILED)
