"""The journal of a sandbox: the operation in progress, on disk, so that the next owner can undo it.

Written by rename and without fsync: it has to outlive this process, not the machine. A machine that
goes down takes the sandbox with it and leaves nothing to thaw.
"""

from __future__ import annotations

import contextlib
import enum
import logging
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TypedDict, Unpack

import msgspec

from shim import failpoints
from shim.errors import InvalidArgument
from shim.host.files import read_bounded
from shim.host.oserror import typed
from shim.model import CudaProcess, EngineName, Phase, Value, utcnow

_log = logging.getLogger(__name__)
NAME = "journal.json"
_LIMIT_BYTES = 4 << 20


class Operation(enum.StrEnum):
    """The operation that a journal is of."""

    CHECKPOINT = "checkpoint"
    RESTORE = "restore"
    PARK = "park"


class ProcessEntry(Value):
    """A CUDA process and its last known state, or the move that had begun."""

    name: str
    state: str


def key(pid: int, container: str = "") -> str:
    """Return the key of a process: its pid, for a member's process after the member's id."""
    return f"{container}/{pid}" if container else str(pid)


class Entry(Value):
    """The content of a journal. `committed` is set once the image has its final name.

    `opened_at` is None in a journal of an earlier version.
    `stage_device` is the device number of the memory that runsc saves into; 0 if it is the disk.

    The journal of a park stays open, committed, for as long as the task is parked: it lists the
    frozen processes, and in `gpu_bytes` what they held on each GPU. A checkpoint of a parked task
    is `from_park`: it keeps these entries and leaves the task parked. `exec_processes` are the
    processes that an exec had started before the operation. `execs` are the CUDA processes that
    descend from an exec, and `execs_unclear` those that may; both can be found only while the task
    runs. `tracing` is set while the sentry has a trace session, `hooked` from the first pre-freeze
    hook to the last post-thaw hook.
    """

    operation: Operation
    image_path: str
    opened_at: datetime | None = None
    phase: Phase = Phase.PREFLIGHT
    staging: str = ""
    stage_device: int = 0
    engine: EngineName | None = None
    exit: bool = False
    was_paused: bool = False
    committed: bool = False
    from_park: bool = False
    save_pid: int = 0
    save_start: int = 0
    exec_processes: tuple[int, ...] = msgspec.field(default=(), name="outsiders")
    tracing: bool = False
    hooked: bool = False
    execs: tuple[int, ...] = ()
    execs_unclear: tuple[int, ...] = ()
    processes: dict[str, ProcessEntry] = {}
    gpu_bytes: dict[str, int] = {}

    @property
    def unfinished_image(self) -> Path | None:
        """The staging folder of an image without its final name yet, which is to be removed."""
        return Path(self.staging) if self.staging and not self.committed else None

    @property
    def is_parked(self) -> bool:
        """Whether it is a park that was committed."""
        return self.operation is Operation.PARK and self.committed

    def cuda_processes(self, container: str = "") -> list[CudaProcess]:
        """List the CUDA processes of a container that the operation was to move."""
        split = ((name.rpartition("/"), entry) for name, entry in self.processes.items())
        return [
            CudaProcess(pid=int(pid), name=entry.name)
            for (owner, _, pid), entry in split
            if owner == container
        ]


class Changes(TypedDict, total=False):
    """The fields that an operation changes on its way."""

    phase: Phase
    staging: str
    stage_device: int
    engine: EngineName | None
    committed: bool
    save_pid: int
    save_start: int
    exec_processes: tuple[int, ...]
    tracing: bool
    hooked: bool
    execs: tuple[int, ...]
    execs_unclear: tuple[int, ...]
    processes: dict[str, ProcessEntry]
    gpu_bytes: dict[str, int]


