"""A daemon under test, with all of its files in one directory of a place."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from shim.errors import DeadlineExceeded, Unavailable
from shim.simgpu.remote import Ran
from shim.simgpu.waiting import environment, wait_until
from tests.containerd import leftovers
from tests.containerd.leftovers import Look
from tests.containerd.place import Place

_START_S = 60.0
_STOP_S = 60.0
_TAIL = 3000
_FOLDERS = ("bin", "root", "scratch", "state", "tmp")
numbers = itertools.count()


class Daemon:
    """A context manager; its exit ends the daemon and all its processes, also after a failure.

    `use` puts programs on its PATH, by a directory of links. `env` is added to its environment,
    which shims inherit.
    """

    # Paths with one of these are the daemon's own files, not leftovers.
    ignored: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        name: str,
        place: Place,
        *,
        programs: Mapping[str, Path],
        env: Mapping[str, str] | None = None,
        cgroup: str = "",
    ) -> None:
        self.name = name
        self.place = place
        self.folder = place.folder_for(name)
        # The name of the parent cgroup of the containers.
        self.cgroup = cgroup or f"cryo-{os.getpid()}-{next(numbers)}"
        self.pid = 0
        self._env = dict(env or {})
        self._programs = dict(programs)

    # For subclasses.

    def prepare(self) -> None:
        """Write the daemon's configuration."""

    def argv(self) -> list[str]:
        """Return the daemon's command line."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Return whether the daemon answers."""
        raise NotImplementedError

    # Start and stop.

    def __enter__(self) -> Self:
        try:
            for name in _FOLDERS:
                (self.folder / name).mkdir()
            self.use(self._programs)
            self.prepare()
            self.start()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.end()

    def use(self, programs: Mapping[str, Path]) -> None:
        """Put programs on the daemon's PATH; they replace those of the same name."""
        for name, path in programs.items():
            link = self.folder / "bin" / name
            link.unlink(missing_ok=True)
            link.symlink_to(path)

    def start(self) -> None:
        """Start the daemon and wait until it answers.

        Raises:
            Unavailable: it exited.
            DeadlineExceeded: it does not answer.
        """
        self.pid = self.place.remote.spawn(self.argv(), output=self.log_path, env=self.env)
        try:
            wait_until(self._is_up, self.name, _START_S)
        except DeadlineExceeded as error:
            error.remedy = self.log_tail()
            raise

    def _is_up(self) -> bool:
        if self.place.remote.wait(self.pid, 0) is not None:
            message = f"{self.name} ended: {self.log_tail()}"
            raise Unavailable(message)
        return self.answers()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Signal the daemon and wait for its exit."""
        pid, self.pid = self.pid, 0
        if not pid:
            return
        self.place.remote.kill(pid, number)
        if self.place.remote.wait(pid, _STOP_S) is None:
            self.place.remote.kill(pid, signal.SIGKILL)
            self.place.remote.wait(pid, _STOP_S)

    def kill(self) -> None:
        """Kill the daemon with SIGKILL; its tasks continue."""
        self.stop(signal.SIGKILL)

    def end(self) -> None:
        """End the daemon and all its processes."""
        self.stop(signal.SIGKILL)
        self.place.python("tests.containerd.look", str(self.folder), self.cgroup, "--sweep")

    # Output.

    @property
    def log_path(self) -> Path:
        """The log of the daemon and its shims."""
        return self.folder / f"{self.name}.log"

    @property
    def env(self) -> dict[str, str]:
        """The environment of the daemon, in addition to the place's."""
        path = f"{self.folder / 'bin'}:{os.environ.get('PATH', os.defpath)}"
        # containerd unpacks checkpoint images here, and may leave them.
        temporary = str(self.folder / "tmp")
        ours = {"PATH": path, "TMPDIR": temporary, "XDG_RUNTIME_DIR": temporary}
        return {**environment(), **ours, **self._env}

    def log_tail(self) -> str:
        """Return the end of the log."""
        with contextlib.suppress(OSError):
            return self.log_path.read_text("utf-8", "replace")[-_TAIL:]
        return ""

    def checked(self, ran: Ran, what: str) -> Ran:
        """Return the result of a command.

        Raises:
            AssertionError: it failed; the message has its output, and the log.
        """
        if ran.status:
            said = f"{ran.err.strip()[-_TAIL:]}\n{self.log_tail()}"
            message = f"{what}: status {ran.status}: {said}"
            raise AssertionError(message)
        return ran

    # Leftovers.

    def look(self) -> Look:
        """Return what exists now: processes, mounts, files, sockets, cgroups, descriptors."""
        return leftovers.look(self.place, str(self.folder), self.cgroup)

    def processes(self, pattern: str) -> list[int]:
        """Return the processes of the place whose command line matches."""
        return [int(p) for p, line in self.look().processes.items() if re.search(pattern, line)]

    def left_behind(self, before: Look, ignored: Sequence[str] = ()) -> list[str]:
        """Return what exists and did not before, once nothing more disappears.

        Lines that contain one of `ignored` are left out.
        """
        passed = (*self.ignored, *ignored)
        return leftovers.left_behind(self.place, str(self.folder), self.cgroup, before, passed)
