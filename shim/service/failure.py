"""Converts what a call raises to an error of ours, the same for every edge."""

from __future__ import annotations

import asyncio
import logging

from shim.errors import Cancelled, CryoError

_log = logging.getLogger(__name__)


def of(error: BaseException, method: str) -> CryoError:
    """Return the error for the caller; an unexpected one is logged with its traceback.

    Raises:
        CancelledError: the call itself was cancelled, and its outcome has no receiver.
    """
    if isinstance(error, asyncio.CancelledError):
        return _own_cancel(error)
    if isinstance(error, CryoError):
        return error
    _log.error("%s failed unexpectedly", method, exc_info=error)
    message = f"internal error: {type(error).__name__}"
    return CryoError(message, remedy="the server's log has the details")


def _own_cancel(error: asyncio.CancelledError) -> CryoError:
    """Return whether the core's operation, and not the call, was cancelled."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise error
    return Cancelled("the operation was cancelled")
