"""The error classes. `shim.service.status` alone chooses the gRPC code of each.

CryoError
├── InvalidArgument         the request can never work as written
│   └── InvalidBundle       bundle or config.json missing or broken
├── NotFound                no such task, process or image
├── AlreadyExists           the id or the image path is taken
├── FailedPrecondition      legal request, wrong moment
│   ├── IllegalState        the task is in a state that does not allow it
│   ├── Refused             preflight says that it cannot succeed; nothing was touched
│   └── HostMismatch        the image does not fit this host
├── Busy                    another operation holds the task
├── ImageCorrupt            an image is not what was sealed
├── DeadlineExceeded        a phase ran out of time; names the process that held it up
├── Cancelled               the caller went away
├── ResourceExhausted       disk, host memory or GPU memory
├── PermissionDenied
├── Unimplemented           this runsc, driver or build cannot do it
├── Unavailable             the sidecar cannot be reached
├── RunscError              runsc failed; carries its own last error line
└── CudaError               cuda-checkpoint failed; names the process
"""

from __future__ import annotations


class CryoError(Exception):
    """An expected failure: one line of what happened and one of what to do about it."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def rename(self, old: str, new: str) -> None:
        """Say `new` wherever a path of ours, `old`, was said, which the caller does not know."""
        self.message = self.message.replace(old, new)
        self.args = (self.message,)

    def __str__(self) -> str:
        """Give the message alone; the remedy is shown beside it by the user interface."""
        return self.message


class InvalidArgument(CryoError):
    """The request can never work as written."""


class InvalidBundle(InvalidArgument):
    """The bundle or its config.json is missing or broken."""


class NotFound(CryoError):
    """No such task, process or image."""


class AlreadyExists(CryoError):
    """The id or the image path is taken."""


class FailedPrecondition(CryoError):
    """A legal request at the wrong moment."""


class IllegalState(FailedPrecondition):
    """The task is in a state that does not allow the operation."""


class Refused(FailedPrecondition):
    """Preflight found that the operation cannot succeed; nothing was touched."""


class HostMismatch(FailedPrecondition):
    """The image does not fit this host: runsc, architecture, CPU, driver or GPUs."""


class Busy(CryoError):
    """Another operation holds the task."""


class ImageCorrupt(CryoError):
    """The image is not what was sealed."""


class DeadlineExceeded(CryoError):
    """A phase ran out of time."""


class Cancelled(CryoError):
    """The caller went away; what had been begun was rolled back."""


class ResourceExhausted(CryoError):
    """Disk, host memory or GPU memory ran out."""


class PermissionDenied(CryoError):
    """The operating system or our own policy said no."""


class Unimplemented(CryoError):
    """This runsc, driver or build cannot do it."""


class Unavailable(CryoError):
    """The sidecar or the sandbox cannot be reached."""


class RunscError(CryoError):
    """A runsc command failed.

    `line` is runsc's own last error line, never a goroutine dump; `status` its exit status.
    """

    def __init__(self, command: str, status: int, line: str, *, remedy: str = "") -> None:
        super().__init__(f"runsc {command} failed: {line}", remedy=remedy)
        self.command = command
        self.status = status
        self.line = line

    def rename(self, old: str, new: str) -> None:
        """Say it in runsc's own line too."""
        super().rename(old, new)
        self.line = self.line.replace(old, new)


class CudaError(CryoError):
    """cuda-checkpoint failed on one process of the container."""

    def __init__(self, message: str, *, pid: int = 0, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.pid = pid
