"""The fields of log lines: of the request that is being answered, and of single records.

A request sets its fields once; every line that is logged while it is answered has them, also those
of the asyncio tasks that are created for it. Values are plain: a number, a text or a time.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from uuid import uuid4

FieldValue = str | int | float | bool

OPERATION = "operation"
_KEY = "cryo_fields"
_NONE: Mapping[str, FieldValue] = {}

_current: ContextVar[Mapping[str, FieldValue]] = ContextVar("fields of log lines", default=_NONE)


def current() -> Mapping[str, FieldValue]:
    """Return the fields of the request that is being answered."""
    return _current.get()


@contextlib.contextmanager
def request() -> Iterator[None]:
    """Begin a request: give it an operation id, which it may replace by its own."""
    token = _current.set({OPERATION: uuid4().hex})
    try:
        yield
    finally:
        _current.reset(token)


@contextlib.contextmanager
def no_request() -> Iterator[None]:
    """Leave the request, for work that outlives it and serves others too."""
    token = _current.set(_NONE)
    try:
        yield
    finally:
        _current.reset(token)


def add(**fields: FieldValue) -> None:
    """Add to the fields of the request; an empty text changes nothing."""
    _current.set({**_current.get(), **{name: one for name, one in fields.items() if one != ""}})


def operation_id() -> str:
    """Return the operation id of the request; outside any request a new one."""
    return str(_current.get().get(OPERATION) or uuid4().hex)


def attached(fields: Mapping[str, object]) -> dict[str, object]:
    """Return what logging's `extra` takes: the plain ones of these fields.

    Others are left out: mounts, for example, may have passwords in their options.
    """
    return {_KEY: {name: one for name, value in fields.items() for one in _plain(value)}}


def of(record: logging.LogRecord) -> Mapping[str, FieldValue]:
    """Return the fields of a record: those of the request, and its own."""
    own: Mapping[str, FieldValue] = getattr(record, _KEY, _NONE)
    return {**_current.get(), **own}


def _plain(value: object) -> Iterator[FieldValue]:
    if isinstance(value, datetime):
        yield value.isoformat()
    elif isinstance(value, str | int | float):
        yield value
