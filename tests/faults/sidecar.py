"""`cryo serve` that halts where a test requests it: at a write of the journal, or in a trap.

A halt is a SIGSTOP that the sidecar sends to itself. The test waits for it, then kills, cancels,
fills a disk or lets a deadline pass, and continues the sidecar with SIGCONT. So a fault is injected
at a defined moment, whatever the speed of the machine.
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
    """A write of the journal: the first that matches all fields that are set.

    `move` is a process state as in the journal ("locking", "checkpointed"), `write` the number of
    the write since the journal was opened, `saving` the first write with the pid of the save.
    `before` halts before the write; the default is after it.
    """

    operation: str = "checkpoint"
    phase: str = ""
    move: str = ""
    write: int = 0
    saving: bool = False
    committed: bool = False
    before: bool = False

    def fits(self, entry: Entry, count: int) -> bool:
        """Whether this write matches."""
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
    """Halts once, at the point in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._count = 0

    def begin(self) -> None:
        """Reset the count when a journal is opened."""
        self._count = 0

    def around(self, entry: Entry) -> Point | None:
        """Halt before a write if requested; return the point if the halt is due after the write."""
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
        """Stop until SIGCONT."""
        self._file.unlink()
        os.kill(os.getpid(), signal.SIGSTOP)


def install(halts: Halts) -> None:
    """Patch the journal so that every write checks for a halt."""
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
    """Run `cryo serve` with halts."""
    from shim.entry.cli import main as cryo

    install(Halts(Path(os.environ[ENV])))
    trap.arm()
    sys.argv[0] = "cryo"
    cryo()


if __name__ == "__main__":
    main()
