"""Logs progress as lines with its phase and process in fields of their own."""

from __future__ import annotations

import logging

from shim.host import log_fields
from shim.model import Progress


def log(logger: logging.Logger, level: int, progress: Progress) -> None:
    """Log a progress update."""
    fields: dict[str, object] = {"phase": progress.phase.value}
    if progress.pid:
        fields |= {"pid": progress.pid, "pid_state": progress.pid_state}
    text = progress.message or f"phase {progress.phase}"
    logger.log(level, "%s", text, extra=log_fields.attached(fields))
