"""The states of a task: which moves there are, and which error says that there is none."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shim.errors import Busy, IllegalState
from shim.state import TaskState, move, require

STATES = st.sampled_from(TaskState)
BUSY = {TaskState.CHECKPOINTING, TaskState.RESTORING}
LEGAL = {
    ("created", "running"),
    ("created", "restoring"),
    ("created", "stopped"),
    ("running", "paused"),
    ("running", "checkpointing"),
    ("running", "stopped"),
    ("paused", "running"),
    ("paused", "checkpointing"),
    ("paused", "stopped"),
    ("checkpointing", "running"),
    ("checkpointing", "paused"),
    ("checkpointing", "stopped"),
    ("restoring", "running"),
    ("restoring", "stopped"),
    ("stopped", "deleted"),
}


@pytest.mark.parametrize("old", tuple(TaskState))
@pytest.mark.parametrize("new", tuple(TaskState))
def test_the_table(old: TaskState, new: TaskState) -> None:
    """Exactly these moves; any other is Busy out of an operation, and illegal out of the rest."""
    if (old, new) in LEGAL:
        assert move("a", old, new) is new
        return
    with pytest.raises(Busy if old in BUSY else IllegalState, match="task a") as caught:
        move("a", old, new)
    assert old.value in caught.value.message


@given(state=STATES, allowed=st.lists(STATES, max_size=4))
def test_what_an_operation_needs(state: TaskState, allowed: list[TaskState]) -> None:
    """Allowed goes through; busy says to wait; the rest says what would be needed."""
    if state in allowed:
        require("a", state, *allowed, verb="kill")
        return
    kind = Busy if state in BUSY else IllegalState
    with pytest.raises(kind, match="cannot kill task a") as caught:
        require("a", state, *allowed, verb="kill")
    assert state.value in caught.value.message
    assert kind is IllegalState or caught.value.remedy


class Life(RuleBasedStateMachine):
    """Any sequence of tried moves."""

    def __init__(self) -> None:
        super().__init__()
        self.state = TaskState.CREATED
        self.ended = False

    @rule(new=STATES)
    def go(self, new: TaskState) -> None:
        """Try one."""
        try:
            self.state = move("a", self.state, new)
        except (Busy, IllegalState):
            return
        self.ended = self.ended or new is TaskState.STOPPED

    @invariant()
    def nothing_comes_back_to_life(self) -> None:
        """Allow what has exited only to be deleted."""
        if self.ended:
            assert self.state in {TaskState.STOPPED, TaskState.DELETED}


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=30, stateful_step_count=20)


@pytest.mark.parametrize("state", tuple(one for one in TaskState if one is not TaskState.DELETED))
def test_every_state_leads_to_the_end(state: TaskState) -> None:
    """No task is stuck: each state but the last can be left, and stopped can be reached."""
    if state is not TaskState.STOPPED:
        assert move("a", state, TaskState.STOPPED) is TaskState.STOPPED
    assert move("a", TaskState.STOPPED, TaskState.DELETED) is TaskState.DELETED
