"""Our shim under a real containerd: its launcher, its config.toml, and the test harness."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from shim.simgpu import toml
from shim.simgpu.remote import Ran
from shim.simgpu.simulation import Simulation
from shim.simgpu.waiting import PACKAGE_ROOT, wait_until
from tests.containerd import look
from tests.containerd.builds import ContainerdBuild
from tests.containerd.daemon import numbers
from tests.containerd.harness import Containerd
from tests.containerd.leftovers import Look
from tests.containerd.place import Place

RUNTIME = "io.containerd.cryo.v1"
LAUNCHER = "containerd-shim-cryo-v1"
# What the launcher runs when the fork server does not answer.
SCRIPT = f"{LAUNCHER}-python"
NATIVE = PACKAGE_ROOT / "shim/entry/shimbin/bin" / LAUNCHER
FLAGS = {"network": "none"}
# More flags for a machine with a GPU; the shim sets nvproxy itself.
GPU_FLAGS = {**FLAGS, "nvproxy-driver-version": "latest", "host-uds": "open"}
# Counts in a file, slowly: creating processes is expensive in a sandbox.
COUNT = "i=0; while true; do i=$((i+1)); echo $i > /count; sleep 0.1; done"
# Waits until the count increases, and prints its first value; a write empties the file.
COUNTS = """
until was=$(cat /count 2>/dev/null) && [ "$was" ]; do sleep 0.02; done
until now=$(cat /count 2>/dev/null) && [ "$now" ] && [ "$now" -gt "$was" ]; do sleep 0.02; done
echo "$was"
"""
_AT_ONCE = 8
_Made = TypeVar("_Made")
_Item = TypeVar("_Item")


def write_launcher(folder: Path, *, native: bool = True) -> Path:
    """Write what containerd runs, as an installer would: the launcher if it is built."""
    script = folder / SCRIPT
    lines = (
        f"#!{sys.executable}",
        "import sys",
        f"sys.path.insert(0, {str(PACKAGE_ROOT)!r})",
        "from shim.entry.shimbin.main import main",
        "main()",
        "",
    )
    script.write_text("\n".join(lines), "utf-8")
    script.chmod(0o755)
    path = folder / LAUNCHER
    path.unlink(missing_ok=True)
    shutil.copy2(NATIVE if native and NATIVE.exists() else script, path)
    return path


def write_config(folder: Path, runsc: Path, flags: Mapping[str, str], more: toml.Tables) -> Path:
    """Write config.toml; the shims' state is in /run, where leftovers are searched."""
    tables: toml.Tables = {
        "paths": {
            "state": f"/run/{folder.name}",
            "images": str(folder / "images"),
            "verified": str(folder / "verified"),
            "scratch": str(folder / "scratch"),
        },
        "server": {"address": f"unix://{folder}/cryo.sock"},
        "runsc": {"binary": str(runsc)},
        "runsc.flags": dict(flags),
    }
    path = folder / "cryo.toml"
    path.write_text(toml.dump(toml.merge(tables, more)), "utf-8")
    return path


