"""A daemon under test, with everything of its own in a folder of a place."""

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
    """A context; leaving it ends the daemon and all that worked for it, also after a failure.

    Programs that it must find are given by name; a folder with links to them comes first on its
    PATH. `env` is added to its environment, which shims inherit.
    """

    # Files with one of these in their path are the daemon's own affair.
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
        # What the cgroup is called in which the cgroups of the containers are.
        self.cgroup = cgroup or f"cryo-{os.getpid()}-{next(numbers)}"
        self.pid = 0
        self._env = dict(env or {})
        self._programs = dict(programs)

    # What each kind does in its own way.

    def prepare(self) -> None:
        """Write what the daemon reads."""

    def argv(self) -> list[str]:
        """Return the daemon's command line."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Return whether it serves."""
        raise NotImplementedError

    # Life.

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
        """Put programs on the daemon's PATH, in place of those of the same name."""
        for name, path in programs.items():
            link = self.folder / "bin" / name
            link.unlink(missing_ok=True)
            link.symlink_to(path)

    def start(self) -> None:
        """Start the daemon and wait until it answers.

        Raises:
            Unavailable: it ended.
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
        """Signal the daemon and wait for its end."""
        pid, self.pid = self.pid, 0
        if not pid:
            return
        self.place.remote.kill(pid, number)
        if self.place.remote.wait(pid, _STOP_S) is None:
            self.place.remote.kill(pid, signal.SIGKILL)
            self.place.remote.wait(pid, _STOP_S)

    def kill(self) -> None:
        """End the daemon as a crash would; its tasks live on."""
        self.stop(signal.SIGKILL)

    def end(self) -> None:
        """End the daemon and everything that worked for it."""
        self.stop(signal.SIGKILL)
        self.place.python("tests.containerd.look", str(self.folder), self.cgroup, "--sweep")

    # What it says.

    @property
    def log_path(self) -> Path:
        """What the daemon and its shims print."""
        return self.folder / f"{self.name}.log"

    @property
    def env(self) -> dict[str, str]:
        """The environment that the daemon has, over the place's own."""
        path = f"{self.folder / 'bin'}:{os.environ.get('PATH', os.defpath)}"
        # containerd unpacks checkpoint images into one of these, and may leave them there.
        temporary = str(self.folder / "tmp")
        ours = {"PATH": path, "TMPDIR": temporary, "XDG_RUNTIME_DIR": temporary}
        return {**environment(), **ours, **self._env}

    def log_tail(self) -> str:
        """Return the end of the log."""
        with contextlib.suppress(OSError):
            return self.log_path.read_text("utf-8", "replace")[-_TAIL:]
        return ""

    def checked(self, ran: Ran, what: str) -> Ran:
        """Return what a command has printed.

        Raises:
            AssertionError: it failed; the message has what it said, and the log.
        """
        if ran.status:
            said = f"{ran.err.strip()[-_TAIL:]}\n{self.log_tail()}"
            message = f"{what}: status {ran.status}: {said}"
            raise AssertionError(message)
        return ran

    # What it leaves.

    def look(self) -> Look:
        """Return what is there now: processes, mounts, files, sockets, cgroups, descriptors."""
        return leftovers.look(self.place, str(self.folder), self.cgroup)

    def processes(self, pattern: str) -> list[int]:
        """Return the processes of the place whose command line matches."""
        return [int(p) for p, line in self.look().processes.items() if re.search(pattern, line)]

    def left_behind(self, before: Look, ignored: Sequence[str] = ()) -> list[str]:
        """Return what is there and was not before, once nothing more goes away by itself.

        Lines that have one of the `ignored` in them do not count.
        """
        passed = (*self.ignored, *ignored)
        return leftovers.left_behind(self.place, str(self.folder), self.cgroup, before, passed)
