"""What the edges may ask of the core: one method per operation, plain arguments, typed errors.

`shim.task.tasks.Tasks` is the real one; wire tests use a small fake of the same shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from shim.model import (
    CheckpointOptions,
    CheckpointResult,
    CreateRequest,
    Exit,
    ImageView,
    Pids,
    ProcessView,
    Report,
    RestoreOptions,
    RestoreResult,
    Stats,
    Stdio,
    TaskRef,
    TaskView,
    Verify,
)


class TaskService(Protocol):
    """Every operation on tasks and images. All raise from `shim.errors`; all may be cancelled."""

    async def create(self, request: CreateRequest) -> int:
        """Make the task and return its init's host pid (0 when Start will restore an image)."""

    async def start(self, ref: TaskRef, exec_id: str = "") -> int:
        """Start the init process or an exec; return its pid."""

    async def state(self, ref: TaskRef, exec_id: str = "") -> ProcessView:
        """Describe a process."""

    async def wait(self, ref: TaskRef, exec_id: str = "") -> Exit:
        """Return when the process has exited; at once when it has already."""

    async def kill(
        self, ref: TaskRef, signal: int, *, exec_id: str = "", everyone: bool = False
    ) -> None:
        """Send a signal; a paused task is killed too."""

    async def exec(
        self, ref: TaskRef, exec_id: str, process: Mapping[str, Any], stdio: Stdio
    ) -> None:
        """Add a process (an OCI `process` object) to a running task; Start runs it."""

    async def delete(self, ref: TaskRef, exec_id: str = "") -> ProcessView:
        """Delete a stopped task or exec and return its last view, exit included."""

    async def pids(self, ref: TaskRef) -> Pids:
        """List the processes of the container, by the container's own numbers."""

    async def pause(self, ref: TaskRef) -> None:
        """Pause the task's processes."""

    async def resume(self, ref: TaskRef) -> None:
        """Resume a paused task."""

    async def update(self, ref: TaskRef, resources: Mapping[str, Any]) -> None:
        """Apply OCI LinuxResources."""

    async def stats(self, ref: TaskRef) -> Stats:
        """Measure the task."""

    async def close_io(self, ref: TaskRef, exec_id: str = "") -> None:
        """Close the task's stdin."""

    async def resize_pty(self, ref: TaskRef, width: int, height: int, exec_id: str = "") -> None:
        """Set the size of a terminal."""

    async def checkpoint(
        self, ref: TaskRef, options: CheckpointOptions, report: Report
    ) -> CheckpointResult:
        """Freeze, save, seal, thaw or stop. All or nothing."""

    async def restore(self, ref: TaskRef, options: RestoreOptions, report: Report) -> RestoreResult:
        """Restore an image as a new running task. All or nothing."""

    async def images(self) -> list[ImageView]:
        """List the images below the configured folder, newest first."""

    async def inspect(self, image_path: str) -> dict[str, Any]:
        """Return an image's manifest as plain data."""

    async def verify(
        self, image_path: str, mode: Verify, report: Report, *, untrusted_folder: bool = False
    ) -> dict[str, Any]:
        """Check an image whole and against this host; return the manifest."""

    async def remove(self, image_path: str) -> None:
        """Delete an image that lies under the configured folder."""

    async def info(self) -> dict[str, str]:
        """Describe the host: runsc, engines, driver, tool, versions."""

    # Last: below it, `list` in an annotation would mean this method.
    async def list(self, namespace: str) -> list[TaskView]:
        """List the namespace's tasks, by id."""
