"""How the sidecar writes its log: lines for people, or one JSON object a line for collectors."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

PLAIN = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Json(logging.Formatter):
    """One JSON object for each record, a traceback included."""

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


def set_up(level: str, style: str) -> None:
    """Send everything of at least `level` to stderr, as `plain` lines or as `json`."""
    handler = logging.StreamHandler()
    handler.setFormatter(Json() if style == "json" else logging.Formatter(PLAIN))
    logging.basicConfig(level=level.upper(), handlers=[handler])