class Cryo(Containerd):
    """A containerd of one line that runs containers in our shim."""

    def __init__(
        self,
        build: ContainerdBuild,
        place: Place,
        runsc: Path,
        *,
        flags: Mapping[str, str] = FLAGS,
        settings: toml.Tables | None = None,
        **more: Any,
    ) -> None:
        super().__init__(build, place, **more)
        self._runsc = runsc
        self._flags = flags
        self._settings = settings or {}
        self._known: Look | None = None

    def prepare(self) -> None:
        """Write our files in addition to containerd's."""
        super().prepare()
        self.use({LAUNCHER: write_launcher(self.folder)})
        write_config(self.folder, self._runsc, self._flags, self._settings)

    @contextlib.contextmanager
    def using(self, runsc: Path) -> Iterator[None]:
        """Let the shims that are started in the context use another runsc."""
        write_config(self.folder, runsc, self._flags, self._settings)
        try:
            yield
        finally:
            write_config(self.folder, self._runsc, self._flags, self._settings)

    def end(self) -> None:
        """Stop it and remove what its shims shared, which other tests would find as leftovers."""
        super().end()
        script = (
            "from shim.entry.shimbin import paths; "
            "path = paths.forkserver_socket(paths.default_config()); "
            "paths.unlink_launchers(path); print(path)"
        )
        forkserver = self.place.remote.run([sys.executable, "-c", script], env=self.env).out.strip()
        # runsc keeps a mount in its root for the next sandbox; there is none.
        for point in self.look().mounts:
            if look.is_below(point, str(self.state)):
                self.place.do("umount", "-l", point)
        self.place.do("rm", "-rf", str(self.state), forkserver, f"{forkserver}.lock")

    @property
    def env(self) -> dict[str, str]:
        """The environment of containerd and the shims."""
        return {**super().env, "CRYO_CONFIG": str(self.config)}

    @property
    def config(self) -> Path:
        """The path of our config.toml."""
        return self.folder / "cryo.toml"

    @property
    def state(self) -> Path:
        """The state directory of the shims, inside the place."""
        return Path("/run") / self.folder.name

    @property
    def bundles(self) -> Path:
        """The directory of containerd's bundles."""
        version = "v2" if self.build.numbers >= (1, 6) else "v1"
        return self.folder / f"state/io.containerd.runtime.{version}.task" / self.namespace

    # Containers.

    def run(self, name: str, *command: str, **how: Any) -> Ran:
        """Run a container in our shim with `ctr run`."""
        return super().run(name, *command, **{"runtime": RUNTIME, **how})

    def begin(self, name: str, *command: str, flags: tuple[str, ...] = ()) -> None:
        """Run a container that keeps running."""
        self.run(name, *command, flags=("-d", *flags))

    @contextlib.contextmanager
    def container(self, *command: str, flags: tuple[str, ...] = ()) -> Iterator[str]:
        """Run a container for the duration of the context; delete it afterwards in any case."""
        name = self.fresh("box")
        with self.removing(name):
            self.begin(name, *(command or ("sleep", "1000")), flags=flags)
            yield name

    @contextlib.contextmanager
    def removing(self, *names: str) -> Iterator[None]:
        """Delete these containers at the end, in whatever state they are."""
        try:
            yield
        finally:
            self.each(self.remove, names)

    def exec(self, name: str, *command: str, check: bool = True) -> Ran:
        """Run a program in a container."""
        argv = ("tasks", "exec", "--exec-id", self.fresh("exec"), name, *command)
        return self.ctr(*argv, check=check)

    def until_counts(self, name: str) -> int:
        """Wait until the count of a container increases; return its first value."""
        return int(self.exec(name, "sh", "-c", COUNTS).out)

    def kill_task(self, name: str, signal: str = "SIGKILL") -> None:
        """Kill a task and wait for its exit."""
        self.ctr("tasks", "kill", "--signal", signal, name)
        self.until_status(name, "STOPPED")

    def until_all_stopped(self, names: Sequence[str]) -> None:
        """Wait until tasks have exited."""

        def stopped() -> bool:
            tasks = self.tasks()
            return all(tasks[name][1] == "STOPPED" for name in names)

        wait_until(stopped, f"the end of {len(names)} tasks", 60)

    def remove(self, name: str) -> None:
        """Kill a container, if it exists, and delete all of it."""
        self.ctr("tasks", "delete", "--force", name, check=False)
        self.ctr("containers", "delete", name, check=False)

    def fresh(self, word: str) -> str:
        """Return an unused name."""
        return f"{word}-{next(numbers)}"

    @staticmethod
    def each(do: Callable[[_Item], _Made], items: Sequence[_Item]) -> list[_Made]:
        """Call a function with each, a few at a time."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(do, items))

    # Leftovers.

    def know(self) -> None:
        """Record what exists now as the baseline for leftovers."""
        self._known = self.look()

    def expect_nothing_new(self, ignored: Sequence[str] = ()) -> None:
        """Check that nothing is there that is not in the baseline; add to it what is ignored."""
        assert self._known is not None, "nothing is known yet"  # a test's own
        left = self.left_behind(self._known, ignored)
        if ignored or left:
            self.know()
        assert not left, "\n".join(left)  # what tests are for

    # Processes.

    def shim_of(self, name: str) -> int:
        """Return the pid of the shim of a container: its sandbox's parent."""
        return look.parent_of(self.tasks()[name][0])

    def forkserver(self) -> int:
        """Return the pid of the fork server of this containerd."""
        forks = self.processes(r"shim\.entry\.shimbin\.forkserver")
        (found,) = (pid for pid in forks if comm(pid) == "cryo-forkserver" and self._ours(pid))
        return found

    def _ours(self, pid: int) -> bool:
        return str(self.config).encode() in Path(f"/proc/{pid}/environ").read_bytes()

    def children_of(self, pid: int) -> list[int]:
        """Return the children of a process, including adopted ones."""
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def gone(self, *pids: int) -> None:
        """Wait until processes have exited."""

        def none() -> bool:
            return not any(Path(f"/proc/{pid}").exists() for pid in pids)

        wait_until(none, f"the end of {pids}", 60)

    # Checkpoints.

    def save(self, name: str, *flags: str) -> str:
        """Save a container into an image with `ctr containers checkpoint`; return its name."""
        reference = self.fresh("saved")
        self.ctr("containers", "checkpoint", "--image", "--task", *flags, name, reference)
        return reference

    def bring_back(self, reference: str, name: str, *flags: str) -> None:
        """Restore a container from an image with `ctr containers restore`."""
        self.ctr("containers", "restore", "--live", *flags, name, reference)

    def image_names(self) -> list[str]:
        """Return the names of all images."""
        return self.ctr("images", "ls", "-q").out.split()

    def parts(self, reference: str) -> list[dict[str, Any]]:
        """Return the parts of an image."""
        lines = self.ctr("images", "ls", f"name=={reference}").out.splitlines()
        digest = next(word for word in lines[1].split() if word.startswith("sha256:"))
        found: list[dict[str, Any]] = json.loads(self.ctr("content", "get", digest).out)[
            "manifests"
        ]
        return found

    def media_types(self, reference: str) -> list[str]:
        """Return the media types of an image's parts."""
        return [str(part["mediaType"]) for part in self.parts(reference)]

    def blob(self, reference: str, kind: str) -> Path:
        """Return the file of an image's part in containerd's content store."""
        (digest,) = (p["digest"] for p in self.parts(reference) if p["mediaType"] == kind)
        blobs = self.folder / "root/io.containerd.content.v1.content/blobs"
        return blobs.joinpath(*digest.split(":"))

    @contextlib.contextmanager
    def images_apart(self) -> Iterator[None]:
        """Remove at the end the images that were created in the context, and their content.

        containerd 1.x cannot commit a blob twice: a blob of an earlier checkpoint, such as the
        container's spec, makes the next one of the same container fail or be incomplete.
        """
        before = set(self.image_names())
        try:
            yield
        finally:
            if made := sorted(set(self.image_names()) - before):
                self.ctr("images", "rm", "--sync", *made)


def simulated(
    build: ContainerdBuild,
    sim: Simulation,
    place: Place,
    runsc: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Cryo:
    """Return a containerd with our shim on a machine with a simulated GPU."""
    cuda = {"cuda": sim.settings_of_cuda(), "host": sim.settings_of_host()}
    return Cryo(build, place, runsc or sim.runsc, flags=GPU_FLAGS, settings=cuda, env=env)


def comm(pid: int) -> str:
    """Return the name of a process, from /proc/PID/comm."""
    return Path(f"/proc/{pid}/comm").read_text("utf-8").strip()
