"""A real containerd with a directory of its own, driven by its ctr.

By hand:

    with private_place() as place, Containerd(find_containerd("1.7"), place) as containerd:
        containerd.use(runc=find_program("runc"))
        containerd.import_image(archive)
        print(containerd.run("one", "echo", "hello").out)
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from shim.simgpu.remote import Ran
from shim.simgpu.waiting import wait_until
from tests.containerd.builds import ContainerdBuild
from tests.containerd.config import Cri, write_config
from tests.containerd.daemon import Daemon, numbers
from tests.containerd.events import Events
from tests.containerd.image import REFERENCE
from tests.containerd.place import Place

_CTR_S = 90.0
_STOP_S = 60.0


class Containerd(Daemon):
    """A containerd of one line; `config` is added to its config.toml, `cri` enables the plugin.

    `imports` are drop-ins, read after config.toml.
    Its tasks survive `stop` and `kill`, but not the context. It has a containerd namespace of its
    own, so its cgroups are separate.
    """

    def __init__(
        self,
        build: ContainerdBuild,
        place: Place,
        *,
        programs: Mapping[str, Path] | None = None,
        env: Mapping[str, str] | None = None,
        namespace: str = "",
        cri: Cri | None = None,
        config: str = "",
        imports: Sequence[Path] = (),
    ) -> None:
        names = ("containerd", "ctr", "containerd-shim-runc-v2")
        found = {name: build.folder / name for name in names} | dict(programs or {})
        super().__init__(f"c{build.line}", place, programs=found, env=env, cgroup=namespace)
        self.build = build
        # CRI has a containerd namespace of its own, and the kubelet names the cgroup.
        self.namespace = "k8s.io" if cri else self.cgroup
        self._cri = cri
        self._config = config
        self._imports = imports

    def prepare(self) -> None:
        """Write config.toml."""
        write_config(self.folder, self.build, self._cri, self._config, self._imports)

    def argv(self) -> list[str]:
        """Return containerd's command line."""
        folder = self.folder
        return [str(folder / "bin/containerd"), "--config", str(folder / "config.toml")]

    def answers(self) -> bool:
        """Return whether containerd answers."""
        return self.address.exists() and self.ctr("version", check=False, timeout_s=5).status == 0

    @property
    def address(self) -> Path:
        """The address of containerd; its ttrpc socket has the suffix `.ttrpc`."""
        return self.folder / "containerd.sock"

    # Commands.

    def ctr(
        self,
        *arguments: str,
        check: bool = True,
        timeout_s: float = _CTR_S,
        namespace: str = "",
    ) -> Ran:
        """Run ctr. Its stderr may contain any warnings, so compare parts of it only.

        Raises:
            AssertionError: it failed, and `check` is set.
        """
        argv = self.ctr_argv(*arguments, namespace=namespace)
        ran = self.place.remote.run(argv, timeout_s=timeout_s, env=self.env)
        return self.checked(ran, f"ctr {' '.join(arguments)}") if check else ran

    def ctr_with_input(
        self, name: str, *arguments: str, text: bytes, timeout_s: float = _CTR_S
    ) -> Ran:
        """Run ctr with a standard input that is closed as soon as the task of this name runs.

        ctr 1.x does not pass on an end of file that it reads earlier.
        """
        given = self.folder / "scratch" / f"input-{next(numbers)}"
        given.write_bytes(text)
        tasks = " ".join(self.ctr_argv("tasks", "ls"))
        until = f"until {tasks} 2>/dev/null | grep -q '^{name} .*RUNNING'; do sleep 0.05; done"
        script = f'{{ cat {given}; {until}; }} | exec "$@"'
        argv = ["sh", "-c", script, "sh", *self.ctr_argv(*arguments)]
        ran = self.place.remote.run(argv, timeout_s=timeout_s, env=self.env)
        return self.checked(ran, f"ctr {' '.join(arguments)}")

    def ctr_on_terminal(
        self,
        *arguments: str,
        typed: str = "",
        after: str = "",
        size: str = "24x80",
        check: bool = True,
        timeout_s: float = _CTR_S,
    ) -> Ran:
        """Run ctr on a terminal; enter `typed` after any output, or after the output `after`."""
        terminal = [sys.executable, "-m", "tests.containerd.terminal"]
        keys = ["--input", typed, "--after", after, "--size", size]
        argv = [*terminal, *keys, "--", *self.ctr_argv(*arguments)]
        ran = self.place.remote.run(argv, timeout_s=timeout_s, env=self.env)
        return self.checked(ran, f"ctr {' '.join(arguments)}") if check else ran

    def ctr_in_background(self, *arguments: str, output: Path) -> int:
        """Start ctr; return its pid, for `place.remote.wait` and `kill`."""
        return self.place.remote.spawn(self.ctr_argv(*arguments), output=output, env=self.env)

    def ctr_argv(self, *arguments: str, namespace: str = "") -> list[str]:
        """Return the command line of a ctr call."""
        where = ["--address", str(self.address), "--namespace", namespace or self.namespace]
        return [str(self.folder / "bin/ctr"), *where, *arguments]

    def import_image(self, archive: Path, *, snapshotter: str = "native") -> None:
        """Import an image from an archive and unpack it."""
        local = ["--local"] if self.build.needs_local_import else []
        self.ctr("image", "import", *local, "--snapshotter", snapshotter, str(archive))

    def run(
        self,
        name: str,
        *command: str,
        flags: tuple[str, ...] = ("--rm",),
        runtime: str = "io.containerd.runc.v2",
        snapshotter: str = "native",
        reference: str = REFERENCE,
        check: bool = True,
        timeout_s: float = _CTR_S,
    ) -> Ran:
        """Run a container with `ctr run`."""
        how = ["--runtime", runtime, "--snapshotter", snapshotter, *flags]
        argv = ["run", *how, reference, name, *command]
        return self.ctr(*argv, check=check, timeout_s=timeout_s)

    def tasks(self) -> dict[str, tuple[int, str]]:
        """Return the pid and the status of each task, by name."""
        rows = [line.split() for line in self.ctr("tasks", "ls").out.splitlines()[1:]]
        return {row[0]: (int(row[1]), row[2]) for row in rows}

    def status(self, name: str) -> str:
        """Return a task's status; empty if it does not exist."""
        return self.tasks().get(name, (0, ""))[1]

    def until_status(self, name: str, status: str, timeout_s: float = _STOP_S) -> None:
        """Wait until a task has this status."""
        wait_until(lambda: self.status(name) == status, f"{name} {status or 'gone'}", timeout_s)

    @contextlib.contextmanager
    def events(self) -> Iterator[Events]:
        """Collect containerd's events for the duration of the context."""
        events = Events(self.folder / "scratch" / f"events-{next(numbers)}")
        pid = self.ctr_in_background("events", output=events.path)
        try:
            wait_until(lambda: self._is_subscribed(events), "ctr events", _STOP_S)
            yield events
        finally:
            self.place.remote.kill(pid)
            self.place.remote.wait(pid, _STOP_S)

    def _is_subscribed(self, events: Events) -> bool:
        """Cause an event and return whether one of its kind was received."""
        self.cause_event()
        return bool(events.of("/namespaces/update"))

    def cause_event(self) -> None:
        """Let containerd publish an event that concerns no task."""
        self.ctr("namespaces", "label", self.namespace, f"probe={next(numbers)}")
