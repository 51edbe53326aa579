"""Runs programs inside a task of the sidecar, through the client."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from shim.client.blocking import Client
from shim.errors import CryoError, NotFound
from shim.model import Stdio
from shim.simgpu.remote import Ran

_OUTPUT_MAX = 1 << 20


class TaskGuest:
    """Runs programs in the tasks of a sidecar, with files for their output.

    Example:
        guest = TaskGuest(client, sim.folder)
        assert sim.verify(guest, "demo").intact
    """

    def __init__(self, client: Client, folder: Path) -> None:
        self._client = client
        self._folder = folder
        self._numbers = itertools.count(1)

    def exec(self, name: str, argv: Sequence[str], *, timeout_s: float = 60.0) -> Ran:
        """Run a program in a task until it exits; after `timeout_s` it is killed."""
        exec_id = f"selftest{next(self._numbers)}"
        out, err = (self._folder / f"{name}-{exec_id}.{end}" for end in ("out", "err"))
        process = {"args": list(argv), "cwd": "/", "env": ["PATH=/usr/bin:/bin"]}
        stdio = Stdio(stdout=f"file://{out}", stderr=f"file://{err}")
        began = time.monotonic()
        self._client.exec(name, exec_id, {**process, "user": {"uid": 0, "gid": 0}}, stdio)
        try:
            status = self._run(name, exec_id, timeout_s)
        except BaseException:
            # Also on Ctrl-C; an error of the cleanup must not hide the first one.
            with contextlib.suppress(CryoError):
                self._client.kill(name, signal.SIGKILL, exec_id=exec_id)
                self._client.wait(name, exec_id)
                self._client.delete(name, exec_id)
            raise
        self._client.delete(name, exec_id)
        return Ran(status, _take(out), _take(err), time.monotonic() - began)

    def _run(self, name: str, exec_id: str, timeout_s: float) -> int:
        self._client.start(name, exec_id)
        timer = threading.Timer(timeout_s, self._kill, (name, exec_id))
        timer.start()
        try:
            return self._client.wait(name, exec_id).status
        finally:
            timer.cancel()
            timer.join()

    def _kill(self, name: str, exec_id: str) -> None:
        try:
            self._client.kill(name, signal.SIGKILL, exec_id=exec_id)
        except NotFound:
            return  # it exited at the same moment


def _take(path: Path) -> str:
    """Read and remove a file; one that does not exist is empty."""
    try:
        with path.open("rb") as file:
            return file.read(_OUTPUT_MAX).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    finally:
        path.unlink(missing_ok=True)
