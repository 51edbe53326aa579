"""Layout of the state directory: one directory per task, one runsc root per namespace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from shim.errors import AlreadyExists, InvalidArgument
from shim.host import files, mounts
from shim.host.filelock import try_lock
from shim.model import TaskRef


class Layout:
    """Paths below the state folder."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self._tasks = state / "tasks"

    def prepare(self) -> None:
        """Make the top-level directories, private to root."""
        files.private_dir(self.state, allowed=files.GROUP_SEARCH)
        for folder in (self._tasks, self.state / "runsc"):
            files.private_dir(folder)

    def lock(self) -> int:
        """Lock the state folder for this owner, until the returned descriptor is closed.

        Raises:
            AlreadyExists: another process owns it, and with it the tasks.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        lock = try_lock(os.open(self.state / "lock", flags, 0o600))
        if lock is None:
            message = f"another process owns the tasks in {self.state}"
            raise AlreadyExists(message, remedy="use that process, or another --state")
        return lock

    def runsc_root(self, namespace: str) -> Path:
        """Return runsc's root directory for a namespace."""
        return self.state / "runsc" / namespace

    @property
    def known_runsc(self) -> Path:
        """Return the file with the cached facts about runsc."""
        return self.state / "runsc.json"

    @property
    def cold_pods(self) -> Path:
        """Return the folder with the pods that start cold; see `shim.task.cold_pods`."""
        return self.state / "cold-pods"

    def tidy(self) -> None:
        """Unmount what runsc keeps mounted in a root for the next sandbox, if none is left.

        A later sandbox mounts it again, which takes a little longer
        (runsc/container/container.go, openNullNetNS).
        """
        for path in (self.state / "runsc").glob("*/null-netns"):
            if not any(path.parent.glob("*.state")):
                mounts.unmount(path, lazy=True)

    def task(self, ref: TaskRef) -> Path:
        """Return a task's folder."""
        return self._tasks / ref.namespace / ref.id

    def make_task(self, ref: TaskRef) -> Path:
        """Make a task's folder, and the bundle folder that runsc reads inside it."""
        folder = self.task(ref)
        files.private_dir(folder.parent)
        files.private_subdir(folder)
        files.private_subdir(folder / "bundle")
        return folder

    def remove_task(self, ref: TaskRef) -> None:
        """Remove a task's folder."""
        files.remove_tree(self.task(ref))

    def found(self) -> Iterator[TaskRef]:
        """List the tasks that have a folder."""
        for folder in sorted(self._tasks.glob("*/*")):
            try:
                yield TaskRef(namespace=folder.parent.name, id=folder.name)
            except InvalidArgument:
                continue
