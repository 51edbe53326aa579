"""Whatever a call raises becomes an error of ours, the same for every edge."""

from __future__ import annotations

import asyncio
import logging

from shim.errors import Cancelled, CryoError

_log = logging.getLogger(__name__)


def of(error: BaseException, method: str) -> CryoError:
    """Return the error that the caller is told; what nobody expected goes to the log whole.

    Raises:
        CancelledError: the call itself was cancelled, and nobody hears how it ended.
    """
    if isinstance(error, asyncio.CancelledError):
        return _own_cancel(error)
    if isinstance(error, CryoError):
        return error
    _log.error("%s failed unexpectedly", method, exc_info=error)
    message = f"internal error: {type(error).__name__}"
    return CryoError(message, remedy="the server's log has the details")


def _own_cancel(error: asyncio.CancelledError) -> CryoError:
    """Tell a cancelled operation of the core from a cancelled call."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise error
    return Cancelled("the operation was cancelled")
