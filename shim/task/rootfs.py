"""Mounting and unmounting a task's rootfs, off the event loop and with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from shim.errors import CryoError, DeadlineExceeded
from shim.host import mounts
from shim.model import Mount

_REMEDY = "it completes when the filesystem or device responds; then try again"


async def mount(entries: Sequence[Mount], rootfs: Path, timeout_s: float) -> None:
    """Mount a rootfs; one that is mounted after the deadline is unmounted again.

    Raises:
        CryoError: it cannot be mounted; no mount is left.
        DeadlineExceeded: mount(2) did not return in time.
    """
    await _in_thread(
        lambda: mounts.mount_all(entries, rootfs),
        lambda: mounts.unmount(rootfs, lazy=True),
        timeout_s,
        f"mounting {rootfs}",
    )


async def unmount(rootfs: Path, timeout_s: float) -> None:
    """Unmount a rootfs; succeeds if it is not mounted.

    Raises:
        Busy: something still uses it.
        DeadlineExceeded: umount(2) did not return in time.
    """
    await _in_thread(lambda: mounts.unmount(rootfs), None, timeout_s, f"unmounting {rootfs}")


async def _in_thread(
    work: Callable[[], None], undo: Callable[[], None] | None, timeout_s: float, doing: str
) -> None:
    """Run a system call that may hang in its own thread, for which an exit does not wait.

    In the shared pool it would occupy a thread, and the exit of the process would wait for it.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[None] = loop.create_future()
    lock, left = threading.Lock(), False

    def report(error: CryoError | OSError | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)

    def run() -> None:
        error: CryoError | OSError | None = None
        try:
            work()
        except (CryoError, OSError) as caught:
            error = caught
        with lock:
            if not left:
                with contextlib.suppress(RuntimeError):  # the loop is closed: the process exits
                    loop.call_soon_threadsafe(report, error)
                return
        if error is None and undo is not None:
            undo()

    threading.Thread(target=run, name=doing, daemon=True).start()
    try:
        async with asyncio.timeout(timeout_s):
            await answer
    except BaseException as caught:
        with lock:
            left = True
        if isinstance(caught, TimeoutError):
            message = f"{doing} did not end in {timeout_s:g} s"
            raise DeadlineExceeded(message, remedy=_REMEDY) from caught
        raise
