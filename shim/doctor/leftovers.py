"""Checks what dead operations left behind: journals, unfinished images, sandboxes of no task."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from shim.doctor.host import Host
from shim.errors import CryoError
from shim.finding import Area, Finding, Topic
from shim.host import files, unix_socket
from shim.host.text import first_few
from shim.image import walk
from shim.image.staging import is_abandoned
from shim.model import TaskRef
from shim.runsc.argv import runsc_id
from shim.task import record as records
from shim.task.layout import Layout
from shim.transaction.journal import Entry, Journal, Operation

_JOURNALS = Topic(Area.LEFTOVERS, "journals")
_IMAGES = Topic(Area.LEFTOVERS, "unfinished images")
_SHIMS = Topic(Area.LEFTOVERS, "shims")
_SANDBOXES = Topic(Area.LEFTOVERS, "sandboxes")
_REPAIR = "cryo doctor --repair, or start cryo serve"
_STATE_BYTES = 16 << 20
_SUFFIX = ".state"


class Sandbox(NamedTuple):
    """A container that runsc knows, the task that it would be of, and its sandbox's process."""

    root: Path
    id: str
    task: TaskRef
    pid: int


def check_journals(host: Host) -> Iterator[Finding]:
    """Check that no operation is open that no process works on."""
    state = Path(host.config.paths.state)
    owned = _owner_lives(host, state)
    found: list[Finding] = []
    if not owned:
        found += _open(Layout(state))
    yield from found or [
        _JOURNALS.ok("a sidecar owns the tasks" if owned else "no operation is open")
    ]


def _open(layout: Layout) -> Iterator[Finding]:
    for ref in layout.found():
        folder = layout.task(ref)
        try:
            records.load(folder)
            entry = Journal(folder).load()
        except CryoError as error:
            yield _JOURNALS.failure(error.message, error.remedy)
            continue
        if entry is not None and not _is_parked(entry):
            yield _JOURNALS.failure(
                f"task {ref}: its {entry.operation} was interrupted in phase {entry.phase}, and "
                "its GPU processes may be frozen",
                _REPAIR,
            )


def _is_parked(entry: Entry) -> bool:
    return entry.operation is Operation.PARK and entry.committed


def check_shims(host: Host) -> Iterator[Finding]:
    """Check that each task of containerd has a shim that lives."""
    state = Path(host.config.paths.state) / "shims"
    found = [
        finding
        for folder in sorted(state.glob("*"))
        for ref in Layout(folder).found()
        if (finding := _abandoned(folder, ref)) is not None
    ]
    yield from found or [_SHIMS.ok("each task of containerd has one")]


def _abandoned(folder: Path, ref: TaskRef) -> Finding | None:
    """Return a finding about a task if nothing listens on the socket of its shim."""
    try:
        record = records.load_for_cleanup(Layout(folder).task(ref))
    except CryoError as error:
        return _SHIMS.warning(error.message, error.remedy)
    if record is None or not record.owner or unix_socket.listens(record.owner):
        return None
    return _SHIMS.warning(
        f"the shim of task {ref} does not answer",
        "restart containerd, which removes what a dead shim leaves behind",
    )


def check_images(host: Host) -> Iterator[Finding]:
    """Check that no image is unfinished that no process writes."""
    images = Path(host.config.paths.images)
    found = [str(path) for path in walk.stagings(images) if is_abandoned(path)]
    if found:
        yield _IMAGES.warning(f"no process writes {first_few(found)}", _REPAIR)
    else:
        yield _IMAGES.ok("none")


def check_sandboxes(host: Host) -> Iterator[Finding]:
    """Check that each container in runsc's root directories is of a task."""
    state = Path(host.config.paths.state)
    layouts = [Layout(state), *(Layout(path) for path in sorted((state / "shims").glob("*")))]
    found = [
        _orphan(host, one)
        for layout in layouts
        for one in _sandboxes(layout.state / "runsc")
        if not layout.task(one.task).exists()
    ]
    yield from found or [_SANDBOXES.ok("each is of a task")]


def _orphan(host: Host, one: Sandbox) -> Finding:
    lives = one.pid > 0 and host.at(f"/proc/{one.pid}").exists()
    how = f"runs as process {one.pid}" if lives else "is dead"
    return _SANDBOXES.warning(
        f"the sandbox of {one.task} {how}, and no task has it",
        f"runsc --root {one.root} delete --force {one.id}",
    )


def _sandboxes(folder: Path) -> Iterator[Sandbox]:
    for path in sorted(folder.glob(f"*/*_sandbox:*{_SUFFIX}")):
        root, name = path.parent, path.name.partition("_sandbox:")[0]
        try:
            task = TaskRef(namespace=root.name, id=name.removesuffix(runsc_id("")))
            yield Sandbox(root, name, task, _pid(path))
        except CryoError:
            continue  # removed since, or not of this project


def _pid(path: Path) -> int:
    """Return the pid of a sandbox in a state file; 0 if the file is damaged or has none."""
    try:
        state = json.loads(files.read_bounded(path, _STATE_BYTES))
        pid = state["sandbox"]["pid"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return 0
    return pid if isinstance(pid, int) else 0


def _owner_lives(host: Host, state: Path) -> bool:
    """Whether a sidecar has locked the state folder; it is not locked here, not even briefly.

    Source: proc_locks(5).
    """
    try:
        found = (state / "lock").stat()
    except OSError:
        return False
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    rows = (line.split() for line in host.text("/proc/locks").splitlines())
    return any(device in row and "FLOCK" in row for row in rows)
