"""The checks that must pass after any fault."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from shim.client import Client
from shim.errors import CryoError, NotFound
from shim.simgpu.simulation import wait_until
from shim.state import TaskState
from tests import cgroups
from tests.faults.machine import Halting, Inside, command_lines, descriptors

TASK = "job"
COPY = "copy"
PROCESSES = 3
_SETTLE_S = 60.0
_RUNSC = ("boot", "gofer", "create", "restore", "checkpoint", "exec", "wait", "delete", "resume")


class Judge:
    """Examines a machine from outside: by raw runsc, the host's /proc and the workload's status."""

    def __init__(self, sim: Halting) -> None:
        self.sim = sim
        self.inside = Inside(sim)
        self.client = Client(sim.address)
        self._fds: Counter[str] = Counter()
        self._mounts: set[str] = set()

    def state(self, name: str = TASK) -> TaskState:
        """Return a task's state."""
        return self.client.state(name).state

    def assert_thawed(self, name: str = TASK) -> None:
        """Check that each process is running, makes progress, and has the right memory."""
        status = self.sim.verify(self.inside, name, moving=True)
        assert status.intact, status
        assert [p.state for p in status.processes] == ["running"] * PROCESSES
        assert not [p.misuse for p in status.processes if p.misuse], status

    def assert_clean(self, *tasks: str) -> None:
        """Check that these tasks exist, and that failed operations have left nothing behind."""
        assert sorted(view.id for view in self.client.list()) == sorted(tasks)
        self._assert_tidied()
        assert self.journals() == []
        for name in tasks:
            self._assert_no_tools(name)
        self._assert_processes(len(tasks))
        # Each task has descriptors of its own, so a count without tasks does not apply to one with.
        if tasks or self._fds:
            self._assert_fds()
        others = self._of_others(tasks)
        assert others == [], others
        assert not self.mounts() - self._mounts
        assert {path.name for path in self.cgroups()} == {self.cgroup(name) for name in tasks}

    def _assert_tidied(self) -> None:
        """Check that no staging directory is left; a sidecar removes old ones once it listens."""
        with contextlib.suppress(CryoError):
            wait_until(lambda: self.stagings() == [], "the removal of stagings", _SETTLE_S)
        assert self.stagings() == []

    def stagings(self) -> list[str]:
        """List the staging directories, as seen in the namespace."""
        argv = ["find", str(self.sim.folder / "images"), "-name", ".cryo-staging-*"]
        return self.sim.remote.run(argv).out.split()

    def journals(self) -> list[str]:
        """List the open journals."""
        argv = ["find", str(self.sim.folder / "state"), "-name", "journal.*"]
        return self.sim.remote.run(argv).out.split()

    def _of_others(self, tasks: Sequence[str]) -> list[str]:
        """List the files and sockets of tasks that do not exist, except runsc's lock files."""
        names = "|".join(sorted({TASK, COPY} - set(tasks)))
        argv = ["find", str(self.sim.folder / "state"), "-not", "-name", "*.lock"]
        found = self.sim.remote.run(argv).out.splitlines()
        return [path for path in found if names and re.search(rf"/(runsc-)?({names})\b", path)]

    def mounts(self) -> set[str]:
        """List the mount points of this machine, without the disks of trials."""
        lines = self.sim.remote.run(["cat", "/proc/self/mountinfo"]).out.splitlines()
        points = {line.split()[4] for line in lines}
        return {point for point in points if not point.startswith(f"{self.sim.folder}/images/disk")}

    def cgroup(self, name: str) -> str:
        """Return the name of a task's cgroup."""
        return f"{self.sim.folder.name}-{name}"

    def cgroups(self) -> list[Path]:
        """List the cgroups of the tasks, in every hierarchy that the host has."""
        return cgroups.starting(self.cgroup(""))

    def _assert_no_tools(self, name: str) -> None:
        own = {1, *self.sim.status(self.inside, name).pids}
        with contextlib.suppress(CryoError):
            wait_until(lambda: self.inside.pids(name) == own, "the exit of others", _SETTLE_S)
        assert self.inside.pids(name) == own

    def _assert_processes(self, tasks: int) -> None:
        wanted = Counter({"boot": tasks, "gofer": tasks}) if tasks else Counter()
        with contextlib.suppress(CryoError):
            wait_until(lambda: self.runscs() == wanted, "the exit of runsc", _SETTLE_S)
        assert self.runscs() == wanted, self._runscs()

    def runscs(self) -> Counter[str]:
        """Count runsc's processes on this machine by command."""
        ours = self._runscs().values()
        return Counter(next((k for k in _RUNSC if k in argv), argv[0]) for argv in ours)

    def sandboxes(self) -> list[int]:
        """List the pids of the sandboxes on this machine."""
        return [pid for pid, argv in self._runscs().items() if "boot" in argv]

    def commands(self) -> list[int]:
        """List the pids of the runsc commands that run on this machine."""
        lasting = {"boot", "gofer", "wait"}
        return [pid for pid, argv in self._runscs().items() if not lasting & set(argv)]

    def _runscs(self) -> dict[int, list[str]]:
        state = str(self.sim.folder / "state")
        found = {pid: argv for pid, argv in command_lines() if any(state in w for w in argv)}
        return {pid: argv for pid, argv in found.items() if "runsc" in argv[0]}

    def know_fds(self) -> None:
        """Record what the sidecar has open now as what it may have open."""
        self._mounts = self._mounts or self.mounts()
        if not self._fds:
            # Our own connection is one of them: a call with progress opens it.
            with contextlib.suppress(NotFound):
                self.client.verify(str(self.sim.image("none")))
            self._fds = self.fds()

    def _assert_fds(self) -> None:
        self.know_fds()
        with contextlib.suppress(CryoError):
            wait_until(lambda: not self.fds() - self._fds, "closed descriptors", _SETTLE_S)
        assert not self.fds() - self._fds, self.fds() - self._fds

    def fds(self) -> Counter[str]:
        """Count the sidecar's open descriptors by kind or path."""
        return Counter(descriptors(self.sim.sidecar_pid))
