"""The clients of containerd by which a user starts a container: what each types for the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from shim.simgpu.remote import Ran
from tests.containerd.cryo import RUNTIME, Cryo
from tests.containerd.daemon import Daemon
from tests.containerd.docker import Dockerd
from tests.containerd.image import REFERENCE
from tests.containerd.named import Named
from tests.containerd.nerdctl import Nerdctl


class Client(Protocol):
    """Starts containers of the small image in our runtime, without a network."""

    volume_syntax: bool
    """Whether it takes Docker's flags for mounts, and not those of ctr."""
    daemon: Daemon
    """What it talks to."""

    def images(self, name: str) -> Named:
        """Return the images of a name."""

    def run(self, box: str, flags: Sequence[str], command: Sequence[str]) -> None:
        """Start a container that keeps running."""

    def exec(self, name: str, argv: Sequence[str], *, timeout_s: float = 60.0) -> Ran:
        """Run a program in a container to its end."""

    def remove(self, box: str) -> None:
        """Kill and delete a container, if there is one."""


def annotation_flags(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """Return the flags for annotations, which all clients have."""
    pairs = map("=".join, annotations.items())
    return tuple(word for pair in pairs for word in ("--annotation", pair))


class WithCtr:
    """ctr."""

    volume_syntax = False

    def __init__(self, node: Cryo) -> None:
        self.daemon: Daemon = node
        self._node = node

    def images(self, name: str) -> Named:
        """Return the images of a name."""
        return Named(self._node.folder / "images" / self._node.namespace / name)

    def run(self, box: str, flags: Sequence[str], command: Sequence[str]) -> None:
        """Start a container that keeps running."""
        self._node.begin(box, *command, flags=tuple(flags))

    def exec(self, name: str, argv: Sequence[str], *, timeout_s: float = 60.0) -> Ran:
        """Run a program in a container to its end."""
        command = ("tasks", "exec", "--exec-id", self._node.fresh("exec"), name, *argv)
        return self._node.ctr(*command, check=False, timeout_s=timeout_s)

    def remove(self, box: str) -> None:
        """Kill and delete a container, if there is one."""
        self._node.remove(box)


class WithNerdctl:
    """nerdctl, on a node that ctr may use too."""

    volume_syntax = True

    def __init__(self, nerdctl: Nerdctl) -> None:
        self.daemon: Daemon = nerdctl.node
        self._nerdctl = nerdctl

    def images(self, name: str) -> Named:
        """Return the images of a name."""
        node = self._nerdctl.node
        return Named(node.folder / "images" / node.namespace / name)

    def run(self, box: str, flags: Sequence[str], command: Sequence[str]) -> None:
        """Start a container that keeps running."""
        self._nerdctl.begin(box, *command, flags=("--net", "none", *flags))

    def exec(self, name: str, argv: Sequence[str], *, timeout_s: float = 60.0) -> Ran:
        """Run a program in a container to its end."""
        del timeout_s
        return self._nerdctl("exec", name, *argv, check=False)

    def remove(self, box: str) -> None:
        """Kill and delete a container, if there is one."""
        self._nerdctl("rm", "--force", box, check=False)


class WithDocker:
    """docker; `images` is the directory of images of our runtime."""

    volume_syntax = True

    def __init__(self, dockerd: Dockerd, images: Path) -> None:
        self.daemon: Daemon = dockerd
        self._dockerd = dockerd
        self._images = images

    def images(self, name: str) -> Named:
        """Return the images of a name."""
        return Named(self._images / "moby" / name)

    def run(self, box: str, flags: Sequence[str], command: Sequence[str]) -> None:
        """Start a container that keeps running."""
        how = ("--runtime", RUNTIME, "--network", "none", "--detach", "--name", box)
        self._dockerd.docker("run", *how, *flags, REFERENCE, *command)

    def exec(self, name: str, argv: Sequence[str], *, timeout_s: float = 60.0) -> Ran:
        """Run a program in a container to its end."""
        return self._dockerd.docker("exec", name, *argv, check=False, timeout_s=timeout_s)

    def remove(self, box: str) -> None:
        """Kill and delete a container, if there is one."""
        self._dockerd.docker("rm", "--force", box, check=False)
