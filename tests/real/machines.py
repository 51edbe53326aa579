"""The simulated machines that the test files of one worker share: one for each runsc."""

from __future__ import annotations

import contextlib

from tests.builds import RunscBuild
from tests.real.helpers_rig import Rig, machine_with


class Machines:
    """Machines with default settings. Each starts when a file first uses it."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[Rig, contextlib.ExitStack]] = {}
        self._damaged: set[str] = set()

    def get(self, build: RunscBuild) -> Rig:
        """Return the machine with this runsc; a new one if a test has damaged the last."""
        if build.name in self._damaged:
            self._stop(build.name)
        if build.name not in self._running:
            with contextlib.ExitStack() as stack:
                rig = stack.enter_context(machine_with(build))
                self._running[build.name] = rig, stack.pop_all()
        return self._running[build.name][0]

    def damaged(self, rig: Rig) -> None:
        """Record that a test has left something behind: the next file gets a new machine."""
        self._damaged |= {name for name, (running, _) in self._running.items() if running is rig}

    def stop(self) -> None:
        """Stop all."""
        for name in list(self._running):
            self._stop(name)

    def _stop(self, name: str) -> None:
        self._damaged.discard(name)
        self._running.pop(name)[1].close()
