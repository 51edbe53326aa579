"""Maps the operating system's errors to `CryoError`s, by one table for all modules."""

from __future__ import annotations

import errno
import os

from shim.errors import (
    AlreadyExists,
    Busy,
    CryoError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unimplemented,
)

_CLASSES: dict[int, tuple[type[CryoError], str]] = {
    errno.ENOENT: (NotFound, "check the path"),
    errno.ENOTDIR: (NotFound, "check the path"),
    errno.ESRCH: (NotFound, "the process is gone"),
    errno.ENODEV: (InvalidArgument, "check the filesystem type"),
    errno.EEXIST: (AlreadyExists, "choose another path, or remove the old one"),
    errno.ENOTEMPTY: (AlreadyExists, "choose another path, or remove the old one"),
    errno.EACCES: (PermissionDenied, "run as root, or correct the owner and mode"),
    errno.EPERM: (PermissionDenied, "run as root, or correct the owner and mode"),
    errno.EROFS: (PermissionDenied, "the filesystem is read-only: choose another path"),
    errno.ENOSPC: (ResourceExhausted, "free some disk space"),
    errno.EDQUOT: (ResourceExhausted, "free some of the quota"),
    errno.EMFILE: (ResourceExhausted, "raise the limit of open files (LimitNOFILE)"),
    errno.ENFILE: (ResourceExhausted, "raise fs.file-max"),
    errno.ENOMEM: (ResourceExhausted, "free some memory"),
    errno.EAGAIN: (ResourceExhausted, "raise the limit of processes"),
    errno.EBUSY: (Busy, "it is in use: stop the process that uses it"),
    errno.ETXTBSY: (Busy, "it is open for writing: stop the process that writes it"),
    errno.ELOOP: (InvalidArgument, "name the file itself, not a link to it"),
    errno.EINVAL: (InvalidArgument, ""),
    errno.ENOEXEC: (InvalidArgument, "use a program built for this machine"),
    errno.ENAMETOOLONG: (InvalidArgument, "use a shorter name"),
    errno.E2BIG: (InvalidArgument, "pass fewer or shorter arguments"),
    errno.ENOSYS: (Unimplemented, "use a newer kernel"),
}


def typed(error: OSError, doing: str) -> CryoError:
    """Translate an `error` raised while `doing` something (`"read /x"`); the caller raises it."""
    kind, remedy = _CLASSES.get(error.errno or 0, (FailedPrecondition, ""))
    return kind(f"cannot {doing}: {error.strerror or error}", remedy=remedy)


def typed_number(number: int, doing: str) -> CryoError:
    """Translate an errno received over a socket or from a system call."""
    return typed(OSError(number, os.strerror(number)), doing)
