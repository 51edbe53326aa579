"""Log formats: logfmt and JSON, with the same fields, a line for each record.

`time`, `level`, `msg` and `logger` come first, then the fields of the request (`operation`,
`namespace`, `task`) and of the record, and last `exception`, a traceback.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from shim.host import log_fields
from shim.host.log_fields import FieldValue
from shim.host.text import printable
from shim.model import TaskRef

# What a value may consist of without quotes.
_BARE = re.compile(r"[^\s\"=\\]+")


class Json(logging.Formatter):
    """A JSON object for each record."""

    def __init__(self, runtime: str = "") -> None:
        """Take the value of the field `runtime`; there is none if it is empty."""
        super().__init__()
        self._runtime = runtime

    def format(self, record: logging.LogRecord) -> str:
        """Write a record on one line."""
        return json.dumps(self.fields(record))

    def fields(self, record: logging.LogRecord) -> dict[str, FieldValue]:
        """Return the fields of a line, in their order."""
        found: dict[str, FieldValue] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "msg": record.getMessage(),
            "logger": record.name,
        }
        if self._runtime:
            found["runtime"] = self._runtime
        found |= {name: one for name, one in _of(record).items() if name not in found}
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return found


class Logfmt(Json):
    """A line of name=value pairs for each record, as containerd reads them from shims."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record on one line."""
        return " ".join(f"{name}={_value(one)}" for name, one in self.fields(record).items())


def _of(record: logging.LogRecord) -> Mapping[str, FieldValue]:
    """Return the fields of a record; a task that its message names is that of the line."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    named = [one for one in arguments if isinstance(one, TaskRef)]
    task = {"namespace": named[0].namespace, "task": named[0].id} if named else {}
    return {**log_fields.of(record), **task}


def _value(one: FieldValue) -> str:
    if isinstance(one, bool):
        return str(one).lower()
    text = printable(str(one).replace("\n", " | "))
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def set_up(level: str, style: str) -> None:
    """Log records of at least `level` to stderr, in the style `logfmt` or `json`."""
    handler = logging.StreamHandler()
    handler.setFormatter(Json() if style == "json" else Logfmt())
    logging.basicConfig(level=level.upper(), handlers=[handler])
