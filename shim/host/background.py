"""The owner of background asyncio tasks: each has a name, and every failure is logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_log = logging.getLogger(__name__)
T = TypeVar("T")
_CLOSE_S = 10.0

OnCrash = Callable[[BaseException], None]
"""Called with the exception that ended a background task."""


class BackgroundTasks:
    """Keeps a reference to every task that it starts, and cancels the remaining ones on close.

    A task that ends with an exception is logged with its traceback, and `on_crash` is called so
    that the caller of the work gets an error. Cancellation is not a crash.
    """

    def __init__(self) -> None:
        """Start without tasks."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    @property
    def names(self) -> list[str]:
        """List the names of the running tasks."""
        return sorted(task.get_name() for task in self._tasks)

    def start(
        self, work: Coroutine[Any, Any, T], *, name: str, on_crash: OnCrash | None = None
    ) -> asyncio.Task[T]:
        """Run `work` in the background.

        Raises:
            RuntimeError: this was closed; `work` does not run.
        """
        if self._closed:
            work.close()
            message = f"{name} was not started: its owner is closed"
            raise RuntimeError(message)
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, on_crash))
        return task

    def _ended(self, task: asyncio.Task[Any], on_crash: OnCrash | None) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        _log.error("background task %s crashed", task.get_name(), exc_info=error)
        if on_crash is None:
            return
        try:
            on_crash(error)
        except Exception:  # noqa: BLE001 - no caller could catch it: it is logged here
            _log.exception("reporting the crash of %s failed", task.get_name())

    async def aclose(self, timeout_s: float = _CLOSE_S) -> None:
        """Cancel every task and wait for them; log the name of each that does not end in time.

        A task that closes its own owner is neither cancelled nor waited for.
        """
        self._closed = True
        left = self._tasks - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if not left:
            return
        _, late = await asyncio.wait(left, timeout=timeout_s)
        for task in late:
            _log.error("background task %s did not end in %g s", task.get_name(), timeout_s)
