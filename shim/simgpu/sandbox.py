"""Plain runsc in the simulation, for tests of the simulation itself and for benchmarks.

It runs the commands that an operator would type; the sidecar does not use it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shim.errors import RunscError
from shim.simgpu.guest import names
from shim.simgpu.remote import Ran, Remote

_NOISE = ("goroutine", "\t", "created by", "panic", "\n")


def last_line(text: str) -> str:
    """Return the last line of an error that is not part of a stack trace."""
    lines = [line for line in text.splitlines() if line and not line.startswith(_NOISE)]
    return lines[-1][:500] if lines else "no output"


class Sandbox:
    """Runs runsc with the simulation's flags and a separate root directory."""

    def __init__(self, remote: Remote, runsc: Path, root: Path, flags: dict[str, str]) -> None:
        self._remote = remote
        self._argv = [str(runsc), "--root", str(root), *(f"--{k}={v}" for k, v in flags.items())]

    def call(self, *arguments: str, timeout_s: float = 60.0) -> Ran:
        """Run a subcommand, whatever its exit status."""
        return self._remote.run([*self._argv, *arguments], timeout_s=timeout_s)

    def check(self, *arguments: str, timeout_s: float = 60.0) -> Ran:
        """Run a subcommand that must succeed.

        Raises:
            RunscError: it failed.
        """
        ran = self.call(*arguments, timeout_s=timeout_s)
        if ran.status:
            raise RunscError(arguments[0], ran.status, last_line(ran.err or ran.out))
        return ran

    def run(self, name: str, bundle: Path) -> None:
        """Create and start a container."""
        self.check("run", "-detach", "-bundle", str(bundle), name)

    def exec(self, name: str, argv: Sequence[str], *, timeout_s: float = 60.0) -> Ran:
        """Run a program in a container."""
        return self.call("exec", name, *argv, timeout_s=timeout_s)

    def checkpoint(self, name: str, image: Path, *flags: str) -> Ran:
        """Save a container, which keeps running."""
        return self.call("checkpoint", "-leave-running", "-image-path", str(image), *flags, name)

    def restore(self, name: str, bundle: Path, image: Path) -> None:
        """Restore an image as a container of this name."""
        paths = ("-bundle", str(bundle), "-image-path", str(image))
        self.check("restore", "-detach", *paths, name)

    def delete(self, name: str) -> None:
        """Kill and delete a container."""
        self.call("delete", "-force", name)

    def cuda(self, name: str, *arguments: str) -> Ran:
        """Run cuda-checkpoint in a container."""
        return self.exec(name, [names.TOOL, *arguments])

    def act(self, name: str, action: str, pids: Sequence[int]) -> None:
        """Perform one cuda-checkpoint action on each process.

        Raises:
            RunscError: it failed on a process.
        """
        for pid in pids:
            ran = self.cuda(name, "--action", action, "--pid", str(pid))
            if ran.status:
                command = f"exec cuda-checkpoint {action}"
                raise RunscError(command, ran.status, last_line(ran.err))

    def pids(self, name: str) -> list[int]:
        """List the processes of a container."""
        listed: Any = json.loads(self.check("ps", "-format", "json", name).out)
        return [int(pid) for pid in listed]