class Journal:
    """The journal file of one task; it exists while an operation is in progress."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._entry: Entry | None = None
        self._allows_errors = False

    @property
    def entry(self) -> Entry:
        """Return the current content.

        Raises:
            InvalidArgument: no operation is open.
        """
        if self._entry is None:
            message = f"{self.path}: no operation is open"
            raise InvalidArgument(message)
        return self._entry

    def open(
        self,
        operation: Operation,
        image_path: str,
        *,
        phase: Phase = Phase.PREFLIGHT,
        was_paused: bool = False,
        exit: bool = False,
    ) -> None:
        """Begin an operation: from now on it is undone after a crash.

        Raises:
            CryoError: the file cannot be written. Later writes raise it too, unless their errors
                are allowed.
        """
        self._allows_errors = False
        self._write(
            Entry(
                operation=operation,
                image_path=image_path,
                opened_at=utcnow(),
                phase=phase,
                was_paused=was_paused,
                exit=exit,
            )
        )

    def open_from_park(self, image_path: str, *, exit: bool) -> None:
        """Begin a checkpoint of a parked task; `park_again` ends it.

        Raises:
            CryoError: the file cannot be written; the task stays parked.
        """
        self._allows_errors = False
        kept = self._kept_of_park(Operation.CHECKPOINT, image_path)
        self._write(msgspec.structs.replace(kept, was_paused=True, exit=exit, from_park=True))

    def park_again(self) -> None:
        """End a checkpoint of a parked task: the open operation is the park again.

        Raises:
            CryoError: the file cannot be written; the next owner does this instead.
        """
        kept = self._kept_of_park(Operation.PARK, "")
        self._write(msgspec.structs.replace(kept, phase=Phase.FREEZE, committed=True))

    def _kept_of_park(self, operation: Operation, image_path: str) -> Entry:
        """Make a new entry that keeps only what describes a parked task."""
        now = self.entry
        return Entry(
            operation=operation,
            image_path=image_path,
            opened_at=utcnow(),
            engine=now.engine,
            exec_processes=now.exec_processes,
            execs=now.execs,
            execs_unclear=now.execs_unclear,
            processes=now.processes,
            gpu_bytes=now.gpu_bytes,
            hooked=now.hooked,
        )

    def note(self, **changes: Unpack[Changes]) -> None:
        """Record what is about to happen, before it does; without a change nothing is written."""
        noted = msgspec.structs.replace(self.entry, **changes)
        if noted != self.entry:
            self._write(noted)

    def process(self, pid: int, name: str, state: str, *, container: str = "") -> None:
        """Record a process's state, or the move that begins."""
        known, one = self.entry.processes, key(pid, container)
        kept = name or (known[one].name if one in known else "")
        self.note(processes={**known, one: ProcessEntry(name=kept, state=state)})

    def processes(self, found: Iterable[CudaProcess]) -> None:
        """Record the processes that will be moved."""
        entries = {
            key(p.pid, p.container): ProcessEntry(name=p.name, state="running") for p in found
        }
        self.note(processes={**self.entry.processes, **entries})

    def load(self) -> Entry | None:
        """Read the operation that an earlier owner left open; None if there is none.

        Raises:
            InvalidArgument: the file cannot be decoded.
        """
        if not self.path.exists():
            return None
        try:
            data = read_bounded(self.path, _LIMIT_BYTES)
            self._entry = msgspec.json.decode(data, type=Entry)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            message = f"{self.path}: {error}"
            raise InvalidArgument(
                message, remedy="remove the file when the task is gone"
            ) from error
        return self._entry

    def staging(self) -> str:
        """Return the staging folder of the open operation, empty if there is none."""
        return self._entry.staging if self._entry is not None else ""

    @property
    def open_entry(self) -> Entry | None:
        """Return the content if an operation is open."""
        return self._entry

    @property
    def parked(self) -> bool:
        """Whether the open operation is a park that was committed."""
        return self._entry is not None and self._entry.is_parked

    def close(self) -> None:
        """End the operation: nothing is left to undo.

        Raises:
            CryoError: the file cannot be removed; the next owner finds nothing to undo.
        """
        try:
            with failpoints.around("journal.close"):
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise typed(error, f"remove {self.path}") from error
        self._entry = None

    def allow_write_errors(self) -> None:
        """Log write errors instead of raising them: a full disk must not stop a rollback.

        The file may then be out of date; a recovery reads the state of each process itself.
        """
        self._allows_errors = True

    def _write(self, entry: Entry) -> None:
        temporary = self.path.with_suffix(".tmp")
        try:
            with failpoints.around("journal.note" if self._entry else "journal.open"):
                temporary.write_bytes(msgspec.json.encode(entry))
                temporary.replace(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            if not self._allows_errors:
                raise typed(error, f"write {self.path}") from error
            _log.warning("%s cannot be written: %s", self.path, error)
        self._entry = entry


class UnwrittenJournal(Journal):
    """The journal of an operation that changes nothing: it has what another one has, in memory."""

    def __init__(self, real: Journal) -> None:
        super().__init__(real.path.parent)
        self._entry = real.entry if real.parked else None

    def close(self) -> None:
        """Forget the operation."""
        self._entry = None

    def _write(self, entry: Entry) -> None:
        self._entry = entry
