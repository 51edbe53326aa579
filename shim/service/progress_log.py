"""The progress of an operation whose caller takes no stream."""

from __future__ import annotations

import logging

from shim.host import progress_log
from shim.model import Progress

_log = logging.getLogger(__name__)


def log_progress(progress: Progress) -> None:
    """Log the progress of an operation whose caller takes no stream."""
    level = logging.WARNING if progress.warning else logging.DEBUG
    progress_log.log(_log, level, progress)
