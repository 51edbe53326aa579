"""Starts the agent, which every other process of a simulation runs below, and stops it."""

from __future__ import annotations

import select
import subprocess
import sys
from pathlib import Path

from shim.errors import Unavailable
from shim.simgpu.agent import remove
from shim.simgpu.remote import Remote
from shim.simgpu.waiting import END_S, START_S, environment


class Namespace:
    """A private mount namespace with an agent in it, from the constructor to `close`."""

    def __init__(self, folder: Path, *, host_dev: bool) -> None:
        """Start the agent; `host_dev` keeps the host's /dev, for real devices.

        Raises:
            Unavailable: the process is not root, or runs in a container that may not mount.
        """
        self._folder = folder
        argv = [sys.executable, "-m", "shim.simgpu.agent", str(folder)]
        self._agent = subprocess.Popen(
            [*argv, "--host-dev"] if host_dev else argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            start_new_session=True,
        )
        line = self._first_line()
        if line != "ready":
            self._finish()
            message = f"no private mount namespace: {line.removeprefix('failed ') or 'no agent'}"
            raise Unavailable(message, remedy="run as root, not in a container that may not mount")
        self.remote = Remote(folder / "agent.sock")

    def close(self) -> None:
        """Kill every process in the namespace, and remove the directory."""
        self._finish()
        remove(self._folder)

    def _first_line(self) -> str:
        """Return the first line that the agent prints; empty on timeout."""
        assert self._agent.stdout is not None  # noqa: S101  # asked for in Popen
        ready, _, _ = select.select([self._agent.stdout], [], [], START_S)
        return self._agent.stdout.readline().decode().strip() if ready else ""

    def _finish(self) -> None:
        """Close the agent's stdin, at which it exits, and wait for it."""
        assert self._agent.stdin is not None  # noqa: S101  # asked for in Popen
        assert self._agent.stdout is not None  # noqa: S101  # asked for in Popen
        self._agent.stdin.close()
        try:
            self._agent.wait(END_S)
        except subprocess.TimeoutExpired:
            self._agent.kill()
            self._agent.wait()
        self._agent.stdout.close()
