"""Reports the operations on tasks to metrics, events and traces, by two functions of each.

They are those of the context in which an operation begins and ends, so that it does not matter by
which call or background task it was begun.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from shim.model import TaskRef, Timeline

Began = Callable[[TaskRef, str], None]
"""Called with the task and the name of an operation that begins."""
Ended = Callable[[TaskRef, Timeline], None]
"""Called with the task and the timeline of an operation that has ended."""


class _Observer(NamedTuple):
    began: Began | None
    ended: Ended | None


_observers: ContextVar[tuple[_Observer, ...]] = ContextVar("observers of operations", default=())


@contextlib.contextmanager
def observed_by(*, began: Began | None = None, ended: Ended | None = None) -> Iterator[None]:
    """Report the operations of this context, and of the tasks that are created in it."""
    token = _observers.set((*_observers.get(), _Observer(began, ended)))
    try:
        yield
    finally:
        _observers.reset(token)


def began(folder: Path, operation: str) -> None:
    """Report that an operation on the task of a folder begins."""
    for one in _observers.get():
        if one.began is not None:
            one.began(_task_of(folder), operation)


def ended(folder: Path, timeline: Timeline) -> None:
    """Report that an operation on the task of a folder has ended."""
    for one in _observers.get():
        if one.ended is not None:
            one.ended(_task_of(folder), timeline)


def _task_of(folder: Path) -> TaskRef:
    """Return the task that a folder of the state directory is of: NAMESPACE/ID."""
    return TaskRef(namespace=folder.parent.name, id=folder.name)
