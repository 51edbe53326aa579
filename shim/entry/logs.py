"""Log formats: plain lines for people, JSON for collectors, and the format of containerd's log."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from types import TracebackType

from shim.host.text import printable

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
_PLAIN = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Plain(logging.Formatter):
    """A line for each record; a traceback is indented, so its lines cannot be taken for records."""

    def __init__(self) -> None:
        super().__init__(_PLAIN)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Format a record without its traceback."""
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 - logging's name
        """Format a traceback."""
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"  {printable(line)}" for line in lines)


class Json(logging.Formatter):
    """A line with a JSON object for each record, including its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record on one line."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


class Pairs(logging.Formatter):
    """The format that containerd reads from shims: a line of name=value pairs for each record."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record on one line."""
        text = record.getMessage()
        if record.exc_info:
            text = f"{text} | {self.formatException(record.exc_info)}"
        message = json.dumps(printable(text.replace("\n", " | ")), ensure_ascii=False)
        time, level = self.formatTime(record), record.levelname
        return f'time="{time}" level={level} msg={message} runtime=cryo'


def set_up(level: str, style: str) -> None:
    """Log records of at least `level` to stderr, in the style `plain` or `json`."""
    handler = logging.StreamHandler()
    handler.setFormatter(Json() if style == "json" else Plain())
    logging.basicConfig(level=level.upper(), handlers=[handler])
