"""Restarts containerd on the node."""

from __future__ import annotations

import ctypes
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from shim.errors import Unavailable

_RESTART_S = 120.0
_QUERY_S = 30.0
_CLONE_FS = 0x200
_CLONE_NEWNS = 0x20000
_LIBC = ctypes.CDLL(None, use_errno=True)


class Daemon(Protocol):
    """The containerd of a node."""

    def restart(self) -> None:
        """Restart it and return when it is ready."""

    def is_ending(self) -> bool:
        """Return whether the node is being shut down."""


class SystemdUnit:
    """A containerd that systemd runs; systemctl runs in the mount namespace of process `init`."""

    def __init__(self, unit: str, init: int = 1) -> None:
        self._unit = unit
        self._init = init

    def restart(self) -> None:
        """Restart the unit.

        Raises:
            Unavailable: it did not become ready.
        """
        try:
            done = self._systemctl("restart", self._unit, timeout_s=_RESTART_S)
        except subprocess.TimeoutExpired:
            message = f"{self._unit} was not ready after {_RESTART_S:.0f} s"
            raise Unavailable(message, remedy=f"read `journalctl -u {self._unit}`") from None
        if done.returncode:
            message = f"{self._unit} was not restarted: {done.stderr.strip()[-500:]}"
            raise Unavailable(message, remedy=f"read `journalctl -u {self._unit}`")

    def is_ending(self) -> bool:
        """Return whether systemd is stopping the node's units."""
        done = self._systemctl("is-system-running", timeout_s=_QUERY_S)
        return done.stdout.strip() == "stopping"

    def _systemctl(self, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run systemctl on the node, in whose pid namespace this process is.

        A thread enters the mount namespace. A forked child could not: fork handlers of libraries
        may have started threads in it, and these share its root directory.
        """

        def run() -> subprocess.CompletedProcess[str]:
            _enter(namespace.fileno())
            argv = ["systemctl", *arguments]
            return subprocess.run(
                argv, capture_output=True, text=True, timeout=timeout_s, check=False
            )

        with (
            Path(f"/proc/{self._init}/ns/mnt").open("rb") as namespace,
            ThreadPoolExecutor(1) as pool,
        ):
            return pool.submit(run).result()


def _enter(namespace: int) -> None:
    """Let this thread enter a mount namespace, with a root directory of its own."""
    if _LIBC.unshare(_CLONE_FS) or _LIBC.setns(namespace, _CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "enter a mount namespace")
