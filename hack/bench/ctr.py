"""Calls ctr for one of the runtimes; each call is a process of its own, as for a user."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from hack.bench import command
from hack.bench.shim_node import CRYO, GVISOR, RUNC, SANDBOX
from tests.containerd import image

_LIMIT_S = 90.0


class Ctr:
    """Runs ctr in the namespace of its containerd."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._argv: list[str] = given["ctr"]
        self._how = {
            CRYO: ["--runtime", "io.containerd.cryo.v1"],
            GVISOR: [
                *("--runtime", "io.containerd.runsc.v1", "--annotation", SANDBOX),
                *("--runtime-config-path", given["runsc_toml"]),
            ],
            RUNC: [
                *("--runtime", "io.containerd.runc.v2"),
                *("--annotation", f"org.criu.config={given['criu_conf']}"),
            ],
        }

    def run(self, runtime: str, name: str, *words: str, flags: Sequence[str] = ("--rm",)) -> None:
        """Run a container.

        Raises:
            RuntimeError: ctr failed.
        """
        how = ("--snapshotter", "native", *flags, image.REFERENCE, name)
        # gVisor's own shim reports 128 for an exit status of 0 of a container that it removes.
        allowed = (0, 128) if runtime == GVISOR else (0,)
        self.call("run", *self._how[runtime], *how, *words, allowed=allowed)

    def begin(self, runtime: str, name: str, *words: str) -> None:
        """Run a container that keeps running."""
        self.run(runtime, name, *words, flags=("-d",))

    def end(self, name: str) -> None:
        """Kill the task of a container, and remove both."""
        self.call("tasks", "rm", "--force", name)
        self.call("containers", "rm", name)

    def call(self, *arguments: str, allowed: Sequence[int] = (0,)) -> None:
        """Run ctr.

        Raises:
            RuntimeError: its exit status is another one; the message has its last words.
        """
        with tempfile.TemporaryFile() as said:  # no pipe: a shim may keep it open
            status = command.run([*self._argv, *arguments], limit_s=_LIMIT_S, stderr=said)
            if status not in allowed:
                said.seek(0)
                words = said.read().decode("utf-8", "replace")[-1000:].strip()
                message = f"ctr {' '.join(arguments[:2])}: status {status}: {words}"
                raise RuntimeError(message)
