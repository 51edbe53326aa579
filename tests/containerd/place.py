"""The place where containerd runs: a private mount namespace with an init of its own.

The init reaps its descendants at once, and they are killed with it. Mounts are private, and `/run`
is a tmpfs, so tests do not share shim sockets and fifos.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from shim.simgpu.namespace import Namespace
from shim.simgpu.remote import Ran, Remote
from shim.simgpu.waiting import environment

_STEP_S = 90.0


@dataclass(frozen=True)
class Place:
    """A directory, and the agent that runs programs in the namespace. Paths are the same inside."""

    folder: Path
    remote: Remote

    def python(self, module: str, *arguments: str, timeout_s: float = _STEP_S) -> Ran:
        """Run one of our modules inside.

        Raises:
            RuntimeError: it failed.
        """
        argv = [sys.executable, "-m", module, *arguments]
        ran = self.remote.run(argv, timeout_s=timeout_s, env=environment())
        if ran.status:
            message = f"{module} failed in the namespace: {ran.err[-2000:]}"
            raise RuntimeError(message)
        return ran

    def do(self, *argv: str, timeout_s: float = _STEP_S) -> str:
        """Run a program inside and return its output.

        Raises:
            RuntimeError: it failed.
        """
        ran = self.remote.run(argv, timeout_s=timeout_s)
        if ran.status:
            message = f"{' '.join(argv)}: status {ran.status}: {ran.err[-2000:]}"
            raise RuntimeError(message)
        return ran.out

    def folder_for(self, name: str) -> Path:
        """Create a directory with this name, made unique."""
        for number in range(1000):
            folder = self.folder / (f"{name}-{number}" if number else name)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o711)
                return folder
        message = f"a thousand folders named {name}"
        raise RuntimeError(message)


def settle(folder: Path, remote: Remote) -> Place:
    """Prepare a running namespace, such as a simulation's, for containerd."""
    place = Place(folder, remote)
    place.do("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    return place


@contextlib.contextmanager
def private_place() -> Iterator[Place]:
    """Yield a place with the host's /dev; at the end kill every process in it."""
    folder = Path(mkdtemp(prefix="cryo-ctd-"))
    (folder / "rootfs").mkdir()
    folder.chmod(0o711)
    namespace = Namespace(folder, host_dev=True)
    try:
        yield settle(folder, namespace.remote)
    finally:
        namespace.close()


def parsed(ran: Ran) -> object:
    """Return the parsed JSON output of one of our modules."""
    return json.loads(ran.out)
