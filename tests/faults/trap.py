"""A trap: a fault that is injected at one failpoint, in the process that reaches it.

The process arms a `Snare` (see `shim.failpoints`), which reads the trap from a file at each
failpoint. So a test sets and removes traps from outside, at any time.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from shim import failpoints, model
from shim.errors import CryoError, CudaError, RunscError
from shim.host.oserror import typed
from shim.model import Value

ENV = "CRYO_TEST_TRAP"
INJECTED = "injected fault"
_SLOW_S = 0.3
# Steps whose functions convert OSError to typed errors themselves.
_TYPED = (
    *("image.name", "image.sync", "image.verify-cache", "image.discard"),
    *("image.label", "image.index", "image.remove", "image.erase"),
)
_JUMP = timedelta(days=1)


class Deed(enum.StrEnum):
    """The effect of a trap on the process that reaches it."""

    NONE = "none"  # only records the trace
    ERROR = "error"  # the step fails with its usual error
    KILL = "kill"  # the process exits as after kill -9
    HALT = "halt"  # the process stops until SIGCONT
    SLOW = "slow"  # the step takes longer
    CLOCK = "clock"  # the time of day jumps by a day


class Trap(Value):
    """A deed, at the `nth` time that `point` (such as "journal.note:before") is reached."""

    deed: Deed
    point: str = ""
    nth: int = 1


class Snare:
    """The hook: counts failpoints from the moment that a trap is set, and records them."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen = 0
        # Inode and mtime: a new file may reuse the inode.
        self._identity = (0, 0)

    def reached(self, point: str) -> None:
        """Record a failpoint, and execute the trap if it matches."""
        trap = self._trap()
        if trap is None:
            return
        with trace_of(self._file).open("a", encoding="ascii") as file:
            file.write(f"{point}\n")
        if point != trap.point:
            return
        self._seen += 1
        if self._seen == trap.nth:
            hit_of(self._file).touch()
            self._file.unlink()
            _do(trap.deed, point)

    def _trap(self) -> Trap | None:
        try:
            found, data = self._file.stat(), self._file.read_bytes()
        except FileNotFoundError:
            return None
        identity = (found.st_ino, found.st_mtime_ns)
        if identity != self._identity:
            self._identity, self._seen = identity, 0
        return msgspec.json.decode(data, type=Trap)


def trace_of(file: Path) -> Path:
    """Return the path of the file with the points that were reached, one per line."""
    return file.with_suffix(".trace")


def hit_of(file: Path) -> Path:
    """Return the path of the file that exists once the trap was hit."""
    return file.with_suffix(".hit")


def put(file: Path, trap: Trap) -> None:
    """Set a trap; remove the previous one and its files."""
    remove(file)
    partial = file.with_suffix(".new")
    partial.write_bytes(msgspec.json.encode(trap))
    partial.replace(file)


def remove(file: Path) -> None:
    """Remove a trap and its traces."""
    for path in (file, trace_of(file), hit_of(file)):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def traced(file: Path) -> Iterator[Counter[str]]:
    """Count the points that are reached in the context; the counts are complete on exit."""
    put(file, Trap(deed=Deed.NONE))
    found: Counter[str] = Counter()
    yield found
    found.update(trace_of(file).read_text("ascii").split())
    remove(file)


def _do(deed: Deed, point: str) -> None:
    if deed is Deed.ERROR:
        raise error_of(point)
    if deed is Deed.KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    elif deed is Deed.HALT:
        os.kill(os.getpid(), signal.SIGSTOP)
    elif deed is Deed.SLOW:
        time.sleep(_SLOW_S)
    elif deed is Deed.CLOCK:
        jump()


def error_of(point: str) -> CryoError | OSError:
    """Return the error with which a step of this kind fails."""
    kind, _, name = point.partition(":")[0].partition(".")
    if kind == "runsc":
        return RunscError(name, 128, INJECTED)
    if kind == "cuda":
        return CudaError(f"cuda-checkpoint {name}: {INJECTED}")
    error = OSError(errno.EIO, INJECTED)
    return typed(error, name) if f"{kind}.{name}" in _TYPED else error


def jump() -> None:
    """Advance the wall clock of this process by a day."""
    plain = model.utcnow

    def later() -> datetime:
        return plain() + _JUMP

    for module in list(sys.modules.values()):
        with contextlib.suppress(AttributeError, TypeError):
            if vars(module).get("utcnow") is plain:
                setattr(module, "utcnow", later)  # noqa: B010  # mypy takes it for a mistake


def arm() -> None:
    """Arm the trap file in the environment, if there is one."""
    if name := os.environ.get(ENV):
        failpoints.arm(Snare(Path(name)).reached)
