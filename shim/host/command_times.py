"""Reports how long commands take to the operation that they are a part of, if it measures them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar

Observer = Callable[[str, float, float], None]
"""Called at the end of a command with its name, when it began (monotonic), and its seconds."""

_observer: ContextVar[Observer | None] = ContextVar("observer of commands", default=None)


@contextlib.contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Report the commands of this context, and of the tasks that are created in it."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


@contextlib.contextmanager
def command(name: str) -> Iterator[None]:
    """Report the time of this block as that of a command, also if it fails."""
    observer = _observer.get()
    if observer is None:
        yield
        return
    began = time.monotonic()
    try:
        yield
    finally:
        observer(name, began, time.monotonic() - began)
