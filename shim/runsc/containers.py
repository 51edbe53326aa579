"""The containers of one runsc root directory, known by their state files."""

from __future__ import annotations

from pathlib import Path

from shim.errors import NotFound
from shim.runsc import control, statefile
from shim.runsc.argv import runsc_id


class Containers:
    """Finds containers by exact ids, while runsc itself also takes the beginning of an id."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def exists(self, task_id: str) -> bool:
        """Whether runsc has a container with exactly this id."""
        return bool(self.state_files(task_id))

    def check(self, task_id: str) -> None:
        """Raise NotFound unless the container exists."""
        if not self.exists(task_id):
            message = f"task {task_id}: runsc has no such container"
            raise NotFound(message)

    def state_files(self, task_id: str) -> list[Path]:
        """List the container's state files: one, or none."""
        return statefile.files_of(self.root, runsc_id(task_id))

    def gofer_pid(self, task_id: str) -> int:
        """Return the host pid of a container's gofer; 0 if it has none."""
        return statefile.gofer_pid(self.root, runsc_id(task_id))

    def siblings(self, task_id: str) -> list[str]:
        """List the other containers of the sandbox."""
        own, sandboxes = runsc_id(task_id), self._sandboxes()
        others = [n for n, box in sandboxes.items() if n != own and box == sandboxes.get(own)]
        return [name.removesuffix(runsc_id("")) for name in others]

    def control_socket(self, task_id: str) -> Path:
        """Return the path of the control socket of the container's sandbox.

        Raises:
            NotFound: there is no such container.
        """
        self.check(task_id)
        name = runsc_id(task_id)
        sandbox = self._sandboxes().get(name, name)
        return control.control_socket(self.root, sandbox, self.state_files(task_id))

    def _sandboxes(self) -> dict[str, str]:
        """Return the sandbox of each container, both as runsc ids."""
        found = (path.stem.partition("_sandbox:") for path in self.root.glob("*_sandbox:*.state"))
        return {name: sandbox for name, _, sandbox in found}
