"""Exit codes: one per class of error, so that scripts need not read messages.

    0    success
    1    any other failure, such as one of runsc or cuda-checkpoint
    2    invalid command line or argument
    3    no such task, process or image
    4    the id or the image path already exists
    5    not possible in the current state, or on this host
    6    timed out
    7    cancelled, and rolled back
    8    disk, host memory or GPU memory ran out
    9    the image is damaged
    10   permission denied
    11   the sidecar cannot be reached
    12   another operation holds the task
    13   not supported by this runsc, driver or build
    130  Ctrl-C; the operation was rolled back

Once the process has started, `cryo run` and `cryo tasks exec` exit with its status instead.
"""

from __future__ import annotations

from shim import errors
from shim.errors import CryoError

FAILED = 1
USAGE = 2
INTERRUPTED = 130

CODES: dict[type[CryoError], int] = {
    errors.CryoError: FAILED,
    errors.InvalidArgument: USAGE,
    errors.NotFound: 3,
    errors.AlreadyExists: 4,
    errors.FailedPrecondition: 5,
    errors.DeadlineExceeded: 6,
    errors.Cancelled: 7,
    errors.ResourceExhausted: 8,
    errors.ImageCorrupt: 9,
    errors.PermissionDenied: 10,
    errors.Unavailable: 11,
    errors.Busy: 12,
    errors.Unimplemented: 13,
}


def code_of(error: CryoError) -> int:
    """Return the exit code of the nearest class of an error."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)
