"""Converts the exceptions of a call to a CryoError, for gRPC and ttrpc alike."""

from __future__ import annotations

import asyncio
import logging

from shim.errors import Cancelled, CryoError

_log = logging.getLogger(__name__)


def of(error: BaseException, method: str) -> CryoError:
    """Return the error for the caller; an unexpected one is logged with its traceback.

    Raises:
        CancelledError: the call itself was cancelled, so no caller waits for the outcome.
    """
    if isinstance(error, asyncio.CancelledError):
        return _own_cancel(error)
    if isinstance(error, CryoError):
        return error
    _log.error("%s failed unexpectedly", method, exc_info=error)
    message = f"internal error: {type(error).__name__}"
    return CryoError(message, remedy="see the server's log")


def _own_cancel(error: asyncio.CancelledError) -> CryoError:
    """Return the error if the core's operation was cancelled; raise if the call was."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise error
    return Cancelled("the operation was cancelled")
