"""The error classes. `shim.service.status` maps each to a gRPC code.

CryoError
├── InvalidArgument         the request can never work as written
│   └── InvalidBundle       bundle or config.json missing or broken
├── NotFound                no such task, process or image
├── AlreadyExists           the id or the image path is taken
├── FailedPrecondition      a valid request in the wrong state
│   ├── IllegalState        the task is in a state that does not allow it
│   ├── Refused             preflight found that it cannot succeed; nothing was changed
│   │   └── Impossible      the same later: it is due to the containers or this host
│   ├── HostMismatch        the image does not fit this host
│   └── HookFailed          a hook of the container failed; has its output
├── Busy                    another operation holds the task
├── ImageCorrupt            an image differs from what was sealed
├── DeadlineExceeded        a phase timed out; names the process that delayed it
├── Cancelled               the caller cancelled or disconnected
├── ResourceExhausted       disk, host memory or GPU memory is full
├── PermissionDenied
├── Unimplemented           this runsc, driver or build cannot do it
├── Unavailable             the sidecar cannot be reached
├── RunscError              runsc failed; has its last error line
└── CudaError               cuda-checkpoint failed; names the process
"""

from __future__ import annotations


class CryoError(Exception):
    """An expected failure: one line on what failed and why, and one with a remedy."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def rename(self, old: str, new: str) -> None:
        """Replace an internal path, `old`, with `new`, which the caller can interpret."""
        self.message = self.message.replace(old, new)
        self.args = (self.message,)

    def __str__(self) -> str:
        """Return the message alone; the user interface shows the remedy separately."""
        return self.message


def class_of(error: BaseException) -> str:
    """Return the class of an error as logs and metrics name it; a cancellation is `Cancelled`."""
    name = type(error).__name__
    return "Cancelled" if name == "CancelledError" else name


class InvalidArgument(CryoError):
    """The request can never work as written."""


class InvalidBundle(InvalidArgument):
    """The bundle or its config.json is missing or broken."""


class NotFound(CryoError):
    """No such task, process or image."""


class AlreadyExists(CryoError):
    """The id or the image path is taken."""


class FailedPrecondition(CryoError):
    """A valid request in the wrong state."""


class IllegalState(FailedPrecondition):
    """The task is in a state that does not allow the operation."""


class Refused(FailedPrecondition):
    """Preflight found that the operation cannot succeed; nothing was changed."""


class Impossible(Refused):
    """It cannot succeed later either: the cause is how the containers were made, or this host."""


class HostMismatch(FailedPrecondition):
    """The image does not fit this host: runsc, architecture, CPU, driver or GPUs."""


class HookFailed(FailedPrecondition):
    """A hook of the container failed; the message has its output."""


class Busy(CryoError):
    """Another operation holds the task."""


class ImageCorrupt(CryoError):
    """The image differs from what was sealed."""


class DeadlineExceeded(CryoError):
    """A phase timed out."""


class Cancelled(CryoError):
    """The caller cancelled or disconnected; the operation was rolled back."""


class ResourceExhausted(CryoError):
    """Disk, host memory or GPU memory ran out."""


class PermissionDenied(CryoError):
    """The operating system or a policy of this project denied it."""


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
        """Replace it in runsc's own line too."""
        super().rename(old, new)
        self.line = self.line.replace(old, new)


class CudaError(CryoError):
    """cuda-checkpoint failed on one process of the container."""

    def __init__(self, message: str, *, pid: int = 0, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.pid = pid
