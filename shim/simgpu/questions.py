"""Queries to a workload in a container, run by plain runsc or by the sidecar."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Protocol

from shim.errors import DeadlineExceeded, Unavailable
from shim.simgpu import bundle, status
from shim.simgpu.remote import Ran
from shim.simgpu.status import Status
from shim.simgpu.waiting import END_S, START_S, wait_until


class Guest(Protocol):
    """Runs programs in containers: `Sandbox`, or the selftest's `TaskGuest`."""

    def exec(self, name: str, argv: Sequence[str], *, timeout_s: float = ...) -> Ran:
        """Run a program until it exits."""


class Questions:
    """The queries; each runs a program in the container."""

    def ask(self, guest: Guest, name: str, *question: str) -> str:
        """Query the workload's supervisor, inside the container; return its reply as JSON.

        Raises:
            Unavailable: it does not reply.
        """
        ran = guest.exec(name, bundle.workload_argv("ask", *question), timeout_s=END_S)
        if ran.status:
            message = f"the workload of {name} does not respond: {ran.err.strip()[-300:]}"
            raise Unavailable(message)
        return ran.out

    def status(self, guest: Guest, name: str) -> Status:
        """Return the status of the workload."""
        return status.parse(self.ask(guest, name, "status"))

    def verify(self, guest: Guest, name: str, *, moving: bool = False) -> Status:
        """Let the workload read back and compare all its memory: see `Status.intact`.

        With `moving` each process first makes another step; a process that does not is `stuck`.
        """
        return status.parse(self.ask(guest, name, "verify", *(["moving"] if moving else [])))

    def hold(self, guest: Guest, name: str) -> Status:
        """Stop the workload after its current step, so that digests can be compared."""
        return status.parse(self.ask(guest, name, "hold"))

    def go(self, guest: Guest, name: str) -> Status:
        """Let the workload continue."""
        return status.parse(self.ask(guest, name, "go"))

    def stop_after(self, guest: Guest, name: str, steps: int) -> Status:
        """Let each process stop that many steps from now.

        The generation to stop at is part of its memory: a restored copy stops at the same
        generation, and must then hold the same bytes.
        """
        return status.parse(self.ask(guest, name, "stop-after", str(steps)))

    def spawn(self, guest: Guest, name: str) -> int:
        """Start another worker and return its pid inside the container."""
        return int(json.loads(self.ask(guest, name, "spawn"))["pid"])

    def end(self, guest: Guest, name: str, pid: int) -> None:
        """Kill a worker, which is then not counted as a loss."""
        self.ask(guest, name, "end", str(pid))

    def until_held(self, guest: Guest, name: str, timeout_s: float = START_S) -> Status:
        """Wait until every process has stopped as `stop_after` requested, and verify them."""

        def all_held() -> bool:
            now = self.status(guest, name)
            return bool(now.losses) or all(p.held for p in now.processes)

        wait_until(all_held, f"the end of the steps of {name}", timeout_s)
        return self.verify(guest, name)

    def until_ready(self, guest: Guest, name: str, timeout_s: float = START_S) -> Status:
        """Wait until every process of the workload has made its first steps."""
        found: list[Status] = []

        def ready() -> bool:
            with contextlib.suppress(Unavailable):
                found[:] = [self.status(guest, name)]
                return found[0].ready
            return False

        wait_until(ready, f"the workload of {name}", timeout_s)
        return found[0]

    def fine(self, guest: Guest, name: str, timeout_s: float = 5.0) -> bool:
        """Whether every process makes steps, and after another one its memory is as expected."""
        return self.works(guest, name, timeout_s) and self.verify(guest, name, moving=True).intact

    def works(self, guest: Guest, name: str, timeout_s: float = 5.0) -> bool:
        """Whether every process makes steps without a loss."""
        before = self.status(guest, name)

        def moved() -> bool:
            now = self.status(guest, name)
            done = all(now.generations.get(p, 0) > g for p, g in before.generations.items())
            return done or bool(now.losses)

        with contextlib.suppress(DeadlineExceeded):
            wait_until(moved, "progress", timeout_s)
            return not self.status(guest, name).losses
        return False
