"""Exit codes: one per class of error, so that scripts need not read messages.

    0    done
    1    any other failure, such as one of runsc or cuda-checkpoint
    2    the command line, or what it asks for, is wrong
    3    no such task, process or image
    4    the id or the image path is taken
    5    a legal request at the wrong moment, or on a host that does not fit
    6    a deadline passed
    7    it was cancelled, and rolled back
    8    disk, host memory or GPU memory ran out
    9    the image is damaged
    10   permission denied
    11   the sidecar cannot be reached
    12   another operation holds the task
    13   this runsc, driver or build cannot do it
    130  Ctrl-C; what had been begun was rolled back

`cryo run` and `cryo tasks exec` end with the status of the process instead, once it has started.
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
    """Choose the exit code of an error, by the class nearest to it."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)
