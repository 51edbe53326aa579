"""The HTTP status of each class of error."""

from __future__ import annotations

from shim import errors
from shim.errors import CryoError

_STATUS: dict[type[CryoError], int] = {
    errors.InvalidArgument: 400,
    errors.PermissionDenied: 403,
    errors.NotFound: 404,
    errors.Busy: 503,
    errors.ResourceExhausted: 503,
    errors.Unavailable: 503,
    errors.DeadlineExceeded: 504,
}
_OTHER = 500


def status_of(error: CryoError) -> int:
    """Return the status of the nearest class that has one."""
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), _OTHER)
