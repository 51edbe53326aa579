"""Restarts containerd on the node, and starts and stops the sidecar."""

from __future__ import annotations

import ctypes
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from shim.errors import Unavailable

_RESTART_S = 120.0
# More than TimeoutStopSec of the sidecar's unit.
_STOP_S = 120.0
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


class Service(Protocol):
    """The unit of the sidecar. Each method can be called again after it was interrupted."""

    def reload(self) -> None:
        """Let systemd read the files of its units again."""

    def enable(self) -> None:
        """Let it start with the node."""

    def disable(self) -> None:
        """Let it not start with the node."""

    def start(self) -> None:
        """Start it and return when it is ready."""

    def stop(self) -> None:
        """Stop it; an operation that is under way is waited for."""

    def main_pid(self) -> int:
        """Return its process; 0 if it does not run."""


class SystemdUnit:
    """A unit of systemd; systemctl runs in the mount namespace of process `init`."""

    def __init__(self, unit: str, init: int = 1) -> None:
        self._unit = unit
        self._init = init

    def restart(self) -> None:
        """Restart the unit.

        Raises:
            Unavailable: it did not become ready.
        """
        self._do("restart", _RESTART_S)

    def reload(self) -> None:
        """Let systemd read the files of its units again.

        Raises:
            Unavailable: it did not.
        """
        self._checked("daemon-reload", timeout_s=_QUERY_S)

    def enable(self) -> None:
        """Let the unit start with the node.

        Raises:
            Unavailable: systemd did not do it.
        """
        self._do("enable", _QUERY_S)

    def disable(self) -> None:
        """Let the unit not start with the node.

        Raises:
            Unavailable: systemd did not do it.
        """
        self._do("disable", _QUERY_S)

    def start(self) -> None:
        """Start the unit.

        Raises:
            Unavailable: it did not become ready.
        """
        self._do("start", _RESTART_S)

    def stop(self) -> None:
        """Stop the unit.

        Raises:
            Unavailable: it did not stop.
        """
        self._do("stop", _STOP_S)

    def main_pid(self) -> int:
        """Return the main process of the unit; 0 if it does not run.

        Raises:
            Unavailable: systemd does not answer.
        """
        shown = self._checked(
            "show", "--property=MainPID", "--value", self._unit, timeout_s=_QUERY_S
        )
        return int(shown.strip() or 0)

    def _do(self, verb: str, timeout_s: float) -> None:
        self._checked(verb, self._unit, timeout_s=timeout_s)

    def _checked(self, *arguments: str, timeout_s: float) -> str:
        """Run systemctl and return what it prints.

        Raises:
            Unavailable: it failed, or did not end in time.
        """
        called = f"systemctl {' '.join(arguments)}"
        remedy = f"read `journalctl -u {self._unit}`"
        try:
            done = self._systemctl(*arguments, timeout_s=timeout_s)
        except subprocess.TimeoutExpired:
            message = f"{called} did not end in {timeout_s:.0f} s"
            raise Unavailable(message, remedy=remedy) from None
        if done.returncode:
            message = f"{called} failed: {done.stderr.strip()[-500:]}"
            raise Unavailable(message, remedy=remedy)
        return done.stdout

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
