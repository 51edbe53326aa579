"""The tasks of one owner process by name, and which of them share a sandbox."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from shim.errors import AlreadyExists, Busy, NotFound
from shim.model import TaskRef
from shim.task.container import Container
from shim.task.sandbox import Sandbox

_MAX_FINISHED = 64
_MAX_NAME = 253


class TaskMap:
    """Tasks by name; the names of those that are being created or cannot be adopted are taken."""

    def __init__(self) -> None:
        self._tasks: dict[TaskRef, Container] = {}
        self._unreadable: set[TaskRef] = set()
        # Set when the creation is over, successful or not.
        self._creating: dict[TaskRef, asyncio.Event] = {}
        self._used = False

    def __iter__(self) -> Iterator[Container]:
        """Iterate over a copy: tasks may be added and removed meanwhile."""
        return iter(list(self._tasks.values()))

    @property
    def empty(self) -> bool:
        """Whether no name is taken."""
        return not self._tasks and not self._unreadable and not self._creating

    @property
    def spent(self) -> bool:
        """Whether names were taken, and none is any more."""
        return self._used and self.empty

    def has(self, ref: TaskRef) -> bool:
        """Whether the name is taken."""
        return ref in self._tasks or ref in self._unreadable or ref in self._creating

    def add(self, task: Container) -> None:
        """Add a task."""
        self._used = True
        self._tasks[task.ref] = task

    def remove(self, task: Container) -> None:
        """Remove a task, if it is present."""
        self._tasks.pop(task.ref, None)

    def keep_unreadable(self, ref: TaskRef) -> None:
        """Keep the name of a task that cannot be adopted: its sandbox may still run."""
        self._unreadable.add(ref)

    @contextlib.contextmanager
    def creating(self, ref: TaskRef) -> Iterator[None]:
        """Take the name while its task is created.

        Raises:
            AlreadyExists: the name is taken.
        """
        if self.has(ref):
            message = f"task {ref.id} exists in namespace {ref.namespace}"
            raise AlreadyExists(message, remedy="choose another id, or delete that task")
        self._used = True
        over = self._creating[ref] = asyncio.Event()
        try:
            yield
        finally:
            del self._creating[ref]
            over.set()

    async def until_created(self, ref: TaskRef, timeout_s: float) -> None:
        """Wait for the end of a creation, if one is under way.

        Raises:
            Busy: it takes longer than `timeout_s`.
        """
        if ref not in self._creating:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._creating[ref].wait()
        except TimeoutError as error:
            message = f"task {ref} is still being created after {timeout_s:g} s"
            raise Busy(message, remedy="try again when its creation is over") from error

    def get(self, ref: TaskRef) -> Container:
        """Return a task.

        Raises:
            NotFound: there is no task of that name.
        """
        if ref in self._tasks:
            return self._tasks[ref]
        message = f"no task {ref.id} in namespace {ref.namespace}"
        raise NotFound(message, remedy="'cryo tasks ls' lists them")

    def namespaces(self) -> set[str]:
        """Return the namespaces of all tasks."""
        return {ref.namespace for ref in self._tasks}

    def in_namespace(self, namespace: str) -> list[Container]:
        """Return the tasks of a namespace."""
        return [task for ref, task in self._tasks.items() if ref.namespace == namespace]

    # -- sandboxes -----------------------------------------------------------------------------

    def root(self, namespace: str, sandbox_id: str) -> Container | None:
        """Return a sandbox's root task; None if no task has the id, which comes from a spec."""
        tasks = self.in_namespace(namespace)
        return next((task for task in tasks if task.ref.id == sandbox_id), None)

    def root_of(self, task: Container) -> Container:
        """Return the root task of a task's sandbox.

        Raises:
            NotFound: it is not a task of this owner.
        """
        if not task.record.sandbox_id:
            return task
        root = self.root(task.ref.namespace, task.record.sandbox_id)
        if root is None:
            message = f"the sandbox {task.record.sandbox_id} of task {task.ref} is not served here"
            raise NotFound(message, remedy="create a task for the sandbox first")
        return root

    def root_ref(self, task: Container) -> TaskRef:
        """Return the root task of a task's sandbox; the task itself if that is not ours."""
        root = self.root(task.ref.namespace, task.record.sandbox_id)
        return root.ref if root is not None else task.ref

    def note_finished(self, task: Container) -> None:
        """Record with its pod's sandbox that a container has exited with success."""
        root = self.root(task.ref.namespace, task.record.sandbox_id)
        ended = task.init.process.exit.value
        if root is None or ended is None or ended.status:
            return
        name = task.name
        if 0 < len(name) <= _MAX_NAME:
            others = [one for one in root.record.finished if one != name]
            root.store.try_update(finished=(*others, name)[-_MAX_FINISHED:])

    def sandbox_of(self, task: Container) -> Sandbox:
        """Return a task's sandbox, the containers in the order of creation.

        Raises:
            NotFound: its root task is not one of this owner.
        """
        root = self.root_of(task)

        def members() -> list[Container]:
            tasks = self.in_namespace(root.ref.namespace)
            found = (task for task in tasks if task.record.sandbox_id == root.ref.id)
            return sorted(found, key=lambda task: (task.record.created_at, task.ref.id))

        return Sandbox(root, members)
