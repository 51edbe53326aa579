"""The states of a task and the allowed transitions between them. Pure."""

from __future__ import annotations

import enum

from shim.errors import Busy, IllegalState


class TaskState(enum.StrEnum):
    """The state of a task in its lifecycle."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    CHECKPOINTING = "checkpointing"
    RESTORING = "restoring"
    STOPPED = "stopped"
    DELETED = "deleted"


_MOVES: dict[TaskState, frozenset[TaskState]] = {
    TaskState.CREATED: frozenset({TaskState.RUNNING, TaskState.RESTORING, TaskState.STOPPED}),
    TaskState.RUNNING: frozenset({TaskState.PAUSED, TaskState.CHECKPOINTING, TaskState.STOPPED}),
    TaskState.PAUSED: frozenset({TaskState.RUNNING, TaskState.CHECKPOINTING, TaskState.STOPPED}),
    TaskState.CHECKPOINTING: frozenset({TaskState.RUNNING, TaskState.PAUSED, TaskState.STOPPED}),
    TaskState.RESTORING: frozenset({TaskState.RUNNING, TaskState.STOPPED}),
    TaskState.STOPPED: frozenset({TaskState.DELETED}),
    TaskState.DELETED: frozenset(),
}

# The remedy for a task that is in the wrong state.
_REMEDY = {
    TaskState.CREATED: "start it first",
    TaskState.RUNNING: "pause or kill it first",
    TaskState.PAUSED: "resume it first",
    TaskState.STOPPED: "it has exited: delete it, and create or restore it again",
}
# The remedy for a specific operation, which takes precedence.
_REMEDY_OF_VERB = {
    ("delete", TaskState.RUNNING): "kill it first, then delete it",
    ("delete", TaskState.PAUSED): "kill it first, then delete it",
    ("start", TaskState.RUNNING): "it is already running",
    ("resume", TaskState.RUNNING): "it is already running",
    ("restore", TaskState.RUNNING): "choose another id, or kill and delete that task",
}

_BUSY = frozenset({TaskState.CHECKPOINTING, TaskState.RESTORING})


def move(task: str, old: TaskState, new: TaskState) -> TaskState:
    """Return `new` if the transition is allowed.

    Raises:
        Busy: a checkpoint or restore of the task is under way.
        IllegalState: the transition is not allowed.
    """
    if new in _MOVES[old]:
        return new
    if old in _BUSY:
        message = f"task {task} is {old}"
        raise Busy(message, remedy="wait for that operation, or cancel it")
    message = f"task {task} cannot go from {old} to {new}"
    raise IllegalState(message, remedy=_REMEDY.get(old, "see 'cryo tasks ls'"))


def require(task: str, state: TaskState, *allowed: TaskState, verb: str) -> None:
    """Check that `state` is one of `allowed` before doing `verb`.

    Raises:
        Busy: a checkpoint or restore of the task is under way.
        IllegalState: any other state that is not allowed.
    """
    if state in allowed:
        return
    if state in _BUSY:
        message = f"cannot {verb} task {task} while it is {state}"
        raise Busy(message, remedy="wait for that operation, or cancel it")
    wanted = " or ".join(allowed)
    message = f"cannot {verb} task {task}: it is {state}, not {wanted}"
    remedy = _REMEDY_OF_VERB.get((verb, state)) or _REMEDY.get(state, "see 'cryo tasks ls'")
    raise IllegalState(message, remedy=remedy)
