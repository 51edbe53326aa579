"""From the operating system's errors to ours: one table, so that every room says the same."""

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
    errno.EROFS: (PermissionDenied, "the filesystem is read-only: choose another place"),
    errno.ENOSPC: (ResourceExhausted, "free some disk space"),
    errno.EDQUOT: (ResourceExhausted, "free some of the quota"),
    errno.EMFILE: (ResourceExhausted, "raise the limit of open files (LimitNOFILE)"),
    errno.ENFILE: (ResourceExhausted, "raise fs.file-max"),
    errno.ENOMEM: (ResourceExhausted, "free some memory"),
    errno.EAGAIN: (ResourceExhausted, "raise the limit of processes"),
    errno.EBUSY: (Busy, "something still uses it: end that first"),
    errno.ETXTBSY: (Busy, "something still writes it: end that first"),
    errno.ELOOP: (InvalidArgument, "name the file itself, not a link to it"),
    errno.EINVAL: (InvalidArgument, ""),
    errno.ENOEXEC: (InvalidArgument, "it is no program that this machine can run"),
    errno.ENAMETOOLONG: (InvalidArgument, "use a shorter name"),
    errno.E2BIG: (InvalidArgument, "pass fewer or shorter arguments"),
    errno.ENOSYS: (Unimplemented, "use a newer kernel"),
}


def typed(error: OSError, doing: str) -> CryoError:
    """Translate `error` met while `doing` something (`"read /x"`); the caller raises it `from`."""
    kind, remedy = _CLASSES.get(error.errno or 0, (FailedPrecondition, ""))
    return kind(f"cannot {doing}: {error.strerror or error}", remedy=remedy)


def typed_number(number: int, doing: str) -> CryoError:
    """Translate an errno that came over a socket or out of a system call."""
    return typed(OSError(number, os.strerror(number)), doing)
