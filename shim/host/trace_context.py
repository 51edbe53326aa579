"""The trace that a call is part of, and the tracer, if this process has one.

Without OTEL_* in the environment there is no tracer, and nothing of it is loaded: `span` does
nothing. A trace context that a caller sends is passed on all the same, in W3C's form.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shim.model import TaskRef, Timeline

KEY = "traceparent"
# W3C Trace Context; later versions may append fields.
_VALID = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_NOTHING: AbstractContextManager[None] = nullcontext()

_passed_on: ContextVar[str] = ContextVar("trace context of the caller", default="")


class Tracer(Protocol):
    """Makes spans and sends them somewhere."""

    def client(self, name: str) -> AbstractContextManager[None]:
        """Make the span of a call to another process, for the block."""

    def server(self, name: str, parent: str) -> AbstractContextManager[None]:
        """Make the span of a call that is answered, for the block; `parent` is the caller's."""

    def current(self) -> str:
        """Return the context of the current span; empty if there is none."""

    def operation(self, ref: TaskRef, timeline: Timeline) -> None:
        """Make the spans of an operation that has ended, as a part of the current span."""

    def close(self) -> None:
        """Send what is left, for a limited time."""


_tracer: Tracer | None = None


def install(tracer: Tracer) -> None:
    """Use a tracer in this process."""
    global _tracer  # noqa: PLW0603 - one for the process
    _tracer = tracer


def close() -> None:
    """Send what is left, and have no tracer any more."""
    global _tracer
    tracer, _tracer = _tracer, None
    if tracer is not None:
        tracer.close()


def client(name: str) -> AbstractContextManager[None]:
    """Make the span of a call to another process, for the block."""
    return _NOTHING if _tracer is None else _tracer.client(name)


def server(name: str, parent: str) -> AbstractContextManager[None]:
    """Make the span of a call that is answered, for the block, with the context of its caller."""
    valid = parent if parent and _VALID.match(parent) else ""
    if _tracer is not None:
        return _tracer.server(name, valid)
    return _passing_on(valid) if valid else _NOTHING


def operation(ref: TaskRef, timeline: Timeline) -> None:
    """Make the spans of an operation that has ended."""
    if _tracer is not None:
        _tracer.operation(ref, timeline)


def metadata() -> dict[str, str]:
    """Return what a call sends of its trace: nothing if it is part of none."""
    context = _passed_on.get() if _tracer is None else _tracer.current()
    return {KEY: context} if context else {}


@contextmanager
def _passing_on(parent: str) -> Iterator[None]:
    token = _passed_on.set(parent)
    try:
        yield
    finally:
        _passed_on.reset(token)
