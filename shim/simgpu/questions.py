"""Queries to a workload, whether plain runsc or the sidecar runs the container."""

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
    """Whatever can run a program in a container: `Sandbox`, or the client's exec."""

    def exec(self, name: str, argv: Sequence[str], *, timeout_s: float = ...) -> Ran:
        """Run it to its end."""


class Questions:
    """The questions, each of them a program that is run in the container."""

    def ask(self, guest: Guest, name: str, *question: str) -> str:
        """Ask the workload's supervisor, inside the container; return its answer as JSON.

        Raises:
            Unavailable: it does not answer.
        """
        ran = guest.exec(name, bundle.workload_argv("ask", *question), timeout_s=END_S)
        if ran.status:
            message = f"the workload of {name} does not answer: {ran.err.strip()[-300:]}"
            raise Unavailable(message)
        return ran.out

    def status(self, guest: Guest, name: str) -> Status:
        """Return what the workload says of itself."""
        return status.parse(self.ask(guest, name, "status"))

    def verify(self, guest: Guest, name: str, *, moving: bool = False) -> Status:
        """Let the workload read everything that it holds, and compare: see `Status.whole`.

        When it is `moving`, each process makes another step first; one that does not is stuck.
        """
        return status.parse(self.ask(guest, name, "verify", *(["moving"] if moving else [])))

    def hold(self, guest: Guest, name: str) -> Status:
        """Let the workload stop where it is, so that two digests may be compared."""
        return status.parse(self.ask(guest, name, "hold"))

    def go(self, guest: Guest, name: str) -> Status:
        """Let the workload go on."""
        return status.parse(self.ask(guest, name, "go"))

    def stop_after(self, guest: Guest, name: str, steps: int) -> Status:
        """Let each process stop that many steps from now.

        Where it stops is part of its memory: a copy that was restored meanwhile stops at the very
        same generation, and must then hold the very same bytes.
        """
        return status.parse(self.ask(guest, name, "stop-after", str(steps)))

    def spawn(self, guest: Guest, name: str) -> int:
        """Add a worker; return its pid inside the container."""
        return int(json.loads(self.ask(guest, name, "spawn"))["pid"])

    def end(self, guest: Guest, name: str, pid: int) -> None:
        """Kill a worker, on purpose: it does not count as a loss."""
        self.ask(guest, name, "end", str(pid))

    def until_held(self, guest: Guest, name: str, timeout_s: float = START_S) -> Status:
        """Wait until every process has stopped where `stop_after` said; verify it there."""

        def held() -> bool:
            now = self.status(guest, name)
            return bool(now.losses) or all(p.held for p in now.processes)

        wait_until(held, f"the end of the steps of {name}", timeout_s)
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
        """Whether every process goes on, and after one more step holds what it must."""
        return self.works(guest, name, timeout_s) and self.verify(guest, name, moving=True).whole

    def works(self, guest: Guest, name: str, timeout_s: float = 5.0) -> bool:
        """Whether every process goes on making steps without a loss."""
        before = self.status(guest, name)

        def moved() -> bool:
            now = self.status(guest, name)
            done = all(now.generations.get(p, 0) > g for p, g in before.generations.items())
            return done or bool(now.losses)

        with contextlib.suppress(DeadlineExceeded):
            wait_until(moved, "progress", timeout_s)
            return not self.status(guest, name).losses
        return False
