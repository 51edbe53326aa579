"""`cryo serve`, but it halts where a test wants it: at a write of the journal, or in a trap.

A halt is a SIGSTOP that the sidecar sends to itself. A test that waits for it has time to
kill, to cancel, to fill a disk or to let a deadline pass, and continues it with SIGCONT. So a fault
hits the moment that it names, on a slow machine as on a fast one.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import msgspec

from shim.model import Value
from shim.transaction.journal import Entry, Journal
from tests.faults import trap

ENV = "CRYO_TEST_HALT"


class Point(Value):
    """A write of the journal: the first that fits all that is given.

    `move` is a process's state as the journal writes it ("locking", "checkpointed"), `write` the
    number of the write counted from the journal's opening, `saving` the first that names the
    process of the save. `before` halts ahead of it, else right after.
    """

    operation: str = "checkpoint"
    phase: str = ""
    move: str = ""
    write: int = 0
    saving: bool = False
    committed: bool = False
    before: bool = False

    def fits(self, entry: Entry, count: int) -> bool:
        """Whether this is the write."""
        states = {process.state for process in entry.processes.values()}
        wanted = (
            entry.operation == self.operation,
            not self.phase or entry.phase == self.phase,
            not self.move or self.move in states,
            not self.write or count == self.write,
            not self.saving or bool(entry.save_pid),
            not self.committed or entry.committed,
        )
        return all(wanted)


class Halts:
    """Halts at the point that a file names, once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._count = 0

    def begin(self) -> None:
        """Count from the beginning: a journal is opened."""
        self._count = 0

    def around(self, entry: Entry) -> Point | None:
        """Halt before a write where that is due; return the point when it is due after it."""
        self._count += 1
        point = self._due(entry)
        if point is None or not point.before:
            return point
        self.halt()
        return None

    def _due(self, entry: Entry) -> Point | None:
        try:
            point = msgspec.json.decode(self._file.read_bytes(), type=Point)
        except FileNotFoundError:
            return None
        return point if point.fits(entry, self._count) else None

    def halt(self) -> None:
        """Stop here until somebody sends SIGCONT."""
        self._file.unlink()
        os.kill(os.getpid(), signal.SIGSTOP)


def install(halts: Halts) -> None:
    """Put the halts around every write of the journal."""
    plain = Journal._write

    def write(journal: Journal, entry: Entry) -> None:
        if not journal.path.exists():
            halts.begin()
        point = halts.around(entry)
        plain(journal, entry)
        if point is not None:
            halts.halt()

    setattr(Journal, "_write", write)  # noqa: B010  # mypy takes a plain assignment for a mistake


def main() -> None:
    """Serve, with halts."""
    from shim.entry.cli import main as cryo

    install(Halts(Path(os.environ[ENV])))
    trap.arm()
    sys.argv[0] = "cryo"
    cryo()


if __name__ == "__main__":
    main()
